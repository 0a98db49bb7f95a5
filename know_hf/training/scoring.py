"""What a fine-tuned model is judged by: its task's score, or a local metric module of the ``evaluate`` library."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from know_hf.metrics import load_module
from know_hf.tasks import TASKS, Score, get_task
from know_hf.tasks.shared import first
from know_hf.tasks.task import Task
from know_hf.training.batch_norm import FromBatch, has_batch_norm
from know_hf.training.examples import Examples

if TYPE_CHECKING:
    from transformers import EvalPrediction

#: Examples that BatchNorm statistics of a network that was put together are estimated on.
ROWS = 500

#: From predictions and labels to named scores; the first is the one that counts.
Metric = Callable[..., dict[str, float]]


@lru_cache
def make_scoring(metric: str | None = None, task: str = "image-classification", classes: int = 0) -> Metric:
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

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> from know_hf.training.scoring import make_scoring
        >>> make_scoring()(SimpleNamespace(predictions=np.eye(2), label_ids=np.array([0, 0])))
        {'score': 0.5}
    """
    own = get_task(task)
    if metric is None or metric == own.score.name:
        scores = own.metrics(classes)
        return lambda prediction: {"score": scores(prediction)[own.score.name]}
    if not Path(metric).exists():
        raise FileNotFoundError(f"metric {metric!r} is neither {own.score.name!r} nor the path of a metric module.")
    module = load_module(Path(metric).resolve())

    def compute(prediction: "EvalPrediction") -> dict[str, float]:
        found = prediction.predictions
        if own.keep is None:
            found = np.asarray(first(found)).argmax(-1)
        found = module.compute(predictions=found, references=prediction.label_ids)
        return {"score": float(next(iter(found.values())))}

    return compute


def score_of(metric: str | None, task: str) -> Score:
    """What the scores of a comparison are: those of [`make_scoring`] with the same arguments."""
    own = get_task(task).score
    return own if metric in (None, own.name) else Score(Path(metric).stem)


def network_score(
    model: nn.Module, test: Examples, train: Examples, task: Task = TASKS["image-classification"], rows: int = ROWS
) -> float:
    """Scores a network whose weights were put together, not trained.

    Args:
        model: Returns ``logits``; it ends in evaluation mode, its BatchNorm statistics re-estimated.
        test: Examples to score on.
        train: Its first examples are those that BatchNorm statistics are estimated on, where the model has any.
        task: What the score is of.
        rows: Number of examples in a batch.

    Returns:
        The task's own score over the test examples.
    """
    from transformers import EvalPrediction

    run = FromBatch(model)
    if has_batch_norm(model):
        update_bn(list(_batches(train, rows, min(ROWS, len(train)))), run)
    model.eval()
    kept, answers = [], []
    with torch.no_grad():
        for batch in _batches(test, rows, len(test)):
            labels = batch["labels"]  # a decoder reads them too
            outputs = run(batch)["logits"].cpu()
            kept.append((outputs if task.keep is None else task.keep(outputs, labels)).numpy())
            answers.append(labels.numpy())
    classes = getattr(getattr(model, "config", None), "num_labels", 0)
    made = EvalPrediction(np.concatenate(kept), np.concatenate(answers))
    return task.metrics(classes)(made)[task.score.name]


def _batches(examples: Examples, rows: int, stop: int) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, stop, rows):
        yield examples.__getitems__(list(range(start, min(start + rows, stop))))
