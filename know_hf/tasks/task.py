"""What a task is: which columns it reads, how they become a batch, and what a model is judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel


@dataclass
class Columns:
    """The columns that a task reads.

    Args:
        task: A key of [`TASKS`].
        inputs: Input columns.
        label: The column of the answers: classes, masks, captions; the text itself of language models.
        class_names: Names of the classes in the order of their labels; empty where answers are text.
    """

    task: str
    inputs: list[str]
    label: str
    class_names: list[str]


@dataclass
class Preprocessing:
    """How examples become a batch: apply to each data set, collate, and what to save with the model."""

    apply: Callable[[Dataset], Dataset]
    collator: Callable[[list], dict[str, Tensor]]
    processing_class: Any = None


@dataclass(frozen=True)
class Score:
    """What a model is judged by.

    Args:
        name: Of the metric.
        percent: Whether it is a share, shown in percent.
        higher_is_better: Whether more of it is better.
    """

    name: str
    percent: bool = True
    higher_is_better: bool = True

    def shown(self, value: float) -> float:
        """The number that tables and plots show."""
        return 100 * value if self.percent else value

    @property
    def unit(self) -> str:
        """For headings: ``" in percent"`` or nothing."""
        return " in percent" if self.percent else ""

    @property
    def best(self) -> Callable:
        """``max`` or ``min``."""
        return max if self.higher_is_better else min


@dataclass(frozen=True)
class Task:
    """What is particular to a task; everything else is the same for all.

    Args:
        name: The Hub's name for it.
        auto_class: The class of transformers that loads its models.
        preprocessing: From model, source, columns, image size, longest text and processing class to [`Preprocessing`].
        score: The first of its scores.
        metrics: From the number of classes to a ``compute_metrics`` as Trainer takes it.
        keep: What of a batch's outputs the metrics need, from outputs and labels; None for all of it.
        head: From a model and the number of classes to the part that a new downstream task draws anew.
        renews_head: Whether that part is drawn anew; a language model's is its vocabulary, which stays.
        one_class: Whether an example has one class, so that subsets can be stratified by it.
        rows_are_examples: Whether a row of the data is an example; of a language model blocks of many rows are.
    """

    name: str
    auto_class: str
    preprocessing: Callable[..., Preprocessing]
    score: Score
    metrics: Callable[[int], Callable[[EvalPrediction], dict[str, float]]]
    head: Callable[[PreTrainedModel, int], nn.Module]
    keep: Callable[[Any, Tensor], Tensor] | None = None
    renews_head: bool = True
    one_class: bool = False
    rows_are_examples: bool = True


def first(outputs: Any) -> Any:
    """The scores among what a model returns."""
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def last_layer_of(model: nn.Module, classes: int) -> nn.Module:
    """The last layer with one output a class.

    Raises:
        ValueError: If there is none.
    """
    layers = [
        m
        for m in model.modules()
        if (isinstance(m, nn.Linear) and m.out_features == classes)
        or (isinstance(m, nn.Conv2d) and m.out_channels == classes)
    ]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear head of {classes} outputs.")
    return layers[-1]


def stack(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The collator of examples of one size each."""
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}
