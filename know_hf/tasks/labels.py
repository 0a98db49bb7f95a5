"""What a column of classes means: names to outputs of a model, matched by name wherever both sides have names."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from know_hf.tasks.task import Candidates, Columns, Inputs, Labels

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)


def class_names(dataset: Dataset, label: str) -> list[str]:
    """Names of the classes of a column, in the order of their labels.

    Args:
        dataset: The data.
        label: A column of ``ClassLabel``, of texts (their alphabetical order counts), of truth values or of integers
            from 0, which are named after themselves.

    Raises:
        ValueError: If it holds anything else, or texts that hardly ever repeat.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.tasks.labels import class_names
        >>> class_names(Dataset.from_dict({"mood": ["good", "bad", "good"]}), "mood")
        ['bad', 'good']
    """
    feature = dataset.features[label]
    if is_class(feature):
        return list(feature.names)
    _refuse_other_answers(dataset, label, f"Label column {label!r}")
    values = _values(dataset, label).drop_null().unique().to_pylist()
    if is_text(feature):
        if len(values) > max(20, len(dataset) // 2):
            raise ValueError(
                f"Label column {label!r} holds {len(values)} different texts in {len(dataset)} rows: are these "
                f"classes? If so, dataset.class_encode_column({label!r}) says it; if not, name another "
                "with label_column."
            )
        return sorted(values, key=int) if are_numbers(values) else sorted(values)
    if feature.dtype == "bool":
        return ["False", "True"]
    present = sorted(value for value in values if value >= 0)
    low, high = (0 if 0 in present else present[0], present[-1]) if present else (0, -1)
    absent = high - low + 1 - len(present)
    if absent <= len(present):
        present = list(range(low, high + 1))  # a class or two may just not occur
    if absent:
        logger.warning(
            "Label column %r holds %d of the numbers from %d to %d: the classes are %s.", label, len(values), low, high,
            _listed([str(value) for value in present]),
        )  # fmt: skip
    return [str(value) for value in present]


def numbered(names: Sequence[str]) -> bool:
    """Whether classes have no names but their numbers, in order: ``0, 1, 2 …`` or ``LABEL_0, LABEL_1 …``."""
    return any(list(names) == [f"{prefix}{i}" for i in range(len(names))] for prefix in ("", "LABEL_"))


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all classes are named by whole numbers, not necessarily from 0 or in order."""
    return all(name.strip().isdecimal() for name in names)


def positions(names: Sequence[str], order: Sequence[str]) -> list[int | None]:
    """Finds names in an order: exactly, or where that alone decides without regard to case and outer spaces.

    Returns:
        For each name its place in ``order``; None where it is not there, or there twice.

    Example:
        >>> from know_hf.tasks.labels import positions
        >>> positions(["cat", "dog", "cow"], ["Dog", "Cat"])
        [1, 0, None]
    """
    ways: tuple[dict[str, list[int]], ...] = ({}, {})
    for i, name in enumerate(order):
        for way, form in zip(ways, _forms(name), strict=True):
            way.setdefault(form, []).append(i)
    found = []
    for name in names:
        places = [way.get(form, []) for way, form in zip(ways, _forms(name), strict=True)]
        found.append(next((place[0] for place in places if len(place) == 1), None))
    return found


def _forms(name: str) -> tuple[str, str]:
    """A name as it is compared exactly, however its accents are encoded, and loosely."""
    exact = unicodedata.normalize("NFC", name)
    return exact, exact.strip().casefold()


def label_lookup(dataset: Dataset, columns: Columns) -> dict[Any, int] | None:
    """What a data set's own labels are in the order of ``columns.class_names``.

    Args:
        dataset: Any split, also of another source than the one that ``columns`` was read from; a label may be a list.
        columns: Its class names are in the order of a model's outputs.

    Returns:
        Raw label → place in the order, without those that are not there; None where only one side has names (or both
        the same), so that labels are taken for places.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.tasks.labels import label_lookup
        >>> from know_hf.tasks.task import Columns
        >>> data = Dataset.from_dict({"text": ["so", "so"], "mood": ["good", "bad"]})
        >>> lookup = label_lookup(data, Columns("text-classification", ["text"], "mood", ["bad", "good"]))
        >>> lookup["bad"], lookup["good"]
        (0, 1)
    """
    if is_list(dataset.features[columns.label]):
        dataset = flattened(dataset, columns.label)
    feature, order = dataset.features[columns.label], columns.class_names
    if is_class(feature):
        raw, names = range(len(feature.names)), list(feature.names)
        nameless = numbered(names) and not are_numbers(order)
    else:
        raw = _values(dataset, columns.label).drop_null().unique().to_pylist()
        names = [str(value) for value in raw]
        nameless = not is_text(feature) and feature.dtype != "bool" and not are_numbers(order)
    if not is_text(feature):
        # Numbers are names among numbers; beside words they are places.
        as_they_are = names == list(order) and list(raw) == list(range(len(order)))
        if nameless or (numbered(order) and not are_numbers(names)) or as_they_are:
            return None
    places = positions(names, order)
    return {label: place for label, place in zip(raw, places, strict=True) if place is not None}


