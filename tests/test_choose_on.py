"""Choosing a start for downstream data: halving, the rule, budget, continuation, refusals."""

import json
import logging

import numpy as np
import pytest
from conftest import QUICK, tiny_image_model
from datasets import Dataset, DatasetDict
from transformers import Trainer, TrainingArguments

from know_hf import enrich_pretrained
from know_hf.choice.options import Choosing
from know_hf.cli.main import main
from know_hf.forgetting.making import make_trainer
from know_hf.laboratory import fine_tuning, halving
from know_hf.laboratory.choosing import DownstreamChoice
from know_hf.laboratory.downstream import open_downstream
from know_hf.laboratory.halving import LEAST_SEEDS, count_trainings, make_schedule, paired_gain, rungs_of
from know_hf.laboratory.protocol import DivergedError
from know_hf.quickstart import digits
from know_hf.report.run import choice_rows
from know_hf.tasks import find_columns
from know_hf.training.data import make_preprocessing
from know_hf.training.options import DataOptions

BUDGET = 2_400


@pytest.fixture(scope="module")
def downstream() -> DatasetDict:
    return digits((7, 8, 9)).train_test_split(test_size=0.4, seed=0)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, images):
    """A finished run, of which the choice needs folder, arguments and model."""
    made = make_trainer(
        tiny_image_model(), images, tmp_path_factory.mktemp("chosen") / "run", train_stage_zero=True,
        num_stages=2, **{**QUICK, "learning_rate": 3e-3},
    )  # fmt: skip
    made.train()
    return made


@pytest.fixture(scope="module")
def starts(tmp_path_factory, downstream):
    """A network with its initial values, the same again, and one that knows the downstream digits well."""
    folder = tmp_path_factory.mktemp("starts")
    model = tiny_image_model(seed=5)
    model.save_pretrained(folder / "stage-0")
    model.save_pretrained(folder / "same")
    preprocessing = make_preprocessing(model, None, find_columns(downstream["train"]))
    args = TrainingArguments(
        str(folder / "work"), remove_unused_columns=False,
        **{**QUICK, "num_train_epochs": 10, "learning_rate": 5e-3, "per_device_train_batch_size": 32},
    )  # fmt: skip
    data = preprocessing.apply(digits((7, 8, 9)))
    Trainer(model, args, preprocessing.collator, data).train()
    model.save_pretrained(folder / "better")
    return {path.name: path for path in (folder / "stage-0", folder / "same", folder / "better")}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(halving, "SEEDS", 4)


def judge(trainer, downstream, **options) -> DownstreamChoice:
    asked = Choosing(choose_on=downstream, **{"choose_budget": BUDGET, "choose_rates": [3e-3], **options})
    return DownstreamChoice(trainer, asked, DataOptions())


@pytest.mark.slow
def test_a_plainly_better_start_wins_within_the_budget(trainer, downstream, starts, caplog):
    made = judge(trainer, downstream)
    with caplog.at_level(logging.INFO):
        found = made(starts)
    purpose = found.purpose
    assert found.candidate == "better" and found.gains["better"].chance <= 0.1 and found.gains["better"].gain > 0.1
    assert purpose.scores["better"] > purpose.scores["stage-0"] + 0.1 and purpose.low > 0
    assert found.words.startswith("Take enriched/best as a start for the downstream data: it is better")
    files = [json.loads(path.read_text()) for path in made.root.glob("*/runs/*.json")]
    assert len(files) == purpose.trainings == count_trainings(3, 1)
    assert len(files) * purpose.examples * purpose.epochs <= BUDGET and purpose.spent <= BUDGET
    assert purpose.spent > 0.7 * BUDGET  # and used
    assert f"{purpose.spent:,} examples to train on of a budget of 2,400" in caplog.text
    report = [run["test"] for run in files if run["arm"] == "better" and run["seed"] in range(1, 5)]
    assert np.mean(report) == pytest.approx(purpose.scores["better"])
    assert not (made.root / "cache").exists()


@pytest.mark.slow
def test_equal_starts_leave_stage_zero_also_when_continued(trainer, downstream, starts, monkeypatch):
    two = {name: starts[name] for name in ("stage-0", "same")}
    made = judge(trainer, downstream, choose_budget=1_000)
    found = made(two)
    assert found.candidate == "stage-0" and found.gains["same"].gain == 0 and found.gains["same"].chance == 1
    assert found.purpose.scores["same"] == found.purpose.scores["stage-0"] and found.purpose.low == 0
    assert found.words.startswith("Keep Θ⁰ as a start for the downstream data (enriched/best is it)")
    place = max(made.root.glob("*/runs"), key=lambda path: path.stat().st_mtime)
    runs = sorted(place.glob("*.json"))
    for path in runs[::4]:
        path.unlink()
    ran, fine_tune = [], fine_tuning.fine_tune

    def counted(*arguments, **keywords):
        ran.append(arguments)
        return fine_tune(*arguments, **keywords)

    monkeypatch.setattr(fine_tuning, "fine_tune", counted)
    assert judge(trainer, downstream, choose_budget=1_000)(two) == found and len(ran) == len(runs[::4])


