"""Folded evaluation of a KNOWN network: the same function with fewer multiplications, in cache-sized blocks.

Of each stream ``h = W_h·x``, ``z = relu(W_z·h)`` and ``o = W_o·(a·exp(b·h) + W_t·z)``. Products of two linear maps
fold into one: ``z`` comes directly from the history, the differences are a linear map of the history too, and
``W_o·W_t`` takes 8 inputs to 32 without passing through 64. Folding is done in float64, once per call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Small blocks keep the hidden values in the processor's cache; a GPU wants many weights in flight.
_BLOCK_CPU, _BLOCK_ACCELERATOR = 2048, 1 << 20


@dataclass(frozen=True)
class _FoldedStream:
    gates: tuple[Tensor, Tensor]  # history (and 1) → squeeze
    hidden: tuple[Tensor, Tensor]  # history → exponent's factor h
    rate: tuple[Tensor, Tensor]
    gain: tuple[Tensor, Tensor]
    gated: Tensor  # hidden → output
    shift: tuple[Tensor, Tensor]  # squeeze → output, folded over the hidden layer
    slope: float

    @staticmethod
    def of(stream: nn.Module, inputs: Tensor) -> "_FoldedStream":
        """Folds a KnownStream whose input is ``inputs @ history``, all of it in float64."""

        def affine(layer):
            return layer.weight.double(), layer.bias.double()

        expand, squeeze, shift, output = map(affine, (stream.expand, stream.squeeze, stream.shift, stream.output))
        hidden = expand[0] @ inputs, expand[1]
        parts = {
            "gates": (squeeze[0] @ hidden[0], squeeze[0] @ hidden[1] + squeeze[1]),
            "hidden": hidden,
            "rate": affine(stream.rate),
            "gain": affine(stream.gain),
            "shift": (output[0] @ shift[0], output[0] @ shift[1] + output[1]),
        }
        columns = {name: (w.float(), b.float()[:, None]) for name, (w, b) in parts.items()}
        return _FoldedStream(gated=output[0].float(), slope=stream.negative_slope, **columns)

    def __call__(self, history: Tensor) -> Tensor:
        gate = torch.addmm(self.gates[1], self.gates[0], history).relu_()
        hidden = torch.addmm(self.hidden[1], self.hidden[0], history)
        hidden.mul_(torch.addmm(self.rate[1], self.rate[0], gate)).exp_()
        hidden.mul_(torch.addmm(self.gain[1], self.gain[0], gate))
        output = torch.addmm(self.shift[1], self.shift[0], gate).addmm_(self.gated, hidden)
        return nn.functional.leaky_relu_(output, self.slope)


class FoldedNetwork:
    """A KnownNetwork ready for prediction; weights are columns, so every product is contiguous."""

    def __init__(self, values: _FoldedStream, differences: _FoldedStream, head: tuple[Tensor, Tensor]):
        self.values, self.differences, self.head = values, differences, head

    @classmethod
    def of(cls, network: nn.Module) -> "FoldedNetwork":
        """Folds a KnownNetwork."""
        stages = network.values.expand.in_features
        identity = torch.eye(stages, dtype=torch.float64, device=network.head.weight.device)
        head = network.head.weight.float(), network.head.bias.float()
        return cls(
            _FoldedStream.of(network.values, identity),
            _FoldedStream.of(network.differences, identity.diff(dim=0)),
            head,
        )

    def residual(self, history: Tensor) -> Tensor:
        """Maps ``(S, n)`` float32 histories, most forgotten stage first, to ``(n,)`` residuals."""
        streams = torch.cat((self.values(history), self.differences(history)))
        return torch.addmv(self.head[1], streams.T, self.head[0][0]).tanh_()

    def predict(self, history: Tensor, steps: int, block_size: int | None = None) -> Tensor:
        """Slides the window ``steps`` times over ``(S, n)``; returns ``(steps, n)``."""
        block_size = block_size or (_BLOCK_CPU if history.device.type == "cpu" else _BLOCK_ACCELERATOR)
        predicted = history.new_empty(steps, history.shape[1])
        for start in range(0, history.shape[1], block_size):
            window = history[:, start : start + block_size]
            for step in range(steps):
                newest = window[-1] + self.residual(window)
                predicted[step, start : start + block_size] = newest
                window = torch.cat((window[1:], newest[None]))
        return predicted
