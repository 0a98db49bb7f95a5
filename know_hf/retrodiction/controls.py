"""Controls: what a gain has to beat before it counts as knowledge."""

import torch
from torch import Tensor

from know_hf.known import KnownPredictor
from know_hf.retrodiction.known import known


def naive(stages: Tensor, kind: str, steps: int = 1) -> Tensor:
    """Returns Θ^0 itself for every step.

    Args:
        stages: ``(S, *shape)`` in stage order, S ≥ 1.
        kind: Not looked at.
        steps: Number of steps.

    Returns:
        ``(steps, *shape)`` copies of ``stages[0]``.

    Source: paper section 5 ("naïve transfer").

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import naive
        >>> naive(torch.tensor([[1.0], [0.5]]), "fc", 2).tolist()
        [[1.0], [1.0]]
    """
    return stages[0].expand(steps, *stages.shape[1:]).clone()


def shrink(stages: Tensor, kind: str, steps: int = 1, *, predictor: KnownPredictor | None = None) -> Tensor:
    """Rescales Θ^0 to the norm that KNOWN gives the tensor at each step, without its direction.

    A learned predictor may do little more than shrink weights, which raises the effective learning rate of what
    follows. This control does exactly that and nothing else.

    Args:
        stages: ``(S, *shape)`` in stage order, a whole tensor (the norm is the tensor's).
        kind: Kind of the tensor.
        steps: Number of steps.
        predictor: The predictor whose norms to match; the bundled one by default.

    Returns:
        ``(steps, *shape)``; a tensor of zeros stays zero.

    Raises:
        ValueError: As [`known`].

    Source: ours.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import known, shrink
        >>> stages = torch.randn(5, 8, 4) * 0.1
        >>> torch.allclose(shrink(stages, "fc").norm(), known(stages, "fc").norm(), rtol=1e-5)
        True
    """
    target = known(stages, kind, steps, predictor=predictor)
    origin = stages[0].to(target.device, torch.float32)
    norms = target.reshape(steps, -1).double().norm(dim=1)
    factors = norms / origin.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
    return factors.float().reshape(-1, *[1] * origin.ndim) * origin
