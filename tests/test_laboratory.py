"""Whole experiments from a recipe: pre-training, controls, arms, comparison, report; killed and continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import known_and_new_digits, link, tiny_image_model
from deaths import stamps

from know_hf import KnownPredictor, Trajectory
from know_hf.cli.main import main
from know_hf.laboratory.experiment import ExperimentResult, run_experiment
from know_hf.laboratory.landscape import score_landscape
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.sources import sources_of
from know_hf.report.comparison import rates_searched
from know_hf.report.experiment import write_experiment_report
from know_hf.tasks import get_task
from know_hf.training.examples import Augmentation, Examples
from know_hf.trajectory import Checkpoint, TrajectoryError
from know_hf.trajectory.plane import principal_plane

RECIPES = sorted((Path(__file__).parents[1] / "examples" / "recipes").glob("*.yaml"))
ARMS = (
    ["naive", "known x2", "known x4", "linear_fit x2", "linear_fit x4", "shrink x2", "shrink x4", "mean"]
    + ["incremental", "equal_compute", "shrink 0.5"]
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    """Two settings that share their pre-training on four digits: transfer to three others, and the same task."""
    folder = tmp_path_factory.mktemp("recipe")
    known_and_new_digits(folder)
    pretraining = {
        "dataset": "someone/known-digits",
        "architecture": {
            "timm": "resnet10t",
            "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8, "in_chans": 1},
            "mean": [0.3],
            "std": [0.4],
        },
        "image_size": 16,
        "augmentation": {"rotation": 5, "shift": 0.05, "zoom": 0.1},
        "training": {"num_stages": 3, "self_check": True, "num_train_epochs": 3, "per_device_train_batch_size": 32,
                     "learning_rate": "3e-3", "seed": 0},
    }  # fmt: skip
    setting = {
        "pretraining": pretraining, "methods": ["known", "linear_fit", "shrink", "mean"], "steps": 2, "seeds": 2,
        "controls": ["incremental", "equal_compute", "shrink 0.5"], "full_grid": ["known", "equal_compute"],
        "learning_rates": ["1e-3", "5e-3"],
    }  # fmt: skip
    transfer = {
        "dataset": "someone/new-digits",
        "protocol": {
            "head_epochs": 1,
            "epochs": 2,
            "batch_size": 16,
            "examples": 48,
            "validation_examples": 40,
            "evaluations": 2,
        },
    }
    same = {
        "dataset": "someone/known-digits",
        "validation_split": "test[:60]",
        "test_split": "test[60:]",
        "protocol": {"new_head": False, "head_epochs": 0, "epochs": 1, "batch_size": 32, "evaluations": 1},
    }
    settings = {
        "new task": {**setting, "transfer": transfer, "landscape": 3},
        "same task": {**setting, "methods": ["known"], "controls": [], "transfer": same, "full_grid": "all"},
        "two stages": {"pretraining": pretraining, "read_stages": 2, "methods": ["known"], "steps": 1},
    }
    content = {
        "title": "Digits", "description": "A test.", "data_folder": str(folder),
        "sizes": {"tiny": {"settings": settings}, "other": {"processes": 2, "settings": settings}},
    }  # fmt: skip
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def result(recipe_file, tmp_path_factory) -> ExperimentResult:
    before = stamps(recipe_file.parent)
    made = run_experiment(load_recipe(recipe_file), tmp_path_factory.mktemp("laboratory"))
    assert stamps(recipe_file.parent) == before  # what is given is not written to
    return made


@pytest.mark.slow
def test_arms_and_controls(result):
    first, second, third = result.settings
    assert [
        arm.name for source in sources_of(first.setting) for arm in source.arms(0.5)
    ] == ARMS  # what a dry run counts
    assert list(first.arms) == ARMS and sorted(first.comparison.arms) == sorted(ARMS)
    assert list(second.arms) == ["naive", "known x2", "known x4"]
    assert first.runs["forgetting"] == second.runs["forgetting"] == third.runs["forgetting"]  # trained once
    compared = first.comparison
    reused = {arm for arm in ARMS if len(compared.rates(arm)) == 1}
    assert reused == set(ARMS) - {"naive", "known x2", "known x4", "equal_compute"}
    assert all(compared.rates(arm) == [compared.chosen_rates["naive"]] for arm in reused)
    assert set(compared.controls) == {a for a in ARMS if not a.startswith(("known", "linear_fit"))}
    weights = {arm: Checkpoint(first.arms[arm].folder).read("timm_model.conv1.0.weight") for arm in ARMS}
    assert torch.allclose(weights["shrink 0.5"], 0.5 * weights["naive"])
    assert torch.allclose(weights["shrink x2"].norm(), weights["known x2"].norm())
    assert len({values.sum().item() for values in weights.values()}) == len(ARMS)
    assert len(third.trajectory) == 2 and third.comparison is None and list(third.arms) == ["naive", "known"]


@pytest.mark.slow
def test_controls_spend_what_they_should(result):
    runs = result.settings[0].runs
    forgetting = Trajectory.load(runs["forgetting"]).record
    steps = [stage.steps for stage in forgetting.stages]
    equal = json.loads((runs["equal_compute"] / "trajectory.json").read_text())
    assert [stage["steps"] for stage in equal["stages"]] == [sum(steps[1:3])]  # the self-check's stage is not spent
    incremental = json.loads((runs["incremental"] / "trajectory.json").read_text())
    assert [stage["examples"] for stage in incremental["stages"]] == [s.examples for s in forgetting.stages[2::-1]]


@pytest.mark.slow
def test_a_continued_experiment_and_two_processes_give_the_same(recipe_file, result, tmp_path):
    """Killed with everything below it, in another process with two workers, and run again."""
    command = [sys.executable, "-m", "know_hf", "experiment", str(recipe_file), "--size", "other",
               "--output-dir", str(tmp_path / "out")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    runs = tmp_path / "out" / "settings" / "new_task" / "runs"
    deadline = time.time() + 150
    while not (runs.is_dir() and len(list(runs.glob("*.json"))) > 3):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    other = ExperimentResult.load(tmp_path / "out")
    for mine, its in zip(result.settings, other.settings, strict=True):
        assert mine.comparison is None or {k: r["test"] for k, r in mine.comparison.fine_tunings.items()} == {
            k: r["test"] for k, r in its.comparison.fine_tunings.items()
        }
    assert "| known x2 " in done.stdout and (tmp_path / "out" / "report" / "index.html").exists()


@pytest.mark.slow
def test_report(result):
    page = write_experiment_report(result)
    html, text = page.read_text(), page.with_name("results.md").read_text()
    # Everything that is a picture beside the page is drawn in it, but for landscapes, whose pictures it holds.
    landscapes = sum(setting.landscape is not None for setting in result.settings)
    drawn = html.count('<div class="wide"><svg')
    assert drawn + html.count("data:image/png;base64,") == len(list(page.parent.glob("*.png"))) >= 12
    assert html.count("data:image/png;base64,") == landscapes and "://" not in html  # nothing comes from elsewhere
    for words in ("Digits", "A test.", "equal_compute*", "Costs", "s a weight and step", "converged", "known x2 ("):
        assert words in text, words
    assert "Θ̂⁰ lies" in text and ("is nearer" in text or "is not nearer" in text)
    # Seeds, whose rates were searched, and where they lie in the grid, are said of every column.
    first, second = (setting.comparison for setting in result.settings[:2])
    assert "± standard deviation over 2 seeds; in brackets" in text
    assert "Only some starts have a learning rate of their own" in text and "its column (new task) names them" in text
    rate = f"{first.chosen_rates['naive']:g}"
    assert f"have only naive, known (x2, x4), equal_compute; all others were run at that of naive, {rate}." in text
    assert "Each arm at its own learning rate, chosen on validation examples among 0.001, 0.005." in text
    for compared in (first, second):
        said = rates_searched(compared)
        for which, rate in (("smallest", 0.001), ("largest", 0.005)):
            at_edge = any(compared.chosen_rates[arm] == rate for arm in compared.arms if len(compared.rates(arm)) > 1)
            assert (f"the {which} rate of the grid was chosen" in said) == at_edge
    before = html
    main(["report", str(result.output_dir)])
    assert page.read_text() == before


def test_reports_of_other_folders(image_run, tmp_path, capsys):
    run = shutil.copytree(image_run.trajectory.root, tmp_path / "run")
    main(["predict", str(run), "--method", "known", "linear_fit", "--steps", "1"])
    capsys.readouterr()
    main(["report", str(run)])
    html = Path(capsys.readouterr().out.strip()).read_text()
    assert html.count('<div class="wide"><svg') == 3 and "<td>stage-4</td>" in html and "<td>linear_fit x2</td>" in html
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "other")])
    assert "Give the output_dir of an enrich, forget, compare or experiment." in capsys.readouterr().err


@pytest.mark.slow
def test_the_plane_is_that_of_the_weights(result):
    """Against principal components of the stacked weights, and at the stages the landscape shows their accuracy."""
    setting = result.settings[0]
    plane, stages = setting.plane, [f"stage-{i}" for i in range(4)]
    names = [n for n, p in setting.trajectory.parameters.items() if p.kind not in ("buffer", "unknown")]
    folder = setting.runs["forgetting"]
    points = torch.stack([torch.cat([Checkpoint(folder / s).read(n) for n in names]) for s in stages]).double()
    centred = points - points.mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    coordinates = (centred @ axes[:2].T).numpy()
    assert plane.names == [*stages, "Θ̂⁰", "Θ̂⁻¹"]
    np.testing.assert_allclose(np.abs(plane.coordinates[:4]), np.abs(coordinates), rtol=1e-5, atol=1e-6)
    share = (lengths**2 / (lengths**2).sum()).numpy()
    np.testing.assert_allclose(plane.explained, share[:2], rtol=1e-6)
    np.testing.assert_allclose(plane.distances[0, 1], (points[0] - points[1]).norm(), rtol=1e-6)
    mixture = plane.mixture(*plane.coordinates[2])
    assert mixture.sum() == pytest.approx(1)
    on_plane = coordinates[2] @ axes[:2].numpy() + points.mean(0).numpy()
    np.testing.assert_allclose(mixture @ points.numpy(), on_plane, atol=1e-5)
    assert setting.landscape.scores.shape == (3, 3) and 0 <= setting.landscape.scores.min() <= 1


def test_the_landscape_is_the_networks_accuracy(tmp_path):
    models = [tiny_image_model(seed) for seed in range(3)]
    for seed, model in enumerate(models):
        model.save_pretrained(tmp_path / str(seed))
    trajectory = Trajectory.from_checkpoints([tmp_path / str(i) for i in range(3)], model=models[0])
    examples = Examples({"pixel_values": torch.randn(60, 1, 16, 16), "labels": torch.arange(60) % 3})
    plane = principal_plane(trajectory)
    task = get_task("image-classification")
    found = score_landscape(trajectory, plane, tiny_image_model(), examples, examples, task, resolution=5)
    # Three points span the plane: a mixture at a stage is that stage.
    at = plane.mixture(*plane.coordinates[1])
    np.testing.assert_allclose(at, [0, 1, 0], atol=1e-4)
    assert found.scores.shape == (5, 5) and len(np.unique(found.scores)) > 2
    assert found.x[0] < plane.coordinates[:, 0].min() and found.y[-1] > plane.coordinates[:, 1].max()


def test_the_protocol_of_the_authors_scripts_at_toy_size(recipe_file, tmp_path):
    """Steps of the rate, their ResNet, pixels' means, heads at their own rate, validation on the test set."""
    setting = {
        "pretraining": {
            "dataset": "someone/known-digits", "image_mean": "pixel", "augmentation": {},
            "architecture": {"model_type": "know_resnet", "width": 4, "depths": [1, 1], "strides": [1, 2],
                             "num_channels": 1},
            "training": {"num_stages": 2, "num_train_epochs": 2, "per_device_train_batch_size": 64, "seed": 0,
                         "lr_scheduler_type": "constant", "learning_rate_steps": {"1": 0.1}, "max_grad_norm": 0},
        },
        "methods": ["known"], "steps": 1, "learning_rates": [4e-4], "seeds": 2,
        "transfer": {
            "dataset": "someone/new-digits", "validation_split": "test",
            "protocol": {"head_epochs": 1, "head_learning_rate": 1e-3, "epochs": 1, "batch_size": 64,
                         "renew_batch_norm": False, "evaluations": 1},
        },
    }  # fmt: skip
    described = {"title": "t", "data_folder": str(recipe_file.parent), "sizes": {"toy": {"settings": {"one": setting}}}}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(described))
    made = run_experiment(load_recipe(path), tmp_path / "out").settings[0]
    assert all(tuned["test"] == tuned["validation"] for tuned in made.comparison.fine_tunings.values())
    assert made.trajectory.record.recipe["learning_rate_steps"] == {"1.0": 0.1}
    assert json.loads((made.folder / "transfer.json").read_text())["image_mean"] == "pixel"
    # Read again from the record, with names that JSON made of numbers.
    assert run_experiment(load_recipe(path), tmp_path / "out").settings[0].arms.keys() == made.arms.keys()
    described["sizes"]["toy"]["settings"]["one"] = {**setting, "seeds": 3}
    path.write_text(yaml.safe_dump(described))
    with pytest.raises(TrajectoryError, match="another experiment \\(different settings\\)"):
        run_experiment(load_recipe(path), tmp_path / "out")


