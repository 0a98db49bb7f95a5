"""Data of which the rows with one value in one column are held out: leave-one-domain-out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset


def hold_out(parts: Mapping[str, Dataset | None], held_out: Mapping[str, Any]) -> dict[str, Any]:
    """Takes from each part the rows that it is for, and the column that tells them.

    Args:
        parts: Name → data; None stays None. ``test`` gets the rows with the value, all others those without it.
        held_out: One column and one of its values; of a column of classes a value may be a name.

    Returns:
        The parts, without the column.

    Raises:
        ValueError: If a part has no such column, or no rows are left of it.

    Source: paper Table 3.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.training.held_out import hold_out
        >>> data = Dataset.from_dict({"domain": ["photo", "sketch", "photo"], "label": [0, 1, 2]})
        >>> found = hold_out({"train": data, "test": data}, {"domain": "sketch"})
        >>> found["train"]["label"][:], found["test"]["label"][:]
        ([0, 2], [1])
    """
    ((column, value),) = held_out.items()
    made: dict[str, Any] = {}
    for name, data in parts.items():
        if data is None:
            made[name] = None
            continue
        if column not in data.features:
            raise ValueError(f"The {name} data have no column {column!r}; found {', '.join(data.column_names)}.")
        feature, stored = data.features[column], value
        if isinstance(feature, ClassLabel) and value in feature.names:
            stored = feature.str2int(value)
        values = np.asarray(data.with_format("numpy", columns=[column])[column][:])
        same = values == stored
        rows = np.flatnonzero(same if name == "test" else ~same)
        if not len(rows):
            known = ", ".join(map(str, np.unique(values)[:6]))
            raise ValueError(
                f"Of the {name} data no row is left with {value!r} of column {column!r} held out; it holds {known}."
            )
        made[name] = data.select(rows).remove_columns(column)
    return made
