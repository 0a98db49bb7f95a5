"""Training on is tried by default: of all candidates it was the one that most often gained."""

import pytest
from conftest import tiny_image_model

from know_hf import enrich_pretrained
from know_hf.choice import candidates
from know_hf.choice import options as choice_options
from know_hf.choice.options import BY_DEFAULT, Choosing
from know_hf.trajectory import TrajectoryError

SETTINGS = {"num_stages": 2, "steps": 1, "method": "naive", "num_train_epochs": 2, "per_device_train_batch_size": 16,
            "learning_rate": 5e-3, "train_stage_zero": True, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "selection_split": 40}  # fmt: skip


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch):
    monkeypatch.setattr(choice_options, "BY_DEFAULT", BY_DEFAULT)


def enriched(images, folder, **options):
    return enrich_pretrained(tiny_image_model(), images.select(range(120)), folder, **SETTINGS, **options)


def test_it_is_a_candidate_and_leaves_nothing_behind(tmp_path, images, monkeypatch):
    result = enriched(images, tmp_path / "run")
    assert "equal_compute" in result.choice.gains and "Not tried" not in result.verdict
    assert not (tmp_path / "run/also").exists()
    weights = (result.best / "model.safetensors").read_bytes()
    monkeypatch.setattr(candidates, "train_control", None)  # it is not trained again
    again = enriched(images, tmp_path / "run")
    assert again.choice.gains == result.choice.gains and (again.best / "model.safetensors").read_bytes() == weights


def test_one_that_nobody_asked_for_fails_alone(tmp_path, images, monkeypatch, caplog):
    def astray(*_):
        raise TrajectoryError("Stage 0 is not finite.")

    monkeypatch.setattr(candidates, "train_control", astray)
    result = enriched(images, tmp_path / "run")
    assert "equal_compute" not in result.choice.gains and result.best.is_dir()
    assert "equal_compute is no candidate: Stage 0 is not finite." in caplog.text
    with pytest.raises(TrajectoryError, match="not finite"):
        enriched(images, tmp_path / "run", also="equal_compute")


@pytest.mark.parametrize(
    ("asked", "tried"),
    [
        ({}, ("equal_compute",)),
        ({"also": "none"}, ()),
        ({"also": ()}, ()),
        ({"also": ["soup"]}, ("soup",)),
        ({"choose": "none"}, ()),
        ({"until_converged": True}, ()),
        ({"until_converged": True, "also": "equal_compute"}, ("equal_compute",)),
    ],
)
def test_what_is_tried(asked, tried):
    assert Choosing(**asked).beside == tried


def test_none_stands_alone():
    with pytest.raises(ValueError, match="none stands alone; found none, soup"):
        Choosing(also=["none", "soup"])