def test_text(text_model_folder, sentences, tmp_path):
    """A text model's stages keep their tokenizer, so that every start can be fine-tuned."""
    for part in ("train", "test"):
        (tmp_path / "texts" / "data").mkdir(parents=True, exist_ok=True)
        sentences.to_parquet(tmp_path / "texts" / "data" / f"{part}-00000-of-00001.parquet")
    training = {"num_stages": 2, "num_train_epochs": 1, "per_device_train_batch_size": 8, "seed": 0}
    setting = {
        "pretraining": {"dataset": "texts", "model": str(text_model_folder), "max_length": 16, "training": training},
        "methods": ["known"], "steps": 1, "seeds": 2, "learning_rates": [1e-3],
        "transfer": {"dataset": "texts", "protocol": {
            "head_epochs": 1, "epochs": 1, "batch_size": 8, "examples": 24, "validation_examples": 16}},
    }  # fmt: skip
    path = tmp_path / "text.yaml"
    path.write_text(yaml.safe_dump(
        {"title": "t", "data_folder": str(tmp_path), "sizes": {"cpu": {"settings": {"one": setting}}}}
    ))  # fmt: skip
    found = run_experiment(load_recipe(path), tmp_path / "out").settings[0].comparison
    assert list(found.arms) == ["naive", "known"] and len(found.fine_tunings) == 4


