"""Points of a trajectory's own subspace that were found with a model and data, and steps of another length."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from know_hf.retrodiction.controls import naive
from know_hf.retrodiction.registry import get_method, method


def combined(stages: Tensor, coefficients: Tensor | Sequence[float]) -> Tensor:
    """Puts a point of the subspace together: ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0``.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        coefficients: ``(S,)``: one for each difference of consecutive stages, nearest to Θ^0 first, and one for Θ^0.

    Returns:
        ``shape``, in the type of ``stages``; what did not move is only scaled.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction.subspace import combined
        >>> combined(torch.tensor([3.0, 2.0, 0.0]), [1.0, 0.0, 0.0])
        tensor(4.)
    """
    own = torch.as_tensor(coefficients, dtype=stages.dtype, device=stages.device)
    moved = torch.tensordot(own[:-1], stages[:-1] - stages[1:], 1)
    return stages[0] + moved + own[-1] * stages[0]


@method(same_every_step=True, needs_data="coefficients", named=True)
def fitted(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    *,
    coefficients: Mapping[str, Sequence[float]] | None = None,
    tensor: str | None = None,
) -> Tensor:
    """Takes the point of the stages' own subspace that fits data best, beyond Θ^0 allowed, the same for every step.

    Which point that is, a table of coefficients says, fitted through the model's own loss
    ([`fit`](know_hf.fitting.fit)): ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0``, i from 1 to S − 1.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Not looked at.
        steps: Number of steps.
        coefficients: Name of a tensor → its S coefficients; a tensor without any stays that of Θ^0. For a prediction
            also the file that a fit made, a run's ``choice/fitted.json``, or its content: then it is looked at whether
            these are the stages that it was made for.
        tensor: Name of the tensor.

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If there are no coefficients, or a tensor has not S of them, or one is not finite.

    Limits: needs the model and data; finds only what lies in the directions that the stages took.

    Source: after Li et al., "Trainable Weight Averaging" (ICLR 2023, arXiv 2205.13104); signs, scale and the stages
        of forgetting are ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import fitted
        >>> fitted(torch.tensor([3.0, 2.0]), "fc", coefficients={"w": [0.5, 0.0]}, tensor="w")
        tensor([3.5000])
    """
    if coefficients is None:
        raise ValueError(
            "fitted needs coefficients, which are fitted with a model and data: know-hf enrich does, and keeps them in "
            "choice/fitted.json of its run, where know-hf predict RUN --method fitted finds them; another such file is "
            "given as --parameters coefficients=FILE (parameters={'coefficients': 'FILE'})."
        )
    stages = stages.to(torch.promote_types(stages.dtype, torch.float32))
    own = None if tensor is None else coefficients.get(tensor)
    if own is None:
        return naive(stages, kind, steps)
    if len(own) != len(stages) or not all(map(math.isfinite, own)):
        raise ValueError(f"The coefficients of {tensor!r} are {list(own)}; {len(stages)} finite ones are needed.")
    return naive(combined(stages, own)[None], kind, steps)


def _damps(alphas: Mapping[str, float] | None, of: str, step: int) -> str:
    return of


@method(same_every_step=True, needs_data="alphas", hands_on=_damps)
def damped(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    *,
    alphas: Mapping[str, float] | None = None,
    of: str = "known",
    step: int = 1,
    **parameters: Any,
) -> Tensor:
    """Goes another method's way another length, ``Θ^0 + α(Θ̂ − Θ^0)`` with α by kind, the same for every step.

    A line search on data finds the α, so that the direction is judged apart from the length; below 0 it leads back.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Kind of the tensor.
        steps: Number of steps.
        alphas: Kind → α; a kind without one stays at Θ^0.
        of: Name of the method whose way it is.
        step: Which of its steps Θ̂ is.
        **parameters: That method's own parameters (for ``known``: ``predictor``).

    Returns:
        ``(steps, *shape)`` in the type of ``stages``, at least float32.

    Raises:
        ValueError: If there is no α, one is not finite, ``step`` is less than 1, or the other method raises.

    Limits: needs the model and data.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import damped
        >>> damped(torch.tensor([3.0, 2.0, 1.0]), "fc", alphas={"fc": 0.5}, of="linear_fit")
        tensor([3.5000])
    """
    if alphas is None:
        raise ValueError(
            "damped needs alphas, which a line search with a model and data finds: know-hf enrich makes it a candidate "
            "of its choice, and with --keep-candidates they stay in choice/damped/enrichment.json; give them as "
            "--parameters alphas='{conv: 0.3, fc: 0.5}' (parameters={'alphas': {'conv': 0.3, 'fc': 0.5}})."
        )
    if step < 1 or not all(map(math.isfinite, alphas.values())):
        raise ValueError(f"damped: step is {step}, alphas {dict(alphas)}; at least 1, and finite.")
    other = get_method(of)
    if other.hands_on is not None or other.needs_data:
        raise ValueError(f"damped cannot go the way of {of}; choose another method for 'of'.")
    origin = stages[0].to(torch.promote_types(stages.dtype, torch.float32))
    alpha = float(alphas.get(kind, 0.0))
    if alpha == 0:
        return naive(origin[None], kind, steps)
    target = other.function(stages, kind, step, **parameters)[step - 1].to(origin)
    return naive((origin + alpha * (target - origin))[None], kind, steps)
