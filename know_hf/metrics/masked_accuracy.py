"""Share of tokens that are predicted right, places with a negative label left out."""

import evaluate

from know_hf.metrics import scores
from know_hf.metrics.features import sequences


class MaskedAccuracy(evaluate.Metric):
    """``predictions`` and ``references`` are lists of sequences of tokens; -100 marks what does not count."""

    def _info(self):
        return evaluate.MetricInfo(description=__doc__, citation="", features=sequences())

    def _compute(self, predictions, references):
        return {"masked_accuracy": scores.accuracy(predictions, references)}
