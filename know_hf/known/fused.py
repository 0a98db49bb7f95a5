"""One GPU kernel for a KNOWN network: all hidden values stay on chip, all steps of the sliding window in one launch.

The folded form of ``inference.py``, for Triton. A program takes a block of weights through every step: it reads their
history, runs both streams as small matrix products, and writes the predicted values, which the next step reads back.
Without Triton, or for sizes that its matrix products do not take, the folded form does the same in many launches.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of torch come without
    triton = None

# Smallest side of a matrix product in Triton: stages and bottleneck are padded to it with zeros.
_PAD = 16
_BLOCK, _WARPS = 64, 4


def kernel(device: torch.device, sizes: tuple[int, int, int, int], bfloat16: bool = False) -> "FusedKernel | None":
    """The kernel for a network of so many stages, hidden, bottleneck and output values, or None if it cannot run."""
    stages, hidden, bottleneck, output = sizes
    fits = max(stages, bottleneck) <= _PAD and all(n >= _PAD and n & (n - 1) == 0 for n in (hidden, output))
    runs = triton is not None and (device.type == "cuda" or _interpreted())
    return FusedKernel(stages, hidden, output, bfloat16) if fits and runs else None


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python; read as Triton reads it, whose older versions do not tell."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@dataclass(frozen=True)
class FusedKernel:
    """Runs the kernel below.

    Args:
        stages: Number S of stages.
        hidden: Width of the gated layer.
        output: Width of each stream's last layer.
        bfloat16: Whether products of hidden values are of bfloat16, added in float32, instead of float32 throughout.
    """

    stages: int
    hidden: int
    output: int
    bfloat16: bool = False

    def pack(self, streams: Sequence[Any], head: tuple[Tensor, Tensor]) -> Tensor:
        """Lays the folded matrices out one behind the other, as the kernel reads them.

        Args:
            streams: The two folded streams, of values and of differences.
            head: Weight ``(1, 2·output)`` and bias ``(1,)``.

        Returns:
            A flat float32 tensor on the streams' device.
        """

        def padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
            return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))

        parts = []
        for stream in streams:
            layers = ((stream.gates, _PAD), (stream.hidden, self.hidden), (stream.rate, self.hidden),
                      (stream.gain, self.hidden), (stream.shift, self.output))  # fmt: skip
            for (matrix, bias), columns in layers:
                parts += [padded(matrix.T, _PAD, columns), padded(bias.T, 1, columns)]
            parts.append(stream.gated.T)
        slope = head[1].new_tensor([streams[0].slope])
        return torch.cat([part.flatten() for part in (*parts, *head, slope)]).contiguous()

    def predict(self, constants: Tensor, history: Tensor, predicted: Tensor) -> None:
        """Fills ``(steps, n)`` from ``(S, n)`` float32 histories; both with contiguous rows, on the same device."""
        if count := history.shape[1]:
            _known_kernel[(triton.cdiv(count, _BLOCK),)](
                history, predicted, constants, count, history.stride(0), predicted.stride(0),
                STAGES=self.stages, STEPS=len(predicted), HIDDEN=self.hidden, OUTPUT=self.output, PADDED=_PAD,
                BLOCK=_BLOCK, BFLOAT16=self.bfloat16, num_warps=_WARPS,
            )  # fmt: skip


if triton is not None:

    @triton.jit
    def _product(inputs, constants, rows: tl.constexpr, columns: tl.constexpr, BFLOAT16: tl.constexpr):
        matrix = tl.load(constants + tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :])
        if BFLOAT16:
            return tl.dot(inputs.to(tl.bfloat16), matrix.to(tl.bfloat16))
        return tl.dot(inputs, matrix, input_precision="ieee")

    @triton.jit
    def _affine(inputs, constants, rows: tl.constexpr, columns: tl.constexpr, BFLOAT16: tl.constexpr):
        bias = tl.load(constants + rows * columns + tl.arange(0, columns))
        return _product(inputs, constants, rows, columns, BFLOAT16) + bias[None, :]

    @triton.jit
    def _stream(
        inputs, constants, slope, HIDDEN: tl.constexpr, OUTPUT: tl.constexpr, PADDED: tl.constexpr,
        BFLOAT16: tl.constexpr,
    ):  # fmt: skip
        # Weights and their differences need all their digits: products with them are always float32.
        gate = tl.maximum(_affine(inputs, constants, PADDED, PADDED, False), 0.0)
        constants += PADDED * PADDED + PADDED
        hidden = _affine(inputs, constants, PADDED, HIDDEN, False)
        wide: tl.constexpr = PADDED * HIDDEN + HIDDEN
        rate = _affine(gate, constants + wide, PADDED, HIDDEN, BFLOAT16)
        gain = _affine(gate, constants + 2 * wide, PADDED, HIDDEN, BFLOAT16)
        constants += 3 * wide
        output = _affine(gate, constants, PADDED, OUTPUT, BFLOAT16)
        constants += PADDED * OUTPUT + OUTPUT
        output += _product(gain * tl.exp(rate * hidden), constants, HIDDEN, OUTPUT, BFLOAT16)
        return tl.where(output >= 0, output, output * slope)

    @triton.jit
    def _window(history, predicted, place, inside, offsets, stride, out_stride, STAGES: tl.constexpr):
        # Places before STAGES lie in the history, those from it on among what was predicted.
        old, new = inside & (place < STAGES)[None, :], inside & (place >= STAGES)[None, :]
        before = tl.load(history + place[None, :] * stride + offsets[:, None], mask=old, other=0.0)
        return before + tl.load(
            predicted + (place - STAGES)[None, :] * out_stride + offsets[:, None], mask=new, other=0.0
        )

    @triton.jit
    def _known_kernel(
        history, predicted, constants, count, stride, out_stride, STAGES: tl.constexpr, STEPS: tl.constexpr,
        HIDDEN: tl.constexpr, OUTPUT: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
        BFLOAT16: tl.constexpr,
    ):  # fmt: skip
        offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        place = tl.arange(0, PADDED).to(tl.int64)
        within = (offsets < count)[:, None]
        still, moving = within & (place < STAGES)[None, :], within & (place < STAGES - 1)[None, :]
        of_stream: tl.constexpr = (
            PADDED * PADDED + PADDED + 3 * (PADDED * HIDDEN + HIDDEN) + PADDED * OUTPUT + OUTPUT + HIDDEN * OUTPUT
        )
        head = constants + 2 * of_stream + tl.arange(0, OUTPUT)
        slope = tl.load(constants + 2 * (of_stream + OUTPUT) + 1)
        for step in range(STEPS):
            values = _window(history, predicted, place + step, still, offsets, stride, out_stride, STAGES)
            later = _window(history, predicted, place + step + 1, moving, offsets, stride, out_stride, STAGES)
            moves = tl.where(moving, later - values, 0.0)
            first = _stream(values, constants, slope, HIDDEN, OUTPUT, PADDED, BFLOAT16)
            second = _stream(moves, constants + of_stream, slope, HIDDEN, OUTPUT, PADDED, BFLOAT16)
            joined = first * tl.load(head)[None, :] + second * tl.load(head + OUTPUT)[None, :]
            total = tl.sum(joined, axis=1) + tl.load(constants + 2 * (of_stream + OUTPUT))
            decay = tl.exp(-2.0 * tl.abs(total))
            residual = (1.0 - decay) / (1.0 + decay)
            newest = tl.sum(tl.where((place == STAGES - 1)[None, :], values, 0.0), axis=1)
            newest += tl.where(total >= 0, residual, -residual)
            tl.store(predicted + step * out_stride + offsets, newest, mask=offsets < count)
            tl.debug_barrier()  # the next step reads what other threads of this program have written
