"""Mean over classes of the share of their pixels that are predicted right."""

import evaluate
import numpy as np

from know_hf.metrics.confusion import class_maps, confusion_matrix, mean_share


class MeanClassAccuracy(evaluate.Metric):
    """``predictions`` and ``references`` are lists of class maps, flattened."""

    def _info(self):
        return evaluate.MetricInfo(description=__doc__, citation="", features=class_maps())

    def _compute(self, predictions, references, num_labels):
        confusion = confusion_matrix(predictions, references, num_labels)
        right = np.diag(confusion)
        return {"mean_class_accuracy": mean_share(right, confusion.sum(1))}
