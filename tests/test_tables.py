"""The recipes of domains, captions and segmentation, each at toy size: the whole table from nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, concatenate_datasets
from test_examples import EXAMPLES, example

from know_hf.laboratory.average import average_of
from know_hf.laboratory.experiment import ExperimentResult, run_experiment
from know_hf.laboratory.recipe import load_recipe
from know_hf.models.building import build_network
from know_hf.quickstart import digits
from know_hf.report.comparison import spread
from know_hf.report.experiment import comparisons, score_rows
from know_hf.training.examples import Augmentation, Examples
from know_hf.training.held_out import hold_out

RECIPES = EXAMPLES / "recipes"
#: What the toys compare, instead of all rows of the tables.
TOY = ["naive", "known x3", "known x9"]
TINY_PVT = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_encoder_blocks": 2, "num_attention_heads": [1, 1],
            "mlp_ratios": [1, 1], "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2]}  # fmt: skip


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """A data folder with digits under the names that the recipes ask for."""
    folder = tmp_path_factory.mktemp("data")
    data = digits(tuple(range(10))).rename_column("label", "fine_label").train_test_split(test_size=40, seed=0)
    for name in ("cifar100", "fashion_mnist", "mnist"):
        (folder / name / "data").mkdir(parents=True)
        for part in ("train", "test"):
            data[part].to_parquet(folder / name / "data" / f"{part}-00000-of-00001.parquet")
    return folder


def toy(name: str, folder: Path, data: Path, only: int | None = None, stages: int = 3, **made) -> Path:
    """A recipe's cpu size with as little of everything as shows that it works."""
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    settings = dict(list(content["sizes"]["cpu"]["settings"].items())[:only])
    content[".made"] = {where: {**how, "examples": 60, **made} for where, how in content[".made"].items()}
    for setting in settings.values():
        setting["pretraining"]["training"] |= {"num_train_epochs": 1, "per_device_train_batch_size": 16,
                                               "num_stages": stages, "eval_steps": 0.5}  # fmt: skip
        if "cifar100" in setting["pretraining"]["dataset"]:
            setting["pretraining"] |= {"train_split": "train[:200]", "eval_split": "test"}
            setting["pretraining"]["architecture"] |= TINY_PVT
        else:
            setting["pretraining"]["architecture"] |= {"depth_multiplier": 0.1, "expand_ratio": 1}
        setting |= {"learning_rates": [1e-3], "seeds": 2, "methods": ["known"], "controls": [],
                    "full_grid": "all"}  # fmt: skip
        setting["transfer"]["protocol"] |= {"epochs": 1, "head_epochs": 0, "examples": 16, "validation_examples": 8,
                                            "batch_size": 16, "evaluations": 1}  # fmt: skip
    # Declared for a dry run of other sizes, which are not here.
    content |= {"data_folder": str(data), "data_sets": {}, "sizes": {"cpu": {"settings": settings}}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run(path: Path, monkeypatch) -> ExperimentResult:
    """By the one command that the recipes state, without the page and its plots."""
    monkeypatch.chdir(path.parent)
    program = example("run_recipe")
    monkeypatch.setattr(program, "know_hf", lambda given: made.append(run_experiment(load_recipe(given[1]), given[3])))
    made: list[ExperimentResult] = []
    program.main([str(path), "--output-dir", "out"])
    return made[0]


@pytest.mark.slow
def test_domains(cifar, tmp_path, monkeypatch):
    result = run(toy("table3", tmp_path, cifar, only=2, stages=5), monkeypatch)
    assert [setting.setting.name for setting in result.settings] == ["plain", "turned"]
    one, two = (setting.comparison for setting in result.settings)
    assert list(one.arms) == list(two.arms) == TOY and one.metric == "accuracy"
    assert result.settings[0].runs == result.settings[1].runs, "trained once"
    assert [s.examples for s in result.settings[0].trajectory.record.stages] == [200, 66, 21, 7, 2]
    both = average_of([one, two])
    assert both.best("known x3") == pytest.approx(np.mean([one.best("known x3"), two.best("known x3")], axis=0))
    rows = score_rows(comparisons(result))
    assert rows[0] == ["start", "plain", "turned", "average"]
    average = next(row for row in rows if row[0] == "known x9")[3]
    assert average == f"{spread(both.best('known x9'))} ({both.against('known x9', 'naive')})"


@pytest.mark.slow
def test_the_command_writes_the_page(cifar, tmp_path, monkeypatch, capsys):
    path = toy("table3", tmp_path, cifar, only=2)
    monkeypatch.chdir(tmp_path)
    example("run_recipe").main([str(path), "--size", "cpu", "--output-dir", "out"])
    assert "Page, tables and plots" in capsys.readouterr().out
    assert "average" in (tmp_path / "out" / "report" / "results.md").read_text()


def test_captions(cifar, tmp_path, monkeypatch):
    result = run(toy("table4", tmp_path, cifar), monkeypatch)
    (setting,) = result.settings
    assert list(setting.comparison.arms) == TOY and setting.comparison.metric == "masked_accuracy"
    assert setting.trajectory.record.model["task"] == "image-classification"
    assert all(0 <= score <= 100 for arm in TOY for score in setting.comparison.best(arm))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert any("with decoder" in path.as_posix() for path in before)
    run_experiment(load_recipe(tmp_path / "table4.yaml"), tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}


@pytest.mark.slow
def test_segmentation(cifar, tmp_path, monkeypatch):
    (setting,) = run(toy("table5", tmp_path, cifar, size=32), monkeypatch).settings
    assert list(setting.comparison.arms) == TOY and setting.comparison.metric == "mean_iou"
    assert setting.trajectory.record.model["task"] == "image-segmentation"
    assert all(0 < score < 100 for arm in TOY for score in setting.comparison.best(arm))


def test_what_recipes_of_captions_refuse(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(toy("table4", tmp_path, cifar))
    example("run_recipe").make_missing(str(tmp_path / "table4.yaml"), None)
    (setting,) = recipe.settings

    def refused(match: str, **changes) -> None:
        changed = replace(recipe, settings=(replace(setting, transfer=replace(setting.transfer, **changes)),))
        with pytest.raises(ValueError, match=match):
            run_experiment(changed, tmp_path / "out")
        assert not list((tmp_path / "out").rglob("stage-0"))
        shutil.rmtree(tmp_path / "out")

    refused("models of image-classification write no captions: give transfer a decoder", decoder=None)
    refused("transformers knows no model_type 'gpt9'", decoder={"architecture": {"model_type": "gpt9"}})
    refused("GPT2LMHeadModel|n_embd|cannot be built", decoder={"architecture": {"model_type": "gpt2", "n_embd": 9}})
    refused("A decoder is for captions", dataset="cifar100", task=None)
    refused("no row is left with 'x' of column 'caption'", held_out={"caption": "x"})
    with pytest.raises(ValueError, match="transfer.decoder: missing architecture"):
        replace(setting.transfer, decoder={"vocabulary": 3})
    with pytest.raises(ValueError, match="names one column"):
        replace(setting.transfer, held_out={"a": 1, "b": 2})
    with pytest.raises(ValueError, match="same number of seeds"):
        replace(recipe, average=True, settings=(setting, replace(setting, name="other", seeds=5)))


def test_rows_are_held_out_by_name_and_by_value():
    data = Dataset.from_dict({"domain": ["a", "b", "a", "c"], "x": [0, 1, 2, 3]})
    parts = hold_out({"train": data, "test": data, "validation": None}, {"domain": "a"})
    assert parts["train"]["x"][:] == [1, 3] and parts["test"]["x"][:] == [0, 2] and parts["validation"] is None
    assert parts["test"].column_names == ["x"]
    classes = data.cast_column("domain", ClassLabel(names=["a", "b", "c"]))
    assert hold_out({"test": classes}, {"domain": "b"})["test"]["x"][:] == [1]
    assert hold_out({"test": concatenate_datasets([data, data])}, {"x": 3})["test"].num_rows == 2
    with pytest.raises(ValueError, match="The train data have no column 'place'; found domain, x"):
        hold_out({"train": data}, {"place": "a"})
    with pytest.raises(ValueError, match="no row is left with 'd' of column 'domain' held out; it holds a, b, c"):
        hold_out({"test": data}, {"domain": "d"})


def test_masks_move_with_their_pictures():
    masks = torch.zeros(4, 16, 16, dtype=torch.int64)
    masks[:, 4:9, 6:12] = 3
    masks[:, 0] = 255
    pixels = masks.float().unsqueeze(1).repeat(1, 2, 1, 1)
    torch.manual_seed(0)
    moved, classes = Augmentation(flip=True).with_masks(pixels, masks)
    assert classes.dtype == torch.int64 and set(classes.unique().tolist()) == {0, 3, 255}
    assert not torch.equal(classes, masks) and (moved[:, 0].round() == classes).float().mean() > 0.8
    torch.manual_seed(0)
    assert torch.equal(Augmentation(flip=True)(pixels), moved), "the same numbers with and without masks"
    batch = Examples({"pixel_values": pixels, "labels": masks}, augmentation=Augmentation()).__getitems__([0, 1])
    assert not torch.equal(batch["labels"], masks[:2])
    captions = Examples({"pixel_values": pixels, "labels": masks[:, 0]}, augmentation=Augmentation())
    assert torch.equal(captions.__getitems__([0, 1])["labels"], masks[:2, 0])


def test_kernels_of_a_described_network_are_drawn_as_asked():
    described = {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "image_size": 32}
    torch.manual_seed(0)
    plain, wide = (
        build_network({**described, **more}, "image-segmentation", ["0", "1", "2"])
        for more in ({}, {"convolutions": "he_normal"})
    )
    kernel = "mobilenet_v2.conv_stem.first_conv.convolution.weight"
    before, after = (network.state_dict()[kernel].std() for network in (plain, wide))
    assert before < 0.03 and after == pytest.approx((2 / (9 * wide.state_dict()[kernel].shape[0])) ** 0.5, rel=0.2)
    head = "segmentation_head.classifier.convolution.weight"
    assert wide.state_dict()[head].std() < 0.03
    with pytest.raises(ValueError, match="convolutions is 'wide'; it may be he_normal"):
        build_network({**described, "convolutions": "wide"}, "image-segmentation", ["0", "1"])


@pytest.mark.parametrize("name", ["table3", "table4", "table5"])
def test_recipes_say_what_the_paper_says(name):
    recipe, small = (load_recipe(RECIPES / f"{name}.yaml", size) for size in ("paper", "cpu"))
    epochs = {"table3": 80, "table4": 50, "table5": 150}
    for setting in small.settings:
        assert setting.methods == recipe.settings[0].methods and setting.pretraining.training["sampling_ratio"] == 0.33
        assert {"shrink", "mean"} < set(setting.methods) and setting.controls == ("equal_compute",)
        assert setting.pretraining.training["num_stages"] == 5 and setting.seeds == 3
    for setting in recipe.settings:
        training = setting.pretraining.training
        assert (training["sampling_ratio"], training["num_stages"], setting.steps) == (0.33, 5, 2)
        assert setting.transfer.make_protocol().epochs == epochs[name]
        assert {"known", "log_fit", "task_vector", "tsv", "magmax"} < set(setting.methods)
    held_out = [setting.transfer.held_out for setting in recipe.settings if setting.transfer.held_out]
    assert len(held_out) == (4 if name == "table3" else 0) and recipe.average == (name == "table3")
