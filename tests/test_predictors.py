"""Predictors and arms that are given by name, but are not there, are something else, or are damaged."""

import json

import pytest
from safetensors.torch import load_file, save_file

from know_hf import KnownPredictor
from know_hf.laboratory.comparison import check_arms
from know_hf.retrodiction.learned import NinoMLP
from know_hf.retrodiction.predictors import load_predictor, load_predictor_stages
from know_hf.trajectory import TrajectoryError


def refused(given, *said: str) -> None:
    """Loading fails with one short sentence that names the predictor."""
    with pytest.raises((OSError, ValueError)) as caught:
        load_predictor(given, 5)
    text = str(caught.value)
    assert f"Predictor {str(given)!r}" in text and "\n" not in text and len(text) < 400 + len(str(given))
    assert all(part in text for part in said), text


@pytest.fixture
def folder(tmp_path):
    KnownPredictor.default().save_pretrained(tmp_path / "known")
    return tmp_path / "known"


def change(folder, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("given", ["nobody/nothing", "no name!", ""])
def test_a_predictor_that_is_not_there(given):
    refused(given, "neither a folder nor reachable on the Hub")
    with pytest.raises(FileNotFoundError, match="neither a folder nor reachable"):
        load_predictor_stages(given)


def test_another_models_folder_is_no_predictor(image_model_folder, text_model_folder, tmp_path):
    refused(text_model_folder, "no KNOWN predictor but a model of type bert")
    refused(image_model_folder, "no KNOWN predictor but a model of type timm_wrapper")
    refused(tmp_path, str(tmp_path))
    with pytest.raises(ValueError, match="no KNOWN predictor"):
        load_predictor_stages(text_model_folder)


def test_a_predictor_that_is_incomplete_or_damaged(folder):
    weights = folder / "model.safetensors"
    whole = load_file(weights)
    save_file(dict(list(whole.items())[1:]), weights, metadata={"format": "pt"})
    refused(folder, "1 missing")
    save_file(whole, weights, metadata={"format": "pt"})
    change(folder, history_length=4)
    refused(folder, "mismatched")
    change(folder, history_length="five")
    refused(folder)
    change(folder, history_length=5)
    assert load_predictor(folder, 5) and load_predictor_stages(folder) == 5
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(folder, "cannot be loaded")
    weights.unlink()
    refused(folder, "cannot be loaded")
    with pytest.raises(OSError, match="Predictor '.*is not there, or damaged"):
        NinoMLP.from_file(folder)


def test_an_arm_is_named(image_model_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="Arm 'nobody/nothing', called 'mine', is neither"):
        check_arms({"naive": image_model_folder, "mine": "nobody/nothing"}, 2, [1e-3])
    with pytest.raises(TrajectoryError, match="Arm 'mine': .*holds no safetensors"):
        check_arms({"naive": image_model_folder, "mine": tmp_path}, 2, [1e-3])
