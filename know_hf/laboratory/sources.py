"""What the arms of a setting are made of, declared once: a dry run counts them, an experiment makes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from know_hf.enrichment.folders import step_names
from know_hf.forgetting.controls import Chosen, Matched, Merged, Predicted, find_control
from know_hf.laboratory.arms import Arm, Role, role_of
from know_hf.laboratory.setting import Setting
from know_hf.retrodiction import DEFAULT, METHODS


@dataclass(frozen=True)
class Source:
    """Where one or several arms come from: a method with one set of options, a stage, or an average.

    Args:
        name: What the names of its arms begin with, and its folder has.
        role: What they are to the comparison; None for what the declaration of the method says.
        method: The method that predicts them; None for what a training leaves.
        steps: How many arms there are.
        options: Those of the prediction.
        candidate_of: The arm that it is one candidate for.
        branches: The control whose branches it is predicted from; None for the stages of the forgetting.
    """

    name: str
    role: Role | None = None
    method: str | None = None
    steps: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    candidate_of: str | None = None
    branches: str | None = None

    @property
    def prediction(self) -> str:
        """What its arms have in common."""
        return self.candidate_of or self.name

    def arms(self, ratio: float | None) -> list[Arm]:
        """Its arms as they will be, without folders.

        Args:
            ratio: Sampling ratio r of the forgetting.
        """
        reset = self.options.get("norms") == "reset"
        role = self.role or ("start" if self.method is None else role_of(self.method, reset))
        names = [self.name] if self.steps == 1 else [f"{self.name} {step}" for step in step_names(ratio, self.steps)]
        return [Arm(name, None, role, self.method, self.prediction, candidate_of=self.candidate_of) for name in names]


def sources_of(setting: Setting, predictors: Mapping[str, str | Path] | None = None) -> list[Source]:
    """Declares the sources of a setting's arms, in the order of the comparison: the reference is the first.

    Args:
        setting: What asks for them.
        predictors: Name → predictor of further arms.

    Returns:
        The sources; every name is another one.

    Example:
        >>> from know_hf.laboratory.recipe import load_recipe
        >>> from know_hf.laboratory.sources import sources_of
        >>> [source.name for source in sources_of(load_recipe("table6.yaml").settings[0])]  # doctest: +SKIP
    """
    predicted = [Source(name, None, name, _steps(name, setting)) for name in setting.methods if name != "naive"]
    predicted += [
        Source(name, None, DEFAULT, _steps(DEFAULT, setting), {"predictor": further})
        for name, further in (predictors or {}).items()
    ]
    found = [Source("naive", "naive"), *predicted]
    for name in setting.controls:
        control, number = find_control(name)
        result = control.result
        if isinstance(result, Predicted) and number is not None:
            found.append(Source(name, None, result.method, options={"parameters": result.parameters(number)}))
        elif isinstance(result, Matched):
            found.append(_matched(name, result.of, setting, predictors or {}))
        elif isinstance(result, Chosen):
            found += [
                Source(f"{name} {value:g}", "control", result.method, options={"parameters": {result.parameter: value}},
                       candidate_of=name)
                for value in result.values
            ]  # fmt: skip
        elif isinstance(result, Merged):
            found.append(Source(name, "control", result.method, branches=result.of))
        else:
            found.append(Source(name, "control"))
    found += [Source(name, "method") for name in setting.chosen]
    return found + [
        replace(one, name=f"{one.name} reset", role=None, method=one.method or "naive",
                options={**one.options, "norms": "reset"})
        for one in found
        if one.candidate_of is None and {one.name, one.method} & set(setting.reset)
    ]  # fmt: skip


def _matched(name: str, of: str, setting: Setting, predictors: Mapping[str, str | Path]) -> Source:
    """Θ^0 with the norms of a prediction."""
    if of in predictors:
        options: dict[str, Any] = {"predictor": predictors[of]}
    else:
        options = {} if of == DEFAULT else {"parameters": {"to": of}}
    return Source(name, None, "shrink", setting.steps, options)


def _steps(method: str, setting: Setting) -> int:
    return 1 if METHODS[method].same_every_step else setting.steps
