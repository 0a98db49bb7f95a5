"""Perplexity: e to the mean negative log probability of the tokens that count."""

import datasets
import evaluate
import numpy as np


class Perplexity(evaluate.Metric):
    """``predictions`` are the log probabilities of the true tokens, ``references`` the tokens; -100 does not count."""

    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        found = np.concatenate([np.asarray(p, dtype=np.float64).ravel() for p in predictions])
        labels = np.concatenate([np.asarray(r).ravel() for r in references])
        counted = labels >= 0
        return {"perplexity": float(np.exp(-found[counted].mean())) if counted.any() else float("nan")}
