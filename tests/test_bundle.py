"""What comes with the package is made by one command, and carries the record of it."""

import json
from importlib import resources
from pathlib import Path

import pytest
from conftest import FAST_TRIALS

from know_hf import KnownPredictor
from know_hf.known.modeling_known import BUNDLED
from know_hf.meta.bundle import COLLECTED, REPORTED, TRAINED, bundle, make_predictors
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.options import CollectionOptions, MetaTrainingSettings
from know_hf.meta.trials import draw_trial
from know_hf.store import hash_file, read_json
from know_hf.trajectory import TrajectoryError

WEIGHTS = Path(str(resources.files("know_hf.known"))) / "weights"
DATA = ("cifar10", "mnist", "fashion_mnist")


@pytest.mark.parametrize("length", BUNDLED)
def test_what_comes_with_the_package_is_of_a_run_with_the_settings_that_are_stated(length):
    record = read_json(WEIGHTS / f"stages-{length}" / "meta_training.json")
    assert record["weights"] == hash_file(WEIGHTS / f"stages-{length}" / "model.safetensors")
    assert record["config"]["history_length"] == length
    stated = json.loads(json.dumps(TRAINED.__dict__, default=lambda options: options.__dict__))
    assert record["settings"] == stated
    # The trials are those that the command draws, split as it splits them, the same ones for every number of stages.
    collected = [draw_trial(seed, DATA, CollectionOptions(**COLLECTED)) for seed in range(COLLECTED["trials"])]
    further = CollectionOptions(**REPORTED, architectures=["densenet"])
    seeds = range(further.first_seed, further.first_seed + further.trials)
    drawn = collected + [draw_trial(seed, ["fashion_mnist"], further) for seed in seeds]
    unseen = {t.name: (t.architecture == "densenet") + (t.data_set == "fashion_mnist") for t in drawn}
    for number, part in enumerate(("train", "choice", "report")):
        assert set(record["split"][part]) <= {name for name, count in unseen.items() if count == number}
    assert sum(map(len, record["split"].values())) == record["data"]["files"]
    assert record["data"] == read_json(WEIGHTS / "stages-5" / "meta_training.json")["data"]
    for part in ("all", "unconverged", "converged"):
        assert set(record["errors"][part]["known"]) == {"conv", "fc", "bias"}


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
