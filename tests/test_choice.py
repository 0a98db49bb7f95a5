"""The choice of a checkpoint: what is set aside, when a gain counts, and what a run ends with."""

import errno
import json
import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import run_cli, tiny_image_model
from datasets import Dataset
from torch.utils.data import TensorDataset
from transformers import AutoModelForImageClassification, EvalPrediction

from know_hf import enrich_pretrained
from know_hf.choice.candidates import expected_candidates
from know_hf.choice.options import Choosing
from know_hf.choice.resampling import interval, swap_error, swapped
from know_hf.choice.rule import LEVEL, Gain, judge
from know_hf.choice.scoring import Answers, Measure, fingerprint, in_units, pooled
from know_hf.choice.words import chosen_words, described, start_of
from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import resolve
from know_hf.enrichment.verdict import Deciding
from know_hf.enrichment.writer import PartialFolder
from know_hf.forgetting.making import make_trainer
from know_hf.hub.files import find_uploads
from know_hf.hub.push import push
from know_hf.tasks import Score
from know_hf.training import set_aside
from know_hf.training.set_aside import FEWEST, FOLDS, LEAST, Fold, take_aside
from know_hf.trajectory import Checkpoint, TrajectoryError, TrajectoryRecord

ACCURACY = Measure("eval_accuracy", True)
ACCURATE = Deciding("eval_accuracy", Score("accuracy", percent=True, higher_is_better=True), 200)
SETTINGS = {"num_stages": 3, "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
            "train_stage_zero": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def with_turns():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_aside, "FEWEST", FEWEST)
        yield


def values(dataset: Dataset) -> list[int]:
    return dataset["a"][:]


def numbers(count: int) -> Dataset:
    return Dataset.from_dict({"a": list(range(count)), "label": [i % 4 == 0 for i in range(count)]})


def right(flags) -> Answers:
    flags = np.asarray(flags, float)
    return Answers({"eval_accuracy": float(flags.mean())}, flags)


@pytest.mark.parametrize(("count", "size"), [(5000, 500), (1000, 100), (400, 100), (300, 100)])
def test_a_tenth_is_set_aside_or_a_hundred(count, size):
    data = numbers(count)
    rest, aside = take_aside(data, "auto", 0, data["label"][:])
    assert aside.how == "set aside" and len(aside.dataset) == size
    assert sorted(values(rest) + values(aside.dataset)) == list(range(count))
    assert abs(np.mean(aside.dataset["label"][:]) - 0.25) < 0.02
    assert values(take_aside(data, "auto", 0, data["label"][:])[1].dataset) == values(aside.dataset)
    assert values(take_aside(data, "auto", 1, data["label"][:])[1].dataset) != values(aside.dataset)


def test_fewer_are_left_out_by_turns():
    data = numbers(3 * LEAST - 1)
    whole, aside = take_aside(data, "auto", 0)
    assert aside.how == "folds" and aside.dataset is None and len(whole) == len(data)
    parts = [take_aside(data, Fold(i), 0, data["label"][:]) for i in range(FOLDS)]
    assert sorted(v for _, part in parts for v in values(part.dataset)) == list(range(len(data)))
    for rest, part in parts:
        assert not set(values(rest)) & set(values(part.dataset))
        assert abs(np.mean(part.dataset["label"][:]) - 0.25) < 0.02
    assert take_aside(numbers(FEWEST - 1), "auto", 0)[1].how == "too few"


def test_a_number_or_a_share_is_set_aside():
    for split, size in ((0.2, 20), (25, 25)):
        assert len(take_aside(numbers(100), split, 0)[1].dataset) == size
    for split in (0.01, 5, 90, 1000):
        with pytest.raises(ValueError, match="set another number"):
            take_aside(numbers(100), split, 0)


def test_what_we_choose_to_train_on_can_be_trained_on():
    rest, _ = take_aside(numbers(1000), "auto", 0, None, lambda size: size % 16 != 4)
    assert len(rest) == 899
    rest, _ = take_aside(numbers(200), Fold(0), 0, None, lambda size: size % 32 != 5)
    assert len(rest) == 132