def test_what_diverges_is_not_taken(trainer, downstream, starts, monkeypatch):
    fine_tune = fine_tuning.fine_tune

    def diverges(folder, *arguments, **keywords):
        if folder.name == "better":
            raise DivergedError("It went astray.")
        return fine_tune(folder, *arguments, **keywords)

    monkeypatch.setattr(fine_tuning, "fine_tune", diverges)
    found = judge(trainer, downstream, choose_budget=1_000)({name: starts[name] for name in ("stage-0", "better")})
    assert found.candidate == "stage-0" and np.isnan(found.gains["better"].gain)
    assert "the best, better, has no accuracy, as fine-tunings of it diverged, against" in found.words


@pytest.mark.slow
def test_a_run_chooses_for_the_data_and_says_so(tmp_path, images, downstream, monkeypatch):
    monkeypatch.setattr(halving, "SEEDS", 2)
    asked = {
        "num_stages": 2, "steps": 1, "train_stage_zero": True, "eval_dataset": images.select(range(40)),
        "choose_on": downstream, "choose_budget": 1_300, "choose_rates": [3e-3], "fit_steps": 2, **QUICK,
    }  # fmt: skip
    result = enrich_pretrained(tiny_image_model(), images, tmp_path / "run", **asked)
    record, choice = json.loads((tmp_path / "run/trajectory.json").read_text()), result.choice
    assert record["dataset"]["examples"] == len(images)  # nothing had to be set aside
    assert choice.how == "downstream" and choice.purpose.data == "the downstream data"
    assert {"stage-0", "stage-1", "x2", "mean", "fitted", "damped"} == set(choice.gains)
    assert choice.candidate in choice.purpose.scores and result.best == tmp_path / "run/enriched/best"
    assert result.verdict.startswith(choice.words) and "as a start for the downstream data" in choice.words
    card = (result.best / "README.md").read_text()
    assert choice.words in card and "## Worth as a start" in card and "on which nothing was chosen" in card
    score = choice.purpose.scores[choice.candidate]
    assert f"| {choice.candidate} (this checkpoint) | 3.00e-03 | {score:.4f} |" in card
    assert "Candidates as starts for the downstream data" in (result.report / "report.md").read_text()
    assert json.loads((result.best / "enrichment.json").read_text())["chosen"]["purpose"]["spent"] <= 1_300
    before = (result.best / "enrichment.json").read_bytes()

    def never(*_, **__):
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(fine_tuning, "fine_tune", never)
    again = enrich_pretrained(tiny_image_model(), images, tmp_path / "run", **asked)
    assert again.choice == choice and (again.best / "enrichment.json").read_bytes() == before


