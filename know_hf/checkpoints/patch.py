"""Byte ranges of a checkpoint's tensors, overwritten in place."""

from pathlib import Path
from threading import Lock
from typing import BinaryIO

from torch import Tensor

from know_hf.checkpoints.checkpoint import DTYPES, Checkpoint, all_finite, bytes_of


class NotFiniteError(ValueError):
    """Raised where values are to be stored that are NaN, infinite, or too large for the storage type."""


class CheckpointPatch:
    """Overwrites byte ranges of a checkpoint's tensors in place, from any thread; header and every other byte stay.

    Args:
        folder: A checkpoint folder of our own; never an input.
    """

    def __init__(self, folder: Path):
        self._checkpoint = Checkpoint(folder)
        self._files: dict[Path, BinaryIO] = {}
        self._lock = Lock()

    def __enter__(self) -> "CheckpointPatch":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, name: str, start: int, values: Tensor) -> Tensor:
        """Overwrites values from ``start`` of a flattened tensor, in its storage type.

        Returns:
            The values as stored, ``(n,)``.

        Raises:
            NotFiniteError: If a value is not finite; nothing is written.
        """
        spec = self._checkpoint.tensors[name]
        stored = values.to(DTYPES[spec.dtype]).contiguous()
        if stored.is_floating_point() and not all_finite(stored):
            raise NotFiniteError(
                f"The prediction of tensor {name!r} is not finite in {spec.dtype}; nothing was written."
            )
        with self._lock:
            file = self._files.get(spec.file)
            if file is None:
                file = self._files[spec.file] = open(spec.file, "r+b", buffering=0)
            file.seek(spec.offset + start * spec.itemsize)
            view = bytes_of(stored)
            while view:
                view = view[file.write(view) :]
        return stored
