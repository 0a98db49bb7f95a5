"""What starts reach on the average of several comparisons."""

from collections.abc import Sequence

import numpy as np

from know_hf.laboratory.result import ComparisonResult

# An average has no learning rate: in each comparison every arm has its own.
_OWN = 0.0


def average_of(results: Sequence[ComparisonResult]) -> ComparisonResult:
    """Averages comparisons of the same arms with the same seeds, each arm at the rate that it chose in each of them.

    Args:
        results: The comparisons; of the arms those count that are in all of them.

    Returns:
        A result that has one fine-tuning for every arm and seed, the average of those.

    Raises:
        ValueError: If there is nothing to average, or scores or seeds differ.

    Source: paper Table 3.

    Example:
        >>> from know_hf.laboratory.average import average_of
        >>> from know_hf.laboratory.result import ComparisonResult
        >>> average_of([ComparisonResult.load(folder) for folder in ("art", "photo")])  # doctest: +SKIP
    """
    if not results or len({result.score for result in results}) > 1 or len({result.seeds for result in results}) > 1:
        raise ValueError("Only comparisons of one score with the same number of seeds have an average.")
    first = results[0]
    arms = {name: arm for name, arm in first.arms.items() if all(name in result.arms for result in results)}
    averaged = {}
    for name in arms:
        for seed in range(first.seeds):
            runs = [result.runs(name, result.chosen_rates[name])[seed] for result in results]
            means = {part: float(np.mean([run[part] for run in runs])) for part in ("test", "validation")}
            spent = {part: sum(run[part] for run in runs) for part in ("seconds", "training")}
            averaged[name, _OWN, seed] = {**means, **spent, "curve": []}
    return ComparisonResult(first.output_dir, arms, [_OWN], first.seeds, averaged, first.score)
