"""What a fine-tuned model is judged by: accuracy, or a local metric module of the ``evaluate`` library."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from know_hf.data import accuracy

#: From predictions and labels to named scores; the first is the one that counts, as a share where higher is better.
Metric = Callable[..., dict[str, float]]


@lru_cache
def load_metric(metric: str) -> Metric:
    """Makes a ``compute_metrics`` function.

    Args:
        metric: ``"accuracy"``, or the path of a Python module that ``evaluate.load`` takes. It gets ``predictions``
            (the class of the highest score) and ``references``; its first score counts.

    Returns:
        A function for ``Trainer`` that returns ``{"score": …}``.

    Raises:
        FileNotFoundError: If there is no such file; names of the Hub are not taken, they would need the network.
        ImportError: If ``evaluate`` is not installed.

    Source: ours.

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> from know_hf.transfer.metrics import load_metric
        >>> load_metric("accuracy")(SimpleNamespace(predictions=np.eye(2), label_ids=np.array([0, 0])))
        {'score': 0.5}
    """
    if metric == "accuracy":
        return lambda prediction: {"score": accuracy(prediction)["accuracy"]}
    if not Path(metric).exists():
        raise FileNotFoundError(f"metric {metric!r} is neither 'accuracy' nor the path of a metric module.")
    try:
        import evaluate
    except ImportError as error:
        raise ImportError('Metric modules need evaluate: pip install "know-hf[evaluate]"') from error
    module = evaluate.load(str(Path(metric).resolve()), experiment_id=str(os.getpid()))

    def compute(prediction) -> dict[str, float]:
        scores = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        found = module.compute(predictions=np.asarray(scores).argmax(-1), references=prediction.label_ids)
        return {"score": float(next(iter(found.values())))}

    return compute
