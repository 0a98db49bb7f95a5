"""A finished run is given other examples to choose on, or others to score on: nothing is trained again for it."""

import pytest
from conftest import tiny_image_model

from know_hf import enrich_pretrained
from know_hf.trajectory import TrajectoryError

SETTINGS = {"num_stages": 2, "num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 5e-3,
            "train_stage_zero": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "steps": 1,
            "fit_steps": 1}  # fmt: skip


@pytest.mark.parametrize("before", [{"choose": "none"}, {}])  # nothing asked for, or too few for it
def test_examples_to_choose_on_may_be_given_afterwards(images, tmp_path, before):
    train = images.select(range(50))
    first = enrich_pretrained(tiny_image_model(), train, tmp_path, **before, **SETTINGS)
    assert first.best is None
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stage-*/*.safetensors")}
    for rows in (range(100, 130), range(100, 160)):
        found = enrich_pretrained(tiny_image_model(), train, tmp_path, selection_split=images.select(rows), **SETTINGS)
        assert found.choice.how == "given" and found.choice.examples == len(rows) and found.best.is_dir()
    assert len(stamps) == 2 and {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(TrajectoryError, match="no examples were set aside then, and 25 .* of the training data were"):
        enrich_pretrained(tiny_image_model(), train, tmp_path, selection_split=25, **SETTINGS)
    with pytest.raises(TrajectoryError, match="holds another run: dataset"):
        enrich_pretrained(
            tiny_image_model(), images.select(range(1, 51)), tmp_path, selection_split=images.select(rows), **SETTINGS
        )