def test_a_plain_gain_is_taken_and_a_tie_is_not():
    start = np.arange(200) % 2
    better = np.where(np.arange(200) < 60, 1, start)
    answers = {"stage-0": right(start), "same": right(start), "mean": right(better)}
    name, gains = judge("stage-0", answers, ACCURACY)
    assert name == "mean" and gains["mean"].chance < 0.01 and gains["mean"].low > 0
    assert gains["same"].gain == 0 and gains["same"].chance == 1
    assert judge("stage-0", {**answers, "mean": right(start)}, ACCURACY)[0] == "stage-0"
    loss = Measure("eval_accuracy", False)
    assert judge("stage-0", answers, loss)[0] == "stage-0"


@pytest.mark.parametrize(("examples", "others"), [(20, 12), (50, 20)])
def test_the_best_of_many_by_chance_is_seldom_taken(examples, others):
    draw, taken, times = np.random.default_rng(1), 0, 100
    for _ in range(times):
        answers = {"stage-0": right(draw.random(examples) < 0.7)}
        answers |= {f"other {i}": right(draw.random(examples) < 0.7) for i in range(others)}
        taken += judge("stage-0", answers, ACCURACY)[0] != "stage-0"
    assert taken / times <= LEVEL + 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / times)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions == prediction.label_ids).mean())}


def f1(prediction: EvalPrediction) -> dict[str, float]:
    found, right = prediction.predictions == 1, prediction.label_ids == 1
    return {"f1": 2 * float((found & right).sum()) / float(found.sum() + right.sum())}


def answered(draw, examples: int, share: float, metric: str, compute) -> Answers:
    labels = np.arange(examples) % 3 == 0
    given = np.where(draw.random(examples) < share, labels, ~labels).astype(int)
    return Answers({f"eval_{metric}": compute(EvalPrediction(given, labels))[metric]}, kept=(given, labels))


def test_swaps_and_intervals():
    draw = np.random.default_rng(0)
    one, other = ((draw.random(60) < share).astype(float) for share in (0.3, 0.5))
    drawn = swapped(one, other)
    assert len(drawn) == 2000 and abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(swap_error(one, other), rel=0.1)
    assert not swapped(one, one).any()
    low, high = interval(one, other)
    assert low < (other - one).mean() < high and high - low == pytest.approx(4 * (other - one).std() / 60**0.5, rel=0.1)


def test_parts_of_a_score_that_is_no_mean():
    draw, measure = np.random.default_rng(0), Measure("eval_f1", True, f1)
    answers = {name: answered(draw, 400, share, "f1", f1) for name, share in (("stage-0", 0.7), ("mean", 0.9))}
    units = in_units(answers, measure)
    for name, own in units.items():
        assert own.units.shape == (50,) and own.units.mean() == pytest.approx(answers[name].scores["eval_f1"])
    # The error that parts tell is that of other draws of as many examples.
    again = [answered(draw, 400, 0.7, "f1", f1).scores["eval_f1"] for _ in range(300)]
    assert units["stage-0"].units.std() / 50**0.5 == pytest.approx(np.std(again), rel=0.3)
    assert judge("stage-0", answers, measure)[0] == "mean"
    means = in_units({"a": answered(draw, 90, 0.7, "accuracy", accuracy)}, Measure("eval_accuracy", True, accuracy))
    assert set(means["a"].units) == {0, 1} and means["a"].units.shape == (90,)


def test_a_score_that_is_no_mean_is_seldom_better_by_chance():
    draw, measure, taken, times = np.random.default_rng(2), Measure("eval_f1", True, f1), 0, 40
    for _ in range(times):
        answers = {name: answered(draw, 60, 0.8, "f1", f1) for name in ("stage-0", "a", "b", "c", "d")}
        taken += judge("stage-0", answers, measure)[0] != "stage-0"
    assert taken / times <= LEVEL + 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / times)


def test_few_examples_need_not_have_a_score():
    def rare(prediction: EvalPrediction) -> dict[str, float]:
        if not prediction.label_ids.any():
            raise ValueError("No example of that class.")
        return {"rare": float(prediction.predictions[prediction.label_ids == 1].mean())}

    labels = np.arange(30) == 7
    measure = Measure("eval_rare", True, rare)
    answers = {
        name: Answers({"eval_rare": float(value)}, kept=(np.full(30, value), labels))
        for name, value in (("stage-0", 0.0), ("mean", 1.0))
    }
    name, gains = judge("stage-0", answers, measure)
    assert name == "stage-0" and gains["mean"].gain == 1 and gains["mean"].chance > LEVEL


