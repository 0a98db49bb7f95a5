"""A network that reads how a tensor moved, not where it is: it weighs the differences between its stages.

Differences are measured in units of their own root mean square over the tensor, and the residual is a weighted sum of
them whose weights depend on magnitudes and agreements only. A constant added to all stages changes nothing (but for
the condition ``movement``, which compares with the weights themselves), a factor of either sign scales the residual,
and a tensor that did not move stays bit for bit what it is.
"""

import torch
from torch import Tensor, nn

from .sizes import KnownSizes
from .threads import run_side_by_side

# Smallest unit: of a tensor that did not move, every difference is zero in any unit.
_TINY = 1e-30


def condition_size(config: KnownSizes) -> int:
    """Number of values that a config's conditions are."""
    several = {"profile": config.history_length - 1, "agreement": config.history_length - 2}
    return sum(several.get(name, 1) for name in config.conditions)


def tensor_statistics(history: Tensor, config: KnownSizes, *, sampling_ratio: float | None, horizon: int = 1) -> Tensor:
    """Measures a tensor: the unit of its differences, then its conditions.

    Args:
        history: ``(S, *shape)`` floating point, a whole tensor, the first axis from the most forgotten stage to the
            least. Where the first of its own axes is not that of its outputs, as in GPT-2's ``Conv1D``, the condition
            ``fan_in`` is their number: a tensor does not tell.
        config: Says which conditions.
        sampling_ratio: Ratio r of successive stages' data; needed for the condition ``ratio`` only.
        horizon: Steps ahead.

    Returns:
        ``(1 + conditions,)`` float32; every condition lies within about −2 … 2.

    Raises:
        ValueError: If ``ratio`` is a condition and there is none.
    """
    if "ratio" in config.conditions and sampling_ratio is None:
        raise ValueError("This predictor is told the sampling ratio of the forgetting: pass sampling_ratio=….")
    ratio = 0.0 if sampling_ratio is None else float(sampling_ratio)
    moves = history.reshape(len(history), -1).float().diff(dim=0)
    count = max(moves.shape[1], 1)
    sizes = moves.norm(dim=1) / count**0.5
    unit = (sizes.square().mean().sqrt()).clamp_min(_TINY)

    def logarithm(value: Tensor, reach: float) -> Tensor:
        return value.clamp_min(_TINY).log10().clamp(-reach, reach) / reach

    def measure(name: str) -> Tensor:
        if name == "ratio":
            return history.new_tensor([2 * ratio - 1])
        if name == "horizon":
            return history.new_tensor([float(horizon) - 1])
        if name == "movement":
            size = history[-1].float().norm() / count**0.5
            return logarithm(sizes[-1:] / size.clamp_min(_TINY), 3.0)
        if name == "fan_in":
            fan_in = history[0, :1].numel() if history.ndim > 2 else 1
            return logarithm(history.new_tensor([float(max(fan_in, 1))]), 3.0)
        if name == "profile":
            return logarithm(sizes / unit, 1.0)
        products = (moves[1:] * moves[:-1]).sum(1) / count
        return products / (sizes[1:] * sizes[:-1]).clamp_min(_TINY)

    return torch.cat([unit[None], *(measure(name).float() for name in config.conditions)])


class ZeroLinear(nn.Linear):
    """A linear layer that starts from zeros."""


class DifferenceNetwork(nn.Module):
    """The network of one kind: differences and their tensor's statistics → residuals."""

    def __init__(self, config: KnownSizes) -> None:
        super().__init__()
        moves, conditions = config.history_length - 1, condition_size(config)
        self.first = nn.Linear(2 * moves - 1, config.hidden_size)
        self.condition = nn.Linear(conditions, config.hidden_size, bias=False) if conditions else None
        self.second = nn.Linear(config.hidden_size, config.hidden_size)
        self.weights = ZeroLinear(config.hidden_size, moves)

    def forward(self, history: Tensor, statistics: Tensor) -> Tensor:
        """Maps ``(…, S)`` histories and ``(…, 1 + conditions)`` statistics to ``(…)`` residuals."""
        unit, conditions = statistics[..., :1], statistics[..., 1:]
        moves = history.diff(dim=-1) / unit
        sizes, pairs = moves.abs(), moves[..., 1:] * moves[..., :-1]
        hidden = self.first(torch.cat((sizes / (1 + sizes), pairs / (1 + pairs.abs())), -1))
        if self.condition is not None:
            hidden = hidden + self.condition(conditions)
        hidden = nn.functional.silu(self.second(nn.functional.silu(hidden)))
        return unit[..., 0] * (self.weights(hidden) * moves).sum(-1)

    def predict(
        self, history: Tensor, config: KnownSizes, steps: int, sampling_ratio: float | None, block_size: int | None
    ) -> Tensor:
        """Predicts all steps of a whole tensor ``(S, *shape)``; returns ``(steps, n)``."""
        block_size = block_size or (8192 if history.device.type == "cpu" else 1 << 20)
        window, shape = history.reshape(len(history), -1), history.shape[1:]
        predicted = window.new_empty(steps, window.shape[1])
        for step in range(1, steps + 1):
            statistics = tensor_statistics(
                window.reshape(-1, *shape), config, sampling_ratio=sampling_ratio, horizon=step
            )

            def fill(start: int, window: Tensor = window, statistics: Tensor = statistics, row: int = step - 1) -> None:
                block = window[:, start : start + block_size]
                predicted[row, start : start + block_size] = block[-1] + self(block.T, statistics)

            starts = range(0, window.shape[1], block_size)
            if window.device.type == "cpu":
                run_side_by_side(fill, starts)
            else:
                for start in starts:
                    fill(start)
            if "horizon" not in config.conditions:
                window = torch.cat((window[1:], predicted[step - 1 : step]))
        return predicted
