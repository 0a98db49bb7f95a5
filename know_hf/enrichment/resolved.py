"""A prediction settled once: methods, their parameters and learned weights, before anything expensive."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from know_hf.enrichment.methods import method_names, method_parameters, names_of_steps
from know_hf.enrichment.options import Prediction
from know_hf.retrodiction import check_method
from know_hf.trajectory import Parameter, resolve_kinds


@dataclass(frozen=True)
class ResolvedPrediction:
    """What a [`Prediction`] comes to for a trajectory of so many stages; every step that follows takes this.

    Args:
        options: What was asked for.
        names: The methods.
        parameters: Method → its parameters, the loaded predictor among them.
        sources: Method → a name for its predictor.
        stages: Number S of stages that are read.
    """

    options: Prediction
    names: tuple[str, ...]
    parameters: Mapping[str, dict[str, Any]]
    sources: Mapping[str, str]
    stages: int

    def check(self, kinds: Iterable[str], steps: int | None = None) -> None:
        """Raises if a method cannot do its steps with its parameters, before anything is read or written.

        Args:
            kinds: Kinds that will be predicted.
            steps: Number of steps; by default those asked for.

        Raises:
            ValueError: If one cannot.
        """
        for name in self.names:
            steps = self.options.steps if steps is None else steps
            check_method(name, self.stages, list(kinds), steps, self.parameters[name], self.options.iterate)


def resolve(prediction: Prediction, stages: int, sampling_ratio: float) -> ResolvedPrediction:
    """Settles methods and parameters, and loads predictors.

    Args:
        prediction: What is asked for.
        stages: Number S of stages that will be read.
        sampling_ratio: Ratio r of their data.

    Returns:
        The [`ResolvedPrediction`].

    Raises:
        OSError: If a predictor cannot be loaded.
        ValueError: If a name is unknown, or a parameter or predictor does not fit.
    """
    names = method_names(prediction.method)
    parameters, sources = method_parameters(names, prediction.parameters, prediction.predictor, stages, sampling_ratio)
    return ResolvedPrediction(prediction, tuple(names), parameters, sources, stages)


def resolve_early(prediction: Prediction, stages: int, sampling_ratio: float) -> ResolvedPrediction:
    """The same before there is a trajectory, or even a model: raises what can be known of a prediction by then.

    Raises:
        OSError: As [`resolve`].
        ValueError: As [`resolve`], or if method, parameters, stages and steps do not fit each other.
    """
    method_names(prediction.method)
    names_of_steps(sampling_ratio, prediction.steps)
    resolve_kinds({}, norms=prediction.norms, embeddings=prediction.embeddings)
    for value in (prediction.kinds or {}).values():
        resolve_kinds({"any": Parameter("fc", "Linear")}, kinds={"*": value})
    resolved = resolve(prediction, stages, sampling_ratio)
    resolved.check(["fc"])
    return resolved
