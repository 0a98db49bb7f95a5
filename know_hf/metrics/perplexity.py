"""Perplexity: e to the mean negative log probability of the tokens that count."""

import evaluate

from know_hf.metrics import scores
from know_hf.metrics.features import sequences


class Perplexity(evaluate.Metric):
    """``predictions`` are the log probabilities of the true tokens, ``references`` the tokens; -100 does not count."""

    def _info(self):
        return evaluate.MetricInfo(description=__doc__, citation="", features=sequences("float64"))

    def _compute(self, predictions, references):
        return {"perplexity": scores.perplexity(predictions, references)}
