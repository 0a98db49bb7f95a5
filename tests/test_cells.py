"""Cells instead of a grid, over several pre-trainings: what is run, what the page says, deaths."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import known_and_new_digits
from deaths import Death, dying, tree
from scipy import stats

from know_hf import KnownPredictor
from know_hf.laboratory.arms import Arm
from know_hf.laboratory.cell_table import CellRuns
from know_hf.laboratory.cells import left_out, places, planned, runnable
from know_hf.laboratory.dry_run import dry_run
from know_hf.laboratory.experiment import ExperimentResult, run_experiment
from know_hf.laboratory.recipe import load_recipe
from know_hf.report.answer import answer
from know_hf.report.experiment import write_experiment_report
from know_hf.trajectory import Checkpoint

REGIME = Path(__file__).parents[1] / "examples" / "recipes" / "regime.yaml"
RATES = [4e-4, 9e-4]
CELLS = [
    {"start": "naive", "learning_rates": RATES},
    {"start": "naive", "reset": True, "learning_rates": 4e-4},
    {"start": "mine x4", "learning_rates": RATES},
    {"start": "mine x4", "reset": True, "learning_rates": "4e-4"},
    {"start": "shrink to mine x4", "learning_rates": 4e-4},
    {"start": "equal_compute", "learning_rates": 4e-4},
    {"start": "known x2", "learning_rates": 4e-4},
    {"start": "fitted", "learning_rates": 4e-4},
    {"start": "best", "learning_rates": RATES},
]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    """Four digits, and half of them, from two seeds each; transfer to three other digits."""
    folder = tmp_path_factory.mktemp("cells")
    known_and_new_digits(folder)
    pretraining = {
        "dataset": "someone/known-digits", "eval_split": "test[:100]", "selection_split": "test[100:]",
        "image_size": 16,
        "architecture": {"timm": "resnet10t", "mean": [0.3], "std": [0.4],
                         "model_args": {"channels": [4, 4, 8, 8], "stem_width": 4, "in_chans": 1}},
        "training": {"num_stages": 3, "num_train_epochs": 2, "per_device_train_batch_size": 32, "learning_rate": 3e-3,
                     "seed": 3},
    }  # fmt: skip
    protocol = {"head_epochs": 1, "epochs": 1, "batch_size": 16, "examples": 32, "validation_examples": 40,
                "evaluations": 1}  # fmt: skip
    whole = {
        "pretraining": pretraining, "pretraining_seeds": 2, "predictors": ["mine"], "steps": 2, "seeds": 2,
        "cells": CELLS, "transfer": {"dataset": "someone/new-digits", "protocol": protocol},
    }  # fmt: skip
    half = {**whole, "cells": [CELLS[0], CELLS[2]], "pretraining": {**pretraining, "train_split": "train[:50%]"}}
    content = {"title": "Digits", "data_folder": str(folder), "sizes": {
        "tiny": {"settings": {"all": whole, "half": half}},
        "one": {"settings": {"all": {**whole, "pretraining_seeds": [5], "cells": [*CELLS[:2], *CELLS[-2:]]}}},
    }}  # fmt: skip
    path = folder / "cells.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def predictors(tmp_path_factory) -> dict[str, Path]:
    """A predictor of one's own, which is nearly that of the package."""
    folder = tmp_path_factory.mktemp("predictor") / "mine"
    predictor = KnownPredictor.default(3)
    with torch.no_grad():
        for weights in predictor.parameters():
            weights.mul_(0.9)
    predictor.save_pretrained(folder)
    return {"mine": folder}


@pytest.fixture(scope="module")
def result(recipe_file, predictors, tmp_path_factory) -> ExperimentResult:
    return run_experiment(load_recipe(recipe_file), tmp_path_factory.mktemp("out"), predictors=predictors)


def scores_of(folder: Path) -> dict[str, tuple]:
    """Every fine-tuning of an experiment: file → what it scored."""
    found = {}
    for path in sorted(folder.glob("settings/*/runs/*.json")):
        run = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = (run["test"], run["validation"], run["curve"])
    return found


