"""What tells rows of a data set from each other, and data sets by all of theirs."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset

#: Of a data set at most so many rows, and about so many bytes, are looked at, evenly spread.
MOST_ROWS, MOST_BYTES = 50_000, 1 << 30
_ROWS_AT_ONCE = 1000
# A data set that lives is read once, however many ask what is in it.
_KNOWN: "WeakKeyDictionary[Dataset, str]" = WeakKeyDictionary()


def content_hash(dataset: Any) -> str | None:
    """Tells apart data sets of as many rows; None where nobody can read their rows twice alike.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.trajectory.rows import content_hash
        >>> content_hash(Dataset.from_dict({"label": [0, 1]})) == content_hash(Dataset.from_dict({"label": [0, 0]}))
        False
    """
    if not isinstance(dataset, Dataset):
        return None
    if (known := _KNOWN.get(dataset)) is None:
        rows = Rows(dataset, dataset.column_names, False)
        known = _KNOWN[dataset] = hashlib.sha256(b"".join(rows.digests)).hexdigest()[:16]
    return known


class Rows:
    """What tells rows of a data set from each other: of all, or where they are many, of evenly spread ones."""

    def __init__(self, dataset: Dataset, names: Sequence[str], by_size: bool) -> None:
        data = dataset.select_columns(list(names))
        row = max(1, data.data.nbytes // max(data.data.num_rows, 1))
        most = max(1, min(MOST_ROWS, MOST_BYTES // row))
        if len(data) > most:
            data = data.select(np.linspace(0, len(data) - 1, num=most).astype(int))
        #: Rows for each that was looked at.
        self.unseen = len(dataset) / max(len(data), 1)
        self.digests: list[bytes] = []
        self.weights: list[int] = []
        for batch in data.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
            for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                parts = list(_parts(values))
                if by_size and not any(str(value).strip() for value in values):
                    continue  # a blank line is part of a text, and in every other one
                self.digests.append(hashlib.blake2b(b"\0".join(parts), digest_size=12).digest())
                self.weights.append(sum(map(len, parts)) if by_size else 1)


def _parts(value: Any) -> Iterator[bytes]:
    """A value as bytes; of a file its content, or if that is not there, where it lies."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, Mapping):
        if {"bytes", "path"} <= value.keys():
            value = {"bytes": value["bytes"]} if value["bytes"] is not None else {"path": value["path"]}
        for key, own in value.items():
            yield str(key).encode()
            yield from _parts(own)
    elif isinstance(value, tuple | list):
        yield str(len(value)).encode()
        if any(isinstance(own, bytes | Mapping | list | tuple) for own in value):
            for own in value:
                yield from _parts(own)
        else:
            yield repr(value).encode()
    else:
        yield repr(value).encode()
