"""A prediction resolved: methods, parameters, predictors, and what is predicted, settled before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from know_hf.enrichment.folders import step_names
from know_hf.limits import check_limits
from know_hf.retrodiction import ALL, DEFAULT, Method, check_method, get_method, retrodict
from know_hf.retrodiction.predictors import predictor_parameters
from know_hf.trajectory import Parameter, resolve_kinds
from know_hf.trajectory.identity import portable_name


@dataclass(frozen=True)
class ResolvedMethod:
    """A method and everything that it is called with.

    Args:
        method: The method.
        parameters: Its parameters, a loaded predictor among them.
        source: Name of that predictor for records; None where none is read.
    """

    method: Method
    parameters: Mapping[str, Any]
    source: str | None = None

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def predictor(self) -> nn.Module | None:
        """The learned weights that it reads, if any."""
        return None if self.source is None else self.parameters["predictor"]

    @property
    def takes_blocks(self) -> bool:
        """Whether any block of a tensor will do; the others need all of it at once."""
        return not (self.method.whole_tensors or getattr(self.predictor, "reads_whole_tensors", False))

    @property
    def recorded(self) -> dict[str, Any]:
        """Its parameters as records name them, without the predictor."""
        return {name: value for name, value in self.parameters.items() if name != "predictor"}

    def predict(self, stages: Tensor, kind: str, steps: int, iterate: bool) -> Tensor:
        """Predicts one tensor or block, as [`retrodict`]: ``(S, *shape)`` → ``(steps, *shape)``."""
        return retrodict(stages, kind, steps, self.name, iterate=iterate, **self.parameters)


@dataclass(frozen=True)
class ResolvedPrediction:
    """What is predicted by which methods, resolved once by [`resolve`] for everything that follows.

    Args:
        methods: The methods; the self-check is of the first.
        stages: Number S of stages that they read.
        sampling_ratio: Ratio r of the stages' data.
        iterate: Whether they take single steps and slide the window.
        norms: ``"copy"`` or ``"bias"``, as for [`resolve_kinds`](know_hf.trajectory.kinds) like the next two.
        embeddings: ``"copy"`` or ``"fc"``.
        kinds: Name patterns → kind or ``"copy"``.
    """

    methods: tuple[ResolvedMethod, ...]
    stages: int
    sampling_ratio: float | None
    iterate: bool = False
    norms: str = "copy"
    embeddings: str = "copy"
    kinds: Mapping[str, str] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the methods."""
        return [one.name for one in self.methods]

    @property
    def predictors(self) -> list[nn.Module]:
        """The learned weights that the methods read, each once."""
        return list({id(one.predictor): one.predictor for one in self.methods if one.predictor is not None}.values())

    @property
    def selection(self) -> dict[str, Any]:
        """What decides which tensors are predicted: keywords of [`resolve_kinds`](know_hf.trajectory.kinds)."""
        return {"norms": self.norms, "embeddings": self.embeddings, "kinds": self.kinds}

    def to(self, device: torch.device) -> None:
        """Moves the predictors to a device."""
        for predictor in self.predictors:
            predictor.to(device)

    def check(self, steps: int, kinds: Sequence[str] = ("fc",)) -> None:
        """Raises what predicting so many steps would raise, as far as it can be known without a trajectory.

        Args:
            steps: Number of steps.
            kinds: Kinds of the tensors that will be predicted.

        Raises:
            TrajectoryError: If no data set could grow so much.
            ValueError: If methods, parameters, predictors, stages and steps do not fit each other.
        """
        check_limits({"steps": steps})
        step_names(self.sampling_ratio, steps)
        for one in self.methods:
            check_method(one.name, self.stages, kinds, steps, one.parameters, self.iterate)


def resolve(
    stages: int,
    sampling_ratio: float | None,
    *,
    method: str | Sequence[str] = DEFAULT,
    parameters: Mapping[str, Any] | None = None,
    iterate: bool = False,
    predictor: Any = None,
    norms: str = "copy",
    embeddings: str = "copy",
    kinds: Mapping[str, str] | None = None,
) -> ResolvedPrediction:
    """Finds the methods, sorts their parameters and loads their predictors.

    Args:
        stages: Number S of stages that will be read.
        sampling_ratio: Ratio r of successive stages' data; None where it is not recorded.
        method: As for [`enrich`], like everything that follows.
        parameters: ``name`` or ``method.name`` → value; without the method only when there is just one.
        iterate: As for [`enrich`].
        predictor: As for [`enrich`].
        norms: As for [`enrich`].
        embeddings: As for [`enrich`].
        kinds: As for [`enrich`].

    Returns:
        The [`ResolvedPrediction`]; its ``check`` tells whether it can take so many steps.

    Raises:
        OSError: If a predictor cannot be loaded.
        ValueError: If a name or an option's value is unknown, a parameter names no method of these, or a predictor is
            missing or does not fit.
    """
    names = method_names(method)
    resolve_kinds({}, norms=norms, embeddings=embeddings)
    for value in (kinds or {}).values():
        resolve_kinds({"any": Parameter("fc", "Linear")}, kinds={"*": value})
    methods = []
    for name, own in _sorted_out(names, parameters or {}).items():
        source, family = None, get_method(name).reads(own)
        if family is not None:
            passed = own.get("predictor", predictor if family.bundled or len(names) == 1 else None)
            if passed is None and not family.bundled:
                raise ValueError(f"{name} has no weights of its own here: pass predictor=, made by `know-hf convert`.")
            own |= predictor_parameters(family.load(passed, stages), sampling_ratio)
            source = "bundled" if passed is None else portable_name(str(getattr(passed, "name_or_path", passed)))
        methods.append(ResolvedMethod(get_method(name), own, source))
    return ResolvedPrediction(tuple(methods), stages, sampling_ratio, iterate, norms, embeddings, kinds)


def method_names(method: str | Sequence[str]) -> list[str]:
    """Resolves ``"all"``, one name or several.

    Raises:
        ValueError: If a name is unknown or there is none.
    """
    names = ALL if method == "all" else [method] if isinstance(method, str) else list(method)
    if not names:
        raise ValueError("Name at least one retrodiction method.")
    for name in names:
        get_method(name)
    return list(dict.fromkeys(names))


def _sorted_out(names: list[str], parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Method → its parameters, of ``name`` or ``method.name`` → value."""
    sorted_out: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in parameters.items():
        method, _, name = key.rpartition(".")
        if not method and len(names) > 1:
            raise ValueError(
                f"With several methods, say whose parameter it is: {', '.join(f'{n}.{key}' for n in names[:3])} …"
            )
        method = method or names[0]
        if method not in sorted_out:
            raise ValueError(f"Parameter {key!r} is of no method of this run ({', '.join(names)}).")
        sorted_out[method][name] = value
    return sorted_out
