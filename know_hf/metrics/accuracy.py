"""Share of examples whose predicted class is their label."""

import datasets
import evaluate

from know_hf.metrics import scores


class Accuracy(evaluate.Metric):
    """``predictions`` and ``references`` are lists of classes."""

    def _info(self):
        features = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        return {"accuracy": scores.accuracy(predictions, references)}
