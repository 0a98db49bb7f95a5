"""Mean over classes of the share of their pixels that are predicted right."""

import evaluate

from know_hf.metrics import scores
from know_hf.metrics.features import sequences


class MeanClassAccuracy(evaluate.Metric):
    """``predictions`` and ``references`` are lists of class maps, flattened."""

    def _info(self):
        return evaluate.MetricInfo(description=__doc__, citation="", features=sequences())

    def _compute(self, predictions, references, num_labels):
        confusion = scores.confusion_matrix(predictions, references, num_labels)
        return {"mean_class_accuracy": scores.mean_class_accuracy(confusion)}
