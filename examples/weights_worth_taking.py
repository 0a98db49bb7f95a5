"""Which of a run's checkpoints are worth taking: every candidate on data that nothing was trained, fitted or chosen on.

    python examples/weights_worth_taking.py
    python examples/weights_worth_taking.py --tasks digits sst2-300 --seeds 0 1 2 --output_dir runs/worth

Without arguments one run on scikit-learn's digits: about two minutes on two cores; most other tasks take longer, and
read the folder of the data sets, `--data`, and that of all-MiniLM-L6-v2, `--minilm`. For each task and seed a whole
run: forgetting, predictions, fitted points, controls, and the choice on examples set aside; then every candidate is
scored on the evaluation data, in pairs with Θ⁰, with the interval of a paired bootstrap over examples. Interrupted,
it continues.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from know_hf import enrich_pretrained
from know_hf.choice.rule import judge
from know_hf.choice.scoring import Measure, answer
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.weights import load_weights
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.protocol import Protocol
from know_hf.models.building import build_network, timm_from_scratch
from know_hf.quickstart import digits
from know_hf.store import write_json
from know_hf.tables import table
from know_hf.training.data import load_split

sys.path.insert(0, str(Path(__file__).parent))

RESNET = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1],
          "layer_type": "basic"}  # fmt: skip
PVT = {"model_type": "pvt_v2", "image_size": 32, "num_encoder_blocks": 2, "hidden_sizes": [16, 32], "depths": [1, 1],
       "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "sr_ratios": [2, 1], "patch_sizes": [3, 3],
       "strides": [2, 2]}  # fmt: skip
Job = dict[str, Any]


def _digits(options: argparse.Namespace, seed: int) -> Job:
    parts = digits(tuple(range(10))).train_test_split(test_size=0.4, seed=seed)
    shape = {"channels": [16, 32, 64, 128], "stem_width": 16, "in_chans": 1}
    model = timm_from_scratch("resnet10t", image_size=16, model_args=shape, mean=(0.3,), std=(0.38,), num_labels=10)
    return {"model": model, "train_dataset": parts["train"], "eval_dataset": parts["test"], "num_train_epochs": 15,
            "per_device_train_batch_size": 32, "learning_rate": 2e-3, "train_stage_zero": True}  # fmt: skip


def _pictures(architecture: dict[str, Any], epochs: int) -> Callable[[argparse.Namespace, int], Job]:
    def job(options: argparse.Namespace, seed: int) -> Job:
        # Of the laboratory's table 1, with other examples for every seed.
        train = load_split(options.data / "cifar100", "train").shuffle(seed=seed).select(range(3000))
        test = load_split(options.data / "cifar100", "test").select(range(3000))
        train, test = (part.select_columns(["img", "fine_label"]) for part in (train, test))
        model = build_network(architecture, "image-classification", train.features["fine_label"].names, 32)
        return {"model": model, "train_dataset": train, "eval_dataset": test, "num_train_epochs": epochs,
                "per_device_train_batch_size": 64, "learning_rate": 2e-3, "train_stage_zero": True,
                "optim": "adamw_torch", "image_size": 32}  # fmt: skip

    return job


def _sentences(examples: int, lora: bool = False) -> Callable[[argparse.Namespace, int], Job]:
    def job(options: argparse.Namespace, seed: int) -> Job:
        train = load_split(options.data / "sst2", "train").shuffle(seed=seed).select(range(examples))
        test = load_split(options.data / "sst2", "validation").shuffle(seed=0).select(range(436))
        model: Any = str(options.minilm)
        if lora:
            from enrich_text_classifier import ExampleArguments, adapted

            model = adapted(ExampleArguments(model=model, lora_rank=8), ["negative", "positive"], seed)
        return {"model": model, "train_dataset": train, "eval_dataset": test, "num_train_epochs": 3,
                "per_device_train_batch_size": 16, "learning_rate": 1e-3 if lora else 5e-5, "max_length": 48,
                "train_stage_zero": True, "lr_scheduler_type": "linear"}  # fmt: skip

    return job


def _characters(options: argparse.Namespace, seed: int) -> Job:
    from enrich_language_model import reader_of_characters
    from make_data import lines
    from transformers import GPT2Config, GPT2LMHeadModel

    text = str(options.data / "tinyshakespeare" / "input.txt")
    tokenizer = reader_of_characters(Path(text).read_text(encoding="utf-8"), 128)
    sizes = {"n_positions": 128, "n_embd": 128, "n_layer": 4, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None, **sizes))
    return {"model": model, "train_dataset": lines(text, "train").select(range(6000)),
            "eval_dataset": lines(text, "test"), "num_train_epochs": 10, "per_device_train_batch_size": 16,
            "learning_rate": 1e-3, "train_stage_zero": True, "task": "text-generation", "max_length": 128,
            "processing_class": tokenizer}  # fmt: skip


def _captions(options: argparse.Namespace, seed: int) -> Job:
    from enrich_captioning import ExampleArguments, encoder_of
    from make_data import captioned_pairs, labelled_items

    from know_hf.laboratory.captioners import decoder_config, word_tokenizer
    from know_hf.models.joining import join

    train, test = (
        captioned_pairs(count, labelled_items(None, split), seed) for split, count in (("train", 800), ("test", 400))
    )
    example = ExampleArguments()
    tokenizer = word_tokenizer(list(train["caption"]), example.vocabulary, example.max_words)
    decoder = decoder_config(
        {"model_type": "gpt2", "n_embd": example.width, "n_layer": example.layers, "n_head": 4}, tokenizer
    )
    model = join(encoder_of(example), decoder, example.image_size)
    return {"model": model, "train_dataset": train, "eval_dataset": test, "num_train_epochs": 20,
            "per_device_train_batch_size": 16, "learning_rate": 1e-3, "sampling_ratio": 0.33, "steps": 2,
            "train_stage_zero": True, "task": "image-to-text", "label_column": "caption",
            "processing_class": tokenizer}  # fmt: skip


def _masks(options: argparse.Namespace, seed: int) -> Job:
    from enrich_segmentation import ExampleArguments, from_scratch
    from make_data import labelled_items, scenes

    from know_hf.tasks import find_columns

    train, test = (
        scenes(count, 64, labelled_items(None, split), seed) for split, count in (("train", 500), ("test", 250))
    )
    names = find_columns(train, task="image-segmentation").class_names
    model = from_scratch(ExampleArguments(image_size=64), names)
    return {"model": model, "train_dataset": train, "eval_dataset": test, "num_train_epochs": 20,
            "per_device_train_batch_size": 16, "learning_rate": 3e-3, "sampling_ratio": 0.33, "num_stages": 4,
            "steps": 2, "train_stage_zero": True, "task": "image-segmentation", "image_size": 64}  # fmt: skip


TASKS: dict[str, Callable[[argparse.Namespace, int], Job]] = {
    "digits": _digits,
    "cifar100-resnet": _pictures(RESNET, 30),
    "cifar100-pvt": _pictures(PVT, 30),
    **{f"sst2-{n}": _sentences(n) for n in (100, 300, 1000)},
    **{f"sst2-{n}-lora": _sentences(n, lora=True) for n in (100, 300, 1000)},
    "gpt2-characters": _characters,
    "captions": _captions,
    "masks": _masks,
}


def record_file(task: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a run's scores are kept: small files beside one another, from which alone the page is made."""
    return (options.records or options.output_dir / "records") / f"{task}-{seed}.json"


