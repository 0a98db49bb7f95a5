"""How far apart the stages are: in steps of the data's growth, which need not be equal."""

import math
from collections.abc import Sequence

# What rounding a count, or writing a share down, may shift a stage by.
_EVEN = 0.02


def step_ratio(shares: Sequence[float]) -> float:
    """The ratio of one step: the geometric mean of the ratios of successive stages' data.

    Args:
        shares: Size of each stage's data in stage order, most first; in any unit.

    Example:
        >>> from know_hf.trajectory.spacing import step_ratio
        >>> step_ratio([800, 400, 200])
        0.5
    """
    return (shares[-1] / shares[0]) ** (1 / (len(shares) - 1))


def positions_of(shares: Sequence[float]) -> list[float] | None:
    """Where the stages stand on a logarithmic scale of their data, in steps below stage 0.

    Args:
        shares: As for [`step_ratio`].

    Returns:
        One number a stage: 0 for stage 0, S − 1 for the last. None where they are 0, 1, 2 …, as forgetting makes them.

    Example:
        >>> from know_hf.trajectory.spacing import positions_of
        >>> positions_of([16, 8, 1]), positions_of([800, 400, 200])
        ([0.0, 0.5, 2.0], None)
    """
    step = math.log(step_ratio(shares))
    positions = [math.log(share / shares[0]) / step for share in shares]
    positions[0] = 0.0  # not -0.0
    positions[-1] = float(len(shares) - 1)
    even = all(abs(position - i) < _EVEN for i, position in enumerate(positions))
    return None if even else [round(position, 9) for position in positions]