def test_the_better_of_both_forms_of_stage_zero_is_to_be_beaten():
    start, renewed, other = (right(np.arange(200) < count) for count in (80, 150, 152))
    answers = {"stage-0": start, "stage-1": other, "stage-0-renewed": renewed}
    assert judge("stage-0", answers, ACCURACY)[0] == "stage-1"
    name, gains = judge("stage-0", answers, ACCURACY, "stage-0-renewed")
    assert name == "stage-0-renewed" and gains["stage-1"].gain > 0.3 and gains["stage-1"].chance > LEVEL
    words = chosen_words(name, gains, ACCURATE, 200, {}, {})
    assert "not trained to its end" not in words and words.startswith("Take enriched/best, which is stage-0-renewed")
    better = {**answers, "stage-1": right(np.arange(200) < 190)}
    name, gains = judge("stage-0", better, ACCURACY, "stage-0-renewed")
    assert name == "stage-1" and gains["stage-1"].chance < 0.01
    words = chosen_words(name, gains, ACCURATE, 200, {}, {})
    assert "95.0 % against 75.0 % of Θ⁰ with BatchNorm statistics re-estimated (40.0 % with its own)" in words
    assert words.startswith("Θ⁰ was not trained to its end")


def test_a_score_that_is_not_a_number_is_not_taken():
    answers = {
        "stage-0": right(np.arange(100) % 2),
        "x8": Answers({"eval_accuracy": float("nan")}, np.full(100, np.nan)),
    }
    name, gains = judge("stage-0", answers, ACCURACY)
    assert name == "stage-0" and np.isnan(gains["x8"].gain)


def test_one_example_in_many_is_chance():
    start = np.arange(60) < 42
    for more, taken in ((1, False), (2, False), (8, True)):
        better = np.arange(60) < 42 + more
        name, gains = judge("stage-0", {"stage-0": right(start), "mean": right(better)}, ACCURACY)
        assert (name == "mean") == taken and (gains["mean"].chance > LEVEL) != taken


def test_what_is_certain_is_taken():
    zeros, ones = np.zeros(50), np.ones(50)
    assert judge("stage-0", {"stage-0": right(zeros), "mean": right(ones)}, ACCURACY)[0] == "mean"
    answers = {
        "stage-0": Answers({"eval_accuracy": float("nan")}, zeros * np.nan),
        "x2": right(zeros),
        "mean": right(ones),
    }
    assert judge("stage-0", answers, ACCURACY)[0] == "mean"


def test_answers_to_parts_are_put_together():
    measure = Measure("eval_accuracy", True, accuracy)
    parts = [Answers({}, kept=(np.ones((2, width)), np.ones((2, width)))) for width in (3, 5)]
    whole = pooled(parts, measure)
    assert whole.kept[0].shape == (4, 5) and (whole.kept[0][:2, 3:] == -100).all() and whole.size == 4
    losses = pooled([Answers({}, np.ones(3)), Answers({}, np.zeros(1))], Measure("eval_loss", False))
    assert losses.scores == {"eval_loss": 0.75} and losses.size == 4


@pytest.fixture(scope="module")
def pictures(images) -> Dataset:
    return images.shuffle(seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    """A run whose stage 0 has hardly begun to learn."""
    output = tmp_path_factory.mktemp("choice") / "run"
    return enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), output, eval_dataset=pictures.select(range(120, 160)),
        selection_split=40, also=["equal_compute"], fit_on="both", keep_candidates=True, **SETTINGS,
    )  # fmt: skip


def test_the_best_is_a_plain_folder_of_one_candidate(run):
    choice = run.choice
    assert run.best == run.output_dir / "enriched" / "best" == choice.folder
    AutoModelForImageClassification.from_pretrained(run.best)
    best, source = Checkpoint(run.best), Checkpoint(choice.candidates[choice.candidate])
    assert all(torch.equal(best.read(name), source.read(name)) for name in best.tensors)
    assert {"stage-0", "stage-1", "x2", "mean", "fitted", "damped", "fitted-held-out", "equal_compute",
            "stage-0-renewed"} <= set(choice.gains)  # fmt: skip
    assert run.verdict.startswith(choice.words)
    assert f"| {choice.candidate} (chosen) |" in (run.best / "README.md").read_text()
    assert choice.deciding.shown(choice.gains[choice.candidate].score) in (run.report / "report.md").read_text()


