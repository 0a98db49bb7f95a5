"""Labels that are lists of classes: one a word, or all those of an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from know_hf.tasks.labels import class_names, flattened, is_class, is_list, label_lookup
from know_hf.tasks.task import Columns

if TYPE_CHECKING:
    from datasets import Dataset


def list_names(dataset: Dataset, label: str, wanted: str = "a list of classes") -> list[str]:
    """Names of the classes in a column of lists, as [`class_names`] finds them.

    Args:
        dataset: The data.
        label: The column.
        wanted: What each row has to be, for the message.

    Raises:
        ValueError: If it holds no lists, or lists of something else.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.tasks.lists import list_names
        >>> list_names(Dataset.from_dict({"topics": [["art"], ["war", "art"]]}), "topics")
        ['art', 'war']
    """
    _refuse_no_lists(dataset, label, f"Label column {label!r}", wanted)
    return class_names(flattened(dataset, label), label)


def check_lists(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    """Looks at every list of classes before anything is trained or scored.

    Args:
        dataset: The data.
        columns: What to read; its class names are those that count.
        classes: Number of the model's classes.
        what: Whose data they are, for the messages.

    Raises:
        ValueError: If a label is missing or none of the classes; the column and the first such row are named.
    """
    where = f"Label column {columns.label!r} of the {what}"
    if columns.label not in dataset.features:
        raise ValueError(f"The {what} have no column {columns.label!r}; found {', '.join(dataset.column_names)}.")
    _refuse_no_lists(dataset, columns.label, where, "a list of classes")
    class_names(flattened(dataset, columns.label), columns.label)  # which refuses what is no class
    lookup = label_lookup(dataset, columns)
    known: Any = range(len(columns.class_names)) if lookup is None else lookup
    inner = dataset.features[columns.label].feature
    for row, labels in enumerate(dataset.select_columns([columns.label])[columns.label][:]):
        for label in labels:
            if label is None or label not in known:
                named = is_class(inner) and label is not None and 0 <= label < len(inner.names)
                shown = repr(inner.names[label] if named else label)
                few = ", ".join(columns.class_names[:6]) + (" …" if len(columns.class_names) > 6 else "")
                raise ValueError(f"{where}: row {row} holds {shown}, which is no known class. Known classes: {few}.")


def _refuse_no_lists(dataset: Dataset, label: str, where: str, wanted: str) -> None:
    if not is_list(feature := dataset.features[label]):
        raise ValueError(
            f"{where} holds {getattr(feature, 'dtype', None) or type(feature).__name__}; {wanted} is expected."
        )