@pytest.mark.slow
def test_only_the_cells_are_run(result):
    names = [one.setting.name for one in result.settings]
    assert names == ["all, seed 3", "all, seed 103", "half, seed 3", "half, seed 103"]
    assert len({one.runs["forgetting"] for one in result.settings}) == 4
    for setting in result.settings[:2]:
        asked = {(arm, rate, seed) for arm, rate in places(setting.setting.cells) for seed in range(2)}
        same = setting.cells.same
        assert set(setting.cells.fine_tunings) == {(same.get(arm, arm), rate, seed) for arm, rate, seed in asked}
        assert setting.candidate is not None and setting.comparison is None
    table = result.tables[0]
    assert table.missing == 0 and not table.left_out and len(table.cells) == 12
    assert table.scores(("naive", 4e-4)).shape == (2, 2)


@pytest.mark.slow
def test_the_starts_are_what_their_names_say(result):
    arms = {name: Checkpoint(arm.checkpoint) for name, arm in result.settings[0].arms.items()}
    weight, norm = "timm_model.layer1.0.conv1.weight", "timm_model.layer1.0.bn1.weight"
    naive, mine, shrunk = (arms[name].read(weight) for name in ("naive", "mine x4", "shrink to mine x4"))
    assert torch.allclose(shrunk.norm(), mine.norm()) and torch.allclose(shrunk / shrunk.norm(), naive / naive.norm())
    assert torch.equal(arms["mine x4"].read(norm), arms["naive"].read(norm))
    for name in ("naive reset", "mine reset x4"):
        assert torch.equal(arms[name].read(norm), torch.ones(4))
    assert torch.equal(arms["mine reset x4"].read(weight), mine) and torch.equal(
        arms["naive reset"].read(weight), naive
    )
    assert not torch.equal(arms["fitted"].read(weight), naive)
    assert not torch.equal(arms["equal_compute"].read(weight), naive)


@pytest.mark.slow
def test_seed_by_seed_over_all_pre_trainings(result):
    made = {0: [], 1: []}
    for path in result.output_dir.glob("settings/*/runs/*.json"):
        made[int(path.stem[-1])].append(path.stat().st_mtime_ns)
    assert max(made[0]) <= min(made[1])


@pytest.mark.slow
def test_numbers_follow_from_the_records(result):
    """The table against scipy, from the files alone."""
    table = result.tables[0]
    read = {}
    for name in ("all_seed_3", "all_seed_103"):
        for path in (result.output_dir / "settings" / name / "runs").glob("*.json"):
            run = json.loads(path.read_text())
            read[name, run["arm"], run["rate"], run["seed"]] = run
    ours, theirs = (
        100 * np.array([[read[n, arm, rate, s]["test"] for s in range(2)] for n in ("all_seed_3", "all_seed_103")])
        for arm, rate in (("mine x4", 9e-4), ("naive", 4e-4))
    )
    found = table.against(("mine x4", 9e-4))
    assert found.mean == pytest.approx((ours - theirs).mean())
    if np.ptp(ours - theirs):
        assert found.within.chance == pytest.approx(stats.ttest_rel(ours.ravel(), theirs.ravel()).pvalue)
    validated = {
        rate: np.mean([read[n, "naive", rate, s]["validation"] for n in ("all_seed_3", "all_seed_103") for s in (0, 1)])
        for rate in RATES
    }
    assert table.best("naive") == ("naive", max(validated, key=validated.get))


