"""Any method by its name: checked beforehand, then applied to one tensor."""

from collections.abc import Callable, Mapping, Sequence, Set
from functools import reduce
from inspect import Parameter
from operator import or_
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from know_hf.reading import check_form, shown
from know_hf.retrodiction.registry import Method, get_method
from know_hf.settings import STEPS, check_range, meant


def check_method(
    name: str, stages: int, kinds: Sequence[str], steps: int, parameters: Mapping[str, Any], iterate: bool = False
) -> None:
    """Raises what a method would raise, on a toy tensor, before anything is read or written.

    Args:
        name: Name of the method.
        stages: Number S of stages that it will read.
        kinds: Kinds of the tensors.
        steps: Number of steps.
        parameters: Its parameters.
        iterate: As for [`retrodict`].

    Raises:
        ValueError: If it lacks a parameter, one has another type, it cannot do that many steps from that many stages,
            or it returns something else than a prediction.
    """
    check_parameters(name, parameters)
    taken = get_method(name).accepts(parameters)
    if missing := [p.name for p in taken.values() if p.default is p.empty and p.name not in parameters]:
        raise ValueError(f"{name} needs the parameter {missing[0]!r}, which has no default.")
    for kind in kinds:
        made = retrodict(torch.zeros(stages, 2, 2), kind, steps, name, iterate=iterate, **parameters)
        if not isinstance(made, Tensor) or made.shape != (steps, 2, 2) or not made.is_floating_point():
            found = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"{name} returns {found} for {steps} steps of a tensor (2, 2), not floating point "
                             f"{(steps, 2, 2)}.")  # fmt: skip


def check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Looks whether a method takes these parameters, before any of them is used.

    Raises:
        ValueError: If there is no such parameter, or one is of another type than the method's signature says.
    """
    method = get_method(name)
    for parameter in parameters.keys() & method.parameters.keys():  # of which one may name the method that has the rest
        _check_type(name, method.parameters[parameter], parameters[parameter])
    taken = method.accepts(parameters)
    if unknown := [parameter for parameter in parameters if parameter not in taken]:
        known = meant(unknown[0], taken or ["none"], "its parameters:")
        raise ValueError(f"{name} has no parameter {unknown[0]!r}{known}")
    for parameter, value in parameters.items():
        _check_type(name, taken[parameter], value)
    family = method.reads(parameters)
    if family is not None and isinstance(
        found := parameters.get("predictor"), (int, float, bytes, Mapping, Set, list, tuple)
    ):
        raise ValueError(f"{name}: predictor must be a folder, a Hub id or a live network, found {shown(found)}.")


def _check_type(name: str, parameter: Parameter, value: Any) -> None:
    """Raises ``ValueError`` if a plain parameter is of another type than the method's signature says."""
    form = _form(parameter.annotation)
    if form is not None:
        check_form({parameter.name: _plain(value)}, {parameter.name: form}, name)


def _form(kind: Any) -> Any:
    """The form of a plain type, as for [`check_form`]; None of any other."""
    if isinstance(kind, UnionType):
        forms = [_form(one) for one in get_args(kind)]
        return None if None in forms else reduce(or_, forms)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Mapping, Sequence) and (own := _form(inner[-1])) is not None:
        return dict[str, own] if origin is Mapping else list[own]  # type: ignore[valid-type]
    return kind if kind in (int, float, str, bool, NoneType) else None


def _plain(value: Any) -> Any:
    """Mappings and sequences of any type as the plain ones, in which names are text."""
    if isinstance(value, Mapping):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(own) for own in value]
    return value


def _guarded(method: Method) -> Callable[..., Tensor]:
    """A method's function that says whose an error is, and is not let to change what other methods read, too."""

    def function(stages: Tensor, kind: str, steps: int, **parameters: Any) -> Tensor:
        before = None if stages.is_inference() else stages._version  # torch counts what is written in place
        try:
            made = method.function(stages, kind, steps, **parameters)
        except Exception as error:
            if method.code is None or isinstance(error, (ValueError, TypeError, OSError, ImportError)):
                raise
            raise ValueError(
                f"The method {method.name} ({method.code['function']}) failed: {type(error).__name__}: {error}"
            ) from error
        if before is not None and stages._version != before:
            raise ValueError(f"{method.name} writes into the stages that it is given; let it work on a copy of them.")
        return made

    return function


def retrodict(
    stages: Tensor,
    kind: str,
    steps: int = 1,
    method: str = "known",
    *,
    iterate: bool = False,
    tensor: str | None = None,
    positions: Sequence[float] | None = None,
    **parameters: Any,
) -> Tensor:
    """Predicts one tensor beyond stage 0.

    Args:
        stages: ``(S, *shape)`` floating point in stage order: index 0 is Θ^0, the last the most forgotten.
        kind: ``"conv"``, ``"fc"`` or ``"bias"``; only learned methods look at it.
        steps: Number of steps beyond stage 0, at least 1.
        method: Name of the method.
        iterate: Take single steps and slide the window, as learned methods always do, instead of the method's own
            way to further steps.
        tensor: Name of the tensor, for methods that treat each in its own way.
        positions: How many steps each stage lies below stage 0, increasing from 0 to S − 1, where those are not 0, 1,
            2 …. Fits and extended averages read them; for learned methods, which were trained on equal steps, the
            stages are interpolated to those; the others take the stages as they are.
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
    function = _guarded(get_method(method))
    if get_method(method).named:
        parameters["tensor"] = tensor
    check_range("steps", steps, STEPS)
    if not stages.numel():
        return stages.new_empty(steps, *stages.shape[1:])
    if positions is not None and get_method(method).reads(parameters) is not None:
        stages, positions = evened(stages, positions), None
    placed = get_method(method).placed

    def predict(stages: Tensor, steps: int, positions: Sequence[float] | None) -> Tensor:
        where = {"positions": positions} if placed else {}
        return function(stages, kind, steps, **where, **parameters)

    if not iterate:
        return predict(stages, steps, positions)
    results = []
    for _ in range(steps):
        results.append(predict(stages, 1, positions)[0])
        stages = torch.cat((results[-1][None].to(stages), stages[:-1]))
        positions = None if positions is None else [0.0, *(position + 1 for position in positions[:-1])]
    return torch.stack(results)


def evened(stages: Tensor, positions: Sequence[float]) -> Tensor:
    """Reads stages off at equal steps, on straight lines between them.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        positions: How many steps each lies below stage 0, increasing from 0 to S − 1.

    Returns:
        ``(S, *shape)``, at least float32; the first and the last stage, and what does not move, are what they were.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction.predict import evened
        >>> evened(torch.tensor([3.0, 2.0, 0.0]), [0.0, 0.5, 2.0])
        tensor([3.0000, 1.3333, 0.0000])
    """
    stages = stages.to(torch.promote_types(stages.dtype, torch.float32))
    made = [stages[0]]
    for place in range(1, len(stages) - 1):
        after = next(i for i, position in enumerate(positions) if position >= place)
        low, high = positions[after - 1], positions[after]
        made.append(stages[after] + (high - place) / (high - low) * (stages[after - 1] - stages[after]))
    return torch.stack([*made, stages[-1]])
