"""Paired comparisons over seeds, and a verdict in words that follows from the interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from know_hf.installing import missing


def require_scipy() -> Any:
    """The statistics of scipy, asked for before anything is trained.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise missing("Comparisons need", "scipy", "transfer") from error
    return stats


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds: mean, its 95 % confidence interval, number of seeds, what is better."""

    mean: float
    low: float
    high: float
    seeds: int
    higher_is_better: bool = True

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` where the interval excludes zero, else ``"no difference shown"``."""
        if self.low > 0 or self.high < 0:
            return "better" if (self.low > 0) == self.higher_is_better else "worse"
        return "no difference shown"

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired_difference(
    scores: Sequence[float], reference: Sequence[float], confidence: float = 0.95, higher_is_better: bool = True
) -> Difference:
    """Compares two arms that were run with the same seeds.

    Args:
        scores: Score of each seed.
        reference: The other arm's, in the same order.
        confidence: Of the interval.
        higher_is_better: Whether a positive difference is a gain.

    Returns:
        Mean difference with Student's t interval; zero wide where all seeds agree.

    Raises:
        ImportError: If scipy is not installed.
        ValueError: If there are fewer than two seeds or their numbers differ.

    Example:
        >>> from know_hf.laboratory.statistics import paired_difference
        >>> paired_difference([0.62, 0.64, 0.63], [0.60, 0.61, 0.61]).verdict
        'better'
    """
    if len(scores) != len(reference) or len(scores) < 2:
        raise ValueError(
            f"A paired comparison needs two seeds or more on both sides, found {len(scores)} and {len(reference)}."
        )
    stats, differences = require_scipy(), np.subtract(scores, reference, dtype=float)
    mean, error = float(differences.mean()), float(stats.sem(differences))
    low, high = (mean + error * float(quantile) for quantile in stats.t.interval(confidence, len(differences) - 1))
    return Difference(mean, low, high, len(differences), higher_is_better)
