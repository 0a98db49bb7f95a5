"""Files from elsewhere: whatever they hold, the answer is an error in words, and nothing of this machine gets out."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from know_hf import Trajectory, TrajectoryError, enrich, enrich_pretrained
from know_hf.cli.main import main
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.record import FILE_NAME, TrajectoryRecord

#: Bad inputs tried by each of the random tests.
CASES = 500
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
bounded = settings(
    max_examples=CASES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture(scope="module")
def record(image_run) -> dict:
    return json.loads((image_run.trajectory.root / FILE_NAME).read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint of two tensors."""
    save_file({"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}, tmp_path / "model.safetensors")
    return tmp_path


def places(value, path=()):
    """Every place in a JSON value, as keys from the outside in."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value, path, new):
    """A copy with another value at one place."""
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


@bounded
@given(data=st.data())
@pytest.mark.slow
def test_any_record_is_read_or_refused(record, tmp_path_factory, data):
    path = data.draw(st.sampled_from(list(places(record))))
    folder = tmp_path_factory.mktemp("record")
    (folder / FILE_NAME).write_text(json.dumps(changed(record, path, data.draw(anything))))
    try:
        trajectory = Trajectory.load(folder)
        len(trajectory), repr(trajectory), trajectory.parameters
    except TrajectoryError as error:
        assert str(error)


@bounded
@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_for_a_record(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("text")
    (folder / FILE_NAME).write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    with pytest.raises(TrajectoryError):
        TrajectoryRecord.load(folder)


@bounded
@given(data=st.data())
def test_any_header_is_read_or_refused(tmp_path_factory, data):
    header = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
              "b": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]}}  # fmt: skip
    path = data.draw(st.sampled_from(list(places(header))))
    numbers = st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, 15, 16, 17, 22, 23, 2**31, 2**53, 2**63, 2**64])
    text = json.dumps(changed(header, path, data.draw(anything | numbers))).encode()
    length = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    folder = tmp_path_factory.mktemp("header")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + text + bytes(22))
    read_or_refused(folder)


@bounded
@given(data=st.data())
def test_any_index_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("index")
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors"}}
    path = data.draw(st.sampled_from(list(places(index))))
    hostile = st.sampled_from(["../one.safetensors", "/etc/passwd", "..\\one.safetensors", "", ".", "\0", "a" * 5000])
    content = changed(index, path, data.draw(anything | hostile))
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    read_or_refused(folder)


def read_or_refused(folder: Path) -> None:
    try:
        checkpoint = Checkpoint(folder)
        for name, spec in checkpoint.tensors.items():
            assert spec.file.parent == folder and spec.nbytes < 1000
            checkpoint.read(name)
    except TrajectoryError as error:
        assert str(error)


@pytest.mark.parametrize(
    "entries",
    [
        {"a": ([4], [0, 16]), "b": ([4], [8, 24])},  # overlap
        {"a": ([4], [0, 16]), "b": ([4], [32, 48])},  # a hole
        {"a": ([4], [0, 2**62])},  # beyond the end
        {"a": ([2**40, 2**40], [0, 16])},  # more values than can be counted
        {"a": ([-4], [0, 16])},
        {"a": ([4], [16, 0])},
    ],
)
def test_offsets_that_lie(tmp_path, entries):
    header = {n: {"dtype": "F32", "shape": shape, "data_offsets": at} for n, (shape, at) in entries.items()}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(48))
    with pytest.raises(TrajectoryError, match="damaged"):
        Checkpoint(tmp_path).tensors  # noqa: B018


def test_companions_from_outside_are_not_copied(trajectory, tmp_path):
    """A link in a stage folder must not carry a file of this machine into what is published."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trajectory.root, run, ignore=shutil.ignore_patterns("training", "enriched*", "self-check"))
    (tmp_path / "secret.json").write_text("secret")
    (run / "stage-0" / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    (run / "stage-0" / "vocab.json").symlink_to(run / "stage-0" / "config.json")
    made = enrich(run, tmp_path / "out", steps=1).checkpoints["x2"]
    assert not (made / "tokenizer.json").exists() and (made / "vocab.json").exists()


def test_companions_in_a_download_cache_are_copied(trajectory, tmp_path):
    """There, every file of a snapshot is a link into the repository's own blobs."""
    import shutil

    stages = []
    for stage in range(5):
        snapshot = tmp_path / f"models--user--stage{stage}" / "snapshots" / "1234"
        blobs = snapshot.parents[1] / "blobs"
        shutil.copytree(trajectory.checkpoints[stage].folder, blobs)
        snapshot.mkdir(parents=True)
        for path in blobs.iterdir():
            (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
        stages.append(snapshot)
    kinds = {name: p for name, p in trajectory.parameters.items()}
    made = enrich(Trajectory.from_checkpoints(stages, kinds=kinds), tmp_path / "out", steps=1).checkpoints["x2"]
    assert (made / "config.json").is_file() and not (made / "config.json").is_symlink()


def test_code_in_a_model_folder_does_not_run_unasked(tmp_path, images, capsys):
    folder, marker = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    config = {
        "model_type": "stranger",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\n")
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises((ValueError, OSError)):
        enrich_pretrained(str(folder), images, tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["plan", str(folder)])
    assert "know-hf: error" in capsys.readouterr().err and not marker.exists()


def test_names_of_files_work_everywhere(image_run, trajectory, tmp_path):
    """No name needs what Windows lacks."""
    enrich(trajectory, tmp_path / "out", steps=3)
    made = [*trajectory.root.rglob("*"), *(tmp_path / "out").rglob("*")]
    assert len(made) > 20
    for path in made:
        assert not set(path.name) & set('<>:"\\|?*') and not path.name.endswith((".", " ")), path
        assert path.stem.upper() not in ("CON", "PRN", "AUX", "NUL") and len(path.name) < 100


@pytest.mark.parametrize(
    "command",
    [
        ["enrich", "--model", "nowhere", "--dataset", "nowhere", "--output-dir"],
        ["forget", "--model", "nowhere", "--dataset", "nowhere", "--output-dir"],
        ["compare", "--arms", "naive={0}", "x2={1}", "--dataset", "nowhere", "--output-dir"],
        ["predict", "{0}", "--output-dir"],
        ["predict", "nowhere/a", "nowhere/b", "--output-dir"],
        ["collect", "--data", "nowhere", "--output-dir"],
        ["convert", "nowhere"],
        ["quickstart", "--output-dir"],
    ],
    ids=lambda command: command[0],
)
def test_folders_that_cannot_be_written(trajectory, tmp_path, capsys, command):
    """Before anything named is looked for, whatever permissions say."""
    (tmp_path / "file").touch()
    command = [word.format(trajectory.root, trajectory.root / "stage-1") for word in command]
    for folder, told in (
        ("/proc/know-hf", "cannot be written to"),
        (f"{tmp_path}/file/out", r"cannot be written to \(Not a directory\)"),
        (f"{tmp_path}/file", "(is a file|is not an empty folder)"),
    ):
        with pytest.raises(SystemExit):
            main([*command, folder])
        shown = capsys.readouterr()
        error = shown.err.splitlines()[-1]
        assert not shown.out and "Traceback" not in shown.err and re.search(f"{folder} .*{told}", error), error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
