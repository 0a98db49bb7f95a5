"""Image and text classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from know_hf.metrics import scores
from know_hf.remote import bounded
from know_hf.tasks.images import IMAGES, image_reader
from know_hf.tasks.labels import CLASSES, TEXTS_OR_PAIRS, encode, label_lookup
from know_hf.tasks.remembering import remembering
from know_hf.tasks.shared import first, last_layer_of, load_beside, mapped, on_reading, stack
from know_hf.tasks.task import Columns, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

#: By any of these a folder has a tokenizer, damaged perhaps.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of examples whose highest score is at their label: the ``compute_metrics`` of classifications.

    Args:
        prediction: With ``predictions``, ``(n, classes)`` or a tuple that begins so, and ``label_ids``, ``(n,)``.

    Returns:
        The share, as ``accuracy``.

    Example:
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> from know_hf.tasks.classification import accuracy
        >>> accuracy(EvalPrediction(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])))
        {'accuracy': 0.5}
    """
    return {"accuracy": scores.accuracy(first(prediction.predictions).argmax(-1), prediction.label_ids)}


_CLASSIFICATION = {
    "labels": CLASSES,
    "score": Score("accuracy"),
    "metrics": lambda classes: accuracy,
    "head": last_layer_of,
}


@task(
    "image-classification",
    matches=lambda candidates: candidates.from_images,
    inputs=IMAGES,
    auto_class="AutoModelForImageClassification",
    **_CLASSIFICATION,
)
def image_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, image_size: int | None = None
) -> Preprocessing:
    """Pixels, ``(n, c, h, w)`` float32, and labels, ``(n,)`` int64."""
    reader = image_reader(model.config, source, image_size, given=processing_class)
    read = remembering(reader)

    def apply(dataset: Dataset) -> Dataset:
        lookup = label_lookup(dataset, columns)

        def transform(batch: dict[str, list]) -> dict[str, Any]:
            pixels, labels = read(batch[columns.inputs[0]]), encode(batch[columns.label], lookup)
            return {"pixel_values": pixels, "labels": labels}

        return on_reading(columns, transform)(dataset)

    return Preprocessing(apply, stack, processing_class or reader.companion)


@task(
    "text-classification",
    matches=lambda candidates: not candidates.from_images,
    inputs=TEXTS_OR_PAIRS,
    auto_class="AutoModelForSequenceClassification",
    **_CLASSIFICATION,
)
def text_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens, ``(n, longest text)`` int64, with their mask, and labels, ``(n,)`` int64.

    Raises:
        FileNotFoundError: If there is no tokenizer.
    """

    def encoder(dataset: Dataset) -> Callable[[list], list]:
        lookup = label_lookup(dataset, columns)
        return lambda labels: encode(labels, lookup)

    return tokenizing(model, source, columns, processing_class, max_length, encoder)


def tokenizing(
    model: PreTrainedModel,
    source: Source,
    columns: Columns,
    processing_class: Any,
    max_length: int | None,
    encoder: Callable[[Dataset], Callable[[list], list]],
) -> Preprocessing:
    """The preprocessing of a text, or of two that belong together, with an answer to the whole of it.

    Args:
        model: The model.
        source: As for [`load_tokenizer`].
        columns: What is read.
        processing_class: The tokenizer, if it is given.
        max_length: Longest text in tokens.
        encoder: From a data set to a function from a batch of its answers to ``labels``.

    Raises:
        FileNotFoundError: If there is no tokenizer.
    """
    from transformers import DataCollatorWithPadding

    tokenizer = processing_class or load_tokenizer(model, source)
    limit = longest_text(model, tokenizer, max_length)

    def apply(dataset: Dataset) -> Dataset:
        answers = encoder(dataset)

        def tokenize(batch: dict[str, list]) -> dict[str, Any]:
            encoded = tokenizer(*[batch[name] for name in columns.inputs], truncation=True, max_length=limit)
            return {**encoded, "labels": answers(batch[columns.label])}

        return mapped(dataset, tokenize, desc="Tokenizing")

    return Preprocessing(apply, DataCollatorWithPadding(tokenizer), tokenizer)


def longest_text(model: PreTrainedModel, tokenizer: Any, max_length: int | None) -> int:
    """Tokens of a text that a classifier reads: those asked for, else what tokenizer and model bear."""
    return max_length or min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))


@bounded()
def load_tokenizer(model: PreTrainedModel, source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    from transformers import AutoTokenizer

    return load_beside(
        AutoTokenizer.from_pretrained, model, source, "tokenizer", TOKENIZER_FILES,
        "save one into the model's folder, pass one as processing_class, or pass preprocessed data with a "
        "data_collator.",
    )  # fmt: skip
