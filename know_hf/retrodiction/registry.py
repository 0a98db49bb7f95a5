"""The registry of methods: what a function says of itself by its signature, and what its decorator adds."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, overload

from torch import Tensor, nn

from know_hf.settings import meant

#: Entry points of installed packages that bring methods: name of the method → the module, or function, of theirs.
ENTRY_POINTS = "know_hf.methods"
#: Name of a method's parameter that a fit through a model's own loss finds, tensor by tensor.
COEFFICIENTS = "coefficients"
_FIRST = ["stages", "kind", "steps"]

Function = TypeVar("Function", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class PredictorFamily:
    """Learned weights that methods read as their parameter ``predictor``.

    Args:
        name: What documentation calls them.
        load: From what a user passed (a live network, a folder, a Hub id; None for nothing) and the number S of stages
            to read, to the network. Raises ``OSError`` or ``ValueError`` where they do not fit.
        bundled: Whether the package has some, so that nothing need be passed.
    """

    name: str
    load: Callable[[Any, int], nn.Module]
    bundled: bool = False


@dataclass(frozen=True)
class Method:
    """A method of retrodiction: a plain function and what it needs.

    Args:
        function: ``function(stages, kind, steps, *, its own parameters)``, see [`method`].
        predictor: Learned weights that it reads, as for [`method`] like all that follows.
        whole_tensors: Whether it needs all of a tensor at once.
        same_every_step: Whether all steps of a trajectory are one and the same.
        control: Whether it is what other methods have to beat.
        baseline: Whether it gives stage 0 itself.
        reference: Whether it is the one that others' directions are compared with.
        hands_on: From its own parameters to the name of the method that gets the rest of them.
        title: What cards call it.
        needs_data: Name of a parameter of it that can only be found with a model and data; ``all`` leaves it out.
        named: Whether its parameter ``tensor`` is the name of the tensor, which nobody else may give.
        placed: Whether its parameter ``positions`` says how many steps each stage lies below Θ^0 where those are not 0,
            1, 2 … (else None), which nobody else may give.
        counts: Name of a parameter of it that says how many of the stages are read, which of checkpoints that no
            forgetting made are all of them, unless it is given.
        branches: Whether the stages that it reads are a start and branches from it, each trained on its own, instead of
            a forgetting; ``all`` leaves it out.
    """

    function: Callable[..., Tensor]
    predictor: PredictorFamily | None = None
    whole_tensors: bool = False
    same_every_step: bool = False
    control: bool = False
    baseline: bool = False
    reference: bool = False
    hands_on: Callable[..., str | None] | None = None
    title: str | None = None
    needs_data: str | None = None
    named: bool = False
    placed: bool = False
    counts: str | None = None
    branches: bool = False

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__

    @property
    def fits(self) -> bool:
        """Whether it takes the coefficients of a fit."""
        return self.needs_data == COEFFICIENTS and self.named

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The method's own parameters, their types evaluated."""
        signature = inspect.signature(self.function, eval_str=True)
        own = {name: p for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
        filled = {"tensor": self.named, "positions": self.placed}
        return {name: parameter for name, parameter in own.items() if not filled.get(name)}

    def delegate(self, given: Mapping[str, Any]) -> "Method | None":
        """The method that gets the parameters which are not this one's own, if any.

        Raises:
            ValueError: If it is unknown.
        """
        if self.hands_on is None:
            return None
        name = self.hands_on(**{n: given.get(n, parameter.default) for n, parameter in self.parameters.items()})
        return None if name is None else get_method(name)

    def accepts(self, given: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
        """Every parameter that it takes beside those given: its own, and those that it hands on."""
        other = self.delegate(given)
        return self.parameters if other is None else {**other.parameters, **self.parameters}

    def reads(self, given: Mapping[str, Any]) -> PredictorFamily | None:
        """The learned weights that it reads with these parameters, if any."""
        other = self.delegate(given)
        return self.predictor or (None if other is None else other.predictor)

    @property
    def code(self) -> dict[str, Any] | None:
        """For records, which function it is and a hash of its source; None for the package's own methods.

        There is no hash where no file holds the function.
        """
        module, name = _origin(self)
        if module.startswith(f"{__package__}."):
            return None
        try:
            digest = hashlib.sha256(inspect.getsource(self.function).encode()).hexdigest()
        except (OSError, TypeError):
            digest = None
        return {"function": f"{module}.{name}", "sha256": digest}


#: Name → method: the package's own in the order of its documentation, then those that were registered since.
METHODS: dict[str, Method] = {}


@overload
def method(function: Function) -> Function: ...
@overload
def method(**declared: Any) -> Callable[[Function], Function]: ...
def method(function: Function | None = None, **declared: Any) -> Any:
    """Registers a function as a method of retrodiction.

    Its name, and its parameters with their types and defaults, are those of the function:
    ``def name(stages, kind, steps, *, own parameters)``, from ``stages``, ``(S, *shape)`` in stage order (index 0 is
    Θ^0), to ``(steps, *shape)``, nearest step first. It is given blocks of a tensor, flat, unless it needs whole ones.

    Args:
        function: The function; it stays what it is.
        **declared: What cannot be read from a signature, the fields of [`Method`]: ``whole_tensors=True``,
            ``predictor=`` a [`PredictorFamily`], ``same_every_step=True``, ``control=True`` ….

    Returns:
        The function.

    Raises:
        TypeError: If its signature is another.
        ValueError: If the name is taken.

    Example:
        >>> import torch
        >>> from know_hf.retrodiction import METHODS, method, retrodict
        >>> @method
        ... def twice_as_far(stages, kind, steps, *, by: float = 2.0):
        ...     return torch.stack([stages[0] + by * s * (stages[0] - stages[1]) for s in range(1, steps + 1)])
        >>> retrodict(torch.tensor([1.0, 0.75]), "fc", 1, "twice_as_far")
        tensor([1.5000])
        >>> del METHODS["twice_as_far"]
    """

    def register(function: Function) -> Function:
        described = Method(function, **declared)
        _check_signature(described)
        taken = METHODS.get(described.name)
        # A module that is loaded again, or a notebook's cell that is run again, brings the same.
        if described.name == "all" or (taken and _origin(taken) != _origin(described)):
            whose = f"of {taken.function.__module__}" if taken else "which stands for all methods"
            raise ValueError(f"The name {described.name!r} is taken, {whose}: give your method another.")
        METHODS[described.name] = described
        return function

    return register if function is None else register(function)


def _origin(described: Method) -> tuple[str, str]:
    return described.function.__module__, described.function.__qualname__


def _check_signature(described: Method) -> None:
    name = getattr(described.function, "__name__", "")
    if not name.isidentifier():
        raise TypeError(f"A method is a function with a name, found {described.function!r}: def my_method(…).")
    try:
        parameters = list(inspect.signature(described.function, eval_str=True).parameters.values())
    except NameError as error:
        raise TypeError(f"Method {name!r} is annotated with a type that is not there: {error}.") from error
    rest = [p.kind for p in parameters[3:]]
    named_only, any_name = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
    allowed = {named_only, any_name} if described.hands_on else {named_only}
    positional = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[:3])
    if [p.name for p in parameters[:3]] != _FIRST or not positional or not set(rest) <= allowed:
        shown = ", ".join(map(str, parameters))
        raise TypeError(
            f"Method {name!r} takes ({shown}); a method takes (stages, kind, steps, *, parameters of its own)."
        )
    named = "predictor" in described.parameters
    if named != (described.predictor is not None):
        raise TypeError(
            f"Method {name!r} has a parameter 'predictor' and does not say which it reads: @method(predictor=…)."
            if named
            else f"Method {name!r} is declared to read a predictor and has no parameter 'predictor'."
        )


def get_method(name: str) -> Method:
    """Returns a method by name: one that is registered, or else one that an installed package offers.

    Raises:
        ValueError: If there is none, or the package's cannot be loaded; the message lists those there are.
    """
    if name not in METHODS:
        offered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
        if name not in offered:
            known = meant(name, [*METHODS, *offered], "known methods:")
            raise ValueError(f"Unknown retrodiction method {name!r}{known}")
        _load(offered[name])
    return METHODS[name]


def _load(entry: EntryPoint) -> None:
    """Loads the module of an installed package that registers a method."""
    whose = (
        f"Method {entry.name!r}, which the package {entry.dist.name if entry.dist else '?'} offers as {entry.value},"
    )
    try:
        entry.load()
    except Exception as error:  # whatever another's module raises as it is loaded
        raise ValueError(f"{whose} cannot be loaded: {type(error).__name__}: {error}") from error
    if entry.name not in METHODS:
        raise ValueError(f"{whose} is not registered there: put @method before a function of that name.")
