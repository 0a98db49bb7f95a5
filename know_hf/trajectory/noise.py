"""Copies of stages with noise on their weights, made anew whenever they are read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from know_hf.checkpoints.checkpoint import Checkpoint

#: Values that one draw of noise covers; what is read of a copy begins at a multiple of it.
CHUNK = 1 << 16


@dataclass(frozen=True)
class Noise:
    """Normal noise on every floating-point parameter.

    Args:
        scale: Its standard deviation, in each tensor's own root mean square in Θ^0.
        copies: Number of noisy copies of every stage.
        seed: Of all of them.

    Source: paper section 5.1, which says neither scale nor distribution; these are ours.

    Example:
        >>> from know_hf.trajectory.noise import Noise
        >>> Noise(scale=0.05, copies=20).seed
        0
    """

    scale: float
    copies: int
    seed: int = 0


class NoisyCheckpoint:
    """A stage with noise, read like the stage itself.

    Args:
        stage: The stage.
        number: Which copy of all.
        noise: How much noise.
        root_mean_squares: Name of a tensor → its root mean square in Θ^0; what is not yet there is added.
        reference: Θ^0.
    """

    def __init__(
        self, stage: Checkpoint, number: int, noise: Noise, root_mean_squares: dict[str, float], reference: Checkpoint
    ):
        self.stage, self.number, self.noise = stage, number, noise
        self._known, self._reference = root_mean_squares, reference

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Reads values ``start … stop`` of a flattened tensor as float64, ``start`` being a multiple of ``CHUNK``."""
        values = self.stage.read(name, start, stop).double()
        for first in range(0, len(values), CHUNK):
            part = values[first : first + CHUNK]
            words = f"{self.noise.seed}/{self.number}/{name}/{start + first}"
            seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") >> 1
            drawn = torch.randn(len(part), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            part += self.noise.scale * self._root_mean_square(name) * drawn
        return values

    def _root_mean_square(self, name: str) -> float:
        if name not in self._known:
            values = self._reference.read(name).double()
            finite = values[values.isfinite()]
            self._known[name] = finite.square().mean().sqrt().item() if len(finite) else 0.0
        return self._known[name]


def noisy_copies(stages: Sequence[Checkpoint], noise: Noise | None) -> list[NoisyCheckpoint]:
    """The noisy copies of stages, Θ^0 first: all of the first, then all of the second …; none without noise."""
    if noise is None:
        return []
    known: dict[str, float] = {}
    each = [stage for stage in stages for _ in range(noise.copies)]
    return [NoisyCheckpoint(stage, number, noise, known, stages[0]) for number, stage in enumerate(each)]
