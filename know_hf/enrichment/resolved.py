"""A prediction resolved: methods, parameters, predictors, and what is predicted, settled before anything runs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from know_hf.enrichment.folders import step_names
from know_hf.enrichment.options import Prediction
from know_hf.fitting.coefficients import OWN_FILE, Coefficients
from know_hf.retrodiction import ALL, Method, check_method, check_parameters, get_method, retrodict
from know_hf.retrodiction.predictors import predictor_parameters
from know_hf.retrodiction.registry import COEFFICIENTS
from know_hf.trajectory import Parameter, resolve_kinds
from know_hf.trajectory.identity import portable_name
from know_hf.trajectory.kinds import check_choices

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedMethod:
    """A method and everything that it is called with.

    Args:
        method: The method.
        parameters: Its parameters, a loaded predictor among them.
        source: Name of that predictor for records; None where none is read.
        coefficients: Those of a fit, with what they were fitted to, where the method takes such.
    """

    method: Method
    parameters: Mapping[str, Any]
    source: str | None = None
    coefficients: Coefficients | None = None

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
        after = self.method.delegate(self.parameters)
        whole = self.method.whole_tensors or (after is not None and after.whole_tensors)
        return not (whole or getattr(self.predictor, "reads_whole_tensors", False))

    @property
    def recorded(self) -> dict[str, Any]:
        """Its parameters as records name them, without the predictor."""
        return {name: value for name, value in self.parameters.items() if name != "predictor"}

    @property
    def pending(self) -> bool:
        """Whether a parameter of it is yet to be found with a model and data."""
        return self.method.needs_data is not None and self.parameters.get(self.method.needs_data) is None

    def predict(
        self,
        stages: Tensor,
        kind: str,
        steps: int,
        iterate: bool,
        tensor: str | None = None,
        positions: Sequence[float] | None = None,
    ) -> Tensor:
        """Predicts one tensor or block, as [`retrodict`]: ``(S, *shape)`` → ``(steps, *shape)``."""
        return retrodict(
            stages, kind, steps, self.name, iterate=iterate, tensor=tensor, positions=positions, **self.parameters
        )


@dataclass(frozen=True)
class ResolvedPrediction:
    """What a [`Prediction`] comes to for a trajectory of so many stages; every step that follows takes this.

    Args:
        options: What was asked for.
        methods: The methods; the self-check is of the first.
        stages: Number S of stages that they read.
    """

    options: Prediction
    methods: tuple[ResolvedMethod, ...]
    stages: int

    @property
    def names(self) -> list[str]:
        """Names of the methods."""
        return [one.name for one in self.methods]

    @property
    def predictors(self) -> list[nn.Module]:
        """The learned weights that the methods read, each once."""
        return list({id(one.predictor): one.predictor for one in self.methods if one.predictor is not None}.values())

    def to(self, device: torch.device) -> None:
        """Moves the predictors to a device."""
        for predictor in self.predictors:
            predictor.to(device)

    def check(self, kinds: Sequence[str], steps: int | None = None, early: bool = False) -> None:
        """Raises if a method cannot do its steps with its parameters, before anything is read or written.

        Args:
            kinds: Kinds that will be predicted.
            steps: Number of steps; by default those asked for.
            early: Whether methods may wait for a parameter that is found with a model and data.

        Raises:
            ValueError: If one cannot.
        """
        steps = self.options.steps if steps is None else steps
        for one in self.methods:
            if early and one.pending:
                continue
            check_method(one.name, self.stages, kinds, steps, one.parameters, self.options.iterate)


def resolve(
    prediction: Prediction,
    stages: int,
    sampling_ratio: float | None,
    forgotten: bool = True,
    folder: Path | None = None,
) -> ResolvedPrediction:
    """Settles methods and parameters, and loads predictors.

    Args:
        prediction: What is asked for.
        stages: Number S of stages that will be read.
        sampling_ratio: Ratio r of their data; None where it is not recorded.
        forgotten: Whether forgetting made them, instead of being checkpoints that were there: of such, ``all`` leaves
            out what cannot read so few, with a word.
        folder: Of the run, where its own coefficients are found if none are given.

    Raises:
        OSError: If a predictor, or a file of coefficients, cannot be loaded.
        TrajectoryError: If such a file is missing or of something else.
        ValueError: If a name is unknown, a parameter names no method of these, or a predictor is missing or does not
            fit.
    """
    names = method_names(prediction.method)
    methods = []
    for name, own in _sorted_out(names, prediction.parameters or {}).items():
        coefficients = _coefficients(get_method(name), own, folder)
        if coefficients is not None:
            own[COEFFICIENTS] = coefficients.table
        check_parameters(name, own)
        source, family = None, get_method(name).reads(own)
        if family is not None:
            passed = own.get("predictor", prediction.predictor if family.bundled or len(names) == 1 else None)
            if passed is None and not family.bundled:
                raise ValueError(f"{name} has no weights of its own here: pass predictor=, made by `know-hf convert`.")
            own |= predictor_parameters(family.load(passed, stages), sampling_ratio)
            source = "bundled" if passed is None else portable_name(str(getattr(passed, "name_or_path", passed)))
        counted = get_method(name).counts
        if counted is not None and not forgotten:
            own.setdefault(counted, stages)
        methods.append(ResolvedMethod(get_method(name), own, source, coefficients))
    if not forgotten and prediction.method in ("all", ["all"], ("all",)):
        methods = [one for one in methods if _is_able(one, prediction, stages)] or methods
    return ResolvedPrediction(prediction, tuple(methods), stages)


def _coefficients(method: Method, given: Mapping[str, Any], folder: Path | None) -> Coefficients | None:
    """The coefficients of a fit that a method is to take: those given, else the run's own, if there are some."""
    if not method.fits:
        return None
    if (found := given.get(COEFFICIENTS)) is None and folder is not None and (folder / OWN_FILE).is_file():
        found = folder / OWN_FILE
    return None if found is None else Coefficients.given(found)


def _is_able(one: ResolvedMethod, prediction: Prediction, stages: int) -> bool:
    """Whether a method can do its steps with so many stages; if not, why is said."""
    try:
        check_method(one.name, stages, ["fc"], prediction.steps, one.parameters, prediction.iterate)
    except ValueError as error:
        logger.warning("%s is left out: %s", one.name, error)
        return False
    return True


def resolve_early(prediction: Prediction, stages: int, sampling_ratio: float) -> ResolvedPrediction:
    """The same before there is a trajectory, or even a model: raises what can be known of a prediction by then.

    Raises:
        OSError: As [`resolve`].
        ValueError: As [`resolve`], or if method, parameters, stages and steps do not fit each other.
    """
    method_names(prediction.method)
    step_names(sampling_ratio, prediction.steps)
    check_choices(prediction.norms, prediction.embeddings)
    for value in (prediction.kinds or {}).values():
        resolve_kinds({"any": Parameter("fc", "Linear")}, kinds={"*": value})
    resolved = resolve(prediction, stages, sampling_ratio)
    resolved.check(["fc"], early=True)
    return resolved


def method_names(method: str | Sequence[str]) -> list[str]:
    """Resolves ``"all"``, one name or several.

    Raises:
        ValueError: If a name is unknown or there is none.
    """
    names = [method] if isinstance(method, str) else list(method)
    names = ALL if names == ["all"] else names
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
