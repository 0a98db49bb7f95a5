"""Metrics for the ``evaluate`` library that come with the package and need no network."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from know_hf.installing import missing
from know_hf.metrics.scores import (
    Values,
    accuracy,
    confusion_matrix,
    f1,
    macro_f1,
    mean_class_accuracy,
    mean_iou,
    perplexity,
    rmse,
)

if TYPE_CHECKING:
    import evaluate


@dataclass(frozen=True)
class Metric:
    """A score as ``evaluate`` wants it described.

    Args:
        description: What it is, and what predictions and references are.
        score: From predictions, references and options to the score.
        predictions: Type of the predictions.
        references: Type of the references.
        sequences: Whether both are lists of sequences, such as tokens or flattened class maps.
    """

    description: str
    score: Callable[..., float]
    predictions: str = "int64"
    references: str = "int64"
    sequences: bool = True


def _mean_iou(predictions: Values, references: Values, num_labels: int) -> float:
    return mean_iou(confusion_matrix(predictions, references, num_labels))


def _mean_class_accuracy(predictions: Values, references: Values, num_labels: int) -> float:
    return mean_class_accuracy(confusion_matrix(predictions, references, num_labels))


def _macro_f1(predictions: Values, references: Values, num_labels: int) -> float:
    return macro_f1(confusion_matrix(predictions, references, num_labels))


#: Name → metric.
METRICS = {
    "accuracy": Metric("Share of examples whose predicted class is their label.", accuracy, sequences=False),
    "f1": Metric("F1 over all classes of all examples, of a 1 or 0 for each.", f1),
    "macro_f1": Metric("Mean over classes of F1, of sequences of classes; negative labels do not count.", _macro_f1),
    "masked_accuracy": Metric(
        "Share of tokens that are predicted right; -100 marks labels that do not count.", accuracy
    ),
    "mean_class_accuracy": Metric(
        "Mean over classes of the share of their pixels that are predicted right, of class maps, flattened.",
        _mean_class_accuracy,
    ),
    "mean_iou": Metric(
        "Mean over classes of intersection over union, of class maps, flattened; labels of no class are left out.",
        _mean_iou,
    ),
    "perplexity": Metric(
        "e to the mean negative log probability: predictions are the log probabilities of the true tokens, references "
        "the tokens; -100 marks those that do not count.",
        perplexity,
        predictions="float64",
    ),
    "rmse": Metric(
        "Root of the mean squared error, in the unit of the references.",
        rmse,
        predictions="float64",
        references="float64",
        sequences=False,
    ),
}
#: What there is.
NAMES = tuple(METRICS)


def load_metric(name: str) -> "evaluate.Metric":
    """Loads one, as ``evaluate.load`` loads those of the Hub.

    Args:
        name: One of ``NAMES``.

    Returns:
        An ``evaluate.Metric``; ``compute(predictions=…, references=…)`` returns ``{name: score}``, and those of class
        maps take ``num_labels=`` as well.

    Raises:
        ImportError: If ``evaluate`` is not installed.
        ValueError: If there is none of that name.

    Example:
        >>> from know_hf.metrics import load_metric
        >>> load_metric("masked_accuracy").compute(predictions=[[1, 2, 0]], references=[[1, 3, -100]])
        {'masked_accuracy': 0.5}
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r} here, only {', '.join(NAMES)}.")
    return load_module(Path(__file__).with_name("module.py"), name)


def load_module(path: Path, name: str | None = None) -> "evaluate.EvaluationModule":
    """Loads a metric module of the ``evaluate`` library from its file.

    Args:
        path: The file.
        name: Which of its metrics, where it has several.

    Raises:
        ImportError: If ``evaluate`` is not installed.
    """
    try:
        import evaluate
    except ImportError as error:
        raise missing("Metric modules need", "evaluate", "evaluate") from error
    return evaluate.load(str(path), name, experiment_id=str(os.getpid()))  # processes share no file of theirs
