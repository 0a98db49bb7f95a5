"""Results that are there: taken as finished only if they are whole, and written where they are asked for."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import link, run_cli
from datasets import is_caching_enabled, load_from_disk
from safetensors.torch import load_file, save_file

import know_hf.store
from know_hf import Trajectory, TrajectoryError, enrich
from know_hf.cli.main import main
from know_hf.pretrained import forget_pretrained
from know_hf.store import inside, locked, read_json, write_tensors, write_text, writing


@pytest.fixture
def run(tmp_path, trajectory) -> Path:
    """A finished run of one's own, with its predictions."""
    folder = tmp_path / "run"
    shutil.copytree(trajectory.root, folder)
    enrich(folder, steps=2)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def another_header(path: Path) -> None:
    save_file(load_file(path), path, metadata={"format": "pt", "note": "of someone else's"})
    os.truncate(path, path.stat().st_size)


def without_statistics(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["statistics"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name, damage, said",
    [
        ("model.safetensors", halve, "model.safetensors has"),
        ("model.safetensors", lambda path: os.truncate(path, 0), "model.safetensors has 0 bytes"),
        ("model.safetensors", Path.unlink, "model.safetensors is missing"),
        ("model.safetensors", another_header, "model.safetensors has"),
        ("config.json", lambda path: os.truncate(path, 0), "config.json is empty"),
        ("config.json", Path.unlink, "config.json is missing"),
        ("enrichment.json", without_statistics, "statistics must be name: value pairs"),
    ],
)
def test_a_damaged_result_is_named_and_made_again(run, caplog, name, damage, said):
    whole, other = ((run / "enriched" / step / "model.safetensors").read_bytes() for step in ("x2", "x4"))
    untouched = listing(run / "enriched" / "x4")
    damage(run / "enriched" / "x2" / name)
    result = enrich(run, steps=2)
    assert said in caplog.text and "x2 is damaged" in caplog.text and "x4 is damaged" not in caplog.text
    assert (result.checkpoints["x2"] / "model.safetensors").read_bytes() == whole
    assert (result.checkpoints["x4"] / "model.safetensors").read_bytes() == other
    assert listing(run / "enriched" / "x4") == untouched
    assert (run / "enriched" / "x2" / name).stat().st_size and not list(run.rglob("*.partial"))


def test_a_changed_weight_is_found_where_hashes_are_asked_for(run, caplog):
    path = run / "enriched" / "x2" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    enrich(run, steps=2)
    assert "damaged" not in caplog.text and path.read_bytes() != whole
    main(["predict", str(run), "--steps", "2", "--verify"])
    assert "model.safetensors has another hash than it was written with" in caplog.text
    assert path.read_bytes() == whole


def test_edited_cards_and_configurations_are_no_damage(run, caplog):
    folder = run / "enriched" / "x2"
    (folder / "README.md").write_text("My own words.")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    enrich(run, steps=2, verify=True)
    assert "damaged" not in caplog.text and (folder / "README.md").read_text() == "My own words."


def test_predicting_elsewhere_leaves_the_run_as_it_is(tmp_path, run):
    before = listing(run)
    run_cli("predict", run, "--output-dir", tmp_path / "elsewhere", "--steps", "1", "--method", "shrink")
    assert listing(run) == before
    assert (tmp_path / "elsewhere" / "report" / "retrodiction.md").is_file()
    assert enrich(run, tmp_path / "elsewhere", method="shrink", steps=1).output_dir == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "name, value", [("fc.bias", float("nan")), ("bn1.weight", float("inf")), ("bn1.running_var", float("nan"))]
)
def test_what_is_copied_is_finite(tmp_path, run, name, value):
    weights = load_file(run / "stage-0" / "model.safetensors")
    name = next(stored for stored in weights if stored.endswith(name))
    weights[name].view(-1)[0] = value
    save_file(weights, run / "stage-0" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrajectoryError, match=f"Tensor '{name}' holds NaN or infinite values in stage 0"):
        enrich(run, tmp_path / "out", kinds={"*fc.bias": "copy"})
    assert not list((tmp_path / "out").glob("*x*"))


