"""Averages of consecutive stages, and where they lead."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from know_hf.retrodiction.registry import method


@method(placed=True)
def extra_merge(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    *,
    window: int = 2,
    alpha: float = 1.0,
    positions: Sequence[float] | None = None,
) -> Tensor:
    """Extends the line through the two newest averages of consecutive stages: ``M_0 + s·α·(M_0 − M_1)``.

    ``M_t`` is the mean of Θ^t … Θ^(t+k−1), k stages: averaging takes out what differs from stage to stage, and what is
    left moves along nearly a line.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Not looked at.
        steps: Number of steps.
        window: Number k of stages in an average, less than S.
        alpha: Length α of a step, in distances between the two averages.
        positions: How many steps each stage lies below Θ^0, where those are not 0, 1, 2 ….

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If there are not ``window`` + 1 stages, ``window`` is less than 1 or α is not finite.

    Limits: a trajectory that bends; the average starts half a window behind Θ^0.

    Source: after Zhou et al., "Extra-Merge: Tracing the Rank-1 Subspace of Model Merging in Language Model
        Pre-Training" (ICML 2026), who average checkpoints late in a training; stages of forgetting instead, two
        averages for the direction, window and length of a step are ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import extra_merge
        >>> extra_merge(torch.tensor([1.0, 0.8, 0.6]), "fc", 2)
        tensor([1.1000, 1.3000])
    """
    if not 1 <= window < len(stages):
        raise ValueError(
            f"window is {window}; it must lie between 1 and {len(stages) - 1}, as two averages of so many consecutive "
            f"stages are taken from {len(stages)}."
        )
    if not math.isfinite(alpha):
        raise ValueError(f"alpha is {alpha}; it must be finite.")
    stages = stages.to(torch.promote_types(stages.dtype, torch.float32))
    # M_0 − M_1 is (Θ^0 − Θ^k)/k, and Θ^k lies k equal steps below Θ^0. As Θ^0 plus differences, so that what did not
    # move stays exactly where it was.
    average = stages[0] + (stages[1:window] - stages[0]).sum(0) / window
    direction = (stages[0] - stages[window]) / (window if positions is None else positions[window])
    return torch.stack([average + step * alpha * direction for step in range(1, steps + 1)])
