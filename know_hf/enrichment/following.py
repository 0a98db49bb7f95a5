"""Hashes of files that something else reads: at its pace, so that the disk gives every byte once."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from know_hf.store import known_hash, remember_hash

# Bytes read at a time, of which every file has one buffer; and how far a hash may lie behind: not far enough for what
# was read to have left the memory, and far enough that threads seldom change hands.
_BLOCK, _STRIDE = 1 << 20, 1 << 23


class FollowingHashes:
    """SHA-256 of files, each as far as it was read by somebody else; at the end whole, for [`hash_file`].

    Args:
        paths: The files; of one whose hash is known nothing is read.

    Example:
        >>> from know_hf.enrichment.following import FollowingHashes
        >>> with FollowingHashes(["stage-0/model.safetensors"]) as hashes:  # doctest: +SKIP
        ...     hashes.follow([("stage-0/model.safetensors", 4096)])
    """

    def __init__(self, paths: Iterable[Path]):
        self._files = {path: _Followed(path) for path in dict.fromkeys(paths) if known_hash(path) is None}
        self._pool = ThreadPoolExecutor(max(1, torch.get_num_threads()), "hash")
        self._behind: list[Future] = []

    def __enter__(self) -> "FollowingHashes":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self.follow([(path, None) for path in self._files])
                self._wait()
                for followed in self._files.values():
                    followed.remember()
        finally:
            self._pool.shutdown(cancel_futures=True)
            for followed in self._files.values():
                followed.close()

    def follow(self, places: Sequence[tuple[Path, int | None]]) -> None:
        """Says up to which byte files were read; None for their end. Waits for what was said before.

        What lies there is in memory still, and is hashed on threads of its own.
        """
        further = [(self._files[path], stop) for path, stop in places if path in self._files]
        further = [(file, stop) for file, stop in further if stop is None or stop >= file.at + _STRIDE]
        if further:
            self._wait()
            self._behind = [self._pool.submit(file.advance, stop) for file, stop in further]

    def _wait(self) -> None:
        for future in self._behind:
            future.result()
        self._behind = []


class _Followed:
    """One file that is hashed from its beginning, further and further."""

    def __init__(self, path: Path):
        self.path, self._status = path, path.stat()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed below)
        self._digest, self._buffer = hashlib.sha256(), bytearray(_BLOCK)
        self.at = 0

    def advance(self, stop: int | None) -> None:
        """Hashes on to a byte, or to the end of the file."""
        stop, view = self._status.st_size if stop is None else stop, memoryview(self._buffer)
        while self.at < stop and (count := self._file.readinto(view[: stop - self.at])):
            self._digest.update(view[:count])
            self.at += count

    def remember(self) -> None:
        """Keeps the hash, unless the file is another one by now."""
        now = os.stat(self.path)
        if (now.st_size, now.st_mtime_ns) == (self.at, self._status.st_mtime_ns):
            remember_hash(self.path, now, self._digest.hexdigest())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
