"""How large a difference of two scores is by chance, and within which bounds it lies, from what each example adds."""

import numpy as np

#: Number of resamples.
RESAMPLES = 2000
# Examples drawn at a time.
_AT_ONCE = 1 << 20


def swapped(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences of two models' scores after swapping which of them gave which answers, each by the toss of a coin.

    If neither of them is better, these are as likely as the difference that was seen. The coins are the same for every
    pair of as many examples.

    Args:
        first: ``(n,)`` what each example adds to a model's score, which is the mean.
        second: ``(n,)`` likewise of the other.

    Returns:
        ``(RESAMPLES,)`` scores of ``second`` less those of ``first``.
    """
    generator, differences = np.random.default_rng(0), second - first
    coins = (generator.integers(2, size=(part, len(first)), dtype=np.int8) for part in _parts_of(len(first)))
    return np.concatenate([(1.0 - 2 * own) @ differences for own in coins]) / len(first)


def swap_error(first: np.ndarray, second: np.ndarray) -> float:
    """Standard deviation of [`swapped`], over all tosses that there are."""
    return float(np.sqrt(((second - first) ** 2).sum())) / len(first)


def interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Ends of the paired bootstrap's 95 % interval of the score of ``second`` less that of ``first``.

    Args:
        first: As for [`swapped`].
        second: As for [`swapped`].
    """
    generator, differences = np.random.default_rng(0), second - first
    sets = (generator.integers(len(first), size=(part, len(first))) for part in _parts_of(len(first)))
    drawn = np.concatenate([differences[rows].mean(1) for rows in sets])
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low) + 0.0, float(high) + 0.0  # 0 has no sign


def _parts_of(size: int) -> list[int]:
    """Numbers of resamples of so many examples that are drawn at a time."""
    at_once = max(1, min(RESAMPLES, _AT_ONCE // size))
    return [min(at_once, RESAMPLES - begun) for begun in range(0, RESAMPLES, at_once)]
