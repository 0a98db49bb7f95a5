"""Paired comparisons over seeds, and a verdict in words that follows from the interval."""

from dataclasses import dataclass

import numpy as np


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
    scores: list[float], reference: list[float], confidence: float = 0.95, higher_is_better: bool = True
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
        ValueError: If there are fewer than two seeds or their numbers differ.

    Source: Student's t for paired samples.

    Example:
        >>> from know_hf.laboratory.statistics import paired_difference
        >>> paired_difference([0.62, 0.64, 0.63], [0.60, 0.61, 0.61]).verdict
        'better'
    """
    if len(scores) != len(reference) or len(scores) < 2:
        raise ValueError(
            f"A paired comparison needs two seeds or more on both sides, found {len(scores)} and {len(reference)}."
        )
    from scipy.stats import t

    differences = np.asarray(scores, dtype=float) - np.asarray(reference, dtype=float)
    error = differences.std(ddof=1) / len(differences) ** 0.5
    reach = float(t.ppf(0.5 + confidence / 2, len(differences) - 1)) * error
    mean = float(differences.mean())
    return Difference(mean, mean - reach, mean + reach, len(differences), higher_is_better)