def test_augmentation():
    pixels = torch.rand(4, 2, 16, 16)
    same = Augmentation(rotation=0, shift=0, zoom=0)(pixels)
    torch.testing.assert_close(same, pixels, atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    flipped = Augmentation(rotation=0, shift=0, zoom=0, flip=True)(pixels.repeat(8, 1, 1, 1))
    both = list(zip(flipped, pixels.repeat(8, 1, 1, 1), strict=True))
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in both]
    kept = [torch.allclose(a, b, atol=1e-4) for a, b in both]
    assert 4 < sum(mirrored) < 28 and sum(mirrored) + sum(kept) == len(both)
    spot = torch.zeros(200, 1, 21, 21)
    spot[:, :, 10, 10] = 1
    moved = Augmentation(rotation=0, shift=0.2, zoom=0)(spot)
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 21, places % 21
    assert rows.min() < 8 and rows.max() > 12 and (rows - 10).abs().max() <= 5 and columns.float().std() > 1
    examples = Examples({"pixel_values": pixels, "labels": torch.arange(4)}, augmentation=Augmentation())
    assert not torch.allclose(examples[0]["pixel_values"], pixels[0])
    assert torch.equal(examples.augmented(None)[0]["pixel_values"], pixels[0])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_come_with_the_package_are_sound(path):
    # What the paper does not ask has a small size only.
    if path.stem == "regime":
        return  # cells instead of a grid: see test_cells.py
    sizes = ("cpu",) if path.stem in ("hypothesis", "ratios") else ("cpu", "paper")
    for size in (*sizes, *(["released"] if path.stem == "table1" else [])):
        recipe = load_recipe(path, size)
        assert recipe.title and recipe.settings
        for setting in recipe.settings:
            if setting.transfer is not None:
                assert setting.transfer.make_protocol().epochs > 0
                assert size == "released" or len(setting.learning_rates) >= 3  # theirs is one
                assert size == "paper" or setting.seeds >= 3


