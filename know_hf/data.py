"""Loading data sets, and the preprocessing that a task asks for; anything else is the caller's."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from transformers import PreTrainedModel

from know_hf.tasks import Columns, Preprocessing, get_task


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


def label_values(dataset: Dataset, columns: Columns) -> np.ndarray:
    """Labels of all examples, ``(n,)`` integers."""
    return np.asarray(dataset.with_format("numpy", columns=[columns.label])[columns.label][:])


def make_preprocessing(
    model: PreTrainedModel,
    source: str | Path | None,
    columns: Columns,
    *,
    image_size: int | None = None,
    max_length: int | None = None,
    processing_class: Any = None,
) -> Preprocessing:
    """Builds the preprocessing that a model's own folder describes.

    Args:
        model: The live model.
        source: Its Hub id or folder, which holds the image processor or tokenizer; None for a live model.
        columns: What to read.
        image_size: Side in pixels to resize square images to, instead of the model's own size.
        max_length: Longest text in tokens; by default the tokenizer's. Of a language model the length of its blocks.
        processing_class: Tokenizer to use instead of the one beside the model.

    Returns:
        A [`Preprocessing`].

    Raises:
        FileNotFoundError: If a task with text comes without a tokenizer.
        ValueError: If nothing says how large images are to be.

    Source: ours.
    """
    return get_task(columns.task).preprocessing(model, source, columns, image_size, max_length, processing_class)
