"""Mean over classes of the share of their pixels that are predicted right."""

import datasets
import evaluate
import numpy as np


class MeanClassAccuracy(evaluate.Metric):
    """``predictions`` and ``references`` are lists of class maps ``(height, width)``, or of sequences of classes."""

    def _info(self):
        # Maps of any number of axes come flattened: lists of sequences.
        sequence = datasets.Sequence(datasets.Value("int64"))
        features = datasets.Features({"predictions": sequence, "references": sequence})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references, num_labels):
        found = np.concatenate([np.asarray(p).ravel() for p in predictions])
        labels = np.concatenate([np.asarray(r).ravel() for r in references])
        counted = (labels >= 0) & (labels < num_labels)
        pairs = labels[counted] * num_labels + np.clip(found[counted], 0, num_labels - 1)
        confusion = np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)
        right = np.diag(confusion)
        pixels = confusion.sum(1)
        present = pixels > 0
        return {
            "mean_class_accuracy": float((right[present] / pixels[present]).mean()) if present.any() else float("nan")
        }