def run(task: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One whole run, and every candidate's score on the evaluation data."""
    root, done = options.output_dir / task / str(seed), record_file(task, seed, options)
    wanted = {"also": list(options.also)}
    if done.exists() and (found := json.loads(done.read_text()))["asked"] == wanted:
        return found
    set_seed(seed)
    job = {"lr_scheduler_type": "cosine", **TASKS[task](options, seed)}
    train = {
        **job, "output_dir": str(root), "seed": seed, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "logging_strategy": "no", "per_device_eval_batch_size": 128, "use_cpu": not torch.accelerator.is_available(),
    }  # fmt: skip
    steps, dataset = train.pop("steps", 3), train.pop("train_dataset")
    folds = len(dataset) < 300 and task != "gpt2-characters"
    result = enrich_pretrained(
        train_dataset=dataset, **train, steps=steps, keep_candidates=True, also=options.also, unscaled=True,
        fit_on="train" if folds else "both", average_stage_zero="both",
    )  # fmt: skip
    assert result.choice is not None, result.verdict
    set_seed(seed)
    again = TASKS[task](options, seed)  # the run has changed a live model
    train = {**train, "model": again["model"], "output_dir": str(root / "scored")}
    trainer: Any = make_trainer(train_dataset=dataset, **train)
    choice = result.choice
    measure = Measure(choice.deciding.metric, choice.deciding.score.higher_is_better, trainer.compute_metrics)
    answers = {}
    for name, folder in {**choice.candidates, "best": choice.folder}.items():
        load_weights(trainer.model, folder)
        answers[name] = answer(trainer, trainer.eval_dataset, measure)
    _, gains = judge("stage-0", answers, measure)
    record = {
        "task": task, "seed": seed, "asked": wanted, "chosen": choice.candidate, "metric": measure.metric,
        "examples": len(trainer.eval_dataset), "selected_on": choice.examples, "how": choice.how,
        "selection": {name: vars(gain) for name, gain in choice.gains.items()},
        "evaluation": {name: vars(gain) for name, gain in gains.items()}, "verdict": choice.words,
        "percent": choice.deciding.score.percent,
    }  # fmt: skip
    done.parent.mkdir(parents=True, exist_ok=True)
    write_json(done, record)
    return record


def cell(records: list[dict[str, Any]], name: str) -> str:
    """A candidate's gain over Θ⁰: mean and spread over runs, and how many of them are better or worse beyond theirs."""
    factor = 100 if records[0]["percent"] else 1
    own = [found for record in records if (found := record["evaluation"].get(name))]
    if not own:
        return "–"
    gains = [factor * one["gain"] for one in own]
    spread = f" ± {np.std(gains, ddof=1):.1f}" if len(gains) > 1 else ""
    above, below = sum(one["low"] > 0 for one in own), sum(one["high"] < 0 for one in own)
    marks = "".join(f" {count}{mark}" for count, mark in ((above, "↑"), (below, "↓")) if count)
    return f"{np.mean(gains):+.1f}{spread}{marks}"


def first_cell(records: list[dict[str, Any]], name: str = "stage-0") -> str:
    """A candidate's score on the evaluation data."""
    factor = 100 if records[0]["percent"] else 1
    scores = [factor * record["evaluation"][name]["score"] for record in records]
    return f"{np.mean(scores):.1f}" + (f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else "")


def still_better(records: list[dict[str, Any]], name: str) -> str:
    """In how many runs a control scores higher than the best, and by how much on average over all runs."""
    own = [(r["evaluation"][name]["gain"], r["evaluation"]["best"]["gain"]) for r in records if name in r["evaluation"]]
    if not own:
        return "–"
    factor = 100 if records[0]["percent"] else 1
    more = [factor * (control - best) for control, best in own]
    return f"{sum(one > 0 for one in more)} of {len(own)} ({np.mean(more):+.1f})"


def report(found: dict[str, list[dict[str, Any]]], also: list[str]) -> str:
    """The page: what was chosen, and every candidate."""
    runs = [record for records in found.values() for record in records]
    gains = [record["evaluation"]["best"] for record in runs]
    moved = [record for record in runs if record["chosen"] != "stage-0"]
    seeds = sorted({str(record["seed"]) for record in runs})
    further = " --downstream" if any("downstream" in record for record in runs) else ""
    names = list(dict.fromkeys(name for record in runs for name in record["evaluation"]))
    names = [name for name in names if name not in ("stage-0", "best") and not name.startswith("soup-branch")]
    better = [f"{name} above best" for name in also if name in ("equal_compute", "soup")]
    short = [["task", "Θ⁰", "best", "gain of best", *also, *better, "chosen"]]
    for task, records in found.items():
        chosen = ", ".join(record["chosen"] for record in records)
        first = next(name for name in records[0]["evaluation"] if name.startswith("x"))  # x3, with a ratio of 0.33
        above = [still_better(records, name.removesuffix(" above best")) for name in better]
        others = [cell(records, first if name == "x2" else name) for name in also]
        gain = cell(records, "best")
        short.append([task, first_cell(records), first_cell(records, "best"), gain, *others, *above, chosen])
    long = [["candidate", *found], *([name, *(cell(own, name) for own in found.values())] for name in names)]
    before = [f"{one['task']} {one['seed']}" for one in runs if "loss_chance" not in one["selection"]["stage-0"]]
    judged = f" Still judged without it: {', '.join(before)}." if before else ""
    return f"""# Weights worth taking

Whole runs of `enrich`, the choice made on examples set aside; every candidate is scored on evaluation data that nothing
was trained, fitted or chosen on. Gains over Θ⁰ in points (perplexity: of it, positive is better), mean ± standard
deviation over runs with other seeds, data and subsets; n↑ (n↓): so many of the runs gain (lose) beyond the 95 %
interval of a paired bootstrap over evaluation examples.

{len(runs)} runs: `best` is below Θ⁰ beyond its interval in {sum(one["high"] < 0 for one in gains)}, above in
{sum(one["low"] > 0 for one in gains)}; something else than Θ⁰ was chosen in {len(moved)}, and scored better than Θ⁰ in
{sum(record["evaluation"]["best"]["gain"] > 0 for record in moved)} of these.

{table(short)}

Made by `python examples/weights_worth_taking.py --tasks {" ".join(found)} --seeds {" ".join(seeds)}{further}`. With a
ratio of 0.33 (captions, masks) the first step is ×3. `fitted-held-out` and its like are of runs that had enough
examples to set some aside. That a lower loss may show that training on helps was added to the rule of the choice when
most of these runs had been judged without it, and had kept Θ⁰ where training on was better by ten points: so what
`best` gains here by it is no test of the rule on tasks that it had not seen.{judged}

## Every candidate

{table(long)}
{downstream_section(found)}"""


def picture(found: dict[str, list[dict[str, Any]]], names: list[str], path: Path) -> None:
    """Draws each task's gains over Θ⁰: a dot a run, a bar at their mean."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.55 * len(found) + 1.6), layout="constrained")
    colours = dict(zip(names, ("#d55e00", "#999999", "#56b4e9", "#0072b2", "#009e73", "black"), strict=False))
    axes.axvline(0, color="0.7", linewidth=1)
    for row, (_, records) in enumerate(found.items()):
        factor = 100 if records[0]["percent"] else 1
        first = next(name for name in records[0]["evaluation"] if name.startswith("x"))
        for place, name in enumerate(names):
            own = first if name == "x2" else name
            gains = [factor * r["evaluation"][own]["gain"] for r in records if own in r["evaluation"]]
            height = row + 0.7 * (place / (len(names) - 1) - 0.5)
            label = {"x2": "one step of KNOWN", "equal_compute": "equal compute"}.get(name, name) if row == 0 else None
            axes.plot(gains, [height] * len(gains), "o", color=colours[name], markersize=4, label=label)
            if gains:
                axes.plot([np.mean(gains)] * 2, [height - 0.06, height + 0.06], color=colours[name], linewidth=2)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("gain over Θ⁰ on untouched data, points (perplexity: of it)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=len(names), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def downstream_section(found: dict[str, list[dict[str, Any]]]) -> str:
    """The same after fine-tuning on downstream data, for the tasks that have some."""
    rows = {task: [r["downstream"] for r in own if "downstream" in r] for task, own in found.items()}
    rows = {task: own for task, own in rows.items() if own}
    if not rows:
        return ""
    names = list(dict.fromkeys(name for own in rows.values() for one in own for name in one["scores"]))
    lines = [["start", *rows]]
    for name in names:
        cells = []
        for own in rows.values():
            scores = [score for one in own for score in one["scores"].get(name, [])]
            naive = [score for one in own for score in one["scores"]["naive"]]
            # Runs are the units: fine-tunings of one run share its weights.
            gains = [np.mean(one["scores"][name]) - np.mean(one["scores"]["naive"]) for one in own
                     if name in one["scores"]]  # fmt: skip
            spread = f" ± {np.std(gains, ddof=1):.1f}" if len(gains) > 1 else ""
            gain = "" if name == "naive" else f" ({np.mean(gains):+.1f}{spread})"
            cells.append(f"{np.mean(scores if name != 'naive' else naive):.1f}{gain}" if scores else "–")
        lines.append([name, *cells])
    return f"""
## After fine-tuning downstream

Accuracy on test data after fine-tuning on a few examples of other data, every start at its own learning rate, chosen on
validation examples; in brackets the gain over Θ⁰, mean ± standard deviation over runs.

{table(lines)}
"""


def downstream(task: str, record: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tunes from a run's candidates on other data, where a task has some."""
    if not task.startswith("cifar100"):
        return record
    root = options.output_dir / task / str(record["seed"])
    wanted = ["stage-0", "stage-1", "x2", "x8", "mean", "damped", "fitted", "fitted-unscaled", "fitted-held-out",
              "equal_compute", "soup", "soup-fitted"]  # fmt: skip
    known = json.loads((root / "choice" / "choice.json").read_text())["folders"]
    arms = {name.replace("stage-0", "naive"): root / known[name] for name in wanted if name in known}
    arms["best"] = root / "enriched" / "best"
    protocol = Protocol(head_epochs=1, epochs=12, batch_size=50, examples=400, validation_examples=300, evaluations=1)
    compared = compare(
        arms, load_split(options.data / "cifar10", "train").select(range(10000)), root / "downstream",
        test_dataset=load_split(options.data / "cifar10", "test").select(range(2000)), seeds=3,
        learning_rates=(6e-4, 1.5e-3, 4e-3), protocol=protocol,
    )  # fmt: skip
    scores = {name: compared.best(name) for name in arms}
    record = {**record, "downstream": {"scores": scores, "rates": compared.chosen_rates}}
    write_json(record_file(task, record["seed"], options), record)
    return record


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["digits"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--also", nargs="*", default=["equal_compute", "soup"], help="Controls to train beside.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minilm", type=Path, default=Path("sentence-transformers/all-MiniLM-L6-v2"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/worth"))
    parser.add_argument("--records", type=Path, help="Folder of the runs' scores (default: OUTPUT_DIR/records).")
    parser.add_argument("--only_report", action="store_true", help="Run nothing; report the runs that are finished.")
    parser.add_argument(
        "--downstream",
        action="store_true",
        help="Fine-tune from the candidates on CIFAR-10, too, of tasks on CIFAR-100.",
    )
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for task in options.tasks:
            if options.only_report and not record_file(task, seed, options).exists():
                continue
            record = run(task, seed, options)
            if options.downstream and "downstream" not in record:
                record = downstream(task, record, options)
            found.setdefault(task, []).append(record)
            print(f"{task}, seed {seed}: {found[task][-1]['verdict']}", flush=True)
    page = options.output_dir / "worth.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report(found, ["x2", "mean", "fitted", *options.also]), encoding="utf-8")
    picture(found, ["x2", "mean", "fitted", "soup", "equal_compute", "best"], page.with_suffix(".png"))
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
