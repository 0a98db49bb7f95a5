"""Prediction on the CPU by a kernel compiled for the processor at hand: all hidden values stay in registers.

Compiled anew by every process that has work enough to repay it, into a temporary folder: nothing is shared between
processors or users. Without a C++ compiler the folded form of ``inference.py`` does the same, more slowly.
"""

import ctypes
import logging
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernel.cpp")
_FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast"]
#: What makes a compiler use all that the processor at hand has. Not every compiler for ARM knows ``-march=native``.
TARGET = ["-mcpu=native"] if platform.machine().lower() in ("aarch64", "arm64") else ["-march=native"]
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
        self._predict, self._rows, self._pack, self.seconds = library.predict, library.rows, pack, seconds
        self._predict.restype = None
        pointer, long = ctypes.c_void_p, ctypes.c_int64
        self._predict.argtypes = [pointer, pointer, long, long, pointer, long, ctypes.c_int]

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
            parts.append(self._grouped(stream.gates[1], stream.gates[0]))
            # exp(rate · value) is taken as a power of two.
            rate = [part.double().mul(1 / math.log(2)).float() for part in stream.rate]
            columns = [stream.hidden[::-1]] + [(bias, self._pairs(weight)) for weight, bias in (rate, stream.gain)]
            parts.append(self._grouped(*chain.from_iterable(columns)))
            leaky = torch.stack((weights * stream.slope, weights * (1 - stream.slope)), 1)
            parts.append(self._grouped(stream.shift[1], self._pairs(stream.shift[0]), self._pairs(stream.gated), leaky))
        return torch.cat([part.flatten() for part in parts]).contiguous()

    def _grouped(self, *columns: Tensor) -> Tensor:
        """``(rows, …)`` columns of a layer; of each tile of rows, column after column."""
        matrix = torch.cat(columns, 1)
        return matrix.unflatten(0, (-1, self._rows(len(matrix)))).transpose(1, 2)

    def _pairs(self, matrix: Tensor) -> Tensor:
        if self._pack == 1:
            return matrix
        even = torch.nn.functional.pad(matrix, (0, matrix.shape[1] % 2))
        return even.bfloat16().contiguous().view(torch.float32)

    def predict(self, constants: Tensor, history: Tensor, predicted: Tensor) -> None:
        """Fills ``(steps, n)`` from ``(S, n)`` float32 histories; both with contiguous rows."""
        self._predict(
            constants.data_ptr(), history.data_ptr(), history.shape[1], history.stride(0),
            predicted.data_ptr(), predicted.stride(0), len(predicted),
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
    if command is None and (named := os.environ.get("CXX")):
        logger.warning("$CXX is %r, which is not there; predicting without the compiled kernel.", named)
    if command is None or not _SOURCE.is_file() or (bfloat16 and not has_bfloat16()):
        return None
    pack = 2 if bfloat16 else 1
    macros = {**{name.upper(): value for name, value in sizes._asdict().items()}, "PACK": pack}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="know-hf-", ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "kernel.so"
        flags = [*_FLAGS, *TARGET, *(f"-D{name}={value}" for name, value in macros.items())]
        line = [*command, *flags, str(_SOURCE), "-o", str(library)]
        try:
            subprocess.run(line, check=True, capture_output=True, text=True, timeout=120)
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