@pytest.mark.slow
def test_the_page(result):
    page = write_experiment_report(result)
    text = page.with_name("results.md").read_text()
    for words in (
        "## Cells: all", "Gain: mine x4 at 4e-4", "Reset of normalisation: naive reset at 4e-4", "p over pre-trainings",
        "Each start at its best rate", "Less data against more", "mine x4 at 4e-4 of half − naive at 4e-4 of all",
    ):  # fmt: skip
        assert words in text, words
    assert "Best was" in text and "are not there yet" not in text
    rows = list(csv.DictReader((page.parent / "cells.csv").open()))
    assert [row["start"] for row in rows if row["setting"] == "all" and row["table"] == "cells"] == [
        arm for arm, _ in result.tables[0].cells
    ]
    shown = next(row for row in rows if row["start"] == "known x2" and row["table"] == "cells")
    assert float(shown["difference"]) == pytest.approx(result.tables[0].against(("known x2", 4e-4)).mean)
    runs = list(csv.DictReader((page.parent / "fine-tunings.csv").open()))
    assert len(runs) == 2 * 2 * (12 + 4) and {row["pretraining_seed"] for row in runs} == {"3", "103"}


@pytest.mark.slow
def test_cut_short_what_is_there_is_in_pairs(result, tmp_path):
    root = shutil.copytree(result.output_dir, tmp_path / "cut")
    for path in root.glob("settings/*/runs/*--1.json"):
        if not path.name.startswith("naive--0.0004"):
            path.unlink()
    cut = ExperimentResult.load(root)
    table = cut.tables[0]
    found = table.against(("mine x4", 4e-4))
    assert found.within.seeds == 2 and table.missing > 0
    assert found.mean == pytest.approx(
        np.mean(table.scores(("mine x4", 4e-4))[:, 0] - result.tables[0].scores(("naive", 4e-4))[:, 0])
    )
    text = write_experiment_report(cut).with_name("results.md").read_text()
    assert f"scores {table.missing} are not there yet" in text
    for path in root.glob("settings/*/runs/*.json"):
        path.unlink()
    assert "Nothing can be compared yet" in write_experiment_report(ExperimentResult.load(root)).read_text()


def test_weights_that_are_there_twice_are_tuned_once(image_model_folder, images, tmp_path):
    from know_hf.laboratory.comparison import Comparison
    from know_hf.laboratory.options import Protocol
    from know_hf.training.data import open_parts

    copied = shutil.copytree(image_model_folder, tmp_path / "copied")
    arms = {"naive": Arm("naive", image_model_folder, "naive"), "best": Arm("best", copied, "method")}
    parts, columns = open_parts({"train": images.select(range(96)), "test": images.select(range(96, 160))})
    protocol = Protocol(head_epochs=0, epochs=1, batch_size=32, examples=32, validation_examples=32, evaluations=1)
    made = Comparison(arms, tmp_path / "out", parts, protocol, [1e-3, 2e-3], (), 2)
    made.prepare(tmp_path / "cache", columns)
    jobs = made.at([("naive", 1e-3), ("best", 1e-3), ("best", 2e-3)])
    assert [(job.arm, job.rate, job.seed) for job in jobs] == [
        ("naive", rate, seed) for seed in range(2) for rate in (1e-3, 2e-3)
    ]
    jobs[0].run()
    runs = CellRuns.load(tmp_path / "out")
    assert runs.of(("best", 1e-3), 0) == runs.of(("naive", 1e-3), 0) is not None
    assert runs.of(("best", 2e-3), 0) is None


def test_without_its_predictor_a_cell_is_left_out(recipe_file):
    setting = load_recipe(recipe_file).settings[0]
    assert left_out(setting) == ["mine x4", "mine reset x4", "shrink to mine x4"] and not left_out(setting, ["mine"])
    assert len(places(runnable(setting))) == 8
    without = planned(setting)
    assert (without.methods, without.controls, without.reset) == (("known",), ("equal_compute",), ("naive",))
    given = planned(setting, ["mine"])
    assert given.controls == ("shrink to mine", "equal_compute") and given.reset == ("naive", "mine")
    plan = str(dry_run(load_recipe(recipe_file), rows=2))
    assert "left out, as their predictor is not given: mine x4, mine reset x4, shrink to mine x4" in plan
    assert "all, seed 103" in plan and "| fine-tunings  | 16 " in plan


