"""The scores themselves, in numpy: what the metric modules and the tasks share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

#: An array, or a list of values or of sequences of any lengths.
Values = np.ndarray | Sequence[Any]


def accuracy(predictions: Values, references: Values) -> float:
    """Share of the places where both agree; places with a negative reference are left out.

    Returns:
        NaN if no place counts.
    """
    found, labels = _flat(predictions), _flat(references)
    counted = labels >= 0
    return float((found == labels)[counted].mean()) if counted.any() else float("nan")


def perplexity(log_probabilities: Values, references: Values) -> float:
    """e to the mean negative log probability of the true tokens; places with a negative reference are left out.

    Returns:
        NaN if no place counts.
    """
    found, labels = _flat(log_probabilities).astype(np.float64), _flat(references)
    counted = labels >= 0
    return float(np.exp(-found[counted].mean())) if counted.any() else float("nan")


def confusion_matrix(predictions: Values, references: Values, num_labels: int) -> np.ndarray:
    """Counts ``(true class, predicted class)`` pairs; places whose label is no class are left out.

    Returns:
        ``(num_labels, num_labels)`` int64.
    """
    found, labels = _flat(predictions), _flat(references)
    counted = (labels >= 0) & (labels < num_labels)
    pairs = labels[counted].astype(np.int64) * num_labels + np.clip(found[counted], 0, num_labels - 1)
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes that there are of intersection over union, from a [`confusion_matrix`]; NaN without any.

    Source: paper Table 5.
    """
    right = np.diag(confusion)
    return _mean_share(right, confusion.sum(0) + confusion.sum(1) - right)


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """Mean over the classes that there are of the share of their places that are right; NaN without any."""
    return _mean_share(np.diag(confusion), confusion.sum(1))


def macro_f1(confusion: np.ndarray) -> float:
    """F1 averaged over the classes that there are, from a [`confusion_matrix`]; NaN without any."""
    right = np.diag(confusion)
    return _mean_share(2 * right, confusion.sum(0) + confusion.sum(1))


def f1(predictions: Values, references: Values) -> float:
    """F1 of what is marked 1, over all places together; NaN if nothing is, on either side."""
    found, marks = _flat(predictions) > 0, _flat(references) > 0
    marked = int(found.sum()) + int(marks.sum())
    return 2 * int((found & marks).sum()) / marked if marked else float("nan")


def rmse(predictions: Values, references: Values) -> float:
    """Root of the mean squared difference, in the unit of the references; NaN without any."""
    difference = _flat(predictions).astype(np.float64) - _flat(references)
    return float(np.sqrt(np.mean(difference**2))) if len(difference) else float("nan")


def pearson(predictions: Values, references: Values) -> float:
    """Pearson's correlation; NaN where one side is all the same."""
    found, wanted = _flat(predictions).astype(np.float64), _flat(references).astype(np.float64)
    spread = found.std() * wanted.std() if len(found) else 0.0
    return float(((found - found.mean()) * (wanted - wanted.mean())).mean() / spread) if spread else float("nan")


def _flat(values: Values) -> np.ndarray:
    """One array of all values of an array, or of a list of sequences of any lengths."""
    if isinstance(values, np.ndarray) or not len(values):
        return np.asarray(values).ravel()
    return np.concatenate([np.asarray(part).ravel() for part in values])


def _mean_share(right: np.ndarray, whole: np.ndarray) -> float:
    present = whole > 0
    return float((right[present] / whole[present]).mean()) if present.any() else float("nan")
