"""What a model's answers to the selection data are worth, and how much of that is chance."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import EvalPrediction, Trainer

from know_hf.choice.losses import LOSS, PARTS, LossParts, loss_alone, quiet, same_chance, whole_loss
from know_hf.enrichment.verdict import Deciding, asked_metric, deciding_score
from know_hf.forgetting.evaluation import without_dropping
from know_hf.settings import suggestion
from know_hf.training.taking import take
from know_hf.trajectory.identity import task_of

# Examples that show which scores there are; what is measured beside them.
_FEW = 8
_NO_SCORES = ("_runtime", "_per_second", "_time")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """What a model made of the selection data.

    Args:
        scores: Its scores, named as Trainer names them.
        units: ``(n,)`` what each example, or part of the data, adds to the score that decides, which is their mean;
            None as long as that is not looked at.
        kept: Predictions and labels, from which scores of other sets of examples are computed.
        losses: ``(parts,)`` what each part of the data adds to the loss, where it counts beside the score.
        way: How the loss was taken apart, if it was.
    """

    scores: dict[str, float]
    units: np.ndarray | None = None
    kept: tuple[Any, Any] | None = None
    losses: np.ndarray | None = None
    way: str | None = None

    @property
    def size(self) -> int:
        """Number of examples, or of parts where there is nothing else."""
        if self.kept is not None:
            return len(_first(self.kept[1]))
        return 0 if self.units is None else len(self.units)


@dataclass(frozen=True)
class Measure:
    """The score that decides.

    Args:
        metric: Its name among the scores, such as ``eval_accuracy``.
        higher_is_better: Its direction.
        compute: The trainer's ``compute_metrics``; None where the loss decides.
    """

    metric: str
    higher_is_better: bool
    compute: Callable[[EvalPrediction], dict[str, float]] | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.higher_is_better else -1


def deciding_of(trainer: Any, scores: Mapping[str, float], examples: int) -> Deciding | None:
    """Which of a trainer's scores decides; None if none does."""
    task = trainer.task or task_of(trainer.accelerator.unwrap_model(trainer.model))
    return deciding_score(task, scores, examples, *asked_metric(trainer.args))


def measure_of(trainer: Any, deciding: Deciding) -> Measure:
    """How that score is computed."""
    by_loss = deciding.metric == LOSS or trainer.compute_metrics is None
    return Measure(
        LOSS if by_loss else deciding.metric, deciding.score.higher_is_better and not by_loss,
        None if by_loss else trainer.compute_metrics,
    )  # fmt: skip


def judged_by(trainer: Any, scores: Mapping[str, float], examples: int) -> tuple[Deciding, Measure] | None:
    """The score that decides among those of so many examples, and how it is computed; None if none of them does."""
    deciding = deciding_of(trainer, scores, examples)
    return None if deciding is None else (deciding, measure_of(trainer, deciding))


def predict(trainer: Trainer, dataset: Any) -> tuple[dict[str, float], tuple[Any, Any]]:
    """Scores, and predictions with labels, of the trainer's model on a data set, all examples of it.

    Where no score is computed of them, there are none of these.
    """
    alone = nullcontext() if trainer.compute_metrics is not None else loss_alone(trainer)
    with same_chance(), without_dropping(trainer), quiet(trainer), alone:
        found = trainer.predict(dataset, metric_key_prefix="eval")
    return dict(found.metrics or {}), (found.predictions, found.label_ids)


def check_metric(trainer: Any) -> None:
    """Looks, on a few examples, whether the score that is to decide is one of those that there will be.

    Raises:
        ValueError: If it is not.
    """
    name, _ = asked_metric(trainer.args)
    data = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.set_aside.dataset
    first = next(iter(data.values()), None) if isinstance(data, dict) else data
    if name is None or first is None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    few = range(min(len(first), _FEW * trainer.args.world_size))
    try:
        scores = predict(trainer, take(first, few))[0]
    except Exception as error:  # of any library; few examples need not have a score
        logger.debug("The scores are not known before the evaluation: %s", error)
        return
    known = [one.removeprefix("eval_") for one in scores if not one.endswith(_NO_SCORES)]
    sets = [f"{own}_" for own in data] if isinstance(data, dict) else []
    wanted = name.removeprefix("eval_")
    if not {wanted, *(wanted.removeprefix(own) for own in sets)} & set(known):
        raise ValueError(
            f"metric_for_best_model is {name!r}, which is not among the scores ({', '.join(known)})"
            f"{suggestion(wanted, known) or '.'}"
        )


def answer(trainer: Trainer, dataset: Any, measure: Measure, losses: LossParts | None = None) -> Answers:
    """Lets the trainer's model answer the selection data.

    Args:
        trainer: Its model is asked, as it is now.
        dataset: The selection data.
        measure: The score that decides.
        losses: Takes the loss apart, where that counts beside the score, or several models' losses are compared.
    """
    if measure.compute is None:
        own = (losses or LossParts(trainer, dataset))()
        return Answers({measure.metric: own.value}, own.units, way=own.way)
    scores, kept = predict(trainer, dataset)
    if losses is None:
        return Answers(scores, kept=kept)
    own = losses()
    return Answers(scores, kept=kept, losses=own.units, way=own.way)


