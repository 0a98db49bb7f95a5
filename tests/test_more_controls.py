"""A small experiment with every control that needs more than one prediction, and with reset normalisation."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_reset import is_fresh

from know_hf.enrichment.branches import branches_of
from know_hf.forgetting.controls import CONTROLS
from know_hf.known import KnownPredictor
from know_hf.laboratory.arms import Arm, PredictedArms
from know_hf.laboratory.experiment import ExperimentResult, run_experiment
from know_hf.laboratory.outcome import as_begun
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.result import ComparisonResult
from know_hf.quickstart import digits
from know_hf.report.experiment import write_experiment_report
from know_hf.retrodiction import ALL, retrodict
from know_hf.trajectory import Checkpoint

CONTROL_ARMS = ["ema", "swa", "soup", "soup_stock", "shrink_perturb 0.5", "task_vector_chosen"]
ARMS = ["naive", "known", "task_vector", "extra_merge", "mine", *CONTROL_ARMS]
ARMS += ["naive reset", "known reset", "mine reset", "shrink_perturb 0.5 reset"]
VALUES = CONTROLS["task_vector_chosen"].result.values


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    for name, classes in (("known-digits", (0, 1, 2)), ("new-digits", (7, 8))):
        split = digits(classes).train_test_split(test_size=0.4, seed=0)
        (folder / name / "data").mkdir(parents=True)
        for part in ("train", "test"):
            split[part].to_parquet(folder / name / "data" / f"{part}-00000-of-00001.parquet")
    setting = {
        "pretraining": {
            "dataset": "known-digits", "image_size": 16,
            "architecture": {
                "timm": "resnet10t", "mean": [0.3], "std": [0.4],
                "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8, "in_chans": 1},
            },
            "training": {"num_stages": 3, "num_train_epochs": 2, "per_device_train_batch_size": 30,
                         "learning_rate": 3e-3, "seed": 0},
        },
        "methods": ["known", "task_vector", "extra_merge"], "steps": 1, "seeds": 2, "learning_rates": [1e-3],
        "controls": CONTROL_ARMS, "reset": ["naive", "known", "mine", "shrink_perturb 0.5"],
        "transfer": {"dataset": "new-digits", "protocol": {
            "head_epochs": 0, "epochs": 1, "batch_size": 16, "examples": 32, "validation_examples": 30,
            "evaluations": 1}},
    }  # fmt: skip
    alike = {**setting, "controls": [], "reset": [], "methods": ["known"], "transfer": None}
    path = folder / "more.yaml"
    path.write_text(yaml.safe_dump({
        "title": "More", "data_folder": str(folder), "sizes": {"tiny": {"settings": {"all": setting, "none": alike}}},
    }))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def result(recipe_file, tmp_path_factory) -> ExperimentResult:
    predictor = KnownPredictor.default(3)
    predictor.save_pretrained(mine := tmp_path_factory.mktemp("mine"))
    return run_experiment(load_recipe(recipe_file), tmp_path_factory.mktemp("out"), predictors={"mine": mine})


def stored(result, arm):
    return load_file(result.settings[0].arms[arm].checkpoint / "model.safetensors")


@pytest.mark.slow
def test_every_control_is_an_arm_and_says_so(result):
    first, second = result.settings
    # One training for both, whose averages only one of them compares.
    assert second.runs == {"forgetting": first.runs["forgetting"]} and list(first.runs) == ["forgetting", "soup"]
    candidates = [f"task_vector_chosen {value:g}" for value in VALUES]
    place = ARMS.index("task_vector_chosen")
    assert list(first.arms) == [*ARMS[:place], *candidates, *ARMS[place + 1 :]]
    compared = first.comparison
    assert set(compared.arms) == set(ARMS)
    roles = {name: arm.role for name, arm in compared.arms.items()}
    assert [name for name in ARMS if roles[name] == "method"] == [
        "known", "task_vector", "extra_merge", "mine", "known reset", "mine reset"
    ]  # fmt: skip
    assert set(compared.controls) == {"naive", *CONTROL_ARMS, "naive reset", "shrink_perturb 0.5 reset"}
    assert compared.arms["mine reset"].prediction == "mine reset" and compared.arms["known reset"].is_known


def test_what_the_arms_hold(result):
    zero, trajectory = stored(result, "naive"), result.settings[0].trajectory
    layers = [name.removesuffix(".running_mean") for name in zero if name.endswith(".running_mean")]
    name = "timm_model.conv1.0.weight"
    for arm in ("naive reset", "known reset", "mine reset", "shrink_perturb 0.5 reset"):
        weights, kept = stored(result, arm), stored(result, arm.removesuffix(" reset"))
        assert all(is_fresh(weights, layer) for layer in layers)
        assert torch.equal(weights[name], kept[name])
    stages = torch.stack([Checkpoint(c.folder).read(name) for c in trajectory.checkpoints]).reshape(
        3, *zero[name].shape
    )
    assert torch.equal(stored(result, "shrink_perturb 0.5")[name], retrodict(stages, "conv", 1, "shrink_perturb")[0])
    for value in VALUES:
        made = stored(result, f"task_vector_chosen {value:g}")[name]
        assert torch.equal(made, retrodict(stages, "conv", 1, "task_vector", lam=value)[0])
    for average in ("ema", "swa"):
        folder = result.settings[0].arms[average].checkpoint
        assert folder == result.settings[0].runs["forgetting"] / f"stage-0-{average}"
        assert not torch.equal(stored(result, average)[name], zero[name])
    branches = branches_of(result.settings[0].runs["soup"])
    for soup, method in (("soup", "soup_mean"), ("soup_stock", "model_stock")):
        for name in ("timm_model.conv1.0.weight", "timm_model.conv1.1.weight"):
            stages = branches.read(name).reshape(len(branches), *zero[name].shape)
            assert torch.equal(stages[0], zero[name])
            assert torch.equal(stored(result, soup)[name], retrodict(stages, "conv", 1, method)[0])


def test_validation_chooses_and_the_record_says_what(result):
    compared = result.settings[0].comparison
    candidates = [f"task_vector_chosen {value:g}" for value in VALUES]
    means = {
        one: np.mean([compared.fine_tunings[one, 1e-3, seed]["validation"] for seed in (0, 1)]) for one in candidates
    }
    assert compared.chosen == {"task_vector_chosen": max(candidates, key=means.get)}
    winner = compared.chosen["task_vector_chosen"]
    tests = [100 * compared.fine_tunings[winner, 1e-3, seed]["test"] for seed in (0, 1)]
    assert compared.best("task_vector_chosen") == tests
    assert ComparisonResult.load(compared.output_dir).chosen == compared.chosen
    # Read anew, the test scores have no part in it.
    tuned = {key: {**run, "test": float(key[0] != winner)} for key, run in compared.fine_tunings.items()}
    arms = {name: Arm(name, role="control", candidate_of="row" if name in candidates else None)
            for name in ("naive", *candidates)}  # fmt: skip
    again = replace(compared, arms=arms, fine_tunings=tuned, chosen={}).settled()
    assert list(again.arms) == ["naive", "row"] and again.chosen == {"row": winner}


def test_the_page_shows_them_as_controls(result):
    text = write_experiment_report(result).with_name("results.md").read_text().replace("\\", "")
    names = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")}
    assert {f"{arm}*" for arm in (*CONTROL_ARMS, "naive reset")} <= names and "known reset" in names
    assert "predict: task_vector_chosen" in names and not {f"task_vector_chosen {value:g}" for value in VALUES} & names
    winner = result.settings[0].comparison.chosen["task_vector_chosen"]
    assert f"task_vector_chosen is {winner}, the candidate that validation chose." in text


def test_it_is_not_run_again(result, recipe_file):
    """Also by a version that had no reset yet, whose record lacks it."""
    path = result.output_dir / "recipe.json"
    content = json.loads(path.read_text())
    for setting in content["recipe"]["settings"]:
        if not setting["reset"]:
            del setting["reset"]
    path.write_text(json.dumps(content))
    runs = result.settings[0].comparison.output_dir / "runs"
    before = {file: file.stat().st_mtime_ns for file in runs.iterdir()}
    mine = result.output_dir.parent / "mine0"
    run_experiment(load_recipe(recipe_file), result.output_dir, predictors={"mine": mine})
    assert {file: file.stat().st_mtime_ns for file in runs.iterdir()} == before


def test_all_means_what_it_did_when_an_experiment_was_begun(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file)
    setting = replace(recipe.settings[0], methods=tuple(ALL))
    former = tuple(name for name in ALL if name not in ("extra_merge", "shrink_perturb"))
    every = replace(recipe, settings=(setting, recipe.settings[1]))
    path = tmp_path / "recipe.json"
    assert as_begun(every, path) is every
    for begun, expected in ((former, former), (("known",), tuple(ALL)), (tuple(ALL), tuple(ALL))):
        recorded = replace(recipe, settings=(replace(setting, methods=begun), recipe.settings[1]))
        path.write_text(json.dumps({"recipe": asdict(recorded)}))
        found = as_begun(every, path)
        assert found.settings == (replace(setting, methods=expected), recipe.settings[1])


def test_what_cannot_be_reset_is_said_early(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file)
    setting = recipe.settings[0]

    def refused(match: str, **changes):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(ValueError, match=match):
            run_experiment(replace(recipe, settings=(replace(setting, **changes),)), out)
        assert not (out / "pretraining").exists()

    refused("all: reset names 'ema'; it may name naive, methods, predictors and predicted controls: naive, known",
            reset=("ema",))  # fmt: skip
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_channels": 1,
           "intermediate_size": 16, "patch_size": 8, "image_size": 16}  # fmt: skip
    refused("all: reset: norms='reset' is about layers with running statistics", reset=("naive",),
            pretraining=replace(setting.pretraining, architecture=vit))  # fmt: skip
    training = {**setting.pretraining.training, "train_stage_zero": False}
    refused("ema and swa average the training of Θ\\^0", reset=(),
            pretraining=replace(setting.pretraining, training=training))  # fmt: skip


def test_a_comparison_of_predictions_with_reset(trajectory, tmp_path):
    arms = PredictedArms(trajectory.root, ["known"], 2, ["naive", "known"]).write(tmp_path)
    assert list(arms) == ["naive", "known/x2", "known/x4", "naive reset", "known reset/x2", "known reset/x4"]
    assert [arm.role for arm in arms.values()] == ["naive", "method", "method", "control", "method", "method"]
    with pytest.raises(ValueError, match="reset names 'mean', which is not predicted here; there are naive, known"):
        PredictedArms(trajectory.root, ["known"], 2, ["mean"])