def test_the_result_is_the_best_on_the_examples_set_aside(run):
    gains, chosen = run.choice.gains, run.choice.candidate
    start = start_of(gains)
    allowed = [name for name, gain in gains.items() if gain.chance <= LEVEL and gain.gain > gains[start].gain]
    assert chosen == (max(allowed, key=lambda name: gains[name].gain) if allowed else start)
    assert run.choice.examples == 20  # the other half was fitted to


def test_nothing_set_aside_was_trained_on(run):
    record = TrajectoryRecord.load(run.output_dir)
    assert record.dataset["set_aside"] == {"how": "set aside", "examples": 40} and record.dataset["examples"] == 80


def test_only_the_best_goes_to_main(run):
    _, uploads = find_uploads(run.output_dir)
    assert [(upload.folder.name, upload.revision) for upload in uploads] == [
        ("best", "main"), ("x2", "x2"), ("x4", "x4"), ("x8", "x8")
    ]  # fmt: skip
    assert not [name for upload in uploads for name in upload.files if "choice" in name]


def test_the_best_is_main_on_the_hub(hub, run):
    push(run.output_dir, "tester/chosen")
    weights = hub.model("tester/chosen").files("main")["model.safetensors"]
    assert weights == (run.best / "model.safetensors").read_bytes()
    assert set(hub.model("tester/chosen").branches) == {"main", "x2", "x4", "x8"}
    card = hub.model("tester/chosen").files("main")["README.md"].decode()
    assert "`main` is `best`" in card and 'from_pretrained("tester/chosen")' in card
    url = run.push_to_hub("tester/again")
    assert url.endswith("tester/again") and hub.model("tester/again").files("main")["model.safetensors"] == weights


def again(run, pictures, output, **options):
    return enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), output, eval_dataset=pictures.select(range(120, 160)),
        selection_split=40, also=["equal_compute"], fit_on="both", keep_candidates=True, **SETTINGS, **options,
    )  # fmt: skip


def test_a_finished_choice_is_not_made_again(run, pictures):
    before = {path: path.stat().st_mtime_ns for path in run.output_dir.rglob("*.json") if path.parent.name != "report"}
    result = again(run, pictures, run.output_dir)
    assert result.choice.words == run.choice.words
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_choice_that_was_interrupted_ends_alike(run, pictures, tmp_path, monkeypatch):
    shutil.copytree(run.output_dir, tmp_path / "run")
    for name in ("enriched/best", "choice"):
        shutil.rmtree(tmp_path / "run" / name)
    commit, left = PartialFolder.commit, [2]

    def failing(self):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        commit(self)

    monkeypatch.setattr(PartialFolder, "commit", failing)
    with pytest.raises(KeyboardInterrupt):
        again(run, pictures, tmp_path / "run")
    monkeypatch.undo()
    again(run, pictures, tmp_path / "run")
    for name in ("enriched/best/model.safetensors", "choice/choice.json", "choice/fitted.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run.output_dir / name).read_bytes(), name


def test_another_choice_is_made_anew(run, pictures, tmp_path):
    shutil.copytree(run.output_dir, tmp_path / "run")
    options = {**SETTINGS, "selection_split": 40}
    result = enrich_pretrained(tiny_image_model(), pictures.select(range(120)), tmp_path / "run",
                               eval_dataset=pictures.select(range(120, 160)), **options)  # fmt: skip
    assert result.choice.examples == 40 and "fitted-held-out" not in result.choice.gains
    assert set(result.choice.candidates) == {"stage-0", "stage-1", "stage-2", "x2", "x4", "x8"}  # others are gone


def test_nothing_is_chosen_when_not_asked_or_not_possible(pictures, tmp_path):
    data = pictures.select(range(FEWEST - 10))
    few = enrich_pretrained(tiny_image_model(), data, tmp_path / "few", steps=1, **SETTINGS)
    assert few.best is None and few.verdict.startswith(f"Nothing was chosen: {len(data)} training examples")
    none = enrich_pretrained(tiny_image_model(), data, tmp_path / "none", steps=1, choose="none", **SETTINGS)
    assert none.best is None and "Nothing was chosen" not in none.verdict
    assert not (tmp_path / "none" / "choice").exists()
    assert "set_aside" not in TrajectoryRecord.load(tmp_path / "none").dataset
    weights = [Checkpoint(one.checkpoints["x2"]) for one in (few, none)]
    assert all(torch.equal(weights[0].read(name), weights[1].read(name)) for name in weights[0].tensors)


def test_examples_to_choose_on_may_be_given(pictures, tmp_path):
    own = pictures.select(range(100, 140))
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(50)), tmp_path / "run", steps=1, selection_split=own, **SETTINGS
    )
    assert result.choice.how == "given" and result.choice.examples == 40


