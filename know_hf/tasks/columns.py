"""Which columns of a data set a task reads, found by their types and names."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from know_hf.tasks.images import is_image
from know_hf.tasks.labels import is_class, is_text
from know_hf.tasks.shapes import hint
from know_hf.tasks.task import TASKS, Candidates, Columns, Task, described, get_task

if TYPE_CHECKING:
    from datasets import Dataset, Features

#: Names that tell classes from other columns; the first that is there counts.
LABELS = ("label", "labels", "class", "category")
#: Names that tell numbers to be predicted from other columns of fractions, beside these.
NUMBERS = ("score", "similarity", "similarity_score", "rating", "target")


def find_columns(
    dataset: Dataset, *, task: str | None = None, inputs: list[str] | None = None, label: str | None = None
) -> Columns:
    """Finds the columns of a task by their types.

    Args:
        dataset: The data.
        task: A key of [`TASKS`](know_hf.tasks); by default what the columns are made for: classes mean
            classification, an image and its mask segmentation, an image and one text captioning, nothing but one text
            column a language model.
        inputs: The image column, or one or two text columns; found by type by default.
        label: The column of classes, masks or captions; found by type by default.

    Returns:
        The [`Columns`].

    Raises:
        ValueError: If a column is missing, none or several would do, its classes are none, or the task is unknown.
    """
    return name_classes(dataset, find_roles(dataset, task=task, inputs=inputs, label=label))


def name_classes(dataset: Dataset, columns: Columns) -> Columns:
    """Adds the names of the classes to columns that were found by [`find_roles`].

    Raises:
        ValueError: If the label column holds no classes.
    """
    names = get_task(columns.task).labels.names
    return columns if names is None else replace(columns, class_names=names(dataset, columns.label))


def find_roles(
    dataset: Dataset, *, task: str | None = None, inputs: list[str] | None = None, label: str | None = None
) -> Columns:
    """[`find_columns`] without a look at the rows: class names are empty.

    Raises:
        ValueError: If a column is missing, none or several would do, or the task is unknown.
    """
    features = dataset.features
    for name in [*(inputs or []), *([label] if label else [])]:
        if name not in features:
            raise ValueError(f"There is no column {name!r}; found {described(features)}.")
    own = None if task is None else get_task(task)
    try:
        return _roles(dataset, own, inputs, label)
    except ValueError as error:
        if (told := hint(features)) is None:
            raise
        raise ValueError(told if task is inputs is label is None else f"{error} {told}") from error


def _roles(dataset: Dataset, own: Task | None, inputs: list[str] | None, label: str | None) -> Columns:
    features, candidates = dataset.features, _candidates(dataset, inputs, label)
    chosen = own or next(one for one in reversed(TASKS.values()) if one.matches(candidates))
    if label is None and chosen.labels.find is not None:  # before the input: both may be of one type
        label = chosen.labels.find(candidates)
    if inputs is None:
        fitting = [
            n for n, feature in features.items() if chosen.inputs.fits(feature) and not _is_identifier(n, feature)
        ]
        readable = [name for name in fitting if name != label]
        option = "input_columns (an image column, or one or two text columns)"
        several = chosen.inputs.several and len(readable) > 1
        together = next((list(names) for names in chosen.inputs.sets if set(names) <= set(readable)), None)
        inputs = together or (readable if several else [candidates.only(readable, "input", option)])
    return Columns(chosen.name, inputs, inputs[0] if label is None or chosen.labels.find is None else label, [])


def _candidates(dataset: Dataset, inputs: list[str] | None, label: str | None) -> Candidates:
    features = dataset.features
    images = [name for name, feature in features.items() if is_image(feature)]
    texts = [name for name, feature in features.items() if is_text(feature) and not _is_identifier(name, feature)]
    classes = _classes(features, inputs or [])
    named = [name for name in features if name.strip().lower() in NUMBERS and name not in (inputs or [])]
    numbers = [n for n in dict.fromkeys([*([label] if label else classes or named)]) if _has_fractions(dataset, n)]
    return Candidates(features, inputs, label, images, texts, classes or numbers, numbers)


def _has_fractions(dataset: Dataset, name: str) -> bool:
    """Whether a column holds numbers that are not all whole ones, as classes with gaps are when they are read."""
    import pyarrow.compute as pc
    from datasets import Value

    feature = dataset.features[name]
    if not isinstance(feature, Value) or "float" not in feature.dtype:
        return False
    values = dataset.select_columns([name]).with_format("arrow")[:][name]
    return bool(pc.any(pc.not_equal(values, pc.floor(values))).as_py())


def _is_identifier(name: str, feature: Any) -> bool:
    return is_text(feature) and bool(re.search(r"(^|[_ ])(id|idx|uid|uuid|guid|index)$", name.strip().lower()))


def _classes(features: Features, inputs: list[str]) -> list[str]:
    labels = [name for name, feature in features.items() if is_class(feature)]
    others = [name for name, feature in features.items() if name not in inputs and not is_image(feature)]
    named = {name.strip().lower(): name for name in reversed(others)}  # however they are capitalised
    return labels or [named[name] for name in LABELS if name in named][:1]
