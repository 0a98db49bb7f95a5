"""Folded evaluation of a KNOWN network: the same function with fewer multiplications, in cache-sized blocks.

Differentiable, too: meta-training goes the same way. Large predictions go through a fused kernel where one is at hand,
compiled for the processor (``native.py``) or the GPU (``fused.py``).

Of each stream ``h = W_h·x``, ``z = relu(W_z·h)`` and ``o = W_o·(a·exp(b·h) + W_t·z)``. Products of two linear maps
fold into one: ``z`` comes directly from the inputs, and ``W_o·W_t`` takes 8 inputs to 32 without passing through 64.
Folding is done in float64, once per call. The differences are taken first, although they could be folded too: small
differences of large weights would be lost in rounding.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .native import Kernel, Sizes, compile_kernel, repays
from .threads import run_side_by_side

if TYPE_CHECKING:
    from .fused import FusedKernel

#: Arithmetic of the products of hidden values; everything else is float32.
PRECISIONS = ("float32", "bfloat16")

# Small blocks keep the hidden values in the processor's cache; a GPU wants many weights in flight.
_BLOCK_CPU, _BLOCK_ACCELERATOR = 2048, 1 << 20
# Blocks that a processor takes at a time.
_SPAN = 16


class _Gated(torch.autograd.Function):
    """``gain·exp(rate·hidden)``, with fewer passes over memory than the product rule step by step."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, rate: Tensor, gain: Tensor) -> Tensor:
        exponential = torch.mul(rate, hidden).exp_()
        ctx.save_for_backward(hidden, rate, gain, exponential)
        return gain * exponential

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, rate, gain, exponential = ctx.saved_tensors
        to_gain = gradient * exponential
        inner = to_gain * gain
        to_hidden = inner * rate
        return to_hidden, inner.mul_(hidden), to_gain


@dataclass(frozen=True)
class _FoldedStream:
    gates: tuple[Tensor, Tensor]  # inputs (and 1) → squeeze
    hidden: tuple[Tensor, Tensor]  # inputs → exponent's factor h
    rate: tuple[Tensor, Tensor]
    gain: tuple[Tensor, Tensor]
    gated: Tensor  # hidden → output
    shift: tuple[Tensor, Tensor]  # squeeze → output, folded over the hidden layer
    slope: float

    @staticmethod
    def of(stream: Any) -> "_FoldedStream":
        """Folds a KnownStream, in float64."""

        def affine(layer: nn.Linear) -> tuple[Tensor, Tensor]:
            return layer.weight.double(), layer.bias.double()

        expand, squeeze, shift, output = map(affine, (stream.expand, stream.squeeze, stream.shift, stream.output))
        parts = {
            "gates": (squeeze[0] @ expand[0], squeeze[0] @ expand[1] + squeeze[1]),
            "hidden": expand,
            "rate": affine(stream.rate),
            "gain": affine(stream.gain),
            "shift": (output[0] @ shift[0], output[0] @ shift[1] + output[1]),
        }
        columns = {name: (w.float(), b.float()[:, None]) for name, (w, b) in parts.items()}
        return _FoldedStream(gated=output[0].float(), slope=stream.negative_slope, **columns)

    def __call__(self, inputs: Tensor) -> Tensor:
        gate = torch.addmm(self.gates[1], self.gates[0], inputs).relu_()
        hidden = torch.addmm(self.hidden[1], self.hidden[0], inputs)
        rate = torch.addmm(self.rate[1], self.rate[0], gate)
        gain = torch.addmm(self.gain[1], self.gain[0], gate)
        if torch.is_grad_enabled():
            hidden = _Gated.apply(hidden, rate, gain)
        else:
            hidden.mul_(rate).exp_().mul_(gain)
        output = torch.addmm(self.shift[1], self.shift[0], gate).addmm_(self.gated, hidden)
        return nn.functional.leaky_relu_(output, self.slope)


def _fused_kernel(device: torch.device, sizes: Sizes, reduced: bool) -> "FusedKernel | None":
    # Triton takes a while to import, and on processors only its interpreter runs.
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET", "0") == "0":
        return None
    from .fused import kernel

    return kernel(device, sizes, reduced)