def test_by_turns(pictures, tmp_path):
    own = {**SETTINGS, "steps": 1, "keep_candidates": True}
    result = enrich_pretrained(tiny_image_model(), pictures.select(range(90)), tmp_path / "run", **own)
    assert (
        result.choice.how == "folds" and result.choice.examples == 90 and "by a run that left it out" in result.verdict
    )
    trained = [TrajectoryRecord.load(tmp_path / "run" / "folds" / str(i)).dataset["examples"] for i in range(FOLDS)]
    assert trained == [60, 60, 60] and TrajectoryRecord.load(tmp_path / "run").dataset["examples"] == 90
    assert "on 90 examples left out by turns" in (result.best / "README.md").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    enrich_pretrained(tiny_image_model(), pictures.select(range(90)), tmp_path / "run", **own)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    del own["keep_candidates"]
    fewer = enrich_pretrained(tiny_image_model(), pictures.select(range(90)), tmp_path / "run", **own)
    assert not (tmp_path / "run" / "folds").exists() and fewer.choice.gains == result.choice.gains


def test_any_torch_data_are_chosen_on_by_their_loss(tmp_path):
    class Rows(TensorDataset):
        def __getitem__(self, index):
            pixels, label = super().__getitem__(index)
            return {"pixel_values": pixels, "labels": label}

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=generator)
    pixels = torch.randn(120, 1, 16, 16, generator=generator) + labels[:, None, None, None]
    result = enrich_pretrained(
        tiny_image_model(), Rows(pixels, labels), tmp_path / "run", steps=1, selection_split=0.25,
        data_collator=lambda rows: {k: torch.stack([row[k] for row in rows]) for k in rows[0]}, **SETTINGS,
    )  # fmt: skip
    assert result.choice.deciding.metric == "eval_loss"
    losses = {name: gain.score for name, gain in result.choice.gains.items()}
    if result.choice.candidate != "stage-0":
        assert losses[result.choice.candidate] < losses["stage-0"]


def test_fitted_by_name(pictures, tmp_path):
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(50)), tmp_path / "run", steps=1, method=["fitted", "mean"], **SETTINGS
    )
    content = json.loads((result.checkpoints["fitted/x2"] / "enrichment.json").read_text())
    assert content["parameters"]["coefficients"] == json.loads(
        (tmp_path / "run" / "choice" / "fitted.json").read_text()
    )["coefficients"]  # fmt: skip


def test_what_cannot_be_is_said_before_training(pictures, tmp_path):
    data = pictures.select(range(50))
    with pytest.raises(ValueError, match="no control that can be trained from stage 0"):
        enrich_pretrained(tiny_image_model(), data, tmp_path / "a", also=["shrink 0.5"], **SETTINGS)
    with pytest.raises(ValueError, match="needs examples set aside"):
        enrich_pretrained(tiny_image_model(), data, tmp_path / "b", fit_on="selection", **SETTINGS)
    with pytest.raises(ValueError, match="set another number"):
        enrich_pretrained(tiny_image_model(), data, tmp_path / "c", selection_split=49, **SETTINGS)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_from_the_command_line_and_with_two_processes(image_model_folder, image_data_folder, tmp_path):
    command = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, "--num_stages", 3,
               "--per_device_train_batch_size", 8, "--num_train_epochs", 1, "--save_strategy", "no", "--steps", 1,
               "--selection_split", 40, "--disable_tqdm", "True", "--train_stage_zero", "True",
               "--fit_steps", 6]  # fmt: skip
    said = run_cli(*command, "--output-dir", tmp_path / "one", "--gradient_accumulation_steps", 2).stdout
    assert "Take enriched/best" in said or "Keep Θ⁰" in said
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_cli(*command, "--output-dir", tmp_path / "two", launcher=launcher, env={"GLOO_SOCKET_IFNAME": "lo"})
    found = [json.loads((tmp_path / name / "choice" / "choice.json").read_text()) for name in ("one", "two")]
    scores = [{name: gain["score"] for name, gain in one["gains"].items()} for one in found]
    assert scores[0].keys() == scores[1].keys()
    fits = [json.loads((tmp_path / name / "choice" / "fitted.json").read_text()) for name in ("one", "two")]
    assert len(fits[0]["losses"]) == 6 and fits[0]["losses"] == pytest.approx(fits[1]["losses"], rel=2e-2)
    # Where a slope is next to nothing, rounding decides which way Adam goes.
    tables = [np.concatenate(list(one["coefficients"].values())) for one in fits]
    assert np.abs(tables[0]).max() > 0.05 and (np.abs(tables[0] - tables[1]) < 2e-2).mean() > 0.8


