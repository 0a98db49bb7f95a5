"""The forgetting and its controls: what data each trains on, for how long, from where, and what of it is compared."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from know_hf.settings import suggestion

FORGETTING = "forgetting"
#: What stage 0 can record of its weights while it is trained: value of ``average_stage_zero`` → the averages.
AVERAGES = {"ema": ("ema",), "swa": ("swa",), "both": ("ema", "swa")}


@dataclass(frozen=True)
class Predicted:
    """A start that is computed from the forgetting's stages instead of trained.

    Args:
        method: The retrodiction method, which takes one step.
        parameters: From the number in the control's name to the method's parameters.

    Example:
        >>> from know_hf.forgetting.controls import Predicted
        >>> Predicted("shrink_perturb", lambda factor: {"lam": factor}).parameters(0.5)
        {'lam': 0.5}
    """

    method: str
    parameters: Callable[[float], dict[str, Any]]


@dataclass(frozen=True)
class Averaged:
    """A start that the forgetting itself recorded: an average of the weights of stage 0 while it was trained.

    Args:
        average: Which of [`AVERAGES`].
    """

    average: str


@dataclass(frozen=True)
class Chosen:
    """Several predicted starts, of which a comparison keeps the one that its validation examples choose.

    Args:
        method: The retrodiction method, which takes one step.
        parameter: The one of its parameters that is to be chosen.
        values: The candidates' values of it.
    """

    method: str
    parameter: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Merged:
    """A start that is put together from the branches of a control, and what they began with.

    Args:
        method: The retrodiction method, which takes one step and reads the start, then the branches.
        of: Name of the control whose stages are the branches.
    """

    method: str
    of: str


def _none(_: list[Any]) -> list[Any]:
    return []


@dataclass(frozen=True)
class Matched:
    """Θ^0 with the norms of a prediction, tensor by tensor and step by step.

    Args:
        of: Name of the method or predictor.
    """

    of: str


@dataclass(frozen=True)
class Control:
    """One way to spend the data and the steps of a run. Whatever trains or names a control asks its declaration.

    Args:
        subsets: From the forgetting's data sets, largest first, to those that are trained on, in this order; without
            it nothing is trained, and ``result`` says what is computed.
        steps: From the optimizer steps of the forgetting's stages to those of each stage of the control, of all its
            branches together; None for as many as the epochs (or ``max_steps``) of the arguments make of its data.
        start: What its first stage starts from: the ``"model"`` that the forgetting starts from, or ``"stage-0"``, the
            Θ^0 that the forgetting ended its first stage with.
        result: Index of the stage whose weights are compared with Θ^0, or how they are [`Predicted`], [`Averaged`],
            [`Chosen`], [`Merged`] or [`Matched`].
        branches: Whether its stages do not follow one another: each begins with the same weights, and with a fresh
            optimizer and schedule, on a half of the data
            ([`branch_plan`](know_hf.forgetting.stages)).
        help: What it does, as a sentence without its subject.

    Example:
        >>> from know_hf.forgetting.controls import Control
        >>> Control(subsets=lambda subsets: subsets[:1], help="trains on all the data").trained
        True
    """

    subsets: Callable[[list[Any]], list[Any]] = _none
    steps: Callable[[list[int]], int] | None = None
    start: Literal["model", "stage-0"] = "model"
    result: int | Predicted | Averaged | Chosen | Merged | Matched = -1
    branches: bool = False
    help: str = ""

    @property
    def trained(self) -> bool:
        """Whether it trains anything itself."""
        return self.subsets is not _none


def _times(factor: float) -> dict[str, Any]:
    from know_hf.trajectory.kinds import PREDICTED_KINDS  # here, because the command line reads the names alone

    return {"factors": dict.fromkeys(PREDICTED_KINDS, factor)}


#: Name → declaration. The name of a predicted control is followed by its number, as in ``shrink 0.5``.
CONTROLS: dict[str, Control] = {
    # Paper section 3.
    FORGETTING: Control(subsets=lambda subsets: subsets, result=0),
    # Paper section 5; order and budget of its stages are ours.
    "incremental": Control(
        subsets=lambda subsets: subsets[::-1],
        help="trains from the smallest subset to the largest, the last stage is the result",
    ),
    "equal_compute": Control(
        subsets=lambda subsets: subsets[:1], steps=lambda steps: sum(steps[1:]), start="stage-0",
        help="trains the model on all the data for as many steps as its forgetting would take",
    ),
    "once_more": Control(
        subsets=lambda subsets: subsets[:1], start="stage-0",
        help="trains the model on all the data once more, for as long as a stage on them takes",
    ),
    # Wortsman et al. (arXiv 2203.05482), who vary settings; halves of the data and other seeds are ours.
    "soup": Control(
        subsets=lambda subsets: subsets[:1], steps=lambda steps: sum(steps[1:]), start="stage-0",
        result=Merged("soup_mean", "soup"), branches=True,
        help="trains the model again and again from where it is, each time on a half of the data, for as many steps in "
        "all as its forgetting would take, to be averaged",
    ),
    # Jang, Yun and Han (arXiv 2403.19522).
    "soup_stock": Control(start="stage-0", result=Merged("model_stock", "soup")),
    "shrink": Control(
        start="stage-0",
        result=Predicted("shrink", _times),
    ),
    # Ash and Adams (arXiv 1910.08475); the size of the noise is the method's own.
    "shrink_perturb": Control(
        start="stage-0", result=Predicted("shrink_perturb", lambda factor: {"lam": factor})
    ),
    # Polyak averaging, and Izmailov et al. (arXiv 1803.05407).
    "ema": Control(start="stage-0", result=Averaged("ema")),
    "swa": Control(start="stage-0", result=Averaged("swa")),
    # Ilharco et al. (arXiv 2212.04089) choose λ on held-out data; the grid is ours.
    "task_vector_chosen": Control(
        start="stage-0", result=Chosen("task_vector", "lam", (0.05, 0.1, 0.2, 0.4, 0.7, 1.0))
    ),
}  # fmt: skip
#: Names of what is trained: the values of ``recipe`` in the training arguments.
TRAINED = tuple(name for name, control in CONTROLS.items() if control.trained)
#: Those of them that can be trained beside a finished forgetting, as they begin with its Θ^0.
BESIDE = tuple(name for name in TRAINED if CONTROLS[name].start == "stage-0")


#: What the name of a control begins with that takes on the norms of a prediction.
_MATCHED = "shrink to "


def trainings(names: Iterable[str]) -> list[str]:
    """The values of ``recipe`` that an experiment with these controls trains, the forgetting first.

    Example:
        >>> from know_hf.forgetting.controls import trainings
        >>> trainings(["shrink 0.5", "equal_compute", "soup_stock"])
        ['forgetting', 'equal_compute', 'soup']
    """
    results = {name: find_control(name)[0].result for name in names}
    wanted = [result.of if isinstance(result, Merged) else name for name, result in results.items()]
    return [FORGETTING, *dict.fromkeys(name for name in wanted if name in TRAINED)]


def find_control(name: str) -> tuple[Control, float | None]:
    """Finds a control by the name that an experiment gives it.

    Args:
        name: ``"incremental"``, ``"ema"`` …, a predicted control with its number, such as ``"shrink 0.5"``, or
            ``"shrink to NAME"`` for the norms of a method or predictor.

    Returns:
        The declaration, and the number of a predicted control.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> from know_hf.forgetting.controls import find_control
        >>> find_control("shrink 0.5")[1]
        0.5
    """
    if name.startswith(_MATCHED) and (of := name.removeprefix(_MATCHED).strip()):
        return Control(subsets=_none, start="stage-0", result=Matched(of)), None
    word, *numbers = name.split() or [name]
    numbered = {known for known, control in CONTROLS.items() if isinstance(control.result, Predicted)}
    if word in CONTROLS and word != FORGETTING:
        if word not in numbered and not numbers:
            return CONTROLS[word], None
        with suppress(ValueError):
            if word in numbered and len(numbers) == 1:
                return CONTROLS[word], float(numbers[0])
    plain = [known for known in CONTROLS if known not in numbered and known != FORGETTING]
    predicted = [f"'{known} 0.5'" for known in CONTROLS if known in numbered]
    near = "" if word in CONTROLS else suggestion(word, [*plain, *numbered])
    raise ValueError(
        f"Unknown control {name!r}{near and f'{near} Use' or '; use'} {', '.join(plain)}, {', '.join(predicted)} or "
        f"'{_MATCHED}NAME' of a prediction."
    )
