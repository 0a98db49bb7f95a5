"""Paired comparisons over seeds of fine-tuning and of pre-training, and verdicts that follow from the intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """A paired difference over seeds: mean, its 95 % confidence interval, number of seeds, what is better.

    ``chance`` is the two-sided p-value of the same t test: that of so large a difference where there is none.
    """

    mean: float
    low: float
    high: float
    seeds: int
    higher_is_better: bool = True
    chance: float = math.nan

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` where the interval excludes zero, else ``"no difference shown"``."""
        if self.low > 0 or self.high < 0:
            return "better" if (self.low > 0) == self.higher_is_better else "worse"
        return "no difference shown"

    def within(self, scores: Sequence[float], reference: Sequence[float], most: float | None) -> "Difference":
        """The same, its interval cut to what the score allows; see [`allowed`]."""
        low, high = allowed((self.low, self.high), scores, reference, most)
        return replace(self, low=low, high=high)

    @property
    def interval(self) -> str:
        """The interval as it is written."""
        places = _places(self.mean, self.low, self.high)
        return f"[{self.low:+.{places}f}, {self.high:+.{places}f}]"

    def __str__(self) -> str:
        return f"{self.mean:+.{_places(self.mean, self.low, self.high)}f} {self.interval}"


def _places(*numbers: float) -> int:
    """Decimals: two for points; small numbers, such as those of a rmse of 0.03, would read as none with these."""
    largest = max(map(abs, numbers))
    return 2 if not 0 < largest < 0.1 else min(1 - math.floor(math.log10(largest)), 12)


def allowed(
    interval: tuple[float, float], scores: Sequence[float], reference: Sequence[float], most: float | None
) -> tuple[float, float]:
    """Cuts an interval of a mean difference: from the reference to none of the score, and to the most of it.

    Student's interval over few seeds knows nothing of that, and reaches beyond.

    Args:
        interval: Its ends.
        scores: What was compared.
        reference: With this.
        most: The score of what does all right, for shares, which are at least 0; None for others.

    Returns:
        The ends; uncut if the scores are no such shares.

    Example:
        >>> from know_hf.laboratory.statistics import allowed
        >>> allowed((-2.1, 1.9), [0.7, 0.5], [0.5, 0.75], 1.0)
        (-0.625, 0.375)
    """
    seen = [*scores, *reference]
    if most is None or not all(0 <= value <= most for value in seen):
        return interval
    mean = float(np.mean(reference))
    return max(interval[0], -mean), min(interval[1], most - mean)


def paired_difference(
    scores: Sequence[float],
    reference: Sequence[float],
    confidence: float = 0.95,
    higher_is_better: bool = True,
    most: float | None = None,
) -> Difference:
    """Compares two arms that were run with the same seeds.

    Args:
        scores: Score of each seed.
        reference: The other arm's, in the same order.
        confidence: Of the interval.
        higher_is_better: Whether a positive difference is a gain.
        most: Of shares, that of all (1, or 100); the interval ends there.

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
    degrees = len(differences) - 1
    low, high = (mean + error * float(quantile) for quantile in stats.t.interval(confidence, degrees))
    if error:
        chance = 2 * float(stats.t.sf(abs(mean) / error, degrees))
    else:  # all the same
        chance = 0.0 if mean else 1.0
    return Difference(mean, low, high, len(differences), higher_is_better, chance).within(scores, reference, most)


@dataclass(frozen=True)
class Nested:
    """A paired difference over fine-tunings of several pre-trainings.

    Args:
        mean: Of all pairs.
        within: Over all paired fine-tunings, as if all were of one pre-training; None of fewer than two.
        between: Over the means of the pre-trainings, which are its units: what another pre-training may be expected to
            give; None of fewer than two.
    """

    mean: float
    within: Difference | None
    between: Difference | None

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` where every interval excludes zero, else ``"no difference shown"``."""
        words = {one.verdict for one in (self.within, self.between) if one is not None}
        return words.pop() if len(words) == 1 else "no difference shown"

    @property
    def over_pairs(self) -> str:
        """The mean and, if there is one, the interval over all pairs, as they are written."""
        return f"{self.mean:+.{_places(self.mean)}f}" if self.within is None else str(self.within)

    def __str__(self) -> str:
        return self.over_pairs + ("" if self.between is None else f" / {self.between.interval}")


def nested_difference(
    scores: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    higher_is_better: bool = True,
    most: float | None = None,
) -> Nested:
    """Compares two arms over pre-trainings that were each fine-tuned with several seeds.

    Args:
        scores: Of each pre-training the score of each seed; NaN where there is none.
        reference: The other arm's, in the same order.
        higher_is_better: Whether a positive difference is a gain.
        most: Of shares, that of all (1, or 100); the intervals end there.

    Returns:
        Means and both intervals, over the pairs that are there.

    Raises:
        ImportError: If scipy is not installed.
        ValueError: If there is no pair, or the numbers differ.

    Example:
        >>> from know_hf.laboratory.statistics import nested_difference
        >>> found = nested_difference([[3.0, 5.0], [4.0, 6.0]], [[1.0, 2.0], [3.0, 3.0]])
        >>> found.mean, found.within.seeds, found.between.seeds
        (2.25, 4, 2)
    """
    groups = [
        [pair for pair in zip(ours, theirs, strict=True) if not math.isnan(pair[0] - pair[1])]
        for ours, theirs in zip(scores, reference, strict=True)
    ]
    groups = [group for group in groups if group]
    pairs = [pair for group in groups for pair in group]
    if not pairs:
        raise ValueError("A paired comparison needs a pair; there is none.")
    means = [(float(ours), float(theirs)) for ours, theirs in (np.mean(group, axis=0) for group in groups)]

    def compared(one: Sequence[tuple[float, float]]) -> Difference | None:
        ours, theirs = [pair[0] for pair in one], [pair[1] for pair in one]
        if len(one) < 2:
            return None
        return paired_difference(ours, theirs, higher_is_better=higher_is_better, most=most)

    return Nested(float(np.mean([ours - theirs for ours, theirs in pairs])), compared(pairs), compared(means))


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusts p-values so that among all of them one below 0.05 comes about by chance in at most 5 % of cases.

    Args:
        chances: p-values; a NaN stays one, and counts for none.

    Returns:
        The adjusted ones, in the same order, each at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).

    Example:
        >>> from know_hf.laboratory.statistics import holm
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    found, order = (
        list(chances),
        sorted((i for i, one in enumerate(chances) if not math.isnan(one)), key=chances.__getitem__),
    )
    least = 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * chances[place]))
        found[place] = least
    return found
