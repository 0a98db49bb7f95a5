"""Soups: averages of models that were trained from one start, on branches of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from know_hf.retrodiction.controls import naive
from know_hf.retrodiction.registry import method


@method(same_every_step=True, control=True, branches=True)
def soup_mean(stages: Tensor, kind: str, steps: int = 1, *, members: Sequence[int] | None = None) -> Tensor:
    """Averages models that were trained from one start, which itself is left out, the same for every step.

    Args:
        stages: ``(S, *shape)`` floating point: the start, then its S − 1 branches.
        kind: Not looked at.
        steps: Number of steps.
        members: Numbers of the branches to average, from 1; by default all of them.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If ``members`` names no branch, one that is not there, or one twice.

    Limits: branches that went too far apart have no good average.

    Source: Wortsman et al., "Model soups" (ICML 2022, arXiv 2203.05482).

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import soup_mean
        >>> soup_mean(torch.tensor([0.0, 1.0, 2.0]), "fc")
        tensor([1.5000])
    """
    numbers = list(range(1, len(stages))) if members is None else list(members)
    if not numbers or len({*numbers}) < len(numbers) or not {*numbers} <= {*range(1, len(stages))}:
        raise ValueError(
            f"members is {numbers}; it must name some of the branches 1 to {len(stages) - 1}, none of them twice."
        )
    values = stages[numbers].double()
    # As one branch plus differences, so that what is equal in all of them stays exactly what it is.
    average = values[0] + (values - values[0]).mean(0)
    return naive(average[None].to(torch.promote_types(stages.dtype, torch.float32)), kind, steps)


@method(whole_tensors=True, same_every_step=True, control=True, branches=True)
def model_stock(stages: Tensor, kind: str, steps: int = 1) -> Tensor:
    """Goes from the start towards the mean of its k branches as far as they agree, ``t = k·cosθ / (1 + (k − 1)·cosθ)``.

    θ is the angle between two branches as seen from the start, tensor by tensor, of more than two the mean of the
    cosines. Branches that are at right angles or turned away from one another agree on nothing: t is 0 then.

    Args:
        stages: ``(S, *shape)`` floating point, a whole tensor: the start, then its k = S − 1 branches.
        kind: Not looked at.
        steps: Number of steps.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32, the same for every step.

    Raises:
        ValueError: If there are fewer than two branches.

    Limits: the source derives t for branches that differ by chance alone, the order of the data.

    Source: Jang, Yun and Han, "Model Stock" (ECCV 2024, arXiv 2403.19522); that t is not below 0 is ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import model_stock
        >>> model_stock(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), "fc")
        tensor([[1., 0.]])
    """
    count = len(stages) - 1
    if count < 2:
        raise ValueError(
            f"model_stock needs a start and at least two branches from it, {len(stages)} stages are given."
        )
    origin = stages[0].double()
    moved = (stages[1:].double() - origin).reshape(count, -1)
    lengths = moved.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # The squared length of a sum of unit vectors is their number plus the cosines of all ordered pairs.
    cosine = (((moved / lengths).sum(0).square().sum() - (moved.any(1)).sum()) / (count * (count - 1))).clamp(0, 1)
    ratio = count * cosine / (1 + (count - 1) * cosine)
    made = origin + ratio * moved.mean(0).reshape(origin.shape)
    return naive(made[None].to(torch.promote_types(stages.dtype, torch.float32)), kind, steps)
