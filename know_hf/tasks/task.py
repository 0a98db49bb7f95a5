"""What a task is: which columns it reads, how they become a batch, and what a model is judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from datasets import Dataset, Image
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel


@dataclass
class Columns:
    """The columns that a task reads.

    Args:
        task: A key of [`TASKS`](know_hf.tasks).
        inputs: Input columns.
        label: The column of the answers: classes, masks, captions; the text itself of language models.
        class_names: Names of the classes in the order of their labels; empty where answers are text.

    Source: ours.
    """

    task: str
    inputs: list[str]
    label: str
    class_names: list[str]


@dataclass
class Preprocessing:
    """How examples become a batch.

    Args:
        apply: From a data set to one whose rows hold what the model takes.
        collator: From a list of such rows to a batch.
        processing_class: What to save with the model: tokenizer or image processor, if any.

    Source: ours.
    """

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

    Source: ours.

    Example:
        >>> from know_hf.tasks import Score
        >>> Score("accuracy").shown(0.5), Score("perplexity", percent=False, higher_is_better=False).best(3.0, 2.0)
        (50.0, 2.0)
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

    def point(self, typical: float) -> float:
        """A small difference between scores as they are shown: a point of shares, of others 1 % of a typical one."""
        return 1.0 if self.percent else abs(typical) / 100 or 1.0

    @property
    def best(self) -> Callable:
        """``max`` or ``min``."""
        return max if self.higher_is_better else min


@dataclass(frozen=True)
class Task:
    """What is particular to a task; everything else is the same for all.

    Args:
        name: The Hub's name for it.
        reads: Whether its inputs are pictures or texts.
        answers: A class for each example, a mask of classes, a caption, or none but the text itself.
        auto_class: The class of transformers that loads its models.
        preprocessing: From model, source, columns, image size, longest text and processing class to [`Preprocessing`].
        score: The first of its scores.
        metrics: From the number of classes to a ``compute_metrics`` as Trainer takes it.
        keep: What of a batch's outputs the metrics need, from outputs and labels; None for all of it.
        head: From a model and the number of classes to the part that a new downstream task draws anew.

    Source: ours.
    """

    name: str
    reads: Literal["image", "text"]
    answers: Literal["class", "mask", "caption", "text"]
    auto_class: str
    preprocessing: Callable[..., Preprocessing]
    score: Score
    metrics: Callable[[int], Callable[[EvalPrediction], dict[str, float]]]
    head: Callable[[PreTrainedModel, int], nn.Module]
    keep: Callable[[Any, Tensor], Tensor] | None = None

    @property
    def one_class(self) -> bool:
        """Whether an example has one class, so that subsets can be stratified by it."""
        return self.answers == "class"

    def eval_batch_size(self, batch_size: int) -> int:
        """Examples in a batch of scoring, beside those in a batch of training.

        Scores of pixels and words take more room than those of classes.
        """
        return max(512, batch_size) if self.one_class else batch_size

    @property
    def renews_head(self) -> bool:
        """Whether a new downstream task gets a new head; a language model's is its vocabulary, which stays."""
        return self.answers != "text"

    @property
    def rows_are_examples(self) -> bool:
        """Whether a row of the data is an example; of a language model blocks of many rows are."""
        return self.answers != "text"


def first(outputs: Any) -> Any:
    """The scores among what a model returns, alone or first of several.

    Source: ours.
    """
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def last_layer_of(model: nn.Module, classes: int) -> nn.Module:
    """The last layer with one output a class.

    Raises:
        ValueError: If there is none.

    Source: ours.
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


def decoded(dataset: Dataset) -> Dataset:
    """The same data with every column of images read as pictures, whether it was set to be or not."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image) and not feature.decode:
            dataset = dataset.cast_column(name, Image(mode=feature.mode))
    return dataset


def mapped(dataset: Dataset, function: Callable[[dict], dict], **options) -> Dataset:
    """``dataset.map``, batch by batch and without the columns that were there, which leaves the input as it is.

    The library keeps what it makes beside what it was made of, which for data saved with ``save_to_disk`` is the user's
    own folder; of such it goes into a temporary one.

    Args:
        dataset: What to read.
        function: From a batch of columns to a batch of others.
        **options: As for ``Dataset.map``.

    Returns:
        The new data.

    Source: ours.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE).resolve()
    files = [Path(file["filename"]).resolve() for file in dataset.cache_files]
    elsewhere = datasets.is_caching_enabled() and not all(file.is_relative_to(cache) for file in files)
    if elsewhere:
        datasets.disable_caching()
    try:
        return dataset.map(function, batched=True, remove_columns=dataset.column_names, **options)
    finally:
        if elsewhere:
            datasets.enable_caching()


def on_reading(columns: Columns, transform: Callable[[dict], dict]) -> Callable[[Dataset], Dataset]:
    """Makes the ``apply`` of a preprocessing that happens whenever rows are read, as pictures want it.

    Args:
        columns: What is read.
        transform: From a batch of raw columns to one of what the model takes.

    Source: ours.
    """

    def apply(dataset: Dataset) -> Dataset:
        return decoded(dataset.select_columns([*columns.inputs, columns.label])).with_transform(transform)

    return apply


def stack(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The collator of examples of one shape: each tensor gets a first dimension of their number.

    Raises:
        ValueError: If their shapes differ.

    Source: ours.
    """
    tensors = {name: [torch.as_tensor(row[name]) for row in rows] for name in rows[0]}
    for name, values in tensors.items():
        if len(shapes := sorted({tuple(value.shape) for value in values})) > 1:
            raise ValueError(
                f"{name} of different sizes ({shapes[0]}, {shapes[-1]}) make no batch, and nothing beside the model "
                "says how large pictures are to be: image_size=…."
            )
    return {name: torch.stack(values) for name, values in tensors.items()}