def test_masks_of_infinities_are_copied(tmp_path, run):
    for stage in Trajectory.load(run).checkpoints:
        weights = load_file(stage.folder / "model.safetensors") | {"mask": torch.full((2, 2), float("-inf"))}
        save_file(weights, stage.folder / "model.safetensors", metadata={"format": "pt"})
    made = enrich(run, tmp_path / "out", steps=1).checkpoints["x2"]
    assert load_file(made / "model.safetensors")["mask"].isinf().all()


@pytest.mark.parametrize("name", ["report", "enriched", "self-check"])
def test_nothing_is_written_through_a_link_in_a_run(precious, run, name):
    shutil.rmtree(run / name, ignore_errors=True)
    link(run / name, precious)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        if name == "report":
            run_cli_report(run)
        elif name == "enriched":
            enrich(run)
        else:
            from know_hf.enrichment.self_check import check_retrodiction

            check_retrodiction(Trajectory.load(run))


def test_data_saved_to_disk_stay_as_they_are(tmp_path, text_model_folder, sentences):
    """The library would keep its tokens beside what they were made of."""
    sentences.save_to_disk(tmp_path / "saved")
    before = listing(tmp_path / "saved")
    dataset = load_from_disk(str(tmp_path / "saved"))
    forget_pretrained(text_model_folder, dataset, tmp_path / "run", num_stages=2, max_steps=1, disable_tqdm=True)
    assert listing(tmp_path / "saved") == before and is_caching_enabled()


def run_cli_report(run: Path) -> None:
    from know_hf.report.write import write_page

    write_page(run)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../b", "/etc", "a/./..", "C:\\x", "\\\\host\\share", "a\0b", "..\\x"]
)
def test_what_leads_out_of_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of"):
        inside(tmp_path, name)


def test_links_in_a_folder(tmp_path):
    (tmp_path / "real" / "deeper").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "linked", "deeper/x") == tmp_path / "linked" / "deeper" / "x"
    for name in ("linked", "linked/deeper"):
        with pytest.raises(ValueError, match="is a link, through which nothing"):
            inside(tmp_path, name)


def test_a_file_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError):
        with writing(path) as beside:
            beside.write_text("half")
            raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    # What a killed process left is replaced, and a link in its place not followed.
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / ".file.partial").symlink_to(target)
    write_text(path, "new")
    assert path.read_text() == "new" and target.read_text() == "precious"


def test_everything_is_flushed_before_it_has_its_name(tmp_path, monkeypatch):
    """File, name and the folder of the name, in this order."""
    done = []
    flush, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), flush(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"{b} named"), replace(a, b)))
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(3)})
    beside, final = tmp_path / ".weights.safetensors.partial", tmp_path / "weights.safetensors"
    assert done == [f"{beside} named", str(beside), f"{final} named", str(tmp_path)]
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' * 100_000, "\ufffe", "1" * 5000])
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="x.json cannot be read"):
        read_json(tmp_path / "x.json")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """As some network file systems are: a file that names its owner stands for the lock."""

    def none(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(know_hf.store, "FileLock", none)
    owner = tmp_path / ".know-hf.lock.owner"
    hold = "import sys, filelock, os; held = filelock.SoftFileLock(sys.argv[1]); held.acquire(); {}"
    killed = subprocess.run([sys.executable, "-c", hold.format("os.kill(os.getpid(), 9)"), owner])
    assert killed.returncode == -9 and owner.exists()  # left behind, and taken over
    with locked(tmp_path), locked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [owner.name]
    holding = subprocess.Popen(
        [sys.executable, "-c", hold.format("print(flush=True), sys.stdin.read()"), owner],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holding.stdout.readline()
    with pytest.raises(BlockingIOError, match="in use by another run"), locked(tmp_path):
        pass
    holding.communicate()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_whole_or_not_there(tmp_path):
    final = tmp_path / "made"
    with pytest.raises(RuntimeError), know_hf.store.making(final) as beside:
        (beside / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "of a killed process").touch()
    with know_hf.store.making(final) as beside:
        (beside / "whole").touch()
    assert [path.name for path in final.iterdir()] == ["whole"] and len(list(tmp_path.iterdir())) == 1