def texts(count: int) -> Dataset:
    return Dataset.from_dict(
        {"sentence": [f"a {i % 7} film" for i in range(count)], "label": [i % 2 for i in range(count)]}
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"choose_on": "nobody/nothing"}, FileNotFoundError, "neither a local folder nor reachable"),
        ({"choose_on": "missing.csv"}, FileNotFoundError, "missing.csv does not exist"),
        ({"choose_on": lambda data: data["train"].select(range(60))}, ValueError, "too few examples .60 examples.: "),
        ({"choose_on": lambda data: {"train": data["train"].select(range(70)), "test": data["test"]}}, ValueError,
         "too few examples .*of them of a test"),
        ({"choose_on": lambda data: {"test": data["test"]}}, ValueError, "splits test; it needs train"),
        ({"choose_on": lambda data: {"train": data["train"], "test": data["train"].select(range(50))}}, ValueError,
         "50 of the 50 test examples of .* are among its training examples"),
        ({"choose_on": lambda data: data["train"].to_iterable_dataset()}, TypeError, "an IterableDataset"),
        ({"choose_on": lambda data: data["train"].remove_columns("label")}, ValueError, "choose_on|column"),
        ({"choose_on": lambda data: texts(200)}, ValueError, "text-classification, for which the head of a Timm"),
        ({"choose": "none"}, ValueError, "choose_on chooses"),
        ({"choose_budget": 500}, ValueError, "the budget is 500: set a larger one"),
        ({"choose_budget": None}, ValueError, "the budget is 2.0: set a larger one"),
        ({"norms": "reset"}, ValueError, "norms='reset'"),
        ({"fit_on": "both", "selection_split": None}, ValueError, "needs examples set aside"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_trained(tmp_path, images, downstream, options, error, words):
    asked = {"choose_on": downstream, "choose_budget": BUDGET, "choose_rates": [3e-3], **options}
    if callable(asked["choose_on"]):
        asked["choose_on"] = asked["choose_on"](downstream)
    with pytest.raises(error, match=words):
        enrich_pretrained(
            tiny_image_model(), images, tmp_path / "run", num_stages=2, steps=1, train_stage_zero=True, **asked, **QUICK
        )
    assert not list(tmp_path.glob("run/stage-*"))


def test_what_the_run_trains_on_itself_is_said(trainer, caplog):
    made = judge(trainer, digits((0, 1, 2)))  # of which the run's are a part
    assert "that are reported on" in caplog.text and len(made.remarks) == 1
    assert "are training data of the run itself" in made.remarks[0]
    assert not judge(trainer, digits((7, 8, 9))).remarks


def test_the_command_line_looks_for_the_data_first(tmp_path, image_model_folder, image_data_folder, capsys):
    asked = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, "--output_dir", tmp_path / "run",
             "--choose_on", tmp_path / "nothing"]  # fmt: skip
    with pytest.raises(SystemExit):
        main([str(word) for word in asked])
    assert "neither a local folder nor reachable" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_data_are_divided(downstream, image_data_folder):
    found = open_downstream(downstream["train"], DataOptions(), 0)
    counts = [np.bincount(part["label"]) for part in (found.pool, found.report)]
    assert counts[1].sum() == len(downstream["train"]) // 5 and not found.held_out
    assert np.allclose(counts[0] / counts[0].sum(), counts[1] / counts[1].sum(), atol=0.02)  # the same shares
    rows = [{str(image["image"].tobytes()) for image in part} for part in (found.pool, found.report)]
    assert len(rows[0] | rows[1]) >= len(downstream["train"]) - 5
    own = open_downstream(str(image_data_folder), DataOptions(), 0)
    assert own.held_out and len(own.pool) == 128 and len(own.report) == 32 and own.name == "digits"
    secret = downstream["test"].map(lambda row: {"label": -1})
    hidden = open_downstream({"train": downstream["train"], "test": secret}, DataOptions(), 0)
    assert not hidden.held_out and len(hidden.report) == len(downstream["train"]) // 5


def test_schedules_keep_to_the_budget():
    for candidates in (2, 3, 7, 12):
        rungs = rungs_of(candidates)
        assert rungs[0].challengers == candidates - 1 and rungs[-1].kept == 1
        for budget in (20_000, 100_000, 3_000_000):
            plan = make_schedule(candidates, 3, budget, 700)
            assert plan.trainings * plan.examples * plan.epochs <= budget and plan.examples <= 700
            seeds = [seed for rung in rungs for seed in rung.seeds]
            assert not set(seeds) & set(plan.last) and len(plan.last) == halving.SEEDS


def test_the_rule_counts_chance():
    generator = np.random.default_rng(0)
    taken = 0
    for _ in range(300):
        gain = paired_gain(generator.normal(size=8), generator.normal(size=8), True, 0.14)
        taken += gain.gain > 0 and gain.chance <= 0.1
    assert taken < 30
    better = paired_gain([0.7, 0.72, 0.71, 0.75], [0.6, 0.61, 0.62, 0.6], True, 0.14)
    assert better.chance < 0.1 and 0 < better.low < better.gain < better.high
    assert paired_gain([3.0, 3.1], [4.0, 4.2], False, 0.1).gain > 0  # of a perplexity
    assert paired_gain([np.nan, 0.7], [0.6, 0.6], True, 0.1).chance == 1


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_no_interval_reaches_where_the_score_does_not(higher_is_better):
    one, other = [0.9, 0.2, 0.8, 0.1, 0.9, 0.3], [0.2, 0.8, 0.5, 0.9, 0.1, 0.8]
    for seeds in range(1, LEAST_SEEDS):
        few = paired_gain(one[:seeds], other[:seeds], higher_is_better, 0.1, 1.0)
        assert np.isnan([few.low, few.high]).all() and np.isfinite(few.gain) and 0 < few.chance <= 1
        assert choice_rows({"x2": vars(few)})[1][3] == "–"
    for seeds in range(LEAST_SEEDS, 7):
        many = paired_gain(one[:seeds], other[:seeds], higher_is_better, 0.1, 1.0)
        mean = np.mean(other[:seeds])
        assert -1 <= many.low <= many.gain <= many.high <= 1
        assert many.high <= (1 - mean if higher_is_better else mean) + 1e-9
        assert many.low >= (-mean if higher_is_better else mean - 1) - 1e-9
    assert paired_gain([3.0, 9.0, 1.0, 5.0], [4.0, 4.2, 4.1, 4.0], False, 0.1, None).low < -1  # of a perplexity
