"""Scores as tables and charts write them."""

import math
from collections.abc import Sequence

import numpy as np

from know_hf.tasks import Score


def spread(scores: Sequence[float], score: Score | None = None) -> str:
    """Mean ± standard deviation: shares in percent with one decimal, other scores with three significant figures.

    Example:
        >>> from know_hf.report.figures import spread
        >>> from know_hf.tasks import Score
        >>> spread([0.0312, 0.0324], Score("rmse", percent=False)), spread([61.0, 63.0])
        ('0.0318 ± 0.0008', '62.0 ± 1.4')
    """
    mean, places = float(np.mean(scores)), decimals(scores, score)
    return f"{mean:.{places}f} ± {np.std(scores, ddof=1):.{places}f}"


def decimals(scores: Sequence[float], score: Score | None = None) -> int:
    """Decimals that scores are shown with: one of shares in percent, of others as many as give three figures."""
    largest = max(map(abs, map(float, scores)), default=0.0)
    if score is None or score.percent or not 0 < largest < math.inf:
        return 1
    return min(max(2 - math.floor(math.log10(largest)), 1), 12)
