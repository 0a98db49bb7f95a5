"""Some rows of any data set."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Subset

#: What a data set without a format holds about it.
_PLAIN: dict[str, Any] = {
    "_format_type": None, "_format_kwargs": {}, "_format_columns": None, "_output_all_columns": False,
}  # fmt: skip


def take(dataset: Any, rows: Sequence[int] | np.ndarray) -> Any:
    """Takes rows of a data set, which may be taken apart many times over.

    Args:
        dataset: A ``datasets.Dataset`` or any torch data set with a length.
        rows: Numbers of the rows, in the order that they shall have.

    Returns:
        A data set of the same library.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.training.taking import take
        >>> take(Dataset.from_dict({"label": [0, 1, 2]}), [2, 0])["label"][:]
        [2, 0]
    """
    numbers = np.asarray(rows, dtype=np.int64)
    if not isinstance(dataset, datasets.Dataset):
        return Subset(dataset, numbers.tolist())
    # The library tells formats and choices of rows apart by a hash of their own source, each time anew, which takes it
    # longer than reading some rows: rows are taken without the format, under a name that follows from theirs.
    fingerprint = hashlib.sha256(dataset._fingerprint.encode() + numbers.tobytes()).hexdigest()[:16]
    plain = copy.copy(dataset)
    vars(plain).update(_PLAIN)
    taken = plain.select(numbers, new_fingerprint=fingerprint)
    vars(taken).update({name: vars(dataset)[name] for name in _PLAIN})
    return taken
