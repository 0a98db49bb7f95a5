"""Fine-tunings that diverge: results like others, which stop nothing and are compared with nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_image_model
from test_cell_table import made_up
from test_unfinished import recorded

from know_hf.laboratory import fine_tuning
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.protocol import DivergedError, Protocol, StayFinite
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.result import DIVERGED, ComparisonResult, read_fine_tuning
from know_hf.report.answer import answer
from know_hf.report.cells import add_cells, cell_rows, run_rows
from know_hf.report.comparison import comparison_markdown, verdict, write_comparison_report
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

    with pytest.raises(ValueError, match=r"naive, .*, diverged at every learning rate \(1e\+30\): give lower ones"):
        compared([1e30])
    ran, tune = [], fine_tuning.fine_tune
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda *args: ran.append(args[4]) or tune(*args))
    result = compared([1e30, 0.01])
    assert ran == [0.01] * 4  # what diverged is a result, too
    assert result.chosen_rates == {"naive": 0.01, "other": 0.01} and not result.lost and not result.unfinished
    assert [result.diverged(arm, 1e30) for arm in arms] == [2, 2]
    assert "Diverged, so that a start has no score at that rate: at 1e+30 every start (with 2 of 2 seeds)." in (
        text := comparison_markdown(result)
    )
    assert "| diverged (2 of 2) |" in text and "their best one may lie below" in text
    read = ComparisonResult.load(tmp_path / "out")
    assert verdict(read) == verdict(result) and comparison_markdown(read) == text


def test_one_arm_alone_diverges(tmp_path):
    recorded(tmp_path)
    diverge(tmp_path, "one--*--0.json", "two--0.01--2.json")
    result = ComparisonResult.load(tmp_path)
    assert list(result.arms) == ["naive", "two"] and list(result.lost) == ["one"] and not result.unfinished
    assert result.rates("two") == [0.001] and result.rates("naive") == [0.001, 0.01]  # 0.01 is best where it can be
    assert result.chosen_rates == {"naive": 0.01, "two": 0.001}
    assert "at 0.01 two, one (with 1 of 4 seeds)" in comparison_markdown(result)
    assert verdict(result).endswith("Diverged at every learning rate, and compared with nothing: one.")
    folder = write_comparison_report(result)
    lines = (folder / "transfer.md").read_text().splitlines()
    assert sum(line.startswith("| one ") and line.rstrip(" |").endswith("diverged") for line in lines) == 1
    assert any(line.startswith("| two ") and "diverged (1 of 4)" in line for line in lines)


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
    assert found.chosen == {"mine": "one"} and list(found.lost) == ["two"] and list(found.arms) == ["naive", "mine"]


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
    assert "as fine-tunings of it diverged (in brackets how many): naive at 9e-4 (1)." in page.markdown()


def test_a_reference_that_diverges_is_said(setting, tmp_path):
    table = table_of(setting, ("naive", 4e-4, 0, 1))
    assert not table.cells

    class Result:
        tables = [table]

    page = Page("Cells")
    add_cells(page, Result, tmp_path)
    assert "naive at 4e-4 (1). All others are compared with the first of these: give it a lower rate" in page.markdown()
