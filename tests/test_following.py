"""Hashes that follow a reader: those of the whole files, whatever was read, and every byte once."""

import hashlib
import os

import pytest

from know_hf.enrichment import following
from know_hf.enrichment.following import FollowingHashes
from know_hf.store import hash_file, known_hash


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "_BLOCK", 1000)
    monkeypatch.setattr(following, "_STRIDE", 5000)
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, size in zip(paths, (0, 123, 40_000), strict=True):
        path.write_bytes(os.urandom(size))
    return paths


@pytest.mark.parametrize("order", ["forwards", "backwards", "not at all"])
def test_hashes_are_those_of_the_whole_files(files, order, monkeypatch):
    with FollowingHashes(files) as hashes:
        places = range(1000, 41_000, 1000)
        for stop in {"forwards": places, "backwards": reversed(places), "not at all": ()}[order]:
            hashes.follow([(path, min(stop, path.stat().st_size)) for path in files])
    for path in files:
        assert known_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest() == hash_file(path)
    monkeypatch.setattr(following, "_Followed", None)  # whose hash is known is not read again
    with FollowingHashes(files):
        pass


def test_a_file_that_changes_is_hashed_anew(files):
    path = files[2]
    with FollowingHashes([path]) as hashes:
        hashes.follow([(path, 20_000)])
        path.write_bytes(b"another")
    assert hash_file(path) == hashlib.sha256(b"another").hexdigest()


def test_a_failure_leaves_nothing(files):
    with pytest.raises(KeyError), FollowingHashes(files) as hashes:
        hashes.follow([(files[2], 20_000)])
        raise KeyError
    assert known_hash(files[2]) is None