@pytest.mark.slow
def test_what_is_another_experiment_or_none(recipe_file, result, tmp_path):
    with pytest.raises(TrajectoryError, match="another experiment \\(different size, processes\\)"):
        run_experiment(load_recipe(recipe_file, "other"), result.output_dir)
    with pytest.raises(TrajectoryError, match="no finished experiment"):
        (tmp_path / "recipe.json").write_text((result.output_dir / "recipe.json").read_text())
        ExperimentResult.load(tmp_path)


def test_refusals(recipe_file, tmp_path, capsys):
    good = yaml.safe_load(recipe_file.read_text())

    def refused(match: str, **changes):
        path = tmp_path / "bad.yaml"
        setting = {**good["sizes"]["tiny"]["settings"]["new task"], **changes}
        path.write_text(yaml.safe_dump({"title": "t", "sizes": {"tiny": {"settings": {"one": setting}}}}))
        with pytest.raises(ValueError, match=match):
            load_recipe(path)

    refused("one: unknown 'methodz'; did you mean methods\\? There are name, pretraining", methodz=1)
    refused("Unknown retrodiction method 'magic'", methods=["magic"])
    refused("Unknown control 'shrunk 2'", controls=["shrunk 2"])
    refused("one.pretraining: missing dataset", pretraining={"model": "m"})
    refused("give either model or architecture", pretraining={"dataset": "d"})
    refused("transfer.protocol: unknown 'epoch'", transfer={"dataset": "d", "protocol": {"epoch": 1}})
    with pytest.raises(ValueError, match="has no size 'huge'; it has tiny, other"):
        load_recipe(recipe_file, "huge")

    def early(match: str, part: str | None = None, error: type = ValueError, **changes):
        recipe = load_recipe(recipe_file)
        setting = recipe.settings[0]
        changed = replace(setting, **{part: replace(getattr(setting, part), **changes)} if part else changes)
        with pytest.raises(error, match=match):
            run_experiment(replace(recipe, settings=(recipe.settings[1], changed)), tmp_path / "early")
        assert not (tmp_path / "early" / "pretraining").exists()
        shutil.rmtree(tmp_path / "early")

    early("full_grid names 'knwn', which no method, predictor, control or arm", full_grid=("equal_compute", "knwn"))
    early("step 5 needs stage 5, and 3 stages end at 2", methods=("consensus_ta",), steps=5)
    early("downstream data have 319 examples, 1040 are asked for", "transfer",
          protocol={"examples": 1000, "validation_examples": 40})  # fmt: skip
    early("Unknown task 'dreaming'", "transfer", task="dreaming")
    early("metric 'nowhere.py' is neither 'accuracy' nor", "transfer", FileNotFoundError,
          protocol={"examples": 10, "validation_examples": 40, "metric": "nowhere.py"})  # fmt: skip
    early("leave stage 3 without data", "pretraining", training={"num_stages": 4, "sampling_ratio": 0.1})
    with pytest.raises(ValueError, match="The predictor reads 5 stages, the trajectory has 3"):
        run_experiment(load_recipe(recipe_file), tmp_path / "p", predictors={"mine": KnownPredictor.default()})
    with pytest.raises(SystemExit):
        main(["transfer", str(recipe_file), "--seeds", "3"])
    assert "a recipe says everything itself; --seeds" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["transfer", "--size", "cpu", "--dataset", "d", "--output-dir", "o"])
    assert "--size belongs to a recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["cache", "pretraining", "pretraining/0123456789ab", "pretraining/0123456789ab/forgetting", "settings",
     "settings/new_task", "settings/new_task/runs", "settings/new_task/scratch", "settings/new_task/arms/known",
     "settings/new_task/retrodicted"],
)  # fmt: skip
def test_nothing_goes_through_a_link_in_an_experiment(recipe_file, tmp_path, precious, name):
    place = link(tmp_path / "out" / name, precious)
    with pytest.raises(ValueError, match=f"{place} is a link, through which nothing is written"):
        run_experiment(load_recipe(recipe_file), tmp_path / "out")
    assert not (tmp_path / "out" / "recipe.json").exists()