def score_of(trainer: Trainer, dataset: Any, measure: Measure) -> float:
    """The score that decides, of the trainer's model."""
    if measure.compute is None:
        with same_chance():
            return whole_loss(trainer, dataset)
    return predict(trainer, dataset)[0][measure.metric]


def pooled(parts: Sequence[Answers], measure: Measure) -> Answers:
    """The answers to several parts of the data as one."""
    if len(parts) == 1:
        return parts[0]
    if all(part.units is not None for part in parts):
        units = np.concatenate([part.units for part in parts if part.units is not None])
        return Answers({measure.metric: float(units.mean())}, units)
    kept = [part.kept for part in parts if part.kept is not None]
    together = _joined([one[0] for one in kept]), _joined([one[1] for one in kept])
    known = [part.losses for part in parts if part.losses is not None]
    losses = np.concatenate(known) if len(known) == len(parts) else None
    return Answers({measure.metric: _value(measure, *together)}, kept=together, losses=losses)


def in_units(answers: Mapping[str, Answers], measure: Measure) -> dict[str, Answers]:
    """The same, with what each example adds to the score; of a score that is no mean over examples, each part of them.

    A part's share of such a score (of F1, of an intersection over a union) is its pseudo-value: so many times the score
    of all, less one time fewer that without the part.

    Args:
        answers: Name → answers to the same examples.
        measure: The score.

    Returns:
        As many units for every one, NaN where there is no score.

    Source: pseudo-values are those of the jackknife that leaves out groups; Tukey (1958), Miller, "The jackknife - a
        review" (Biometrika 1974).
    """
    found = {name: _units(own, measure, by_example=True) for name, own in answers.items()}
    # All of them in one way.
    if any(units is None and _has_score(answers[name], measure) for name, units in found.items()):
        found = {name: _units(own, measure, by_example=False) for name, own in answers.items()}
    size = max((len(units) for units in found.values() if units is not None), default=0)
    nothing = np.full(size, math.nan)
    return {
        name: replace(own, units=nothing if (units := found[name]) is None else units) for name, own in answers.items()
    }


def _has_score(answers: Answers, measure: Measure) -> bool:
    return math.isfinite(answers.scores[measure.metric])


def _units(answers: Answers, measure: Measure, by_example: bool) -> np.ndarray | None:
    """What each example, or part, adds to the score; None where the score is no mean of that."""
    if answers.units is not None or answers.kept is None:
        return answers.units
    predictions, labels = answers.kept
    size, whole = answers.size, answers.scores[measure.metric]
    if not by_example:
        order, count = np.random.default_rng(0).permutation(size), min(size, PARTS)
        rest = (np.sort(order[np.arange(size) % count != part]) for part in range(count))
        without = np.asarray([_value(measure, predictions, labels, rows) for rows in rest])
        units = whole + (count - 1) * (whole - without)
        return units + (whole - units.mean())  # so that they are of this score, not of one a little less biased
    if len(_first(predictions)) != size:  # predictions of something else than the examples
        return None
    units = np.asarray([_value(measure, predictions, labels, np.asarray([row])) for row in range(size)])
    return units if math.isclose(float(units.mean()), whole, rel_tol=1e-6, abs_tol=1e-9) else None


def _value(measure: Measure, predictions: Any, labels: Any, rows: np.ndarray | None = None) -> float:
    """The score of some of the examples; NaN where they have none."""
    if measure.compute is None:
        raise ValueError("A loss is no function of predictions.")
    try:
        if rows is not None:
            predictions, labels = _taken(predictions, rows), _taken(labels, rows)
        scores = measure.compute(EvalPrediction(predictions, labels))
    except Exception:  # of any library; a few examples may have no score, as where a class is missing
        return math.nan
    return float(scores.get(measure.metric.removeprefix("eval_"), scores.get(measure.metric, math.nan)))


def guessing(deciding: Deciding, answers: Answers) -> float | None:
    """Accuracy of always giving the most frequent class of the examples; None where the score is none of examples."""
    if deciding.examples is None or answers.kept is None:
        return None
    labels = np.asarray(_first(answers.kept[1]))
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        return None
    return float(np.bincount(labels).max() / len(labels))


def _first(tree: Any) -> Any:
    while isinstance(tree, tuple | list):
        tree = tree[0]
    return next(iter(tree.values())) if isinstance(tree, dict) else tree


def _taken(tree: Any, rows: np.ndarray) -> Any:
    if isinstance(tree, tuple | list):
        return type(tree)(_taken(branch, rows) for branch in tree)
    if isinstance(tree, dict):
        return {name: _taken(branch, rows) for name, branch in tree.items()}
    return tree[rows] if isinstance(tree, np.ndarray) and tree.ndim else tree


def _joined(trees: list[Any]) -> Any:
    first = trees[0]
    if isinstance(first, tuple | list):
        return type(first)(_joined([tree[i] for tree in trees]) for i in range(len(first)))
    if isinstance(first, dict):
        return {name: _joined([tree[name] for tree in trees]) for name in first}
    widest = [max(sizes) for sizes in zip(*(tree.shape[1:] for tree in trees), strict=True)]
    # Trainer fills up with -100, to the longest of what it saw.
    filled = [
        np.pad(tree, [(0, 0), *((0, w - s) for w, s in zip(widest, tree.shape[1:], strict=True))], constant_values=-100)
        for tree in trees
    ]
    return np.concatenate(filled)
