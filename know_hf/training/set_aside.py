"""Examples set aside before anything is trained: what is chosen, is chosen on them."""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from know_hf.training.taking import take

#: By default one example of so many is set aside, but no fewer than LEAST, which may be a third of all at most.
ONE_OF, LEAST = 10, 100
#: With fewer than three times LEAST examples, so many trainings leave out a part of them each, down to so many.
FOLDS, FEWEST = 3, 60
#: No choice is made on fewer.
NEEDED = 20


@dataclass(frozen=True)
class Fold:
    """One of several equal parts of the examples.

    Args:
        number: Which, from 0.
        of: How many there are.
    """

    number: int
    of: int = FOLDS


@dataclass(frozen=True)
class SetAside:
    """What was set aside, or why nothing was.

    Args:
        dataset: The examples; None where there are none.
        how: ``"given"`` as other data, ``"set aside"``, a ``"fold"`` of the training data, to be left out in
            ``"folds"`` by turns, ``"too few"`` for either, or ``"none"``: not asked for.
    """

    dataset: Any = None
    how: Literal["given", "set aside", "fold", "folds", "too few", "none"] = "none"

    @property
    def described(self) -> dict[str, Any]:
        """For a run's record: nothing where nothing was asked for."""
        if self.how == "none":
            return {}
        examples = 0 if self.dataset is None else len(self.dataset)
        return {"set_aside": {"how": self.how, "examples": examples}}


def take_aside(
    dataset: Any,
    split: "float | Fold | Literal['auto'] | None",
    seed: int,
    labels: Any = None,
    trains: Callable[[int], bool] | None = None,
    name: str = "selection_split",
) -> Any:
    """Sets examples of a data set aside.

    Args:
        dataset: A ``datasets.Dataset``, or any torch data set with a length.
        split: Share (below 1) or number of examples, a [`Fold`], ``"auto"``, or None for none. ``"auto"`` is a tenth,
            but at least a hundred; where that were more than a third of all, nothing is set aside and ``folds`` are
            what can be done instead.
        seed: Of the choice.
        labels: ``(n,)`` class of every example, whose shares both parts keep then.
        trains: Whether so many examples can be trained on; where we choose the number, it is changed until they can.
        name: What the split is called, for messages.

    Returns:
        What is left to train on, and the [`SetAside`].

    Raises:
        ValueError: If so many cannot be set aside.

    Example:
        >>> from datasets import Dataset
        >>> from know_hf.training.set_aside import take_aside
        >>> rest, aside = take_aside(Dataset.from_dict({"a": list(range(1000))}), "auto", 0)
        >>> len(rest), len(aside.dataset)
        (900, 100)
    """
    if split is None:
        return dataset, SetAside()
    sized: Sized = dataset
    total = len(sized)
    if isinstance(split, Fold):
        chosen = _order(total, seed, labels)[split.number :: split.of]
        rest = np.setdiff1d(np.arange(total), chosen)
        while trains is not None and len(rest) > total // 2 and not trains(len(rest)):
            rest = rest[:-1]
        return take(dataset, rest), SetAside(take(dataset, np.sort(chosen)), "fold")
    if split == "auto":
        size = max(LEAST, round(total / ONE_OF))
        if size * 3 > total:
            return dataset, SetAside(how="folds" if total >= FEWEST else "too few")
        while trains is not None and size * 3 < total and not trains(total - size):
            size += 1
    else:
        size = round(split * total) if split < 1 else int(split)
        without = {"selection_split": "choose='none'", "eval_split": "eval_split none"}
        if size < NEEDED or size > total - NEEDED:
            raise ValueError(
                f"{name}={split:g} would set {size} of {total} training examples aside; {NEEDED} at least are needed "
                f"on either side: set another number, give more data, or do without ({without[name]})."
            )
    order = _order(total, seed, labels)
    # Evenly spread over an order by class, so that both parts have the same shares.
    chosen = order[np.floor(np.arange(size) * (total / size)).astype(int)]
    return _without(dataset, chosen), SetAside(take(dataset, np.sort(chosen)), "set aside")


def check_enough(given: Any) -> None:
    """Looks whether the examples that are given apart are enough to choose on.

    Args:
        given: The examples; None where there are none, or any data of unknown number.

    Raises:
        ValueError: If they are fewer than ``NEEDED``.
    """
    if given is not None and hasattr(given, "__len__") and len(given) < NEEDED:
        raise ValueError(
            f"selection_split gives {len(given)} examples to choose on, on which no difference could be told from "
            f"chance; {NEEDED} at least are needed: give more, or do without (choose='none')."
        )


def halves(dataset: Any, seed: int, labels: Any = None) -> tuple[Any, Any]:
    """Two equal parts of a data set, with the same shares of its classes."""
    order = _order(len(dataset), seed, labels)
    return take(dataset, np.sort(order[::2])), take(dataset, np.sort(order[1::2]))


def _order(total: int, seed: int, labels: Any) -> np.ndarray:
    """All rows in an order by chance, those of a class together."""
    order = np.random.default_rng([seed, 19]).permutation(total)  # another one than that of the nested subsets
    return order if labels is None else order[np.argsort(np.asarray(labels)[order], kind="stable")]


def _without(dataset: Any, chosen: np.ndarray) -> Any:
    return take(dataset, np.setdiff1d(np.arange(len(dataset)), chosen))
