"""Folders of meta-data that came from someone else, or are damaged, and trials that cannot be run."""

import logging
import os
import shutil

import pytest
from conftest import FAST_TRIALS
from test_meta import content

from know_hf.meta.collection import collect
from know_hf.sharing import turn
from know_hf.store import this_machine


@pytest.mark.parametrize("name", ["work", "trials", "times", "data", "branches", "cache", "work/trial-000000"])
def test_nothing_is_written_or_deleted_through_a_link(data, tmp_path, name):
    mine = tmp_path / "precious" / "trial-000000" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    unfinished = tmp_path / "precious" / f".mine.{this_machine()}-{os.getpid()}-00000000.partial"
    unfinished.touch()
    before = sorted((tmp_path / "precious").rglob("*"))
    link = tmp_path / "meta" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=f"{link} is a link, through which nothing is written or deleted"):
        collect(tmp_path / "meta", data, trials=1, **FAST_TRIALS)
    assert sorted((tmp_path / "precious").rglob("*")) == before and mine.read_text() == "mine"


def test_a_lock_that_is_a_link_empties_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "x.lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="x.lock is a link"), turn(tmp_path / "x.lock"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_damaged_shard_is_named_and_made_again(data, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "meta"
    folder.symlink_to(tmp_path / "elsewhere")  # the folder itself may be a link
    collect(folder, data, trials=1, branches=1, **FAST_TRIALS)
    whole = content(folder)
    for part in ("data", "branches"):
        path = folder / part / "trial-000000.parquet"
        kept, good = path.stat().st_mtime_ns, path.read_bytes()
        for damaged in (good[: len(good) // 2], good[:-9] + b"x" + good[-8:]):
            path.write_bytes(damaged)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                collect(folder, data, trials=1, branches=1, **FAST_TRIALS)
            assert f"{path} is damaged" in caplog.text and path.read_bytes() == good
        assert path.stat().st_mtime_ns != kept
    assert content(folder) == whole


def test_trials_too_small_for_their_stages_are_found_before_anything_is_made(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"The trial of seed \d+ cannot be run: .* stage.* Raise the range of .*3 to 5"
    ):
        collect(tmp_path / "meta", data, trials=20, examples=(3, 5), epochs=(1, 1))
    assert not (tmp_path / "meta").exists()


def test_data_that_do_not_fit_are_found_before_any_are_prepared(data, tmp_path):
    small = shutil.copytree(data[1], tmp_path / "small")
    shutil.copyfile(small / "data" / "test-00000-of-00001.parquet", small / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="100 training images; trials need 10 and 400"):
        collect(tmp_path / "meta", [data[0], str(small)], trials=1, **FAST_TRIALS)
    assert not (tmp_path / "meta" / "cache").exists()
