"""Records of meta-data sets, comparisons and experiments: whatever they hold, they are read or refused in words."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile import anything, bounded, changed, places

from know_hf.laboratory.landscape import Landscape
from know_hf.laboratory.logs import read_logs
from know_hf.laboratory.outcome import SettingResult, read_recipe_record, read_wall, setting_folder
from know_hf.laboratory.recipe import load_recipe
from know_hf.laboratory.result import ComparisonResult
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.evaluation import functional_scores
from know_hf.meta.progress import read_state
from know_hf.meta.shards import SCHEMA, read_shard
from know_hf.report.comparison import comparison_markdown
from know_hf.training.examples import Examples
from know_hf.trajectory import TrajectoryError

RECIPE = Path(__file__).parents[1] / "examples" / "recipes" / "table1.yaml"
NUMBERS = {"seconds": 3.0}


def run_record(arm: str, seed: int) -> dict:
    return {"arm": arm, "rate": 0.001, "seed": seed, "test": 0.5 + seed / 10, "validation": 0.5, "seconds": 2.0,
            "training": 1.0, "curve": [[0.5, 0.4], [1.0, 0.5]]}  # fmt: skip


def comparison(folder: Path) -> None:
    (folder / "runs").mkdir()
    content = {"arms": {"naive": ["ab"], "KNOWN": ["cd"]}, "columns": {"task": "image-classification"},
               "protocol": {"metric": None}}  # fmt: skip
    (folder / "transfer.json").write_text(json.dumps(content))
    for arm in ("naive", "KNOWN"):
        for seed in (0, 1):
            (folder / "runs" / f"{arm}--0.001--{seed}.json").write_text(json.dumps(run_record(arm, seed)))


def meta(folder: Path) -> None:
    for part in ("trials", "times", "branches", "data"):
        (folder / part).mkdir()
    for seed, architecture in ((0, "cnn"), (1, "resnet")):
        name = f"trial-{seed:06d}"
        drawn = {"seed": seed, "architecture": architecture, "width": 9, "data_set": "d", "examples": 300,
                    "sampling_ratio": 0.5, "learning_rate": 1e-3, "batch_size": 32, "epochs": 2, "optimizer": "sgd",
                    "schedule": "cosine"}  # fmt: skip
        note = {"settings": drawn, "versions": {}, "scores": [0.5] * 7, "parameters": 10, "sha256": "ab"}
        (folder / "trials" / f"{name}.json").write_text(json.dumps(note))
        (folder / "times" / f"{name}.json").write_text(json.dumps(NUMBERS))
        (folder / "branches" / f"{name}.json").write_text(json.dumps({"repetitions": 1, "sha256": "ab"}))
        (folder / "branches" / f"{name}.parquet").touch()
        (folder / "data" / f"{name}.parquet").touch()


def progress(folder: Path) -> None:
    note = {"epoch": 1, "best": 0.5, "best_epoch": 0, "history": [[1.0, 0.5]], "files": {"conv-1.safetensors": "ab"}}
    (folder / "conv.json").write_text(json.dumps(note))


def experiment(folder: Path) -> None:
    (folder / "curves").mkdir()
    recipe = {"recipe": asdict(load_recipe(RECIPE)), "versions": {}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "wall.json").write_text(json.dumps(NUMBERS))
    log = {"stage": 0, "curve": [[1.0, 0.5]], "steps": 3, "seconds": 3.0, "training": 2.0}
    (folder / "curves" / "stage-0.json").write_text(json.dumps(log))
    (folder / "landscape.json").write_text(json.dumps({"x": [0.0, 1.0], "y": [0.0], "scores": [[0.1, 0.2]]}))


#: What makes a folder, the record to change, and what reads it.
RECORDS = {
    "transfer.json": (comparison, lambda folder: comparison_markdown(ComparisonResult.load(folder))),
    "runs/KNOWN--0.001--1.json": (comparison, lambda folder: comparison_markdown(ComparisonResult.load(folder))),
    "trials/trial-000001.json": (meta, lambda folder: MetaDataSet(folder).card()),
    "times/trial-000001.json": (meta, lambda folder: MetaDataSet(folder).card()),
    "branches/trial-000001.json": (meta, lambda folder: MetaDataSet(folder).card()),
    "conv.json": (progress, lambda folder: read_state(folder, "conv")),
    "recipe.json": (experiment, lambda folder: read_recipe_record(folder / "recipe.json")),
    "wall.json": (experiment, lambda folder: math.floor(read_wall(folder / "wall.json"))),
    "curves/stage-0.json": (
        experiment,
        lambda folder: sum(log["training"] / log["seconds"] for log in read_logs(folder)),
    ),
    "landscape.json": (experiment, lambda folder: Landscape.load(folder / "landscape.json").scores.sum()),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.further_slow
def test_any_record_of_ours_is_read_or_refused(tmp_path, name):
    make, read = RECORDS[name]
    make(tmp_path)
    path = tmp_path / name
    text = path.read_text()
    read(tmp_path)
    whole = json.loads(text)

    @settings(bounded, max_examples=150)
    @given(data=st.data())
    def try_one(data):
        where = data.draw(st.sampled_from(list(places(whole))))
        path.write_text(json.dumps(changed(whole, where, data.draw(anything))))
        try:
            read(tmp_path)
        except ValueError as error:
            assert str(error)

    try_one()
    for torn in (
        "",
        text[: len(text) // 2],
        "[" * 100_000,
        "\0" * 40,
        "null",
        "NaN",
        '{"settings": 1e999}',
        "9" * 5000,
    ):
        path.write_text(torn)
        with pytest.raises(TrajectoryError, match=path.name):
            read(tmp_path)
    path.write_bytes(b"\xff\xfe" + text.encode()[:20])
    with pytest.raises(TrajectoryError, match=path.name):
        read(tmp_path)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "pretraining/../../x", "", ".", "C:\\x", "linked/x"])
def test_folders_that_a_setting_names_lie_inside(tmp_path, place):
    setting = load_recipe(RECIPE).settings[0]
    folder = setting_folder(tmp_path, setting)
    folder.mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path.parent)
    for part in ("runs", "arms", "retrodicted"):
        content = {"runs": {"forgetting": "a"}, "arms": {"naive": "a"}, "retrodicted": {"known": "a"}, "seconds": {}}
        content[part] = dict.fromkeys(content[part], place)
        (folder / "setting.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="leads out of|is a link"):
            SettingResult.load(setting, tmp_path)


def shard_row(**changes) -> dict:
    stages = [[0.5, 1.0]] * 7
    row = {"trial": 0, "architecture": "cnn", "width": 9, "data_set": "d", "examples": 3, "sampling_ratio": 0.5,
           "learning_rate": 0.1, "batch_size": 1, "epochs": 1, "optimizer": "sgd", "schedule": "cosine", "tensor": "w",
           "layer": "Linear", "kind": "fc", "shape": [2], "stages": stages}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    "changes, match",
    [({"shape": [3]}, "has 2 values, not"), ({"shape": [-1, -2]}, "has 2 values, not"), ({"shape": None}, "lacks its"),
     ({"shape": [None]}, "lacks its"), ({"kind": None}, "lacks its"), ({"stages": None}, "lacks its"),
     ({"stages": [[0.5, 1.0], None]}, "lacks its"), ({"stages": []}, "unequal"), ({"sampling_ratio": 7.0}, "between"),
     ({"sampling_ratio": float("nan")}, "between"), ({"shape": [2**62, 2**62]}, "has 2 values, not")],
)  # fmt: skip
def test_shards_that_lie_are_refused(tmp_path, changes, match):
    path = tmp_path / "trial-000000.parquet"
    pq.write_table(pa.Table.from_pylist([shard_row(), shard_row(**changes)], schema=SCHEMA), path)
    with pytest.raises(TrajectoryError, match=match):
        list(read_shard(path))


def test_shards_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "trial-000000.parquet"
    table = pa.Table.from_pylist([shard_row()], schema=SCHEMA)
    pq.write_table(table, path)
    (found,) = read_shard(path)
    assert found.values.shape == (7, 2) and found.values.dtype == np.float32
    for metadata in ("{", "[]", "3", '{"version": null}', "[" * 100_000):
        pq.write_table(table.replace_schema_metadata({"know_hf": metadata}), path)
        with pytest.raises(TrajectoryError, match="is no shard of a meta-data set"):
            list(read_shard(path))
    other = SCHEMA.set(SCHEMA.get_field_index("stages"), pa.field("stages", pa.string()))
    pq.write_table(pa.Table.from_pylist([shard_row(stages="x")], schema=other), path)
    with pytest.raises(TrajectoryError, match="is no shard of a meta-data set"):
        list(read_shard(path))
    pq.write_table(table, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        with pytest.raises(TrajectoryError, match="is damaged"):
            list(read_shard(path))


def test_networks_that_do_not_fit_their_tensors_are_named(collected, tmp_path):
    folder = shutil.copytree(collected.folder, tmp_path / "meta")
    note = json.loads((folder / "trials" / "trial-000000.json").read_text())
    note["settings"]["width"] += 1
    (folder / "trials" / "trial-000000.json").write_text(json.dumps(note))
    pixels = Examples({"pixel_values": np.zeros((4, 1, 32, 32), np.float32), "labels": np.zeros(4)})
    with pytest.raises(TrajectoryError, match="trial-000000.parquet: tensor .* is not as the trial's network has it"):
        functional_scores(MetaDataSet(folder), ["trial-000000"], {"first": (pixels, pixels)})


def test_a_shard_that_is_another_than_noted_is_named(collected, tmp_path):
    """Whole, of the right format, with other weights: only its bytes tell."""
    folder = shutil.copytree(collected.folder, tmp_path / "meta")
    path = folder / "data" / "trial-000000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["stages"][0][0] += 1e-3
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    with pytest.raises(TrajectoryError, match="trial-000000.parquet is damaged: it is not the file that its note"):
        list(MetaDataSet(folder).read("trial-000000"))
    path.unlink()
    with pytest.raises(TrajectoryError, match="trial-000000.parquet is missing"):
        MetaDataSet(folder)
