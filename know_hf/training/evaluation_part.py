"""Examples to report scores on: a share of the training data, and whether others are a sample of the same data."""

from collections import Counter
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from know_hf.tasks import find_roles, get_task
from know_hf.training.options import DataOptions
from know_hf.training.set_aside import take_aside

#: A class that by chance would be absent as seldom as this is absent for another reason.
_BY_CHANCE = 1e-6


def split_off(dataset: Dataset, share: float, seed: int, about: DataOptions) -> tuple[Dataset, Dataset]:
    """Takes examples of a data set for evaluation, of each class alike.

    Args:
        dataset: The data.
        share: Share (below 1) or number of examples.
        seed: Of the choice.
        about: What to read of the data.

    Returns:
        The rest, and the examples for evaluation.

    Raises:
        ValueError: If there are too few for either.
    """
    rest, apart = take_aside(dataset, share, seed, _classes(dataset, about), name="eval_split")
    return rest, apart.dataset


def check_slices(train: Dataset, evaluation: Dataset, split: str, about: DataOptions) -> None:
    """Looks whether a slice of sorted data was taken for a sample.

    Args:
        train: The training data.
        evaluation: A slice of the same rows.
        split: What was asked for, for the message.
        about: What to read of the data.

    Raises:
        ValueError: If a class is absent from the slice that no chance would leave out.
    """
    columns = _roles(train, about)
    if get_task(columns.task).one_class and (found := lacking(train, evaluation, columns.label)) is not None:
        raise ValueError(
            f"The evaluation data, {split}, hold no example of {found[0]!r}, which are {found[1]:.0%} of the training "
            "data: the rows are sorted, so a slice of them is no sample. eval_split 0.2 takes a fifth of each class."
        )


def lacking(train: Dataset, others: Dataset, label: str) -> tuple[str, float] | None:
    """[`absent`] of two data sets, one class an example, in a column of the same type: the class by its name.

    Rows without a label are another matter, which is looked at elsewhere.
    """
    feature = train.features[label]
    if others.features.get(label) != feature:
        return None
    told = [own[(own != "None") & (own != "-1")] for own in (_told(part, label) for part in (train, others))]
    found = absent(*told)
    if found is None or not isinstance(feature, ClassLabel):
        return found
    return feature.int2str(int(found[0])), found[1]


def absent(train: Any, others: Any) -> tuple[str, float] | None:
    """The largest class of the training data that other data lack though no chance would leave it out.

    Args:
        train: ``(n,)`` classes of the training data.
        others: ``(m,)`` those of the others.

    Returns:
        The class and its share of the training data; None if there is none such.

    Example:
        >>> from know_hf.training.evaluation_part import absent
        >>> absent(["cat"] * 60 + ["dog"] * 40, ["cat"] * 30)
        ('dog', 0.4)
    """
    counts, there = Counter(np.asarray(train).tolist()), set(np.asarray(others).tolist())
    for name, count in counts.most_common():
        share = count / len(train)
        if name not in there and (1 - share) ** len(others) < _BY_CHANCE:
            return name, share
    return None


def _roles(dataset: Dataset, about: DataOptions) -> Any:
    inputs = list(about.input_columns) if about.input_columns else None
    return find_roles(dataset, task=about.task, inputs=inputs, label=about.label_column)


def _classes(dataset: Dataset, about: DataOptions) -> np.ndarray | None:
    """The class of every row as text, gaps included; None where rows have not one class each."""
    columns = _roles(dataset, about)
    if not get_task(columns.task).one_class:
        return None
    return _told(dataset, columns.label)


def _told(dataset: Dataset, label: str) -> np.ndarray:
    return np.asarray([str(one) for one in dataset.select_columns([label])[label]])
