"""From a data set to model inputs, for image and text classification; anything else is the caller's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    default_data_collator,
)


@dataclass
class Columns:
    """The columns that a classification reads: inputs and label, and the names of the classes."""

    task: str
    inputs: list[str]
    label: str
    class_names: list[str]


def load_split(dataset: str | Path | Dataset, split: str = "train", revision: str | None = None) -> Dataset:
    """Loads one split of a data set.

    Args:
        dataset: Hub id, folder, or a ``Dataset``, which is returned as it is.
        split: Name of the split, ``datasets`` slices included (``"train[:1000]"``).
        revision: Revision on the Hub.

    Returns:
        A map-style data set.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
        TypeError: If it is a dictionary of splits or has no length.
        ValueError: If there is no such split.

    Source: ours.
    """
    if isinstance(dataset, (str, Path)):
        name = str(dataset)
        try:
            return load_dataset(name, split=split, revision=revision)
        except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"Data set {name!r} is neither a local folder nor reachable on the Hub. Offline, pass the path of a "
                f"folder of parquet, csv or image files. ({str(error).splitlines()[0]})"
            ) from error
    if isinstance(dataset, (dict, DatasetDict)):
        raise TypeError(f"Expected one data set, got the splits {list(dataset)}; pass one, e.g. dataset['train'].")
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            "An IterableDataset has no length, and nested subsets need one: load it without streaming=True."
        )
    return dataset


def find_columns(
    dataset: Dataset, *, task: str | None = None, inputs: list[str] | None = None, label: str | None = None
) -> Columns:
    """Finds the columns of a classification by their types.

    Args:
        dataset: The data.
        task: ``"image-classification"`` or ``"text-classification"``; inferred from the columns by default.
        inputs: The image column, or one or two text columns; found by type by default.
        label: The label column; found by type by default.

    Returns:
        The [`Columns`].

    Raises:
        ValueError: If a column is missing, or none or several would do.

    Source: ours.
    """
    features = dataset.features
    for name in [*(inputs or []), *([label] if label else [])]:
        if name not in features:
            raise ValueError(f"There is no column {name!r}; found {_describe(features)}.")
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    texts = [n for n, f in features.items() if isinstance(f, Value) and f.dtype in ("string", "large_string")]
    texts = [name for name in texts if name != label]
    if inputs is None:
        candidates = images if images and task != "text-classification" else texts
        if len(candidates) != 1:
            raise ValueError(
                f"{'Several columns could' if candidates else 'No column can'} be the input ({_describe(features)}): "
                "name it with input_columns (an image column, or one or two text columns)."
            )
        inputs = candidates
    if task is None:
        task = "image-classification" if inputs[0] in images else "text-classification"
    if label is None:
        labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        labels = labels or [name for name in ("label", "labels") if name in features and name not in inputs]
        if len(labels) != 1:
            raise ValueError(
                f"{'Several columns could' if labels else 'No column can'} be the label ({_describe(features)}): "
                "name it with label_column."
            )
        label = labels[0]
    return Columns(task, inputs, label, _class_names(dataset, label))


def _describe(features) -> str:
    return ", ".join(f"{name} ({getattr(f, 'dtype', None) or type(f).__name__})" for name, f in features.items())


def _class_names(dataset: Dataset, label: str) -> list[str]:
    feature = dataset.features[label]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    values = np.unique(dataset.with_format("numpy", columns=[label])[label][:])
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
        raise ValueError(
            f"Label column {label!r} holds {values.dtype} values; expected class indices from 0. "
            f"dataset.class_encode_column({label!r}) makes them."
        )
    return [str(i) for i in range(int(values.max()) + 1)]


def label_values(dataset: Dataset, columns: Columns) -> np.ndarray:
    """Labels of all examples, ``(n,)`` integers."""
    return np.asarray(dataset.with_format("numpy", columns=[columns.label])[columns.label][:])


@dataclass
class Preprocessing:
    """How examples become a batch: apply to each data set, collate, and what to save with the model."""

    apply: Callable[[Dataset], Dataset]
    collator: Callable[[list], dict[str, torch.Tensor]]
    processing_class: Any = None


def make_preprocessing(
    model: PreTrainedModel,
    source: str | Path | None,
    columns: Columns,
    *,
    image_size: int | None = None,
    max_length: int | None = None,
) -> Preprocessing:
    """Builds the preprocessing that a model's own folder describes.

    Args:
        model: The live model.
        source: Its Hub id or folder, which holds the image processor or tokenizer; None for a live model.
        columns: What to read.
        image_size: Side in pixels to resize square images to, instead of the model's own size.
        max_length: Longest text in tokens; by default the tokenizer's.

    Returns:
        A [`Preprocessing`].

    Raises:
        FileNotFoundError: If a text model comes without a tokenizer.

    Source: ours.
    """
    if columns.task == "image-classification":
        return _image_preprocessing(model, source, columns, image_size)
    return _text_preprocessing(model, source, columns, max_length)


def _image_preprocessing(model, source, columns: Columns, image_size: int | None) -> Preprocessing:
    settings = getattr(model.config, "pretrained_cfg", None) or {}
    processor = None
    if not settings and source is not None:
        try:
            processor = AutoImageProcessor.from_pretrained(source)
        except OSError:
            processor = None
    mean = settings.get("mean") or getattr(processor, "image_mean", None) or [0.5]
    std = settings.get("std") or getattr(processor, "image_std", None) or [0.5]
    channels = (settings.get("input_size") or [getattr(model.config, "num_channels", 3)])[0]
    if image_size is None and settings.get("input_size"):
        image_size = settings["input_size"][-1]
    shape = (1, -1, 1, 1)
    mean, std = torch.tensor(mean[:channels]).view(shape), torch.tensor(std[:channels]).view(shape)

    def read(image) -> np.ndarray:
        image = image.convert("L" if channels == 1 else "RGB")
        if image_size and image.size != (image_size, image_size):
            image = image.resize((image_size, image_size), resample=3)
        return np.asarray(image).reshape(image.height, image.width, channels)

    def transform(batch: dict[str, list]) -> dict[str, Any]:
        images = batch[columns.inputs[0]]
        if processor is not None and image_size is None:
            pixels = processor([i.convert("RGB") for i in images], return_tensors="pt")["pixel_values"]
        else:
            pixels = torch.from_numpy(np.stack([read(i) for i in images])).permute(0, 3, 1, 2)
            pixels = (pixels.float() / 255 - mean) / std
        return {"pixel_values": list(pixels), "labels": batch[columns.label]}

    def apply(dataset: Dataset) -> Dataset:
        return dataset.select_columns([*columns.inputs, columns.label]).with_transform(transform)

    return Preprocessing(apply, default_data_collator, processor)


def _text_preprocessing(model, source, columns: Columns, max_length: int | None) -> Preprocessing:
    source = source or getattr(model.config, "_name_or_path", None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, TypeError, ValueError) as error:
        raise FileNotFoundError(
            f"No tokenizer beside {str(source)!r}; save one into the model's folder, or pass preprocessed data with a "
            "data_collator."
        ) from error
    limit = max_length or min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    def tokenize(batch: dict[str, list]) -> dict[str, Any]:
        encoded = tokenizer(*[batch[name] for name in columns.inputs], truncation=True, max_length=limit)
        return {**encoded, "labels": batch[columns.label]}

    def apply(dataset: Dataset) -> Dataset:
        return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")

    return Preprocessing(apply, DataCollatorWithPadding(tokenizer), tokenizer)


def accuracy(prediction) -> dict[str, float]:
    """Share of examples whose highest score is at their label: the default ``compute_metrics`` of classifications."""
    scores = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((scores.argmax(-1) == prediction.label_ids).mean())}
