"""Curve fits: each weight's stages as points of a line, a logarithm or an exponential, read off further along.

The abscissa of Θ^i is ``S - i``: 1 for the most forgotten stage, S for Θ^0, and S + s for step s; where the stages are
not equal steps apart, what lies between 1 and S follows the logarithm of their data. All three are
the same ordinary least squares, of (x, y), (ln x, y) and (x, ln y).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from know_hf.retrodiction.registry import method

# Values at a time: few enough that copies of them, of every stage, stay in the processor's cache.
_PIECE = 1 << 16


def ols_coefficients(
    stages: int,
    step: int,
    f: Callable[[float], float] = float,
    shift: float = 0.0,
    positions: Sequence[float] | None = None,
) -> list[float]:
    """Weights c with ``Σ c_i·θ^i`` = the fitted line's value at step ``step``; they sum to 1.

    Args:
        stages: Number of stages, at least 2.
        step: Step beyond stage 0, at least 1.
        f: Transformation of the abscissa.
        shift: Added to the abscissa before it.
        positions: How many steps each stage lies below stage 0; 0, 1, 2 … if None.

    Returns:
        One weight a stage, in stage order.

    Raises:
        ValueError: If there are fewer than two stages or the abscissa is not positive.

    Source: ordinary least squares.
    """
    if stages < 2:
        raise ValueError(f"A fit needs at least 2 stages, found {stages}.")
    if not 1 + shift > 0:
        raise ValueError(f"shift is {shift}; 1 + shift must be positive.")
    x = [f(stages - position + shift) for position in (range(stages) if positions is None else positions)]
    query, centre = f(stages + step + shift), sum(x) / stages
    spread = sum((a - centre) ** 2 for a in x)
    return [1 / stages + (query - centre) * (a - centre) / spread for a in x]


@method(placed=True)
def linear_fit(stages: Tensor, kind: str, steps: int = 1, *, positions: Sequence[float] | None = None) -> Tensor:
    """Extends each weight's least-squares line.

    Not anchored at Θ^0: the first step is a de-noising average of the first stages and a step at once.

    Args:
        stages: ``(S, *shape)`` floating point in stage order, S ≥ 2.
        kind: Not looked at.
        steps: Number of steps.
        positions: How many steps each stage lies below Θ^0, where those are not 0, 1, 2 ….

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If S is less than 2.

    Limits: a trajectory that bends; steps are large, s stages on a straight line.

    Source: paper section 5 ("Linear"); abscissa and least squares are ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import linear_fit
        >>> linear_fit(torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]), "fc", 2)
        tensor([1.2000, 1.4000])
    """
    return combine(stages, [ols_coefficients(len(stages), s, positions=positions) for s in range(1, steps + 1)])


@method(placed=True)
def log_fit(
    stages: Tensor, kind: str, steps: int = 1, *, shift: float = 0.0, positions: Sequence[float] | None = None
) -> Tensor:
    """Extends each weight's least-squares curve ``a + b·ln(x)``, which flattens as the steps go on.

    Args:
        stages: ``(S, *shape)`` floating point in stage order, S ≥ 2.
        kind: Not looked at.
        steps: Number of steps.
        shift: Added to the abscissa, for sensitivity studies; more than -1.
        positions: How many steps each stage lies below Θ^0, where those are not 0, 1, 2 ….

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If S is less than 2 or ``1 + shift`` not positive.

    Limits: mostly an average of Θ^0 … Θ^2: the first step may fall short of Θ^0.

    Source: paper section 5 ("Log"); the paper does not state the abscissa, this one is ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import log_fit
        >>> log_fit(torch.tensor([1.0, 0.8]), "fc", 2)
        tensor([1.1170, 1.2000])
    """
    weights = [ols_coefficients(len(stages), s, math.log, shift, positions) for s in range(1, steps + 1)]
    return combine(stages, weights)


@method(placed=True)
def exp_fit(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    *,
    eps: float = 1e-8,
    fallback: str = "linear",
    growth_cap: float | None = None,
    positions: Sequence[float] | None = None,
) -> Tensor:
    """Extends each weight's exponential ``a·e^(b·x)``, fitted to logarithms.

    Weights that change sign, or come within ``eps`` of zero, have no exponential and take the fallback. A weight that
    grew fast explodes, as in the paper's results; nothing leaves the range of the type.

    Args:
        stages: ``(S, *shape)`` floating point in stage order, S ≥ 2.
        kind: Not looked at.
        steps: Number of steps.
        eps: Magnitude below which a weight counts as zero.
        fallback: ``"linear"`` or ``"hold"`` (Θ^0).
        growth_cap: If given, the result's magnitude is at most this times the largest stage's.
        positions: How many steps each stage lies below Θ^0, where those are not 0, 1, 2 ….

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If S is less than 2 or an option has an unknown value.

    Limits: weights that grew fast explode, as in the paper's results; the result is always finite.

    Source: paper section 5 ("Exponential"); form, fallback and guards are ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import exp_fit
        >>> exp_fit(torch.tensor([1.6, 0.8, 0.4, 0.2, 0.1]), "fc", 2)
        tensor([3.2000, 6.4000])
    """
    if fallback not in ("linear", "hold"):
        raise ValueError(f"fallback={fallback!r} is not known; use 'linear' or 'hold'.")
    if not eps > 0 or (growth_cap is not None and not growth_cap > 0):
        raise ValueError(f"eps ({eps}) and growth_cap ({growth_cap}) must be positive.")
    weights = [ols_coefficients(len(stages), step, positions=positions) for step in range(1, steps + 1)]
    result = stages.new_empty(steps, *stages.shape[1:], dtype=torch.promote_types(stages.dtype, torch.float32))
    parts = result.view(steps, -1).split(_PIECE, 1)
    for part, values in zip(parts, stages.reshape(len(stages), -1).split(_PIECE, 1), strict=True):
        _exponentials(values.double(), weights, eps, fallback, growth_cap, part)
    return result


def _exponentials(
    values: Tensor, weights: list[list[float]], eps: float, fallback: str, growth_cap: float | None, out: Tensor
) -> None:
    """Exponential curves of some weights: ``(S, n)`` float64 → ``(steps, n)``, into ``out``."""
    newest = values[0]
    fits = (values.abs() > eps).all(0) & (values.sign() == newest.sign()).all(0)
    logs = torch.log(torch.where(fits, values / torch.where(fits, newest, 1.0), 1.0))
    # Clamped before exp(): the exponential alone may overflow where its product with a small weight does not.
    ceiling = math.log(torch.finfo(out.dtype).max) - newest.abs().clamp_min(1.0).log() - 1e-3
    for own, w in zip(out, weights, strict=True):
        exponent = sum(c * log for c, log in zip(w[1:], logs[1:], strict=True))
        grown = newest * torch.exp(torch.minimum(exponent, ceiling))
        if growth_cap is not None:
            limit = growth_cap * values.abs().amax(0)
            grown = torch.minimum(torch.maximum(grown, -limit), limit)
        own.copy_(torch.where(fits, grown, newest if fallback == "hold" else _delta(values, w)))


def _delta(values: Tensor, weights: list[float]) -> Tensor:
    """``Σ c_i·θ^i`` as Θ^0 plus weighted differences, which leaves constants exactly as they are."""
    return values[0] + sum(c * (value - values[0]) for c, value in zip(weights[1:], values[1:], strict=True))


def combine(stages: Tensor, weights: list[list[float]]) -> Tensor:
    """Sums of stages whose weights sum to 1, as Θ^0 plus weighted differences: what did not move stays where it was.

    Args:
        stages: ``(S, *shape)`` floating point.
        weights: For each result one weight a stage.

    Returns:
        ``(len(weights), *shape)`` in the type of ``stages``, at least float32, in which it is computed.
    """
    dtype = torch.promote_types(stages.dtype, torch.float32)
    result = stages.new_zeros(len(weights), *stages.shape[1:], dtype=dtype)
    parts = result.view(len(weights), -1).split(_PIECE, 1)
    for part, values in zip(parts, stages.reshape(len(stages), -1).split(_PIECE, 1), strict=True):
        newest = values[0].to(dtype)
        differences = values[1:].to(dtype) - newest
        for own, (_, *shares) in zip(part, weights, strict=True):
            # Operations of one rounding each: so a value does not depend on where a block begins, nor on the processor.
            # An average is multiplied once: of values of half precision it then is the nearest there is.
            equal = len(set(shares)) == 1
            for share, difference in zip(shares, differences, strict=True):
                own.add_(difference if equal else difference * share)
            if equal:
                own.mul_(shares[0])
            own.add_(newest)
    return result
