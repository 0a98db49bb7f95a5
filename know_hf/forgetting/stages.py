"""From a data set and settings to what each stage trains on, and for how long."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from torch.utils.data import Dataset, IterableDataset

from know_hf.forgetting.controls import CONTROLS, FORGETTING
from know_hf.forgetting.subsets import nested_subsets
from know_hf.training.data import TO_DISK
from know_hf.training.set_aside import halves
from know_hf.training.taking import take

if TYPE_CHECKING:
    from know_hf.forgetting.arguments import ForgettingArguments


def first_trained_stage(args: "ForgettingArguments") -> int:
    """Index of the first stage that is trained: 1 where forgetting takes the model as its stage 0."""
    return 1 if args.recipe == FORGETTING and not args.train_stage_zero else 0


def stage_title(index: int, stages: int, checked: bool) -> str:
    """What a stage is called while it is trained: by its place among those that were asked for.

    Args:
        index: Its number, from 0.
        stages: How many there are, that of the self-check included.
        checked: Whether the last is the self-check's, which ``num_stages`` does not count.

    Example:
        >>> from know_hf.forgetting.stages import stage_title
        >>> stage_title(4, 6, True), stage_title(5, 6, True)
        ('Stage 4 of 0–4', "Stage 5, the self-check's")
    """
    last = stages - 1 - checked
    if index > last:
        return f"Stage {index}, the self-check's"
    return f"Stage {index} of 0–{last}" if last else f"Stage {index}"


def branching(args: "ForgettingArguments") -> bool:
    """Whether the stages are branches, each of which begins where the first does."""
    return CONTROLS[args.recipe].branches


def stage_plan(dataset: Dataset | datasets.Dataset, args: "ForgettingArguments") -> tuple[list[Any], list[int]]:
    """Plans the stages of the forgetting or of a control, as its declaration in ``CONTROLS`` says.

    Args:
        dataset: A ``datasets.Dataset`` or any torch data set with a length.
        args: Arguments with the fields of [`ForgettingSettings`].

    Returns:
        The data set of each stage in order of training, and its ``max_steps`` (-1: by epochs).

    Raises:
        TypeError: As [`stage_subsets`].
        ValueError: As [`stage_subsets`].
    """
    control, forgotten = CONTROLS[args.recipe], stage_subsets(dataset, args)
    subsets, steps = control.subsets(forgotten), args.max_steps
    if control.steps is not None:
        steps = control.steps([training_steps(len(subset), args) for subset in forgotten])
    if control.branches:
        return branch_plan(subsets[0], steps, args)
    return subsets, [steps] * len(subsets)


def branch_plan(dataset: Any, steps: int, args: "ForgettingArguments") -> tuple[list[Any], list[int]]:
    """Plans branches: so many that each is trained for about as long as a stage on its half of the data takes.

    Args:
        dataset: All the data.
        steps: Optimizer steps of all branches together.
        args: Arguments with the fields of [`ForgettingSettings`].

    Returns:
        The data set of each branch, and its ``max_steps``: equal shares, at least 1. Of two successive branches each
        has the half that the other has not, with the same shares of the classes of ``stratify_by``.
    """
    count = max(2, round(steps / training_steps(math.ceil(len(dataset) / 2), args)))
    labels = None if args.stratify_by is None else _labels(dataset, args.stratify_by)
    seed = args.seed if args.subset_seed is None else args.subset_seed
    parts = [part for pair in range(math.ceil(count / 2)) for part in halves(dataset, seed + pair, labels)]
    return parts[:count], [max(1, (steps + branch) // count) for branch in reversed(range(count))]


def training_steps(examples: int, args: "ForgettingArguments") -> int:
    """Optimizer steps that Trainer takes over a data set of that size, with these arguments."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(steps_an_epoch(examples, args) * args.num_train_epochs)


def steps_an_epoch(examples: int, args: "ForgettingArguments") -> int:
    """Optimizer steps of one epoch over a data set of that size."""
    global_batch = args.train_batch_size * args.world_size
    batches = examples // global_batch if args.dataloader_drop_last else math.ceil(examples / global_batch)
    return max(math.ceil(batches / args.gradient_accumulation_steps), 1)


def check_train_dataset(dataset: Any) -> None:
    """Raises ``TypeError`` if subsets cannot be taken of a data set."""
    if dataset is None or isinstance(dataset, (str, Path)):
        raise TypeError(
            f"train_dataset is {'missing' if dataset is None else repr(str(dataset))}: pass a data set, e.g. "
            "load_dataset(…)['train']."
        )
    if isinstance(dataset, (dict, datasets.DatasetDict)):
        raise TypeError(
            f"train_dataset is a dictionary of splits ({', '.join(dataset)}); pass one, e.g. dataset['train']."
        )
    if isinstance(dataset, (IterableDataset, datasets.IterableDataset)) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise TypeError(
            f"train_dataset is a {type(dataset).__name__} and no map-style data set with a length. {TO_DISK}"
        )


def stage_subsets(dataset: Dataset | datasets.Dataset, args: "ForgettingArguments") -> list[Any]:
    """Makes the nested data sets of every stage, the self-check's included.

    Args:
        dataset: A ``datasets.Dataset`` or any torch data set with a length.
        args: Arguments with the fields of [`ForgettingSettings`].

    Returns:
        The data sets, largest first; the first is ``dataset`` itself.

    Raises:
        TypeError: If the data set is none, has no length or is a dictionary of splits.
        ValueError: If a subset would be empty or the label column is missing.

    Source: paper section 3.
    """
    rows, indices = dataset, _indices(dataset, args)
    return [rows] + [take(rows, chosen) for chosen in indices[1:]]


def stage_sizes(dataset: Dataset | datasets.Dataset, args: "ForgettingArguments") -> list[int]:
    """Numbers of examples of [`stage_subsets`], which raises the same, without making them."""
    return [len(chosen) for chosen in _indices(dataset, args)]


def _indices(dataset: Dataset | datasets.Dataset, args: "ForgettingArguments") -> list[Any]:
    check_train_dataset(dataset)
    rows: Any = dataset  # with a length, and with formats where it has columns
    labels = None
    if args.stratify_by is not None:
        columns = getattr(rows, "column_names", None) or []
        if args.stratify_by not in columns:
            raise ValueError(f"stratify_by={args.stratify_by!r} is not a column; found {columns}.")
        labels = _labels(rows, args.stratify_by)
    stages = args.num_stages + bool(args.self_check)
    seed = args.seed if args.subset_seed is None else args.subset_seed
    return nested_subsets(len(rows), args.sampling_ratio, stages, seed, labels)


def _labels(rows: Any, column: str) -> Any:
    return rows.with_format("numpy", columns=[column])[column][:]
