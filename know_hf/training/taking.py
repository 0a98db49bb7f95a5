"""Some rows of any data set."""

import hashlib
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Subset


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
    # That of the library is a hash of its own source, which takes it longer than reading some rows.
    fingerprint = hashlib.sha256(dataset._fingerprint.encode() + numbers.tobytes()).hexdigest()[:16]
    return dataset.select(numbers, new_fingerprint=fingerprint)