def test_refusals(recipe_file, predictors, tmp_path):
    good = yaml.safe_load(recipe_file.read_text())

    def refused(match: str, given=None, beside=None, **changes):
        path, whole = tmp_path / "bad.yaml", good["sizes"]["tiny"]["settings"]["all"]
        settings = {"one": {**whole, **changes}, **({"two": {**whole, **beside}} if beside else {})}
        path.write_text(yaml.safe_dump({**good, "sizes": {"tiny": {"settings": settings}}}))
        with pytest.raises(ValueError, match=match):
            run_experiment(load_recipe(path), tmp_path / "out", predictors=given)
        assert not (tmp_path / "out" / "pretraining").exists()

    first = CELLS[0]
    refused("the first cell is mine x4; it has to be naive", cells=CELLS[2:])
    refused("leave out controls", controls=["ema"])
    refused("leave out learning_rates", learning_rates=[1e-3])
    refused("Unknown control 'magic'", cells=[first, {"start": "magic", "learning_rates": 1e-3}])
    refused("a cell is there twice", cells=[first, first])
    refused("cells: missing learning_rates", cells=[first, {"start": "best"}])
    refused("equal_compute cannot be reset", cells=[first, {**CELLS[5], "reset": True}])
    refused("best cannot be reset", cells=[first, {**CELLS[-1], "reset": True}])
    refused("cells name 'known x16', which nothing makes", cells=[first, {**CELLS[6], "start": "known x16"}])
    refused("no cell may name the predictor 'other'", given={"other": predictors["mine"]})
    refused("two, seed 3 and one, seed 3 share a pre-training and choose its best in two ways", beside={"steps": 1})
    refused("pretraining_seeds names a seed twice", pretraining_seeds=[1, 1])
    pretraining = {**good["sizes"]["tiny"]["settings"]["all"]["pretraining"]}
    del pretraining["selection_split"]
    refused("fitted, best is chosen on examples of their own: give the pre-training a selection_split",
            pretraining=pretraining)  # fmt: skip


@pytest.mark.slow
def test_killed_anywhere_and_continued_it_is_the_same(recipe_file, tmp_path, monkeypatch):
    """Dead three times, each time so much further in all that is done to files."""
    recipe = load_recipe(recipe_file, "one")
    with dying(monkeypatch, tmp_path / "whole") as deaths:
        run_experiment(recipe, tmp_path / "whole")
    assert deaths.count > 60
    for share in (0.25, 0.3, 0.25):
        with pytest.raises(Death), dying(monkeypatch, tmp_path / "dead", int(share * deaths.count)):
            run_experiment(recipe, tmp_path / "dead")
    again = run_experiment(recipe, tmp_path / "dead")
    assert scores_of(tmp_path / "dead") == scores_of(tmp_path / "whole") != {}
    # But for what Trainer needs while it trains: a run that died behind its last stage is not opened again.
    left, expected = ({path for path in tree(tmp_path / name) if "/training" not in path} for name in ("dead", "whole"))
    assert left == expected
    assert (tmp_path / "dead" / "settings" / "all_seed_5" / "setting.json").exists()
    whole = ExperimentResult.load(tmp_path / "whole")
    assert answer(again.tables[0]) == answer(whole.tables[0])
    for one, other in zip(again.settings, whole.settings, strict=True):
        assert one.candidate == other.candidate and one.arms.keys() == other.arms.keys()


@pytest.mark.slow
def test_a_process_killed_three_times(recipe_file, predictors, result, tmp_path):
    """While it pre-trains, while it fine-tunes, and again; the same records and scores as without."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "know_hf", "experiment", str(recipe_file), "--size", "tiny",
               "--output-dir", str(out), "--predictors", f"mine={predictors['mine']}"]  # fmt: skip
    for pattern, number in (("pretraining/*/forgetting/stage-1", 1), ("settings/*/runs/*.json", 3),
                            ("settings/*/runs/*.json", 30)):  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        deadline = time.time() + 300
        while len(list(out.glob(pattern))) < number:
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    assert scores_of(out) == scores_of(result.output_dir)
    assert "## Cells: half" in done.stdout
