"""The whole job on real data that ships with a dependency: scikit-learn's handwritten digits."""

import json
import logging
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from know_hf.data import Columns, Preprocessing, accuracy, label_values, make_preprocessing
from know_hf.enrichment.pretrained import enrich_trained
from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.pretrained import make_trainer
from know_hf.models import timm_from_scratch
from know_hf.report import table
from know_hf.trajectory.record import write_atomically

PRETRAINING_CLASSES, NEW_CLASSES = tuple(range(7)), (7, 8, 9)
SHOTS = 5
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
EPOCHS, STEPS = 15, 40  # of pre-training and each stage; of each fine-tuning

logger = logging.getLogger(__name__)


def quickstart(output_dir: str | Path = "know-quickstart", *, seeds: int = 5) -> dict[str, dict[str, list[float]]]:
    """Pre-trains, forgets, predicts ×2 ×4 ×8, and fine-tunes every candidate on other classes.

    A small timm ResNet learns seven digits, forgets and is retrodicted; each candidate is then fine-tuned with a new
    head on five examples of each of the three other digits, with paired seeds and a grid of learning rates. Prints
    and stores what comes out, gain or not.

    Args:
        output_dir: Folder of the run; running again continues.
        seeds: Number of fine-tuning repetitions.

    Returns:
        Candidate → learning rate → accuracy of each seed on the rest of the three digits.

    Raises:
        ImportError: If scikit-learn is not installed.
        TrajectoryError: If the folder holds another run.
        ValueError: If ``seeds`` is less than 2.

    Source: ours.

    Example:
        >>> from know_hf.quickstart import quickstart
        >>> quickstart("know-quickstart")  # doctest: +SKIP
    """
    if seeds < 2:
        raise ValueError(f"seeds is {seeds}; a spread needs at least 2.")
    output_dir = Path(output_dir)
    known_digits, new_digits = digits(PRETRAINING_CLASSES), digits(NEW_CLASSES)
    split = known_digits.train_test_split(test_size=0.25, seed=0)
    set_seed(0)
    model = timm_from_scratch(
        "resnet10t",
        image_size=16,
        model_args={"channels": [16, 32, 64, 128], "stem_width": 16, "in_chans": 1},
        mean=(0.3,),
        std=(0.38,),
        num_labels=len(PRETRAINING_CLASSES),
    )
    args = ForgettingArguments(
        str(output_dir),
        train_stage_zero=True,
        self_check=True,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    logger.info("Pre-training on %d images of the digits 0-6, then forgetting.", len(split["train"]))
    trainer = make_trainer(model, split["train"], args=args, eval_dataset=split["test"])
    trainer.train()
    result = enrich_trained(trainer)
    folders = {
        "naive": next(
            iter(enrich_trained(trainer, retrodictor="naive", steps=1, self_check=False).checkpoints.values())
        )
    }
    shrunk = enrich_trained(trainer, retrodictor="shrink", self_check=False)
    folders |= {f"shrink to {name}'s norms": folder for name, folder in shrunk.checkpoints.items()}
    folders |= {f"KNOWN {name}": folder for name, folder in result.checkpoints.items()}
    # Last, so that the report in the folder is KNOWN's.
    result = enrich_trained(trainer)

    scores = _fine_tune_all(folders, new_digits, seeds, output_dir / "transfer.json")
    report = output_dir / "report"
    text = _table(scores, seeds)
    write_atomically(report / "transfer.md", text)
    _plot(scores, report / "transfer.png")
    print((report / "report.md").read_text())
    print(text)
    print(f"Plots and tables: {report}\nCheckpoints: {', '.join(str(f) for f in result.checkpoints.values())}")
    return scores


def digits(classes: tuple[int, ...]) -> Dataset:
    """scikit-learn's 8×8 grey-level digits of some classes, as images, labels counted from 0."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('The quickstart needs scikit-learn: pip install "know-hf[quickstart]"') from error
    from PIL import Image as PILImage

    data = load_digits()
    chosen = np.isin(data.target, classes)
    pixels = (data.images[chosen] * (255 / 16)).astype(np.uint8)
    labels = [classes.index(label) for label in data.target[chosen]]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(c) for c in classes])})
    return Dataset.from_dict({"image": [PILImage.fromarray(p) for p in pixels], "label": labels}, features=features)


def _fine_tune_all(
    folders: dict[str, Path], data: Dataset, seeds: int, path: Path
) -> dict[str, dict[str, list[float]]]:
    """Fine-tunes every candidate at every learning rate and seed; finished ones are read back from ``path``."""
    done = json.loads(path.read_text()) if path.exists() else {}
    columns = Columns("image-classification", ["image"], "label", [str(c) for c in NEW_CLASSES])
    jobs = [(name, rate, seed) for seed in range(seeds) for name in folders for rate in LEARNING_RATES]
    for name, rate, seed in tqdm(jobs, desc="Fine-tuning on the digits 7-9"):
        key = f"{name}|{rate:g}|{seed}"
        if key not in done:
            done[key] = _fine_tune(folders[name], data, columns, rate, seed, path.parent)
            write_atomically(path, json.dumps(done, indent=1))
    return {
        name: {f"{rate:g}": [done[f"{name}|{rate:g}|{seed}"] for seed in range(seeds)] for rate in LEARNING_RATES}
        for name in folders
    }


def _fine_tune(folder: Path, data: Dataset, columns: Columns, rate: float, seed: int, scratch: Path) -> float:
    """Accuracy after one fine-tuning; the seed decides head, examples and order, whatever the candidate."""
    labels = label_values(data, columns)
    generator = np.random.default_rng(seed)
    few = np.concatenate(
        [generator.choice(np.flatnonzero(labels == c), SHOTS, replace=False) for c in np.unique(labels)]
    )
    rest = np.setdiff1d(np.arange(len(data)), few)
    set_seed(seed)
    model = AutoModelForImageClassification.from_pretrained(
        folder, num_labels=len(columns.class_names), ignore_mismatched_sizes=True
    )
    preprocessing: Preprocessing = make_preprocessing(model, folder, columns)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(scratch / "training"),
            max_steps=STEPS,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=SHOTS * len(columns.class_names),
            per_device_eval_batch_size=1024,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        ),
        train_dataset=_decoded(preprocessing.apply(data.select(few))),
        data_collator=preprocessing.collator,
        compute_metrics=accuracy,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.evaluate(_decoded(preprocessing.apply(data.select(rest))))["eval_accuracy"]


def _decoded(dataset: Dataset) -> list[dict]:
    """All examples, read once: they are few and used every step."""
    batch = dataset[:]
    return [{name: values[i] for name, values in batch.items()} for i in range(len(dataset))]


def _table(scores: dict[str, dict[str, list[float]]], seeds: int) -> str:
    rates = [f"{rate:g}" for rate in LEARNING_RATES]
    rows = [["start", *(f"lr {rate}" for rate in rates)]] + [
        [name, *(f"{100 * np.mean(by[r]):.1f} ± {100 * np.std(by[r], ddof=1):.1f}" for r in rates)]
        for name, by in scores.items()
    ]
    best = {name: max(np.mean(by[rate]) for rate in rates) for name, by in scores.items()}
    known = max((value, name) for name, value in best.items() if name.startswith("KNOWN"))
    control = max((value, name) for name, value in best.items() if not name.startswith("KNOWN"))
    rate = {name: max(rates, key=lambda r, by=by: np.mean(by[r])) for name, by in scores.items()}
    pair = [np.array(scores[name][rate[name]]) for _, name in (known, control)]
    gains = 100 * (pair[0] - pair[1])
    gain, error = gains.mean(), gains.std(ddof=1) / len(gains) ** 0.5
    verdict = "cannot be told from" if abs(gain) < 2 * error else "is ahead of" if gain > 0 else "is behind"
    return (
        f"# Fine-tuning on {SHOTS} examples each of the digits 7, 8 and 9\n\n"
        f"Accuracy in percent on the rest, mean ± standard deviation over {seeds} seeds.\n\n{table(rows)}\n\n"
        f"Each at its best learning rate, {known[1]} {verdict} the best control ({control[1]}): "
        f"{gain:+.1f} ± {error:.1f} points (paired over seeds, ± standard error). "
        "One small task; take it as a demonstration, not as evidence.\n"
    )


def _plot(scores: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Bars of every candidate at every learning rate, with the spread over seeds."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.info('Plots need matplotlib: pip install "know-hf[plots]".')
        return
    figure = Figure(figsize=(8.0, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    names, rates = list(scores), [f"{rate:g}" for rate in LEARNING_RATES]
    for i, (rate, colour) in enumerate(zip(rates, ("#9fc1e5", "#2f6db3", "#173a63"), strict=False)):
        values = [100 * np.array(scores[name][rate]) for name in names]
        axes.bar(
            np.arange(len(names)) + 0.27 * (i - 1), [v.mean() for v in values], 0.26,
            yerr=[v.std(ddof=1) for v in values], color=colour, ecolor="#555", capsize=2, label=f"learning rate {rate}",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), [name.replace(" to ", "\nto ") for name in names], fontsize=8)
    low = min(100 * min(v) for by in scores.values() for v in by.values())
    axes.set_ylim(max(0, low - 5), 100)
    axes.set_ylabel("accuracy on new classes (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.12))
    figure.savefig(path)
