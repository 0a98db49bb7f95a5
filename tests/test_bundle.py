"""What comes with the package is made by one command, and carries the record of it."""

import pytest
from conftest import FAST_TRIALS

from know_hf import KnownPredictor
from know_hf.meta.bundle import bundle, make_predictors
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.options import MetaTrainingSettings
from know_hf.store import hash_file, read_json
from know_hf.trajectory import TrajectoryError


def test_from_data_to_what_the_package_loads(data, tmp_path):
    quick = {**FAST_TRIALS, "trials": 4, "architectures": ["cnn", "vit"], "pool": 1000}
    quick["settings"] = MetaTrainingSettings(epochs=1, rows=2000, batch_size=500)
    held_out = {"held_out_architectures": ["vit"], "held_out_data": ["second"]}
    (folder,) = make_predictors(data, tmp_path / "run", [3], **quick, held_out=held_out)
    meta = MetaDataSet(tmp_path / "run" / "meta")
    made = bundle(folder, meta, tmp_path / "weights")
    assert made == tmp_path / "weights" / "stages-3"
    assert KnownPredictor.from_pretrained(made).config.history_length == 3
    card = (made / "README.md").read_text()
    assert "license: apache-2.0" in card and "KnownPredictor.default(3)" in card and "know_hf.meta.bundle" in card
    assert "| trials | 8 |" in card and "remote_code" not in card and "| known " in card
    record = read_json(made / "meta_training.json")
    assert record["split"]["report"] and record["weights"] == hash_file(made / "model.safetensors")

    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(TrajectoryError, match="is the record of other weights"):
        bundle(folder, meta, tmp_path / "weights")
