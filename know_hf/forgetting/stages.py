"""From a data set and settings to what each stage trains on, and for how long."""

import math
from pathlib import Path

import datasets
from torch.utils.data import Dataset, IterableDataset, Subset

from know_hf.forgetting.subsets import nested_subsets


def first_trained_stage(args) -> int:
    """Index of the first stage that is trained: 1 where forgetting takes the model as its stage 0."""
    return 1 if args.recipe == "forgetting" and not args.train_stage_zero else 0


def stage_plan(dataset: Dataset, args) -> tuple[list[Dataset], int]:
    """Plans the stages of a recipe.

    Args:
        dataset: A ``datasets.Dataset`` or any torch data set with a length.
        args: Arguments with the fields of [`ForgettingSettings`].

    Returns:
        The data set of each stage in order of training, and the ``max_steps`` of each (-1: by epochs).

    Raises:
        TypeError: As [`stage_subsets`].
        ValueError: As [`stage_subsets`].

    Source: forgetting, paper section 3; incremental pre-training, paper section 5 (order and budget of its stages are
        ours: the same subsets and epochs); equal compute, ours.
    """
    subsets = stage_subsets(dataset, args)
    if args.recipe == "forgetting":
        return subsets, args.max_steps
    if args.recipe == "incremental":
        return subsets[::-1], args.max_steps
    return subsets[:1], sum(training_steps(len(subset), args) for subset in subsets[1:])


def training_steps(examples: int, args) -> int:
    """Optimizer steps that Trainer takes over a data set of that size, with these arguments."""
    if args.max_steps > 0:
        return args.max_steps
    global_batch = args.train_batch_size * args.world_size
    batches = examples // global_batch if args.dataloader_drop_last else math.ceil(examples / global_batch)
    updates = math.ceil(batches / args.gradient_accumulation_steps)
    return math.ceil(max(updates, 1) * args.num_train_epochs)


def check_train_dataset(dataset: Dataset) -> None:
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
            f"train_dataset is a {type(dataset).__name__} without length; nested subsets need a map-style data set "
            "(datasets.Dataset, e.g. load_dataset(..., streaming=False))."
        )


def stage_subsets(dataset: Dataset, args) -> list[Dataset]:
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
    check_train_dataset(dataset)
    labels = None
    if args.stratify_by is not None:
        columns = getattr(dataset, "column_names", None) or []
        if args.stratify_by not in columns:
            raise ValueError(f"stratify_by={args.stratify_by!r} is not a column; found {columns}.")
        labels = dataset.with_format("numpy", columns=[args.stratify_by])[args.stratify_by][:]
    stages = args.num_stages + bool(args.self_check)
    indices = nested_subsets(len(dataset), args.sampling_ratio, stages, args.subset_seed, labels)
    if isinstance(dataset, datasets.Dataset):
        return [dataset] + [dataset.select(chosen) for chosen in indices[1:]]
    return [dataset] + [Subset(dataset, chosen.tolist()) for chosen in indices[1:]]
