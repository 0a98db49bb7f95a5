"""How far, and which way, a prediction moved the weights, per kind, summed block by block."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Values at a time: few enough for the processor's cache, and for sums of them in their own type.
_PIECE = 1 << 15


@dataclass
class Statistics:
    """Sums over the predicted weights of each kind, in float64; of a few thousand weights in float32.

    Squares of change, origin, result and reference change, product of change and reference change, count.
    """

    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, origin: Tensor, predicted: Tensor, reference: Tensor | None = None) -> None:
        """Adds one block; all ``(n,)``. ``reference`` is another method's prediction to compare directions with."""
        total = [0.0] * 5
        pieces = [origin.split(_PIECE), predicted.split(_PIECE)]
        pieces.append([None] * len(pieces[0]) if reference is None else reference.split(_PIECE))
        for first, second, third in zip(*pieces, strict=True):
            first, second = (values.to(torch.promote_types(values.dtype, torch.float32)) for values in (first, second))
            change = second - first
            total[0] += float(change.dot(change))
            total[1] += float(first.dot(first))
            total[2] += float(second.dot(second))
            if third is not None:
                other = third.to(first) - first
                total[3] += float(other.dot(other))
                total[4] += float(change.dot(other))
        self._add(kind, [*total, float(origin.numel())])

    def _add(self, kind: str, values: list[float]) -> None:
        self.sums[kind] = [a + b for a, b in zip(self.sums.get(kind, [0.0] * 6), values, strict=True)]

    def __add__(self, other: "Statistics") -> "Statistics":
        total = Statistics(dict(self.sums))
        total.include(other)
        return total

    def include(self, other: "Statistics") -> None:
        """Adds the sums of other weights."""
        for kind, values in other.sums.items():
            self._add(kind, values)

    def summary(self) -> dict[str, dict[str, float]]:
        """Kind → ``relative_change`` ‖Θ̂−Θ^0‖/‖Θ^0‖, ``norm_ratio`` ‖Θ̂‖/‖Θ^0‖, ``weights``, ``cosine_to_known``.

        The cosine is there when KNOWN was predicted in the same pass and both moved.
        """
        result = {}
        for kind, (change, origin, norm, other, product, count) in sorted(self.sums.items()):
            result[kind] = {
                "relative_change": (change / origin) ** 0.5 if origin else 0.0,
                "norm_ratio": (norm / origin) ** 0.5 if origin else 1.0,
                "weights": int(count),
            }
            if change and other:
                result[kind]["cosine_to_known"] = product / (change * other) ** 0.5
        return result