class FoldedNetwork:
    """A KnownNetwork ready for prediction; weights are columns, so every product is contiguous."""

    def __init__(self, values: _FoldedStream, differences: _FoldedStream, head: tuple[Tensor, Tensor]) -> None:
        self.values, self.differences, self.head = values, differences, head
        self._constants: dict[object, Tensor] = {}

    @classmethod
    def of(cls, network: Any) -> "FoldedNetwork":
        """Folds a KnownNetwork."""
        head = network.head.weight.float(), network.head.bias.float()
        return cls(_FoldedStream.of(network.values), _FoldedStream.of(network.differences), head)

    def residual(self, history: Tensor) -> Tensor:
        """Maps ``(S, n)`` float32 histories, most forgotten stage first, to ``(n,)`` residuals."""
        streams = torch.cat((self.values(history), self.differences(history.diff(dim=0))))
        return torch.addmv(self.head[1], streams.T, self.head[0][0]).tanh_()

    @property
    def sizes(self) -> Sizes:
        """What a kernel is made for."""
        hidden, stages = self.values.hidden[0].shape
        return Sizes(stages, hidden, *self.values.gates[0].shape[:1], *self.values.gated.shape[:1])

    def kernel(self, device: torch.device, work: int, precision: str = "float32") -> "Kernel | FusedKernel | None":
        """The kernel for so much work, or None for the folded form.

        Args:
            device: Where the histories lie.
            work: Weights times steps: compiling has to repay.
            precision: One of ``PRECISIONS``.

        Raises:
            ValueError: If the precision is unknown, or reduced where nothing can compute with it.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known; use one of {', '.join(PRECISIONS)}.")
        reduced = precision == "bfloat16"
        kernel: Kernel | FusedKernel | None
        if device.type == "cpu" and (reduced or repays(work)):
            kernel = compile_kernel(self.sizes, reduced)
        else:
            kernel = _fused_kernel(device, self.sizes, reduced)
        if kernel is None and reduced:
            raise ValueError(
                f"precision='bfloat16' needs a GPU with Triton, or a processor with AVX-512 BF16 and a C++ compiler; "
                f"there is none for {device}. Leave precision at float32."
            )
        return kernel

    def predict(
        self,
        history: Tensor,
        steps: int,
        block_size: int | None = None,
        work: int | None = None,
        precision: str = "float32",
    ) -> Tensor:
        """Slides the window ``steps`` times over ``(S, n)``; returns ``(steps, n)``.

        Args:
            history: Float32, the most forgotten stage first.
            steps: Number of steps.
            block_size: Weights per block; by default what suits the device's caches.
            work: Weights times steps of the whole job that this is a part of.
            precision: One of ``PRECISIONS``.
        """
        on_cpu, count = history.device.type == "cpu", history.shape[1]
        block_size = block_size or (_BLOCK_CPU if on_cpu else _BLOCK_ACCELERATOR)
        history = history.contiguous()
        predicted = history.new_empty(steps, count)
        kernel = self.kernel(history.device, count * steps if work is None else work, precision)
        if kernel is not None and kernel not in self._constants:
            self._constants[kernel] = kernel.pack((self.values, self.differences), self.head)

        def fill(first: int) -> None:
            part = slice(first, first + _SPAN * block_size)
            if kernel is None:
                self._slide(history[:, part], predicted[:, part], block_size)
            else:
                kernel.predict(self._constants[kernel], history[:, part], predicted[:, part])

        spans = range(0, count, _SPAN * block_size)
        if on_cpu:
            run_side_by_side(fill, spans)
        else:
            for first in spans:
                fill(first)
        return predicted

    def _slide(self, history: Tensor, predicted: Tensor, block_size: int) -> None:
        """Without a kernel: fills ``(steps, n)`` block by block."""
        for start in range(0, history.shape[1], block_size):
            window = history[:, start : start + block_size]
            for row in predicted:
                newest = window[-1] + self.residual(window)
                row[start : start + block_size] = newest
                window = torch.cat((window[1:], newest[None]))