def encode(labels: Sequence[Any], lookup: dict[Any, int] | None) -> list[int]:
    """Labels as places in the order of a model's outputs.

    Args:
        labels: As they are in the data.
        lookup: What [`label_lookup`] found.

    Returns:
        A place for each.

    Raises:
        KeyError: If a label has none; [`check_answers`] says so beforehand, in words.

    Example:
        >>> from know_hf.tasks.labels import encode
        >>> encode(["good", "bad"], {"bad": 0, "good": 1})
        [1, 0]
    """
    return [int(label) if lookup is None else lookup[label] for label in labels]


def check_answers(dataset: Dataset, columns: Columns, what: str) -> None:
    """Looks at every label before anything is trained or scored.

    Args:
        dataset: The data.
        columns: What to read; its class names are those that count.
        what: Whose data they are, for the messages, such as ``"evaluation data"``.

    Raises:
        ValueError: If labels are missing, negative, beyond the classes, of another kind or of unknown names; the column
            and the first such row are named.
    """
    where = f"Label column {columns.label!r} of the {what}"
    if columns.label not in dataset.features:
        raise ValueError(f"The {what} have no column {columns.label!r}; found {', '.join(dataset.column_names)}.")
    if not len(dataset):
        raise ValueError(f"The {what} are empty.")
    feature, order = dataset.features[columns.label], columns.class_names
    _refuse_other_answers(dataset, columns.label, where)
    values = _values(dataset, columns.label)
    if values.null_count:
        missing = values.is_null().to_pylist()
        raise ValueError(f"{where}: {_count(missing, 'miss it')}. drop_incomplete drops them.")
    raw = values.to_pylist()
    if not is_text(feature) and any(negative := [label < 0 for label in raw]):
        raise ValueError(
            f"{where}: {_count(negative, 'are unlabelled', raw)}. Take another split, or count the classes from 0."
        )
    lookup = label_lookup(dataset, columns)
    known = range(len(order)) if lookup is None else lookup
    if any(unknown := [label not in known for label in raw]):
        names = [feature.names[label] for label in raw] if is_class(feature) else raw
        raise ValueError(f"{where}: {_count(unknown, 'hold no known class', names)}. Known classes: {_listed(order)}.")
    named = feature.names if is_class(feature) else [str(i) for i in range(len(order))]
    if lookup is None and list(named) != list(order):
        logger.warning(
            "The %s name their classes %s, the model's outputs are named %s: only their order is left to go by.",
            what, _listed(named), _listed(order),
        )  # fmt: skip


def _refuse_other_answers(dataset: Dataset, label: str, where: str) -> None:
    """Refuses what is no class: lists (several labels an example) and fractions (regression)."""
    from datasets import Value

    feature = dataset.features[label]
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if is_class(feature) or is_text(feature) or dtype == "bool" or "int" in dtype:
        return
    what = f"{dtype} numbers (regression?)" if "float" in dtype else dtype or "several labels an example"
    other = "text-regression" if "float" in dtype else "multi-label-classification or token-classification"
    first = f", {str(_values(dataset, label)[0])[:60]} in row 0" if len(dataset) else ""
    raise ValueError(
        f"{where} holds {what}{first}; one class an example is expected: names, a ClassLabel, or class indices from 0. "
        f"Of texts --task {other} takes such."
    )


def is_class(feature: Any) -> bool:
    """Whether a column is declared to hold classes."""
    from datasets import ClassLabel

    return isinstance(feature, ClassLabel)


def is_text(feature: Any) -> bool:
    """Whether a column holds texts."""
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def is_list(feature: Any) -> bool:
    """Whether a column holds lists."""
    from datasets import LargeList, List

    return isinstance(feature, (List, LargeList))


def flattened(dataset: Dataset, label: str) -> Dataset:
    """A column of lists as one of all that they hold, one after the other."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset, DatasetInfo, Features
    from datasets.table import InMemoryTable

    inner = dataset.features[label].feature
    values = pa.table({label: pc.list_flatten(_values(dataset, label))})
    return Dataset(InMemoryTable(values), info=DatasetInfo(features=Features({label: inner})))


def _values(dataset: Dataset, label: str) -> pa.ChunkedArray:
    """A column as it is stored, rows chosen, nothing decoded."""
    return dataset.select_columns([label]).with_format("arrow")[:][label]


def _count(odd: Sequence[bool], what: str, values: Sequence[Any] | None = None) -> str:
    """How many rows are odd, and which is the first: ``3 of 20 rows miss it, the first is row 4``."""
    first = list(odd).index(True)
    shown = "" if values is None else f" ({values[first]!r})"
    return f"{sum(odd)} of {len(odd)} rows {what}, the first is row {first}{shown}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(map(str, names[:most])) + (f" … ({len(names)} in all)" if len(names) > most else "")


def only_classes(candidates: Candidates) -> str:
    """The one column that could hold classes; raises ``ValueError`` if there is none or several."""
    return candidates.only(candidates.classes, "label", "label_column")


def _check(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    check_answers(dataset, columns, what)


#: Columns of texts that belong together, by the names that data sets of such give them.
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
)
#: A text as input.
TEXTS = Inputs("texts", is_text, 'Value("string")')
#: A text, or two that belong together.
TEXTS_OR_PAIRS = replace(TEXTS, sets=PAIRS)
#: One class an example.
CLASSES = Labels(
    only_classes,
    names=class_names,
    check=_check,
    one_class=True,
    matched=True,
    problem="single_label_classification",
    fewer_will_do=lambda names: not names,
)
