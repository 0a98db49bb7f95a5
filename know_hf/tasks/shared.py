"""What tasks share: on the way from rows to batches, and in looking at models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from know_hf.model_config import brief
from know_hf.tasks.images import is_image
from know_hf.tasks.task import Columns, Source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def first(outputs: Any) -> Any:
    """The scores among what a model returns, alone or first of several."""
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def load_beside(
    load: Callable[[Any], Any], model: PreTrainedModel, source: Source, what: str, files: Iterable[str], otherwise: str
) -> Any:
    """Loads what a model's folder or repository holds beside its weights.

    Args:
        load: From a folder or Hub id to it.
        model: The model, whose origin counts where there is no other source.
        source: Folder or Hub id.
        what: What it is called, such as ``"tokenizer"``.
        files: Names by any of which a folder has one, damaged perhaps.
        otherwise: What to do where there is none.

    Raises:
        FileNotFoundError: If there is none.
        ImportError: If a package is missing.
        ValueError: If it is damaged.
    """
    source = source or getattr(model.config, "_name_or_path", None)
    try:
        return load(source)
    except ImportError:
        raise
    except Exception as error:  # the libraries raise many types for files that are not there or damaged
        if source and any((Path(source) / name).is_file() for name in files):
            raise ValueError(f"The {what} in {str(source)!r} cannot be loaded: {brief(error)}") from error
        raise FileNotFoundError(f"No {what} beside {str(source)!r}; {otherwise}") from error


def last_layer_of(model: nn.Module, classes: int) -> nn.Module:
    """The last layer with one output a class, which a new downstream task draws anew.

    Args:
        model: The model.
        classes: Their number.

    Returns:
        The layer, linear or convolutional.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from torch import nn
        >>> from know_hf.tasks.shared import last_layer_of
        >>> last_layer_of(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), 3)
        Linear(in_features=8, out_features=3, bias=True)
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
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image) and not feature.decode:
            dataset = dataset.cast_column(name, Image(mode=feature.mode))
    return dataset


def mapped(dataset: Dataset, function: Callable[..., dict], **options: Any) -> Dataset:
    """``dataset.map``, batch by batch and without the columns that were there, which leaves the input as it is.

    The library keeps what it makes beside what it was made of, which for data saved with ``save_to_disk`` is the user's
    own folder; of such it goes into a temporary one.

    Args:
        dataset: What to read.
        function: From a batch of columns to a batch of others.
        **options: As for ``Dataset.map``.

    Returns:
        The new data.
    """
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE).resolve()
    files = [Path(file["filename"]).resolve() for file in dataset.cache_files]
    elsewhere = datasets.is_caching_enabled() and not all(file.is_relative_to(cache) for file in files)
    if elsewhere:
        datasets.disable_caching()
    try:
        # The library would keep the type of a column whose name was there before: marks would stay whole numbers.
        return dataset.map(
            function, batched=True, remove_columns=dataset.column_names, try_original_type=False, **options
        )
    finally:
        if elsewhere:
            datasets.enable_caching()


def on_reading(columns: Columns, transform: Callable[[dict], dict]) -> Callable[[Dataset], Dataset]:
    """Makes the ``apply`` of a preprocessing that happens whenever rows are read, as pictures want it.

    Args:
        columns: What is read.
        transform: From a batch of raw columns to one of what the model takes.

    Returns:
        From a data set to one that is transformed as it is read.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.tasks.shared import on_reading
        >>> from know_hf.tasks.task import Columns
        >>> data = Dataset.from_dict({"size": [1.0, 2.0], "label": [0, 1]})
        >>> apply = on_reading(Columns("sizes", ["size"], "label", []), lambda batch: {"labels": batch["label"]})
        >>> apply(data)[1]
        {'labels': 1}
    """

    def apply(dataset: Dataset) -> Dataset:
        from datasets import Image

        read = dataset.select_columns([*columns.inputs, columns.label])
        pictures = {name: Image(mode=feature.mode) for name, feature in read.features.items() if is_image(feature)}
        for name, feature in pictures.items():
            read = read.cast_column(name, Image(mode=feature.mode, decode=False))

        def opened(batch: dict) -> dict:
            for name in pictures.keys() & batch.keys():
                batch[name] = [_opened(pictures[name], stored) for stored in batch[name]]
            return transform(batch)

        return read.with_transform(opened)

    return apply


def _opened(feature: Any, stored: dict[str, Any] | None) -> Any:
    if stored is None:
        return None
    with naming("picture", stored):
        return feature.decode_example(stored)


@contextmanager
def naming(what: str, stored: Mapping[str, Any]) -> Iterator[None]:
    """Says which file it was that could not be read: of thousands, nobody finds it otherwise.

    Args:
        what: What it holds.
        stored: Its ``path``, as far as the data tell, and ``bytes``.

    Raises:
        ImportError: If something is not installed.
        ValueError: If it cannot be read for any other reason.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        size = "" if stored.get("bytes") is None else f" of {len(stored['bytes']):,} bytes"
        name = f"{what.capitalize()} {stored['path']}" if stored.get("path") else f"A {what}{size} without a name"
        kind, why = (ImportError, str(error)) if isinstance(error, ImportError) else (ValueError, brief(error))
        raise kind(f"{name} cannot be read: {why}") from error


def stack(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The collator of examples of one shape.

    Args:
        rows: Examples, name → tensor or number.

    Returns:
        Name → tensor, with a first dimension of their number.

    Raises:
        ValueError: If their shapes differ.

    Example:
        >>> from know_hf.tasks.shared import stack
        >>> stack([{"labels": 0}, {"labels": 2}])
        {'labels': tensor([0, 2])}
    """
    tensors = {name: [torch.as_tensor(row[name]) for row in rows] for name in rows[0]}
    for name, values in tensors.items():
        if len(shapes := sorted({tuple(value.shape) for value in values})) > 1:
            raise ValueError(
                f"{name} of different sizes ({shapes[0]}, {shapes[-1]}) make no batch, and nothing beside the model "
                "says how large pictures are to be: image_size=…."
            )
    return {name: torch.stack(values) for name, values in tensors.items()}
