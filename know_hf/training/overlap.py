"""Whether examples of one data set are in another: what is chosen or scored on them flatters what has learnt them."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Subset

from know_hf.trajectory.rows import Rows

logger = logging.getLogger(__name__)

#: A larger share of examples in common, beyond how often the data repeat themselves, is no chance.
LARGE = 0.5
#: Below this share nobody needs to be told beside every score.
SMALL = 0.01


@dataclass(frozen=True)
class Overlap:
    """What two data sets have in common.

    Args:
        shared: Examples of the first that are in the second, too; an estimate where not all rows were looked at.
        of: Examples of the first.
        large: Whether they are so many that it is no chance.
    """

    shared: int
    of: int
    large: bool

    @property
    def worth_saying(self) -> bool:
        """Whether it is to be said beside every score."""
        return self.shared > SMALL * self.of

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.shared:,} of the {self.of:,}"


def overlap(
    some: Any,
    others: Any,
    columns: Sequence[str] | None = None,
    by_size: bool = False,
    known: "dict[Any, Rows] | None" = None,
) -> Overlap:
    """Counts the examples of a data set that are in another, too.

    Data repeat themselves: the same short sentence is there twice by chance. So what counts as large is a share beyond
    that of the rows that have a twin within the second data set.

    Args:
        some: The examples in question, usually the fewer ones.
        others: Where they should not be.
        columns: What makes an example; by default all that both have.
        by_size: Whether longer rows count for more, as of a text in lines.
        known: What was looked at in earlier calls with the same data sets, so that none is read twice.

    Returns:
        What they have in common; nothing of data sets whose rows nobody can compare.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.training.overlap import overlap
        >>> train = Dataset.from_dict({"text": [f"number {i}" for i in range(100)]})
        >>> found = overlap(train.select(range(90, 100)), train.select(range(95)))
        >>> found.shared, found.of, found.large
        (5, 10, False)
    """
    if not all(hasattr(data, "__len__") for data in (some, others)):
        return Overlap(0, 0, False)
    size = len(some)
    if some is others:
        return Overlap(size, size, True)
    if not (isinstance(some, Dataset) and isinstance(others, Dataset)):
        shared = _same_places(some, others)
        return Overlap(shared, size, shared > LARGE * size)
    names = [name for name in columns or some.column_names if name in some.features and name in others.features]
    if not names or not size or not len(others):
        return Overlap(0, size, False)
    known = {} if known is None else known
    for data in (some, others):
        if (id(data), *names) not in known:
            known[id(data), *names] = Rows(data, names, by_size)
    mine, there = (known[id(data), *names] for data in (some, others))
    if not mine.digests or not there.digests:
        return Overlap(0, size, False)
    counts = Counter(there.digests)
    hits = [digest in counts for digest in mine.digests]
    twice = float(np.average([counts[digest] > 1 for digest in there.digests], weights=there.weights))
    # What was not looked at holds as many of them.
    share = min(1.0, float(np.mean(hits)) * there.unseen)
    heavy = min(1.0, float(np.average(hits, weights=mine.weights)) * there.unseen)
    return Overlap(round(share * size), size, heavy - twice > LARGE * (1 - twice))


def _same_places(some: Any, others: Any) -> int:
    """Examples in common of parts of one torch data set."""
    base, rows = _places(some)
    same, there = _places(others)
    return len(set(rows) & set(there)) if base is same else 0


def _places(dataset: Any) -> tuple[Any, Iterable[int]]:
    if isinstance(dataset, Subset):
        base, rows = _places(dataset.dataset)
        known = list(rows)
        return base, [known[i] for i in dataset.indices]
    return dataset, range(len(dataset))


def named_parts(evaluation: Any) -> dict[str, Any]:
    """Evaluation data by what a message calls them: none, some, or several sets, as Trainer takes them by name."""
    if evaluation is None:
        return {}
    if isinstance(evaluation, dict):
        return {f"evaluation data {name!r}": own for name, own in evaluation.items()}
    return {"evaluation data": evaluation}


def check_apart(
    train: Any,
    selection: Any,
    evaluations: Mapping[str, Any],
    columns: Sequence[str] | None = None,
    by_size: bool = False,
) -> list[str]:
    """Looks whether what is chosen on is neither trained on nor scored on, and what is scored on not trained on.

    Args:
        train: The training data.
        selection: Examples given apart to choose on; None where there are none.
        evaluations: Evaluation data, by what a message calls them.
        columns: As for [`overlap`].
        by_size: As for [`overlap`].

    Returns:
        What is to be said beside every score, a sentence each.

    Raises:
        ValueError: If most of the examples to choose on are training data, or evaluation data.
    """
    said: list[str] = []
    known: dict[Any, Rows] = {}

    def remark(found: Overlap, sentence: str) -> None:
        if found.worth_saying:
            said.append(sentence)
            logger.warning("%s", sentence)
        elif found.shared:
            logger.info("%s", sentence)

    if selection is not None:
        found = overlap(selection, train, columns, by_size, known)
        if found.large:
            raise ValueError(
                f"{found.told} examples to choose on (selection_split) are training data: what is chosen on them is "
                "what remembers them best. Give others, or a share or number, such as selection_split 0.2, which is "
                "then set aside and not trained on."
            )
        remark(found, f"Of the examples to choose on {found.told} are training data, too.")
    for what, part in evaluations.items():
        if part is None:
            continue
        if selection is not None:
            found = overlap(selection, part, columns, by_size, known)
            if found.large or overlap(part, selection, columns, by_size, known).large:
                raise ValueError(
                    f"{found.told} examples to choose on (selection_split) are {what} ({len(part):,}): scores on these "
                    "would flatter what was chosen by them. Score on others (eval_dataset, eval_split) or on none "
                    "(eval_split none; in Python no eval_dataset), or choose on others."
                )
            remark(found, f"Of the examples to choose on {found.told} are {what}, too.")
        found = overlap(part, train, columns, by_size, known)
        flatters = ": scores on these say how well they are remembered, not how well others are done"
        remark(found, f"Of the {what} {found.told} examples are training data, too{flatters * found.large}.")
    return said
