"""What comes with the package is made by one command, and carries the record of it."""

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
from conftest import FAST_TRIALS

from know_hf import KnownPredictor
from know_hf.known.bundled import BUNDLED
from know_hf.meta.bundle import COLLECTED, REPORTED, TRAINED, bundle, main, make_predictors
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


@pytest.mark.slow
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

    # The data are those of the trials; a folder of this machine goes by its name alone.
    assert "--data first second --output-dir" in card and "recompressed" not in card
    ids = ["someone/first", "someone/second", "someone/third"]
    noted = (bundle(folder, meta, tmp_path / "weights", ids, "cut to a half") / "README.md").read_text()
    assert "--data someone/first someone/second --output-dir" in noted and "the data (cut to a half) on" in noted
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["stages-3"]
    with pytest.raises(ValueError, match="holds trials on second, which data does not name"):
        bundle(folder, meta, tmp_path / "weights", ["someone/first"])

    # Whatever is wrong is found before anything of the old bundle is touched.
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    trial = next((tmp_path / "run" / "meta" / "trials").glob("*.json"))
    other = shutil.copytree(tmp_path / "run" / "meta", tmp_path / "other")
    changed = {**read_json(trial), "sha256": "0" * 64}
    (other / "trials" / trial.name).write_text(json.dumps(changed))
    with pytest.raises(TrajectoryError, match="was trained on another meta-data set"):
        bundle(folder, MetaDataSet(other), tmp_path / "weights")
    (folder / "README.md").rename(folder / "card")
    with pytest.raises(FileNotFoundError, match=r"lacks README\.md: it is no finished meta-training"):
        bundle(folder, meta, tmp_path / "weights")
    (folder / "card").rename(folder / "README.md")
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(TrajectoryError, match="is the record of other weights"):
        bundle(folder, meta, tmp_path / "weights")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_user_errors_of_the_command_end_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path / "nowhere"), "--output-dir", str(tmp_path / "out")])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_cards_that_come_with_the_package_name_their_data():
    for length in BUNDLED:
        card = (WEIGHTS / f"stages-{length}" / "README.md").read_text()
        assert "--data uoft-cs/cifar10 ylecun/mnist zalando-datasets/fashion_mnist --output-dir OUT" in card
