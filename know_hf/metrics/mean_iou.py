"""Mean over classes of intersection over union, pixels with a label of no class left out."""

import evaluate

from know_hf.metrics import scores
from know_hf.metrics.features import sequences


class MeanIou(evaluate.Metric):
    """``predictions`` and ``references`` are lists of class maps, flattened."""

    def _info(self):
        return evaluate.MetricInfo(description=__doc__, citation="", features=sequences())

    def _compute(self, predictions, references, num_labels):
        return {"mean_iou": scores.mean_iou(scores.confusion_matrix(predictions, references, num_labels))}
