"""Controls: what a gain has to beat before it counts as knowledge."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from know_hf.known.threads import one_thread
from know_hf.retrodiction.curve_fits import combine
from know_hf.retrodiction.registry import get_method, method


@method(same_every_step=True, control=True, counts="first")
def mean(stages: Tensor, kind: str, steps: int = 1, *, first: int | None = None) -> Tensor:
    """Averages the first stages, the same for every step: weight averaging along the trajectory.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Not looked at.
        steps: Number of steps.
        first: Number of stages to average, at most S; by default three, or all where there are fewer; of
            checkpoints that no forgetting made all.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If there are fewer stages than ``first``, or ``first`` is less than 1.

    Limits: it is a control.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import mean
        >>> mean(torch.tensor([3.0, 2.0, 1.0, 0.0]), "fc")
        tensor([2.])
    """
    if first is None:
        first = min(3, len(stages))
    if not 1 <= first <= len(stages):
        raise ValueError(f"first is {first}; it must lie between 1 and the number of stages, {len(stages)}.")
    return naive(combine(stages[:first], [[1 / first] * first]), kind, steps)


def _whose_norms(factors: Mapping[str, float] | None, to: str) -> str | None:
    return to if factors is None else None


@method(whole_tensors=True, control=True, hands_on=_whose_norms)
def shrink(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    *,
    factors: Mapping[str, float] | None = None,
    to: str = "known",
    **parameters: Any,
) -> Tensor:
    """Rescales Θ^0, tensor by tensor, without turning it.

    A learned predictor may do little more than shrink weights, which raises the effective learning rate of what
    follows. This control does exactly that and nothing else.

    Args:
        stages: ``(S, *shape)`` in stage order, a whole tensor (the norm is the tensor's).
        kind: Kind of the tensor.
        steps: Number of steps.
        factors: Kind → factor of one step; a kind without one keeps its norm. Instead of ``to``.
        to: Name of the method whose norms to take on, step by step.
        **parameters: That method's own parameters (for ``known``: ``predictor``).

    Returns:
        ``(steps, *shape)`` in at least float32; a tensor of zeros stays zero.

    Raises:
        ValueError: If the other method is unknown or raises, or a factor is not finite.

    Limits: it is a control: no direction.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import known, shrink
        >>> stages = torch.randn(5, 8, 4) * 0.1
        >>> torch.allclose(shrink(stages, "fc").norm(), known(stages, "fc").norm(), rtol=1e-5)
        True
    """
    if factors is not None:
        ratios = torch.tensor([float(factors.get(kind, 1.0)) ** step for step in range(1, steps + 1)]).double()
        if not torch.isfinite(ratios).all():
            raise ValueError(f"shrink: the factor {factors.get(kind)!r} of kind {kind!r} is not finite.")
        origin = stages[0]
    else:
        other = get_method(to)
        if other.hands_on is not None:
            raise ValueError("shrink cannot take on its own norms; choose another method for 'to'.")
        target = other.function(stages, kind, steps, **parameters)
        origin = stages[0].to(target.device)
        with one_thread():  # several would add up in an order of their own
            norms = target.reshape(steps, -1).double().norm(dim=1)
            ratios = norms / origin.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
    dtype = torch.promote_types(stages.dtype, torch.float32)
    return (ratios.to(origin.device).reshape(-1, *[1] * origin.ndim) * origin.double()).to(dtype)


@method(whole_tensors=True, same_every_step=True, control=True)
def shrink_perturb(
    stages: Tensor, kind: str, steps: int = 1, *, lam: float = 0.5, sigma: float = 0.2, seed: int = 0
) -> Tensor:
    """Shrinks Θ^0 and adds noise, ``λ·Θ^0 + σ·rms(Θ^0)·N(0, 1)``, the same for every step.

    What a prediction does beyond a larger effective learning rate and some blur, it has to do better than this. The
    noise is relative to the root mean square of the tensor's own weights: the source adds the same to all weights of
    a network, which would drown the small tensors of a trained one and not touch the large. It is drawn from a
    generator that the tensor's values seed, so that it is the same in whatever order, on however many processes.

    Args:
        stages: ``(S, *shape)`` floating point in stage order, a whole tensor (noise and its size are the tensor's).
        kind: Not looked at.
        steps: Number of steps.
        lam: Factor λ of the weights.
        sigma: Standard deviation σ of the noise, in root mean squares of Θ^0.
        seed: Of the noise, beside the tensor's values; at least 0.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32; a tensor of zeros stays zero.

    Raises:
        ValueError: If λ or σ is not finite, σ or the seed is below 0.

    Limits: it is a control: tensors of equal values get equal noise.

    Source: Ash and Adams, "On warm-starting neural network training" (NeurIPS 2020); the size of the noise is ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import shrink_perturb
        >>> stages = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
        >>> shrink_perturb(stages, "fc", sigma=0.0)
        tensor([[1.5000, 2.0000]])
    """
    if not (math.isfinite(lam) and math.isfinite(sigma)) or sigma < 0 or seed < 0:
        raise ValueError(
            f"shrink_perturb: lam is {lam}, sigma {sigma}, seed {seed}; both have to be finite, sigma and seed at "
            "least 0."
        )
    dtype = torch.promote_types(stages.dtype, torch.float32)
    origin = stages[0].to(dtype)
    digest = hashlib.sha256(origin.detach().cpu().contiguous().numpy().tobytes()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest, "big")])
    noise = torch.from_numpy(generator.standard_normal(origin.numel())).reshape(origin.shape).to(origin.device)
    size = sigma * origin.double().square().mean().sqrt()
    return naive((lam * origin.double() + size * noise).to(dtype)[None], kind, steps)


@method(same_every_step=True, control=True, baseline=True)
def naive(stages: Tensor, kind: str, steps: int = 1) -> Tensor:
    """Returns Θ^0 itself for every step.

    Args:
        stages: ``(S, *shape)`` in stage order, S ≥ 1.
        kind: Not looked at.
        steps: Number of steps.

    Returns:
        ``(steps, *shape)`` copies of ``stages[0]``.

    Limits: it is a control.

    Source: paper section 5 ("naïve transfer").

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import naive
        >>> naive(torch.tensor([[1.0], [0.5]]), "fc", 2).tolist()
        [[1.0], [1.0]]
    """
    return stages[0].expand(steps, *stages.shape[1:]).clone()
