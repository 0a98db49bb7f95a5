"""Prediction on the CPU by a kernel compiled for the processor at hand: all hidden values stay in registers.

Compiled anew by every process that has work enough to repay it, into a temporary folder: nothing is shared between
processors or users. Without a C++ compiler the folded form of ``inference.py`` does the same, more slowly.
"""

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernel.cpp")
_FLAGS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast"]
#: Weights times steps from which compiling takes less time than it saves.
REPAYS = 4_000_000


def repays(work: int) -> bool:
    """Whether a job of so many weights times steps is worth compiling for."""
    return work >= REPAYS


class Sizes(NamedTuple):
    """Sizes of a KNOWN network that a kernel is made for."""

    stages: int
    hidden: int
    bottleneck: int
    output: int


class Kernel:
    """A compiled kernel.

    Args:
        library: The loaded library.
        pack: Values of a matrix product in a 32-bit lane: 1 (float32) or 2 (bfloat16).
        seconds: Time that compiling took.
    """

    def __init__(self, library: ctypes.CDLL, pack: int, seconds: float) -> None:
        self._predict, self._group, self._pack, self.seconds = library.predict, library.group(), pack, seconds
        self._predict.restype = None
        pointer, long = ctypes.c_void_p, ctypes.c_int64
        self._predict.argtypes = [pointer, pointer, long, long, pointer, long, ctypes.c_int, ctypes.c_float]

    def pack(self, streams: Sequence[Any], head: tuple[Tensor, Tensor]) -> Tensor:
        """Lays a folded network's constants out in the order in which the kernel reads them.

        Args:
            streams: The two folded streams, of values and of differences.
            head: Weight ``(1, 2·output)`` and bias ``(1,)``.

        Returns:
            A flat float32 tensor.
        """
        parts = [head[1]]
        for stream, weights in zip(streams, head[0][0].chunk(2), strict=True):
            parts.append(torch.cat((stream.gates[1], stream.gates[0]), 1))
            affine = (stream.hidden, stream.rate, stream.gain)
            rows = [bias for _, bias in affine] + [stream.hidden[0], *(self._pairs(w) for w, _ in affine[1:])]
            parts.append(torch.cat(rows, 1))
            columns = (stream.shift[1], self._pairs(stream.shift[0]), self._pairs(stream.gated), weights[:, None])
            # (groups, values of a group, columns) → columns of a group one behind the other
            grouped = torch.cat(columns, 1).unflatten(0, (-1, self._group))
            parts.append(grouped.transpose(1, 2))
        return torch.cat([part.flatten() for part in parts]).contiguous()

    def _pairs(self, matrix: Tensor) -> Tensor:
        if self._pack == 1:
            return matrix
        even = torch.nn.functional.pad(matrix, (0, matrix.shape[1] % 2))
        return even.bfloat16().contiguous().view(torch.float32)

    def predict(self, constants: Tensor, slope: float, history: Tensor, predicted: Tensor) -> None:
        """Fills ``(steps, n)`` from ``(S, n)`` float32 histories; both with contiguous rows."""
        self._predict(
            constants.data_ptr(), history.data_ptr(), history.shape[1], history.stride(0),
            predicted.data_ptr(), predicted.stride(0), len(predicted), slope,
        )  # fmt: skip


@cache
def compile_kernel(sizes: Sizes, bfloat16: bool = False) -> Kernel | None:
    """Compiles the kernel for a network of such sizes.

    Args:
        sizes: The network's.
        bfloat16: Whether the products of hidden values are of bfloat16, added in float32.

    Returns:
        The kernel, or None where there is no compiler, or no bfloat16 in the processor.
    """
    command = compiler()
    if command is None or not _SOURCE.is_file() or (bfloat16 and not has_bfloat16()):
        return None
    pack = 2 if bfloat16 else 1
    macros = {**{name.upper(): value for name, value in sizes._asdict().items()}, "PACK": pack}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="know-hf-", ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "kernel.so"
        arguments = [f"-D{name}={value}" for name, value in macros.items()] + [str(_SOURCE), "-o", str(library)]
        try:
            subprocess.run([*command, *_FLAGS, *arguments], check=True, capture_output=True, text=True, timeout=120)
            loaded = ctypes.CDLL(str(library))
        except (OSError, subprocess.SubprocessError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
            logger.warning(f"{command[0]} cannot compile the prediction kernel ({reason}); predicting without it.")
            return None
    return Kernel(loaded, pack, time.perf_counter() - start)


def compiler() -> list[str] | None:
    """The C++ compiler, ``$CXX`` first, or None."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [["g++"], ["clang++"], ["c++"]]:
        if shutil.which(command[0]):
            return command
    return None


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 (AVX-512 BF16)."""
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
