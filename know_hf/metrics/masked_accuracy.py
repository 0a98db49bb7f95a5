"""Share of tokens that are predicted right, places with a negative label left out."""

import datasets
import evaluate
import numpy as np


class MaskedAccuracy(evaluate.Metric):
    """``predictions`` and ``references`` are lists of sequences of tokens; -100 marks what does not count."""

    def _info(self):
        sequence = datasets.Sequence(datasets.Value("int64"))
        features = datasets.Features({"predictions": sequence, "references": sequence})
        return evaluate.MetricInfo(description=__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        found = np.concatenate([np.asarray(p).ravel() for p in predictions])
        labels = np.concatenate([np.asarray(r).ravel() for r in references])
        counted = labels >= 0
        return {"masked_accuracy": float((found == labels)[counted].mean()) if counted.any() else float("nan")}
