"""Texts with several classes each, and texts with a number to predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from know_hf.metrics import scores
from know_hf.tasks.classification import tokenizing
from know_hf.tasks.labels import TEXTS_OR_PAIRS, flattened, is_list, label_lookup, only_classes
from know_hf.tasks.lists import check_lists, list_names
from know_hf.tasks.shared import first, last_layer_of
from know_hf.tasks.task import Candidates, Columns, Labels, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel


def holds_marks(dataset: Dataset, label: str) -> bool:
    """Whether the lists of a column have a 1 or 0 (or truth value) for every class, and not the classes.

    Whole numbers are marks where all lists are of one length and hold nothing but 0 and 1, some of them twice, as no
    list of classes does.
    """
    dtype = getattr(dataset.features[label].feature, "dtype", "")
    if "int" not in dtype:
        return dtype == "bool" or "float" in dtype
    lists = [row for row in dataset.select_columns([label])[label][:] if row is not None]
    alike = len({len(row) for row in lists}) == 1 and all(value in (0, 1) for row in lists for value in row)
    return alike and any(len(set(row)) < len(row) for row in lists)


def set_names(dataset: Dataset, label: str) -> list[str]:
    """Names of the classes in a column of sets of them: of marks for every class their places.

    Raises:
        ValueError: If it holds no lists, or the marks are of several lengths.
    """
    import pyarrow.compute as pc

    if not is_list(dataset.features[label]) or not holds_marks(dataset, label):
        return list_names(dataset, label, "a list of the classes that a text has")
    lengths = pc.list_value_length(dataset.select_columns([label]).with_format("arrow")[:][label]).to_pylist()
    if other := next((row for row, length in enumerate(lengths) if length != lengths[0]), None):
        raise ValueError(
            f"Label column {label!r} has marks for {lengths[0]} classes in row 0 and for {lengths[other]} in row "
            f"{other}; every row needs one for every class."
        )
    return [str(place) for place in range(lengths[0])]


def check_sets(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    """Raises ``ValueError`` for sets with unknown classes, or marks that are not 0 or 1."""
    if not is_list(dataset.features.get(columns.label)) or not holds_marks(dataset, columns.label):
        return check_lists(dataset, columns, classes, what)
    values = flattened(dataset, columns.label)[columns.label][:]
    if odd := sorted({float(value) for value in values} - {0.0, 1.0}):
        raise ValueError(
            f"Label column {columns.label!r} of the {what} holds {odd[0]:g}; a mark for a class is 0 or 1."
        )
    if len(set_names(dataset, columns.label)) != len(columns.class_names):
        raise ValueError(f"Label column {columns.label!r} of the {what} marks another number of classes.")
    return None


def chosen_classes(outputs: Any, labels: Tensor) -> Tensor:
    """1 for every class that is likelier than not, ``(n, classes)`` int64."""
    return (first(outputs) > 0).long()


def set_scores(prediction: EvalPrediction) -> dict[str, float]:
    """F1 over all classes of all examples, and the share of the examples all of whose classes are right."""
    found, marks = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"f1": scores.f1(found, marks), "exact_match": float((found == marks).all(-1).mean())}


@task(
    "multi-label-classification",
    matches=lambda candidates: not candidates.from_images
    and bool(candidates.texts)
    and any(is_list(candidates.features[name]) for name in candidates.answers),
    inputs=TEXTS_OR_PAIRS,
    labels=Labels(
        only_classes, names=set_names, check=check_sets, matched=True, problem="multi_label_classification",
        fewer_will_do=lambda names: not names,
    ),
    auto_class="AutoModelForSequenceClassification",
    score=Score("f1"),
    metrics=lambda classes: set_scores,
    keep=chosen_classes,
    head=last_layer_of,
    hub_name="text-classification",
)  # fmt: skip
def set_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens, ``(n, longest text)`` int64, with their mask, and a mark for every class, ``(n, classes)`` float32.

    Raises:
        FileNotFoundError: If there is no tokenizer.
    """

    def encoder(dataset: Dataset) -> Callable[[list], list]:
        if holds_marks(dataset, columns.label):
            return lambda labels: [[float(mark) for mark in marks] for marks in labels]
        lookup = label_lookup(dataset, columns)

        def mark(labels: list) -> list:
            marks = np.zeros((len(labels), len(columns.class_names)), dtype=np.float32)
            for row, chosen in enumerate(labels):
                marks[row, [label if lookup is None else lookup[label] for label in chosen]] = 1
            return marks.tolist()

        return mark

    return tokenizing(model, source, columns, processing_class, max_length, encoder)


def check_numbers(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    """Raises ``ValueError`` for a column that holds no numbers, or some that are not finite."""
    from datasets import Value

    feature = dataset.features.get(columns.label)
    if not isinstance(feature, Value) or not ("float" in feature.dtype or "int" in feature.dtype):
        raise ValueError(
            f"Label column {columns.label!r} of the {what} holds {getattr(feature, 'dtype', 'nothing')}; numbers are "
            "expected."
        )
    values = np.asarray(dataset.with_format("numpy", columns=[columns.label])[columns.label][:], dtype=float)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"Label column {columns.label!r} of the {what} holds {values[row]} in row {row}.")


def number_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Root of the mean squared error, in the unit of the labels, and Pearson's correlation with them."""
    found, labels = np.asarray(prediction.predictions).reshape(-1), np.asarray(prediction.label_ids).reshape(-1)
    return {"rmse": scores.rmse(found, labels), "pearson": scores.pearson(found, labels)}


def _only_number(candidates: Candidates) -> str:
    return candidates.only(candidates.answers, "number to predict", "label_column")


@task(
    "text-regression",
    matches=lambda candidates: not candidates.from_images and bool(candidates.texts) and bool(candidates.numbers),
    inputs=TEXTS_OR_PAIRS,
    # The one output is named after its column.
    labels=Labels(_only_number, names=lambda dataset, label: [label], check=check_numbers, problem="regression"),
    auto_class="AutoModelForSequenceClassification",
    score=Score("rmse", percent=False, higher_is_better=False),
    metrics=lambda classes: number_scores,
    keep=lambda outputs, labels: first(outputs).reshape(-1),
    head=last_layer_of,
    hub_name="text-classification",
)
def number_preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """Tokens, ``(n, longest text)`` int64, with their mask, and numbers, ``(n,)`` float32.

    Raises:
        FileNotFoundError: If there is no tokenizer.
    """
    return tokenizing(
        model, source, columns, processing_class, max_length, lambda dataset: lambda labels: [*map(float, labels)]
    )
