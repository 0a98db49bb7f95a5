"""Retrodiction: from a trajectory to the weights that more data would have given.

Every method is a plain function ``method(stages, kind, steps, **parameters)`` of one tensor's stages ``(S, *shape)`` in
stage order (index 0 is Θ^0) that returns ``(steps, *shape)``, nearest step first.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from know_hf.retrodiction.controls import naive, shrink
from know_hf.retrodiction.known import known


@dataclass(frozen=True)
class Method:
    """A retrodiction method and what the streaming writer needs to know about it.

    ``elementwise`` methods may be given any block of a tensor; the others need all of it at once.
    """

    function: Callable[..., Tensor]
    elementwise: bool = True
    learned: bool = False


METHODS: dict[str, Method] = {
    "known": Method(known, learned=True),
    "naive": Method(naive),
    "shrink": Method(shrink, elementwise=False, learned=True),
}


def get_method(name: str) -> Method:
    """Returns a method by name.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown retrodiction method {name!r}; known methods: {', '.join(METHODS)}.")
    return METHODS[name]


def retrodict(stages: Tensor, kind: str, steps: int = 1, method: str = "known", **parameters) -> Tensor:
    """Predicts one tensor beyond stage 0.

    Args:
        stages: ``(S, *shape)`` floating point in stage order: index 0 is Θ^0, the last the most forgotten.
        kind: ``"conv"``, ``"fc"`` or ``"bias"``; only learned methods look at it.
        steps: Number of steps beyond stage 0, at least 1.
        method: Name of the method.
        **parameters: The method's own parameters.

    Returns:
        ``(steps, *shape)`` predicted weights, nearest step first.

    Raises:
        ValueError: If the method is unknown or cannot do that many steps from these stages.

    Source: paper section 3.

    Example:
        >>> import torch
        >>> from know_hf import retrodict
        >>> retrodict(torch.randn(5, 10, 3) * 0.05, "fc", steps=3).shape
        torch.Size([3, 10, 3])
    """
    return get_method(method).function(stages, kind, steps, **parameters)


__all__ = ["METHODS", "Method", "get_method", "known", "naive", "retrodict", "shrink"]
