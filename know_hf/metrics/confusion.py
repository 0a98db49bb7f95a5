"""What the metrics of class maps share."""

import datasets
import numpy as np


def class_maps() -> datasets.Features:
    """Features of metrics that read class maps, flattened: lists of sequences."""
    sequence = datasets.Sequence(datasets.Value("int64"))
    return datasets.Features({"predictions": sequence, "references": sequence})


def confusion_matrix(predictions, references, num_labels: int) -> np.ndarray:
    """Counts ``(true class, predicted class)`` pairs; places whose label is no class are left out.

    Returns:
        ``(num_labels, num_labels)`` int64.
    """
    found = np.concatenate([np.asarray(p).ravel() for p in predictions])
    labels = np.concatenate([np.asarray(r).ravel() for r in references])
    counted = (labels >= 0) & (labels < num_labels)
    pairs = labels[counted] * num_labels + np.clip(found[counted], 0, num_labels - 1)
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def mean_share(right: np.ndarray, whole: np.ndarray) -> float:
    """Mean of ``right / whole`` over the classes that there are; NaN if there are none."""
    present = whole > 0
    return float((right[present] / whole[present]).mean()) if present.any() else float("nan")
