"""Loading data sets, and the preprocessing that a task asks for; anything else is the caller's."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, Value, load_dataset
from transformers import PreTrainedModel

from know_hf.remote import bounded
from know_hf.tasks import Columns, Preprocessing, find_roles, get_task, name_classes
from know_hf.tasks.conversations import is_conversation, is_spoken
from know_hf.tasks.labels import is_text
from know_hf.tasks.shapes import hint
from know_hf.training.files import NOT_THERE, check_tables, load_file, split_names, unreachable, unreadable
from know_hf.training.sounds import load_sounds, needs_no_decoder

logger = logging.getLogger(__name__)

#: What to do with data that come one row after another.
TO_DISK = (
    "Nested subsets need any row at any time, of data of known length: write the rows to disk once, from where they "
    "are read without filling memory: Dataset.from_generator(lambda: iter(stream), features=stream.features), with "
    "stream = stream.take(n) before, if it does not end; or load without streaming=True."
)


@bounded()
def load_split(dataset: str | Path | Dataset, split: str = "train", config: str | None = None) -> Dataset:
    """Loads one split of a data set.

    Args:
        dataset: Hub id, folder, the path of a CSV, TSV, JSON, JSON Lines, Parquet, Arrow or text file (which is one
            split, called ``train``), or a ``Dataset``, which is returned as it is.
        split: Name of the split, ``datasets`` slices included (``"train[:1000]"``).
        config: Configuration of a data set that has several.

    Returns:
        A map-style data set.

    Raises:
        FileNotFoundError: If it is neither a folder, nor a file, nor reachable on the Hub.
        TypeError: If it is a dictionary of splits or has no length.
        ValueError: If there is no such split, or the file cannot be read.
    """
    if isinstance(dataset, (dict, DatasetDict)):
        raise TypeError(f"Expected one data set, got the splits {list(dataset)}; pass one, e.g. dataset['train'].")
    if isinstance(dataset, IterableDataset):
        raise TypeError(f"The data are an IterableDataset. {TO_DISK}")
    if not isinstance(dataset, (str, Path)):
        return dataset
    name = str(dataset)
    if Path(name).is_file():
        if config is not None:
            raise ValueError(f"{name} is a file, which has no configurations: leave dataset_config ({config!r}) out.")
        return load_file(Path(name), split)
    check_tables(Path(name))
    try:
        if needs_no_decoder(name, config):
            return load_sounds(name, config, split)
        return load_dataset(name, config, split=split)
    except NOT_THERE as error:
        raise unreachable(name, error) from error
    except Exception as error:
        check_tables(Path(name), rows=True)
        raise unreadable(f"Data set {name!r} cannot be read", error) from error


def load_evaluation(dataset: str | Path | Dataset, split: str | None = None, usual: str = "test") -> Dataset:
    """Loads data given for evaluation alone.

    Args:
        dataset: As for [`load_split`].
        split: Name of the split; by default the usual one, or the only one that a folder or file has.
        usual: That name.

    Raises:
        FileNotFoundError: As [`load_split`].
        TypeError: As [`load_split`].
        ValueError: As [`load_split`].
    """
    if split is None and isinstance(dataset, (str, Path)):
        if Path(dataset).is_file():
            split = "train"
        elif Path(dataset).is_dir() and len(names := split_names(str(dataset)) or []) == 1:
            split = names[0]
    return load_split(dataset, split or usual)


def open_parts(
    parts: Mapping[str, Dataset | None],
    *,
    task: str | None = None,
    inputs: Sequence[str] | None = None,
    label: str | None = None,
    drop_incomplete: bool = False,
) -> tuple[dict[str, Dataset | None], Columns]:
    """Finds what is read of data in several parts, the first of which decides, and looks for gaps in all of them.

    Args:
        parts: Name for the messages, such as ``"training data"`` → data; None stays None.
        task: As for [`find_columns`].
        inputs: As for [`find_columns`].
        label: As for [`find_columns`].
        drop_incomplete: Whether to leave out rows that lack something.

    Returns:
        The parts, and the columns with the classes of the first.

    Raises:
        ValueError: As [`find_columns`] and [`complete_rows`].
    """
    parts = {what: part and _unformatted(part) for what, part in parts.items()}
    first = next(iter(parts))
    columns = find_roles(parts[first], task=task, inputs=list(inputs) if inputs else None, label=label)
    whole = {}
    for what, part in parts.items():
        whole[what] = None if part is None else complete_rows(part, columns, what, drop_incomplete)
        if part is not None:
            _check_inputs(part, columns, what)
    return whole, name_classes(whole[first], columns)


def _unformatted(dataset: Dataset) -> Dataset:
    """The same data as plain values, whatever library's types their rows were set to be in."""
    return dataset if getattr(dataset, "format", {}).get("type") == "custom" else dataset.with_format(None)


