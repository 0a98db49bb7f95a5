"""How far a prediction moved the weights, per kind, summed block by block."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Statistics:
    """Sums over the predicted weights of each kind, in float64: change, origin, result (all squared), count."""

    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, origin: Tensor, predicted: Tensor) -> None:
        """Adds one block; both ``(n,)``."""
        origin, predicted = origin.double(), predicted.double()
        values = [(predicted - origin).square().sum(), origin.square().sum(), predicted.square().sum()]
        self._add(kind, [*(value.item() for value in values), float(origin.numel())])

    def _add(self, kind: str, values: list[float]) -> None:
        self.sums[kind] = [a + b for a, b in zip(self.sums.get(kind, [0.0] * 4), values, strict=True)]

    def __add__(self, other: "Statistics") -> "Statistics":
        total = Statistics(dict(self.sums))
        for kind, values in other.sums.items():
            total._add(kind, values)
        return total

    def summary(self) -> dict[str, dict[str, float]]:
        """Kind → ``relative_change`` ‖Θ̂−Θ^0‖/‖Θ^0‖, ``norm_ratio`` ‖Θ̂‖/‖Θ^0‖ and ``weights``."""
        return {
            kind: {
                "relative_change": (change / origin) ** 0.5 if origin else 0.0,
                "norm_ratio": (result / origin) ** 0.5 if origin else 1.0,
                "weights": int(count),
            }
            for kind, (change, origin, result, count) in sorted(self.sums.items())
        }
