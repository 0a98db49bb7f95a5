"""Retrodiction: from a trajectory to the weights that more data would have given.

Every method is a plain function ``method(stages, kind, steps, **parameters)`` of one tensor's stages ``(S, *shape)`` in
stage order (index 0 is Θ^0) that returns ``(steps, *shape)``, nearest step first. ``RETRODICTION.md`` beside this file
describes them all.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from know_hf.reading import check_form
from know_hf.retrodiction.controls import mean, naive, shrink
from know_hf.retrodiction.curve_fits import exp_fit, linear_fit, log_fit
from know_hf.retrodiction.known import known
from know_hf.retrodiction.learned import nino, wnn
from know_hf.retrodiction.task_vectors import consensus_ta, magmax, task_vector, tsv
from know_hf.settings import STEPS, check_range


@dataclass(frozen=True)
class Method:
    """A retrodiction method and what the streaming writer needs to know about it.

    ``elementwise`` methods may be given any block of a tensor, unless their predictor reads whole tensors; the others
    need all of it at once. ``predictor`` says which learned weights it reads: ``"known"`` (the bundled ones by
    default), ``"wnn"``, ``"nino"`` or none. With ``same_every_step`` all steps of a trajectory are one and the same, so
    that a comparison needs only one of them.
    """

    function: Callable[..., Tensor]
    elementwise: bool = True
    predictor: str | None = None
    same_every_step: bool = False

    @property
    def parameters(self) -> list[str]:
        """Names of the method's own parameters."""
        return [p.name for p in inspect.signature(self.function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def takes_blocks(self, parameters: Mapping[str, Any]) -> bool:
        """Whether any block of a tensor will do, with these parameters."""
        return self.elementwise and not getattr(parameters.get("predictor"), "reads_whole_tensors", False)


METHODS: dict[str, Method] = {
    "known": Method(known, predictor="known"),
    "linear_fit": Method(linear_fit),
    "log_fit": Method(log_fit),
    "exp_fit": Method(exp_fit),
    "task_vector": Method(task_vector),
    "magmax": Method(magmax),
    "consensus_ta": Method(consensus_ta),
    "tsv": Method(tsv, elementwise=False),
    "mean": Method(mean, same_every_step=True),
    "shrink": Method(shrink, elementwise=False, predictor="known"),
    "naive": Method(naive, same_every_step=True),
    "wnn": Method(wnn, predictor="wnn"),
    "nino": Method(nino, elementwise=False, predictor="nino"),
}
#: Every method that needs no weights of a user's own.
ALL = [name for name, method in METHODS.items() if method.predictor in (None, "known")]


def get_method(name: str) -> Method:
    """Returns a method by name.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown retrodiction method {name!r}; known methods: {', '.join(METHODS)}.")
    return METHODS[name]


def check_method(
    name: str, stages: int, kinds: list[str], steps: int, parameters: Mapping[str, Any], iterate: bool = False
) -> None:
    """Raises what a method would raise, on a toy tensor, before anything is read or written.

    Raises:
        ValueError: If it lacks a parameter, or cannot do that many steps from that many stages.
    """
    own = list(get_method(name).parameters)
    if name == "shrink":  # hands the rest on to the method whose norms it takes on
        own += get_method(parameters.get("to", "known")).parameters
    unknown = [parameter for parameter in parameters if parameter not in own]
    if unknown:
        raise ValueError(f"{name} has no parameter {unknown[0]!r}; its parameters: {', '.join(own) or 'none'}.")
    for parameter, value in parameters.items():
        _check_type(name, parameter, value, parameters)
    for kind in kinds:
        retrodict(torch.zeros(stages, 2, 2), kind, steps, name, iterate=iterate, **parameters)


def _check_type(name: str, parameter: str, value: Any, parameters: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` if a plain parameter is of another type than the method's signature says."""
    owner = name if parameter in get_method(name).parameters else parameters.get("to", "known")
    kind = inspect.signature(get_method(owner).function).parameters[parameter].annotation
    plain = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if any(get_origin(one) is Mapping for one in plain):
        kind = dict[str, float] | None
    elif not set(plain) <= {int, float, str, bool, NoneType}:
        return
    check_form({parameter: dict(value) if isinstance(value, Mapping) else value}, {parameter: kind}, name)


def retrodict(
    stages: Tensor, kind: str, steps: int = 1, method: str = "known", *, iterate: bool = False, **parameters
) -> Tensor:
    """Predicts one tensor beyond stage 0.

    Args:
        stages: ``(S, *shape)`` floating point in stage order: index 0 is Θ^0, the last the most forgotten.
        kind: ``"conv"``, ``"fc"`` or ``"bias"``; only learned methods look at it.
        steps: Number of steps beyond stage 0, at least 1.
        method: Name of the method.
        iterate: Take single steps and slide the window, as learned methods always do, instead of the method's own
            way to further steps.
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
    function = get_method(method).function
    check_range("steps", steps, STEPS)
    if not stages.numel():
        return stages.new_empty(steps, *stages.shape[1:])
    if not iterate:
        return function(stages, kind, steps, **parameters)
    results = []
    for _ in range(steps):
        results.append(function(stages, kind, 1, **parameters)[0])
        stages = torch.cat((results[-1][None].to(stages), stages[:-1]))
    return torch.stack(results)


__all__ = [
    "ALL",
    "METHODS",
    "Method",
    "check_method",
    "consensus_ta",
    "exp_fit",
    "get_method",
    "known",
    "linear_fit",
    "log_fit",
    "magmax",
    "mean",
    "naive",
    "nino",
    "retrodict",
    "shrink",
    "task_vector",
    "tsv",
    "wnn",
]