def _check_inputs(dataset: Dataset, columns: Columns, what: str) -> None:
    reads = get_task(columns.task).inputs
    for name in columns.inputs:
        feature = dataset.features[name]
        if not reads.fits(feature):
            cast = f"dataset.cast_column({name!r}, {reads.cast}) may make them."
            raise ValueError(
                f"Column {name!r} of the {what} holds {getattr(feature, 'dtype', None) or type(feature).__name__}, not "
                f"{reads.name}: {hint(dataset.features) or cast}"
            )


def check_part(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    """Looks at all answers of a part, before anything is trained or scored on it.

    Args:
        dataset: The part.
        columns: What is read; its class names are in the order of the model's outputs.
        classes: Number of the model's classes.
        what: Whose data they are, for the messages.

    Raises:
        ValueError: If an answer is missing or none of the classes.
    """
    check = get_task(columns.task).labels.check
    if check is not None:
        check(dataset, columns, classes, what)


def complete_rows(dataset: Dataset, columns: Columns, what: str, drop: bool = False) -> Dataset:
    """Looks for rows that lack what is read of them.

    Args:
        dataset: The data.
        columns: What is read.
        what: Whose data they are, for the messages, such as ``"training data"``.
        drop: Whether to leave such rows out.

    Returns:
        The data without them. A column of classes that was read as floating point only because of its gaps holds
        integers then.

    Raises:
        ValueError: If there are any and they are not to be dropped, none are left, or a column is missing.
    """
    names = list(dict.fromkeys([*columns.inputs, columns.label]))
    if absent := [name for name in names if name not in dataset.features]:
        raise ValueError(f"The {what} have no column {absent[0]!r}; found {', '.join(dataset.column_names)}.")
    if not len(dataset):
        raise ValueError(f"The {what} are empty.")
    # A blank line is a part of a language model's text; elsewhere it is a gap.
    blank = get_task(columns.task).rows_are_examples
    gaps = {name: _missing(dataset, name, blank and is_text(dataset.features[name])) for name in names}
    found = [
        f"{name!r} in {int(gap.sum())} of {len(gap)} rows, the first is row {int(np.flatnonzero(gap)[0])}"
        for name, gap in gaps.items()
        if gap.any()
    ]
    if not found:
        return dataset
    if not drop:
        raise ValueError(
            f"The {what} miss {'; '.join(found)}. Fill them in, or leave such rows out with drop_incomplete. (Of a "
            "table in text, empty cells, NA, None and null count as missing.)"
        )
    kept = np.flatnonzero(~np.any(list(gaps.values()), axis=0))
    logger.warning("Of the %s %d of %d rows are left out; missing: %s.", what, len(dataset) - len(kept), len(dataset),
                   "; ".join(found))  # fmt: skip
    if not len(kept):
        raise ValueError(f"No row of the {what} is complete.")
    dataset = dataset.select(kept)
    feature = dataset.features[columns.label]
    if gaps[columns.label].any() and isinstance(feature, Value) and feature.dtype.startswith("float"):
        values = dataset.with_format("numpy", columns=[columns.label])[columns.label][:]
        if (values == np.round(values)).all():
            dataset = dataset.cast_column(columns.label, Value("int64"))
    return dataset


def _missing(dataset: Dataset, name: str, blank: bool) -> np.ndarray:
    """Whether each row lacks a column or, with ``blank``, has nothing but spaces in it, ``(n,)``.

    A conversation is missing without messages, or where one of them says nothing.
    """
    found = []
    # A few rows in memory at a time, since they may be pictures.
    for batch in dataset.select_columns([name]).with_format("arrow").iter(batch_size=1000):
        values = batch[name]
        if is_conversation(dataset.features[name]):
            found.append(np.asarray([not is_spoken(messages) for messages in values.to_pylist()], dtype=bool))
            continue
        if blank:
            values = pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), None, values)
        found.append(np.asarray(values.is_null(nan_is_null=True)))
    return np.concatenate(found)


def label_values(dataset: Dataset, columns: Columns) -> np.ndarray:
    """Labels of all examples as they are stored, ``(n,)`` integers or texts."""
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
    """
    task, given = get_task(columns.task), {"image_size": image_size, "max_length": max_length}
    own = {name: value for name, value in given.items() if name in task.settings}
    return task.preprocessing(model, source, columns, processing_class, **own)
