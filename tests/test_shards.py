"""Sharded checkpoints whose index and files disagree, and tensors of every type that safetensors knows."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from know_hf import Trajectory, TrajectoryError, enrich
from know_hf.checkpoints.checkpoint import DTYPES
from know_hf.plan import make_plan
from know_hf.trajectory import Checkpoint


@pytest.fixture
def sharded(tmp_path):
    """Two shards of two tensors, with their index."""
    for shard in ("a", "b"):
        tensors = {f"{shard}.weight": torch.ones(4, 4), f"{shard}.bias": torch.ones(4)}
        save_file(tensors, tmp_path / f"{shard}.safetensors", metadata={"format": "pt"})
    index(tmp_path, {f"{shard}.{role}": f"{shard}.safetensors" for shard in "ab" for role in ("weight", "bias")})
    return tmp_path


def index(folder, places) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def places(folder) -> dict[str, str]:
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def added(folder, name, tensor) -> None:
    save_file({**load_file(folder), name: tensor}, folder, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [7.0, 1.0], ids=["other", "same"])
def test_a_tensor_in_two_shards_is_refused(sharded, value):
    """from_pretrained takes the last file's, others the index's."""
    added(sharded / "b.safetensors", "a.weight", torch.full((4, 4), value))
    with pytest.raises(TrajectoryError, match=r"'a.weight' lies both in a.safetensors and in b.safetensors.*save_pre"):
        Checkpoint(sharded).tensors  # noqa: B018


def test_an_index_that_is_of_other_files(sharded):
    index(sharded, {**places(sharded), "c.weight": "a.safetensors"})
    with pytest.raises(TrajectoryError, match="says that tensor 'c.weight' lies in a.safetensors, where it is not"):
        Checkpoint(sharded).tensors  # noqa: B018
    index(sharded, {**places(sharded), "c.weight": "c.safetensors", "d.weight": "d.safetensors"})
    with pytest.raises(TrajectoryError, match=r"lacks 2 of the 4 files .*, e.g. 'c.safetensors'; restore them"):
        Checkpoint(sharded).tensors  # noqa: B018


def test_an_index_that_swaps_its_files(sharded):
    index(sharded, {**places(sharded), "a.weight": "b.safetensors"})
    with pytest.raises(TrajectoryError, match="says that tensor 'a.weight' lies in b.safetensors, where it is not"):
        Checkpoint(sharded).tensors  # noqa: B018


def test_what_the_index_forgot_is_read_all_the_same(sharded):
    """As from_pretrained does, which loads whole files."""
    index(sharded, {name: file for name, file in places(sharded).items() if name != "b.bias"})
    assert sorted(Checkpoint(sharded).tensors) == ["a.bias", "a.weight", "b.bias", "b.weight"]


#: Every storage type of safetensors, with its bits.
TYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16,
    "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def written(folder, seed: int):
    """A checkpoint of a matrix to predict, and of a table and an empty tensor of every type."""
    torch.manual_seed(seed)
    data, header = torch.randn(8, 8).numpy().tobytes(), {}
    header["fc.weight"] = {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, len(data)]}
    for kind, bits in TYPES.items():
        table = bytes(i % 2 for i in range(4 * bits))
        header[f"none.{kind}"] = {"dtype": kind, "shape": [0, 8], "data_offsets": [len(data)] * 2}
        header[kind] = {"dtype": kind, "shape": [4, 8], "data_offsets": [len(data), len(data) + len(table)]}
        data += table
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def test_every_type_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("know_hf.plan._SECONDS", 0.01)
    folders = [written(tmp_path / f"stage{stage}", stage) for stage in range(3)]
    trajectory = Trajectory.from_checkpoints(folders, kinds={"fc.weight": "fc"})
    assert {kind: trajectory.tensors[kind].nbytes for kind in TYPES} == {kind: 4 * bits for kind, bits in TYPES.items()}
    made = enrich(trajectory, tmp_path / "out", method="linear_fit", steps=1).checkpoints["x2"]
    before, after = ((f / "model.safetensors").read_bytes() for f in (folders[0], made))
    start = trajectory.tensors["fc.weight"].offset
    assert before[:start] == after[:start] and before[start + 256 :] == after[start + 256 :] and before != after
    with safe_open(made / "model.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(trajectory.tensors)
    trajectory.save(tmp_path / "run")
    assert len(make_plan(tmp_path / "run", steps=1).copied) == 2 * len(TYPES)
    for kind in TYPES:
        if kind in DTYPES:
            assert trajectory.checkpoints[0].read(kind).numel() == 32
        else:
            with pytest.raises(TrajectoryError, match=f"is of type {kind}, which can only be copied"):
                trajectory.checkpoints[0].read(kind)
    with pytest.raises(ValueError, match="'C64' is a buffer or not floating point; it can only be copied"):
        enrich(trajectory, tmp_path / "out", steps=1, kinds={"C64": "fc"})
