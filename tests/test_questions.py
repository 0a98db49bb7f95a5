"""What recipes ask beyond a comparison: the hypothesis, scores on the own task, noisy copies, less data and more."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import known_and_new_digits

from know_hf import KnownPredictor
from know_hf.cli.main import main
from know_hf.laboratory.experiment import ExperimentResult, run_experiment
from know_hf.laboratory.hypothesis import ALL_KINDS, distances, load_returns
from know_hf.laboratory.recipe import load_recipe
from know_hf.report.experiment import write_experiment_report
from know_hf.trajectory import Checkpoint, TrajectoryError, TrajectoryRecord


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    known_and_new_digits(folder)
    pretraining = {
        "dataset": "known-digits", "image_size": 16,
        "architecture": {"model_type": "plain_cnn", "num_channels": 1, "hidden_sizes": [4, 8], "hidden_size": 8},
        "training": {"num_stages": 3, "num_train_epochs": 8, "per_device_train_batch_size": 32, "learning_rate": 1e-2,
                     "seed": 0},
    }  # fmt: skip
    transfer = {
        "dataset": "new-digits",
        "protocol": {"head_epochs": 1, "epochs": 4, "batch_size": 16, "examples": 48, "validation_examples": 40,
                     "evaluations": 1},
    }  # fmt: skip
    setting = {
        "pretraining": pretraining, "methods": ["known", "mean"], "steps": 2, "seeds": 2, "learning_rates": [1e-2],
        "transfer": transfer,
    }  # fmt: skip
    settings = {
        "all": {**setting, "hypothesis": True, "own_scores": True, "controls": ["once_more", "shrink 0.5"],
                "landscape": 3, "noise_copies": 2, "noise_scale": 0.1},
        "half": {**setting, "pretraining": {**pretraining, "train_split": "train[:50%]"}},
    }  # fmt: skip
    path = folder / "questions.yaml"
    content = {"title": "Questions", "data_folder": str(folder), "sizes": {"tiny": {"settings": settings}}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def result(recipe_file, tmp_path_factory) -> ExperimentResult:
    return run_experiment(load_recipe(recipe_file), tmp_path_factory.mktemp("questions") / "out")


def weights(folder: Path, kind: str, setting) -> torch.Tensor:
    names = [n for n, p in setting.trajectory.parameters.items() if kind in (p.kind, ALL_KINDS)]
    return torch.cat([Checkpoint(folder).read(name).double() for name in names])


@pytest.mark.slow
def test_the_hypothesis_is_measured(result):
    setting = result.settings[0]
    found = {one.start: one for one in setting.returns}
    assert list(found) == ["known x2", "mean", "stage-0", "stage-0, another seed", "initial values of another seed",
                           "stage-1"]  # fmt: skip
    theta = setting.trajectory.checkpoints[0].folder
    record = setting.trajectory.record
    for name, folder in setting.refits.items():
        [stage] = TrajectoryRecord.load(folder).stages  # all the data, as long as the stage that made Θ⁰
        assert (stage.examples, stage.steps) == (record.stages[0].examples, record.stages[0].steps)
        for kind in ("conv", "fc", "bias", ALL_KINDS):
            expected = (weights(folder / "stage-0", kind, setting) - weights(theta, kind, setting)).norm().item()
            assert found[name].after[kind] == pytest.approx(expected)
        assert found[name].score_after == pytest.approx(stage.metrics["eval_score"])  # no BatchNorm here
    assert found["stage-0"].before[ALL_KINDS] == 0 < found["stage-0"].after[ALL_KINDS]
    assert found["stage-0"].after != found["stage-0, another seed"].after
    assert found["known x2"].before == distances(setting.trajectory, setting.arms["known x2"].checkpoint)
    anew = found["initial values of another seed"]
    assert anew.before is None and anew.after[ALL_KINDS] > 2 * found["stage-0"].after[ALL_KINDS]
    assert found["stage-1"].after is None and found["stage-1"].score_before == pytest.approx(
        record.stages[1].metrics["eval_score"]
    )
    assert not result.settings[1].returns and not result.settings[1].refits


def test_starts_are_scored_on_their_own_task(result):
    setting = result.settings[0]
    assert list(setting.own_scores) == list(setting.arms)
    assert setting.own_scores["naive"] == pytest.approx(setting.trajectory.record.stages[0].metrics["eval_score"])
    [stage] = TrajectoryRecord.load(setting.runs["once_more"]).stages
    assert setting.own_scores["once_more"] == pytest.approx(stage.metrics["eval_score"])
    assert not result.settings[1].own_scores


def test_noisy_copies_span_the_plane_and_are_scored(result):
    setting = result.settings[0]
    assert setting.plane.noisy.shape == (6, 2) and setting.landscape.noisy.shape == (6,)
    assert not len(result.settings[1].plane.noisy)


def test_the_report_shows_all_of_it(result):
    page = write_experiment_report(result)
    text = page.with_name("results.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    by_first = {row[0]: row for row in rows}
    assert by_first["start"] and any(row[:2] == ["start", "‖· − Θ⁰‖, bias"] for row in rows)
    shown = [row for row in rows if row[0] == "initial values of another seed"]
    assert len(shown) == 1 and shown[0][1].startswith("→")
    assert by_first["predict: known"][2].startswith("x2 ") and ", x4 " in by_first["predict: known"][2]
    assert by_first["the further stages"][2].startswith("Θ¹ ") and by_first["predict: known"][3]
    [head] = [row for row in rows if row[:2] == ["", "− naive, all"]]
    [across] = [row for row in rows if row[0].startswith("known x") and row[0].endswith(", half")]
    assert len(head) == len(across) == 2 and across[1]
    assert "2 noisy copies of every stage" in text and "0.1 of each tensor's root mean square" in text
    known, naive = result.settings[1].comparison, result.settings[0].comparison
    name = across[0].removesuffix(", half")
    assert across[1].startswith(f"{np.mean(np.subtract(known.best(name), naive.best('naive'))):+.1f}")


def test_it_goes_on_and_reads_what_it_left(result, recipe_file, tmp_path):
    folder = result.settings[0].folder
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    (folder / "hypothesis.json").unlink()
    (folder / "own-scores.json").unlink()
    again = run_experiment(load_recipe(recipe_file), result.output_dir)
    assert again.settings[0].returns == result.settings[0].returns
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == before
    main(["report", str(result.output_dir)])
    damaged = tmp_path / "hypothesis.json"
    content = json.loads((folder / "hypothesis.json").read_text())
    del content["returns"][0]["after"]["all"]
    damaged.write_text(json.dumps(content))
    with pytest.raises(TrajectoryError, match="distances are not of the same kinds; delete it and run again"):
        load_returns(damaged)


def test_a_record_that_lacks_these_options_is_continued(result, recipe_file):
    """As former versions wrote it; another value of an option that it lacks is another experiment."""
    path = result.output_dir / "recipe.json"
    whole = path.read_text()
    content = json.loads(whole)
    for name in ("own_scores", "noise_copies", "noise_scale", "hypothesis"):
        del content["recipe"]["settings"][1][name]
    path.write_text(json.dumps(content))
    run_experiment(load_recipe(recipe_file), result.output_dir)
    del content["recipe"]["settings"][0]["hypothesis"]
    path.write_text(json.dumps(content))
    with pytest.raises(TrajectoryError, match="another experiment \\(different settings\\)"):
        run_experiment(load_recipe(recipe_file), result.output_dir)
    path.write_text(whole)


def test_starts_of_the_hypothesis_keep_their_names(recipe_file, tmp_path):
    def refused(name: str, match: str):
        with pytest.raises(ValueError, match=match):
            run_experiment(load_recipe(recipe_file), tmp_path / "out", predictors={name: KnownPredictor.default(3)})

    refused("stage-0", "predictor 'stage-0' has the name of a method")
    refused("Stage-0", "would share the file 'stage-0'")
