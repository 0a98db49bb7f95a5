"""What a fine-tuned model is judged by: its task's score, or a local metric module of the ``evaluate`` library."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from know_hf.enrichment.batch_norm import FromBatch, has_batch_norm
from know_hf.tasks import Score, get_task
from know_hf.tasks.task import first
from know_hf.transfer.examples import Examples

#: From predictions and labels to named scores; the first is the one that counts.
Metric = Callable[..., dict[str, float]]


@lru_cache
def load_metric(metric: str | None = None, task: str = "image-classification", classes: int = 0) -> Metric:
    """Makes a ``compute_metrics`` function.

    Args:
        metric: None or its name for the task's own score, or the path of a Python module that ``evaluate.load`` takes.
            It gets ``predictions`` (of a classification the class of the highest score, else what the task keeps) and
            ``references``; its first score counts, as a share where higher is better.
        task: A key of [`TASKS`](know_hf.tasks).
        classes: Number of classes, where there are any.

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
        >>> load_metric()(SimpleNamespace(predictions=np.eye(2), label_ids=np.array([0, 0])))
        {'score': 0.5}
    """
    own = get_task(task)
    if metric is None or metric == own.score.name:
        scores = own.metrics(classes)
        return lambda prediction: {"score": scores(prediction)[own.score.name]}
    if not Path(metric).exists():
        raise FileNotFoundError(f"metric {metric!r} is neither {own.score.name!r} nor the path of a metric module.")
    try:
        import evaluate
    except ImportError as error:
        raise ImportError('Metric modules need evaluate: pip install "know-hf[evaluate]"') from error
    module = evaluate.load(str(Path(metric).resolve()), experiment_id=str(os.getpid()))

    def compute(prediction) -> dict[str, float]:
        found = prediction.predictions
        if own.keep is None:
            found = np.asarray(first(found)).argmax(-1)
        found = module.compute(predictions=found, references=prediction.label_ids)
        return {"score": float(next(iter(found.values())))}

    return compute


def score_of(metric: str | None, task: str) -> Score:
    """What the scores of a comparison are: those of [`load_metric`] with the same arguments."""
    own = get_task(task).score
    return own if metric in (None, own.name) else Score(Path(metric).stem)


def network_accuracy(model: nn.Module, test: Examples, train: Examples, rows: int = 500) -> float:
    """Scores a network whose weights were put together, not trained.

    Args:
        model: Returns ``logits``; it ends in evaluation mode, its BatchNorm statistics re-estimated.
        test: Examples to score on.
        train: Its first examples are those that BatchNorm statistics are estimated on, where the model has any.
        rows: Number of examples for the statistics, and in a batch of the scoring.

    Returns:
        Share of the test examples whose highest score is at their label.

    Source: ours.
    """
    if has_batch_norm(model):
        update_bn([train.__getitems__(list(range(min(rows, len(train)))))], FromBatch(model))
    model.eval()
    right, run = 0, FromBatch(model)
    with torch.no_grad():
        for start in range(0, len(test), rows):
            batch = test.__getitems__(list(range(start, min(start + rows, len(test)))))
            labels = batch.pop("labels")
            right += (run(batch)["logits"].argmax(-1).cpu() == labels).sum().item()
    return right / len(test)