def test_a_choice_with_other_options_replaces_what_was_kept(run, pictures, tmp_path):
    shutil.copytree(run.output_dir, tmp_path / "run")
    result = again(run, pictures, tmp_path / "run", fit_steps=2, fit_groups="kind")
    before, after = (
        json.loads((folder / "choice" / "fitted.json").read_text())["coefficients"]
        for folder in (run.output_dir, tmp_path / "run")
    )
    assert before != after and len({tuple(row) for row in after.values()}) <= 3
    assert {"fitted", "damped"} <= set(result.choice.candidates)


def test_a_fit_that_goes_astray_is_no_candidate(run, pictures, tmp_path, monkeypatch, caplog):
    shutil.copytree(run.output_dir, tmp_path / "run")

    def astray(*args, **options):
        raise TrajectoryError("Fitting went astray")

    monkeypatch.setattr("know_hf.choice.candidates.fit", astray)
    result = again(run, pictures, tmp_path / "run", fit_steps=3)
    assert "fitted" not in result.choice.gains and "fitted is no candidate: Fitting went astray" in caplog.text
    assert "mean" in result.choice.gains


def scored(prediction: EvalPrediction) -> dict[str, float]:
    return {"hits": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def hit(prediction: EvalPrediction) -> dict[str, float]:
    return {"hits": float((prediction.predictions.argmax(-1) == 0).mean())}


def test_the_score_that_is_named_decides_and_a_misspelt_one_is_said_first(pictures, tmp_path):
    parts = {"near": pictures.select(range(120, 150)), "far": pictures.select(range(150, 160))}
    own = {**SETTINGS, "eval_dataset": parts, "selection_split": 40, "num_train_epochs": 1}
    for name in ("acuracy", "nearr_accuracy"):
        with pytest.raises(ValueError, match=r"is not among the scores .*accuracy.*; did you mean accuracy\?"):
            enrich_pretrained(
                tiny_image_model(), pictures.select(range(120)), tmp_path / "a", metric_for_best_model=name, **own
            )
    assert not (tmp_path / "a" / "stage-0").exists()
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), tmp_path / "b", metric_for_best_model="loss", **own
    )
    assert result.choice.deciding.metric == "eval_loss"
    assert {"eval_near_accuracy", "eval_far_accuracy"} <= set(result.metrics["x2"])


def test_another_function_of_the_same_name_of_score_is_another_choice(pictures, tmp_path):
    own = {**SETTINGS, "selection_split": 40, "num_train_epochs": 1, "metric_for_best_model": "hits"}
    found = [
        enrich_pretrained(
            tiny_image_model(), pictures.select(range(120)), tmp_path / "a", compute_metrics=compute,
            eval_dataset=pictures.select(range(120, 160)), **own,
        ).choice.gains["stage-0"].score
        for compute in (scored, hit, scored)
    ]  # fmt: skip
    assert found[0] == found[2] != found[1]
    assert fingerprint(scored) != fingerprint(hit) and fingerprint(None) is None


