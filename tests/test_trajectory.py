"""Checkpoints and trajectories: order, lazy reading, damage."""

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from know_hf import Trajectory, TrajectoryError
from know_hf.trajectory import Checkpoint, TrajectoryRecord, to_history


@pytest.fixture
def folders(tmp_path):
    """Three checkpoints of one layer; every value says which stage it is from."""
    made = []
    for stage in range(3):
        folder = tmp_path / f"checkpoint{stage}"
        folder.mkdir()
        tensors = {"weight": torch.full((4, 3), float(stage)), "bias": torch.full((4,), stage + 0.5)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        made.append(folder)
    return made


def test_stage_order_and_history_order(folders):
    trajectory = Trajectory.from_checkpoints(folders, model=nn.Linear(3, 4), sampling_ratio=0.5)
    assert len(trajectory) == 3 and trajectory.parameters["weight"].kind == "fc"
    stages = trajectory.read("weight", 2, 7)
    assert stages.shape == (3, 5) and stages[:, 0].tolist() == [0, 1, 2]
    assert to_history(stages)[:, 0].tolist() == [2, 1, 0]


def test_kinds_by_name_and_reload(folders, tmp_path):
    trajectory = Trajectory.from_checkpoints(folders, kinds={"weight": "fc"})
    assert trajectory.parameters["bias"].kind == "unknown"
    trajectory.save(tmp_path)
    record = json.loads((tmp_path / "trajectory.json").read_text())
    assert [stage["folder"] for stage in record["stages"]] == ["checkpoint0", "checkpoint1", "checkpoint2"]
    assert torch.equal(Trajectory.load(tmp_path).read("weight"), trajectory.read("weight"))
    with pytest.raises(ValueError, match="either kinds"):
        Trajectory.from_checkpoints(folders)


def test_sharded_reads_like_single_file(tmp_path):
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = BertModel(config)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    one, many = Checkpoint(tmp_path / "one"), Checkpoint(tmp_path / "many")
    assert len(many.files) > 2
    assert one.tensors.keys() == many.tensors.keys()
    for name, tensor in model.state_dict().items():
        if name in one.tensors:
            assert torch.equal(one.read(name), tensor.reshape(-1)) and torch.equal(many.read(name), tensor.reshape(-1))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_every_storage_type(tmp_path, dtype):
    values = torch.arange(7).to(dtype)
    save_file({"x": values, "scalar": values[1].clone(), "none": values[:0].clone()}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert torch.equal(checkpoint.read("x", 2, 5), values[2:5])
    assert checkpoint.read("scalar").shape == (1,) and checkpoint.read("none").numel() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(weight=torch.zeros(4, 4)), r"'weight' is F32 \[4, 3\].*F32 \[4, 4\]"),
        (lambda t: t.update(weight=t["weight"].half()), r"'weight' is F32.*F16"),
        (lambda t: t.pop("bias"), "different tensors.*'bias'"),
        (lambda t: t.update(extra=torch.zeros(1)), "different tensors.*'extra'"),
    ],
)
def test_checkpoints_that_do_not_fit(folders, change, message):
    path = folders[2] / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(TrajectoryError, match=message):
        Trajectory.from_checkpoints(folders, model=nn.Linear(3, 4))


@pytest.mark.parametrize("keep", [0, 4, 60, -1], ids=["empty", "no header", "header cut", "data cut"])
def test_truncated_file(folders, keep):
    path = folders[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrajectoryError, match="damaged"):
        Trajectory.from_checkpoints(folders, model=nn.Linear(3, 4))


def test_not_finite_is_named(folders):
    path = folders[1] / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["weight"][1, 1] = float("nan")
    save_file(tensors, path)
    trajectory = Trajectory.from_checkpoints(folders, model=nn.Linear(3, 4))
    with pytest.raises(TrajectoryError, match="'weight' holds NaN or infinite values in stage 1"):
        trajectory.read("weight")


def test_pickle_checkpoints_are_refused(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TrajectoryError, match="pytorch_model.bin; load it with from_pretrained"):
        Checkpoint(tmp_path).tensors  # noqa: B018
    with pytest.raises(TrajectoryError, match="does not exist"):
        Checkpoint(tmp_path / "nowhere")


def test_index_that_points_elsewhere_is_refused(tmp_path, folders):
    outside = "../checkpoint0/model.safetensors"
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"weight": outside, "bias": outside}})
    )
    with pytest.raises(TrajectoryError, match="outside its folder|damaged"):
        Checkpoint(folder).tensors  # noqa: B018


def test_records_that_cannot_be_used(tmp_path, folders):
    with pytest.raises(TrajectoryError, match="not a forgetting run"):
        Trajectory.load(tmp_path)
    Trajectory.from_checkpoints(folders, kinds={"weight": "fc"}).save(tmp_path)
    content = json.loads((tmp_path / "trajectory.json").read_text())

    def written(**changes):
        (tmp_path / "trajectory.json").write_text(json.dumps({**content, **changes}))
        return Trajectory.load(tmp_path)

    with pytest.raises(TrajectoryError, match="schema version 2.*upgrade know-hf"):
        written(schema_version=2)
    with pytest.raises(TrajectoryError, match="not a trajectory record"):
        written(surprise=1)
    with pytest.raises(TrajectoryError, match="2 of 3 stages; run the same command again"):
        written(stages=[*content["stages"][:2], {**content["stages"][2], "finished": False}])
    with pytest.raises(TrajectoryError, match="at least 2 stages"):
        written(num_stages=1)
    (tmp_path / "trajectory.json").write_text("{half")
    with pytest.raises(TrajectoryError, match="cannot be read"):
        Trajectory.load(tmp_path)


def test_record_is_written_whole_or_not_at_all(tmp_path, folders, monkeypatch):
    trajectory = Trajectory.from_checkpoints(folders, kinds={"weight": "fc"})
    trajectory.save(tmp_path)
    before = (tmp_path / "trajectory.json").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        trajectory.save(tmp_path)
    assert (tmp_path / "trajectory.json").read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".trajectory")]


def test_moved_run_still_loads(image_run, tmp_path):
    source = image_run.trajectory
    shutil.copytree(source.root, tmp_path / "moved")
    moved = Trajectory.load(tmp_path / "moved")
    name = next(iter(source.tensors))
    assert torch.equal(moved.read(name), source.read(name))
    assert TrajectoryRecord.load(tmp_path / "moved").stages[0].folder == "stage-0"


def test_files_larger_than_memory_are_read(tmp_path):
    """A hole of 4 TB, which takes no disk: headers and slices need neither."""
    count = 1 << 40
    header = json.dumps({"a": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + 4 * count)
        except OSError:
            pytest.skip("this file system has no files with holes")
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<f", 2.5))
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.tensors["a"].numel == count
    assert checkpoint.read("a", count - 3).tolist() == [0.0, 0.0, 2.5]
