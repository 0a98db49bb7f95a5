"""Fine-tunings that diverge: results like others, which stop nothing and are compared with nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_image_model
from test_cell_table import made_up
from test_unfinished import recorded

from know_hf.laboratory import fine_tuning
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.experiment import run_experiment
from know_hf.laboratory.protocol import Answers, DivergedError, Protocol, StayFinite
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.result import DIVERGED, ComparisonResult, read_fine_tuning
from know_hf.report.answer import answer
from know_hf.report.cells import add_cells, cell_rows, run_rows
from know_hf.report.comparison import comparison_markdown, verdict, write_comparison_report
from know_hf.report.experiment import write_experiment_report
from know_hf.report.page import Page
from know_hf.trajectory import TrajectoryError

REGIME = Path(__file__).parents[1] / "examples" / "recipes" / "regime.yaml"
#: Steps of plain gradient descent, which nothing holds back.
WILD = Protocol(
    head_epochs=0, epochs=3, batch_size=16, examples=48, validation_examples=16, evaluations=1,
    training_arguments=(("optim", "sgd"), ("max_grad_norm", 0.0)),
)  # fmt: skip


def diverge(folder, *patterns):
    """Puts what diverged in the place of results."""
    for pattern in patterns:
        for path in (folder / "runs").glob(pattern):
            run = json.loads(path.read_text())
            kept = {name: run[name] for name in ("arm", "rate", "seed", "seconds")}
            path.write_text(json.dumps({**kept, "training": 0.0, DIVERGED: "It did."}))


def test_a_rate_that_diverges_stops_no_comparison(tmp_path, image_model_folder, images, monkeypatch):
    other = tmp_path / "other"
    tiny_image_model(seed=1).save_pretrained(other)
    arms = {"naive": image_model_folder, "other": other}

    def compared(rates):
        return compare(
            arms, images.select(range(120)), tmp_path / "out", test_dataset=images.select(range(120, 160)),
            protocol=WILD, learning_rates=rates, seeds=2,
        )  # fmt: skip

    with pytest.raises(
        ValueError, match=r"naive, .*, has no score at any .*\(1e\+30\). .* diverged: values of .*give lower rates"
    ):
        compared([1e30])
    ran, tune = [], fine_tuning.fine_tune
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda *args: ran.append(args[4]) or tune(*args))
    result = compared([1e30, 0.01])
    assert ran == [0.01] * 4  # what diverged is a result, too
    assert result.chosen_rates == {"naive": 0.01, "other": 0.01} and not result.lost and not result.unfinished
    assert [result.diverged(arm, 1e30) for arm in arms] == [2, 2]
    assert "as fine-tunings diverged or their metric has no value: at 1e+30 every start (with 2 of 2 seeds)." in (
        text := comparison_markdown(result)
    )
    assert "| no score (2 of 2) |" in text and "their best one may lie below" in text
    read = ComparisonResult.load(tmp_path / "out")
    assert verdict(read) == verdict(result) and comparison_markdown(read) == text


def test_one_arm_alone_diverges(tmp_path):
    recorded(tmp_path)
    diverge(tmp_path, "one--*--0.json", "two--0.01--2.json")
    result = ComparisonResult.load(tmp_path)
    assert list(result.arms) == ["naive", "two"] and list(result.lost) == ["one"] and not result.unfinished
    assert result.rates("two") == [0.001] and result.rates("naive") == [0.001, 0.01]  # 0.01 is best where it can be
    assert result.chosen_rates == {"naive": 0.01, "two": 0.001}
    with pytest.raises(ValueError, match="one has no score at any of its learning rates"):
        result.against("one", "naive")
    assert "at 0.01 two, one (with 1 of 4 seeds)" in comparison_markdown(result)
    assert verdict(result).endswith("Without a score at any learning rate, and compared with nothing: one.")
    folder = write_comparison_report(result)
    lines = (folder / "transfer.md").read_text().splitlines()
    assert sum(line.startswith("| one ") and line.rstrip(" |").endswith("no score") for line in lines) == 1
    assert any(line.startswith("| two ") and "no score (1 of 4)" in line for line in lines)


def test_no_candidate_that_diverges_is_chosen(tmp_path):
    recorded(tmp_path)
    diverge(tmp_path, "two--*")
    content = json.loads((tmp_path / "transfer.json").read_text())
    starts = {name: {"role": "start", "candidate_of": None} for name in ("naive", "one", "two")}
    for name in ("one", "two"):
        starts[name]["candidate_of"] = "mine"
    (tmp_path / "transfer.json").write_text(json.dumps(content))
    result = ComparisonResult.load(tmp_path)
    arms = {name: replace(arm, candidate_of=starts[name]["candidate_of"])
            for name, arm in {**result.arms, **result.lost}.items()}  # fmt: skip
    found = replace(result, arms=arms, lost={}).settled()
    assert found.chosen == {"mine": "one"} and not found.lost and list(found.arms) == ["naive", "mine"]
    diverge(tmp_path, "one--*")
    none = replace(ComparisonResult.load(tmp_path), arms=arms, lost={}).settled()
    assert list(none.lost) == ["mine"] and list(none.arms) == ["naive"]
    assert "Of 0 intervals" not in comparison_markdown(none)


def test_a_record_of_what_diverged_is_checked(tmp_path):
    recorded(tmp_path)
    path = tmp_path / "runs" / "one--0.01--0.json"
    diverge(tmp_path, path.name)
    assert read_fine_tuning(path)[DIVERGED] == "It did."
    run = json.loads(path.read_text())
    for wrong in ({DIVERGED: 1}, {"rate": -1.0}, {"seconds": 0.0}):
        path.write_text(json.dumps({**run, **wrong}))
        with pytest.raises(TrajectoryError, match="is damaged"):
            read_fine_tuning(path)


def test_weights_that_are_no_numbers_are_seen_at_once():
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))  # as attention has them
    watch = StayFinite("Fine-tuning it")
    watch.on_train_begin(model=model)
    watch.on_train_end(model=model)
    for damaged in ("running_var", "weight"):
        broken = torch.nn.BatchNorm1d(2)
        watch = StayFinite("Fine-tuning it")
        watch.on_train_begin(model=broken)
        with torch.no_grad():
            getattr(broken, damaged)[1] = float("nan")
        with pytest.raises(DivergedError, match=f"Fine-tuning it diverged: values of {damaged} are not finite"):
            watch.on_train_end(model=broken)


def test_answers_that_are_no_numbers_are_no_score():
    answers = Answers(lambda logits, labels: logits[0].argmax(-1))
    excluded = torch.tensor([[0.0, float("-inf")]])
    assert answers((excluded, (torch.ones(2),)), None).tolist() == [0] and answers.sound
    answers((torch.ones(1, 2), (torch.tensor([float("nan")]),)), None)
    answers((excluded, ()), None)
    assert not answers.sound
    whole = Answers(None)
    assert whole(excluded, None) is excluded and whole.sound and Answers(None).sound


def compared_at(folder, model, images, *rates, names=("naive", "one", "two"), seeds=2, one_rate=(), protocol=WILD):
    return compare(
        dict.fromkeys(names, model), images.select(range(96)), folder, test_dataset=images.select(range(96, 160)),
        protocol=protocol, learning_rates=rates, seeds=seeds, one_rate=one_rate,
    )  # fmt: skip


def test_weights_that_are_numbers_while_answers_are_none(tmp_path, image_model_folder, images):
    settings = (*WILD.training_arguments, ("lr_scheduler_type", "constant"))
    plunge = replace(WILD, epochs=1, examples=16, training_arguments=settings)  # one step, and a wide one
    result = compared_at(tmp_path / "out", image_model_folder, images, 1e-3, 1e12, protocol=plunge)
    assert set(result.chosen_rates.values()) == {1e-3} and result.diverged("naive", 1e12) == 2
    run = next(run for place, run in result.fine_tunings.items() if place[1] == 1e12)
    assert "though its weights are: its answers are not." in run[DIVERGED]


@pytest.mark.parametrize("spared", [[], ["two"]], ids=["a grid", "one rate"])
def test_seeds_that_are_missing_are_run(tmp_path, image_model_folder, images, spared):
    def compared(seeds):
        return compared_at(tmp_path / "out", image_model_folder, images, 1e-3, 1e-2, seeds=seeds, one_rate=spared)

    compared(2)
    result = compared(3)
    assert result.seeds == 3 and not result.unfinished and not result.lost
    for path in sorted((tmp_path / "out" / "runs").glob("two--*"))[1:]:
        path.unlink()
    again = compared(3)
    assert again.fine_tunings.keys() == result.fine_tunings.keys() and again.chosen_rates == result.chosen_rates


def test_an_arm_at_the_rate_of_the_reference_keeps_no_other(tmp_path, image_model_folder, images):
    def compared(*rates):
        return compared_at(
            tmp_path / "out", image_model_folder, images, *rates, names=("naive", "one"), one_rate=["one"]
        )

    compared(1e-3)
    for path in (tmp_path / "out" / "runs").glob("*--0.001--*"):  # as if one were better there, and naive were not
        run = json.loads(path.read_text())
        path.write_text(json.dumps({**run, "validation": 0.0 if run["arm"] == "naive" else 1.0}))
    result = compared(1e-3, 1e-2)
    assert result.chosen_rates == {"naive": 0.01, "one": 0.01} == ComparisonResult.load(tmp_path / "out").chosen_rates


def test_a_setting_without_a_reference_leaves_the_others_as_they_are(tmp_path, image_model_folder, images):
    (tmp_path / "digits" / "data").mkdir(parents=True)
    for part, rows in (("train", range(96)), ("test", range(96, 160))):
        images.select(rows).to_parquet(tmp_path / "digits" / "data" / f"{part}-00000-of-00001.parquet")
    training = {"num_stages": 2, "num_train_epochs": 1, "per_device_train_batch_size": 32, "seed": 0}
    protocol = {"head_epochs": 0, "epochs": 1, "batch_size": 16, "examples": 48, "validation_examples": 16,
                "evaluations": 1, "training_arguments": dict(WILD.training_arguments)}  # fmt: skip
    wild, calm = (
        {
            "pretraining": {"dataset": "digits", "model": str(image_model_folder), "training": training},
            "methods": ["linear_fit", "mean"], "full_grid": ["linear_fit"], "steps": 1, "seeds": 2,
            "learning_rates": [rate], "transfer": {"dataset": "digits", "protocol": protocol},
        }
        for rate in (1e30, 1e-3)
    )  # fmt: skip
    content = {"title": "t", "data_folder": str(tmp_path), "average": True,
               "sizes": {"toy": {"settings": {"wild": wild, "calm": calm}}}}  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    found = run_experiment(load_recipe(path), tmp_path / "out")
    assert found.settings[0].comparison is None and "has no score at any of its learning rates (1e+30)" in (
        found.settings[0].without
    )
    assert list(found.settings[1].comparison.arms) == ["naive", "linear_fit", "mean"]
    text = write_experiment_report(found).with_name("results.md").read_text()
    assert "wild: naive, which all others are compared with" in text and "calm: the best control is" in text
    assert str(tmp_path) not in text


@pytest.fixture
def setting():
    return load_recipe(REGIME, "toy").settings[0]


def table_of(setting, *diverged):
    """Three cells of made-up scores, of which some fine-tunings diverged: start, rate, pre-training, seed."""
    scores = {("naive", 4e-4): 60.0, ("naive", 9e-4): 61.0, ("best", 4e-4): 62.0}
    shift = np.array([[0.0, 0.3], [0.2, 0.1]])
    table = made_up({place: (shift + mean).tolist() for place, mean in scores.items()}, setting)
    for arm, rate, row, seed in diverged:
        table.runs[row].fine_tunings[arm, rate, seed] = {DIVERGED: "It did."}
    return table


def test_a_cell_that_diverges_is_compared_with_nothing(setting, tmp_path):
    table = table_of(setting, ("naive", 9e-4, 1, 0))
    assert table.lost == {("naive", 9e-4): 1} and table.cells == [("naive", 4e-4), ("best", 4e-4)]
    assert table.missing == table_of(setting).missing  # it is there
    assert table.best("naive") == ("naive", 4e-4) and "9e-4" not in answer(table)
    assert [row[:2] for row in cell_rows(table, table.cells)[1:]] == [["naive", "4e-4"], ["best", "4e-4"]]
    assert [row[-1] for row in run_rows([table]) if row[2:4] == ["naive", "0.0009"]].count("nan") == 1

    class Result:
        tables = [table]

    page = Page("Cells")
    add_cells(page, Result, tmp_path)
    assert "as fine-tunings of it have no score (in brackets how many): naive at 9e-4 (1)." in page.markdown()


def test_a_reference_that_diverges_is_said(setting, tmp_path):
    table = table_of(setting, ("naive", 4e-4, 0, 1))
    assert not table.cells

    class Result:
        tables = [table]

    page = Page("Cells")
    add_cells(page, Result, tmp_path)
    assert "naive at 4e-4 (1). All others are compared with the first of these: give it a lower rate" in page.markdown()
