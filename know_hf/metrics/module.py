"""The module that ``evaluate.load`` takes, for every metric: its configuration names which."""

import datasets
import evaluate

from know_hf.metrics import METRICS


class Score(evaluate.Metric):
    """Any of the metrics."""

    def _info(self):
        metric = METRICS[self.config_name]

        def column(kind: str):
            value = datasets.Value(kind)
            return datasets.Sequence(value) if metric.sequences else value

        features = datasets.Features(predictions=column(metric.predictions), references=column("int64"))
        return evaluate.MetricInfo(description=metric.description, citation="", features=features)

    def _compute(self, predictions, references, **options):
        return {self.config_name: METRICS[self.config_name].score(predictions, references, **options)}
