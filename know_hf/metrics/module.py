"""The module that ``evaluate.load`` takes, for every metric: its configuration names which."""

from typing import Any

import datasets
import evaluate

from know_hf.metrics import METRICS
from know_hf.metrics.scores import Values


class Score(evaluate.Metric):
    """Any of the metrics."""

    def _info(self) -> evaluate.MetricInfo:
        metric = METRICS[self.config_name]

        def column(kind: str) -> datasets.Value | datasets.Sequence:
            value = datasets.Value(kind)
            return datasets.Sequence(value) if metric.sequences else value

        features = datasets.Features(predictions=column(metric.predictions), references=column(metric.references))
        return evaluate.MetricInfo(description=metric.description, citation="", features=features)

    def _compute(self, predictions: Values, references: Values, **options: Any) -> dict[str, float]:
        return {self.config_name: METRICS[self.config_name].score(predictions, references, **options)}