def test_why_nothing_is_chosen_and_what_is_another_run(pictures, tmp_path):
    own = {**SETTINGS, "num_train_epochs": 1, "eval_dataset": pictures.select(range(120, 160))}
    train, folder = pictures.select(range(120)), tmp_path / "a"
    assert (
        "Nothing was chosen" not in enrich_pretrained(tiny_image_model(), train, folder, choose="none", **own).verdict
    )
    result = enrich_pretrained(tiny_image_model(), train, folder, **own)
    assert result.best is None and result.verdict.startswith("Nothing was chosen: no examples were set aside when")
    with pytest.raises(TrajectoryError, match="no examples were set aside then, and 40 .* were set aside now") as found:
        enrich_pretrained(tiny_image_model(), train, folder, selection_split=40, **own)
    assert "fingerprint" not in str(found.value)


def test_epochs_chosen_on_the_evaluation_data_are_said(pictures, tmp_path):
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), tmp_path, eval_dataset=pictures.select(range(120, 160)),
        selection_split=40, load_best_model_at_end=True, eval_strategy="epoch",
        **{**SETTINGS, "save_strategy": "epoch"},
    )  # fmt: skip
    if result.choice.candidate != "stage-0":
        assert "on which load_best_model_at_end chose" in result.verdict
    gains = {"stage-0": Gain(0.5, 0, 0, 0, 1), "mean": Gain(0.9, 0.4, 0.3, 0.5, 0.01)}
    seen = chosen_words("mean", gains, ACCURATE, 200, {"eval_accuracy": 0.8}, {"eval_accuracy": 0.5}, False, True)
    assert "80.0 % against 50.0 % (on which load_best_model_at_end chose" in seen


def test_functions_that_were_made_with_other_values_are_others():
    def with_threshold(threshold: float):
        return lambda prediction: {"hits": float((prediction.predictions > threshold).mean())}

    assert fingerprint(with_threshold(0.5)) == fingerprint(with_threshold(0.5)) != fingerprint(with_threshold(0.6))
    assert fingerprint(partial(scored, 1)) != fingerprint(partial(scored, 2))


def test_what_somebody_put_in_the_place_of_a_candidate_is_theirs(pictures, tmp_path):
    own = {**SETTINGS, "num_train_epochs": 1, "selection_split": 40}
    train = pictures.select(range(120))
    enrich_pretrained(tiny_image_model(), train, tmp_path, **own)
    (tmp_path / "choice" / "mean").mkdir()
    (tmp_path / "choice" / "mean" / "mine.txt").write_text("mine")
    (tmp_path / "choice" / "fitted.json").write_text("{ damaged")
    enrich_pretrained(tiny_image_model(), train, tmp_path, **own)
    assert (tmp_path / "choice" / "mean" / "mine.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match="was not written by know-hf"):
        enrich_pretrained(tiny_image_model(), train, tmp_path, unscaled=True, **own)
    assert (tmp_path / "choice" / "mean" / "mine.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "choice" / "mean")
    assert (
        "fitted-unscaled" in enrich_pretrained(tiny_image_model(), train, tmp_path, unscaled=True, **own).choice.gains
    )


def test_every_candidate_is_described():
    for name in ("fitted-unscaled", "fitted-held-out-unscaled", "soup-fitted-unscaled", "damped-held-out"):
        assert "{" not in described(name) and "(" in described(name)
    assert described("fitted-held-out-unscaled").endswith("fits held-out data best, without a multiple of Θ⁰)")


def test_as_many_candidates_as_expected(run, pictures, tmp_path):
    options = {"also": ["equal_compute"], "fit_on": "both"}
    trainer = make_trainer(
        tiny_image_model(), pictures.select(range(120)), tmp_path, selection_split=40, **SETTINGS
    )  # fmt: skip
    expected = expected_candidates(trainer, resolve(Prediction(), 3, 0.5), Choosing(**options))
    assert expected == len(run.choice.gains) - 1  # BatchNorm's new statistics alone are no start for other data


def test_a_full_disk_is_said_and_loses_nothing(pictures, tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.final))

    own = {**SETTINGS, "num_train_epochs": 1, "selection_split": 40}
    with monkeypatch.context() as patch:
        commit = PartialFolder.commit
        patch.setattr(PartialFolder, "commit", lambda self: (full if self.final.name == "best" else commit)(self))
        with pytest.raises(OSError, match="the disk is full; nothing was left half-written. Free space and run again"):
            enrich_pretrained(tiny_image_model(), pictures.select(range(120)), tmp_path, **own)
    assert not (tmp_path / "enriched" / "best").exists()
    assert enrich_pretrained(tiny_image_model(), pictures.select(range(120)), tmp_path, **own).best.is_dir()
