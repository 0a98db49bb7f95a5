"""Nested subsets: D^0 ⊃ D^1 ⊃ … as prefixes of one seeded permutation."""

import numpy as np


def subset_sizes(examples: int, ratio: float, stages: int) -> list[int]:
    """Sizes of the data sets of each stage, ``floor(examples · ratio^i)``.

    Args:
        examples: Number of examples in all.
        ratio: Sampling ratio r in (0, 1).
        stages: Number of stages.

    Returns:
        ``stages`` sizes, largest first.

    Raises:
        ValueError: If the ratio is out of range, the smallest subset would be empty, or two would be the same.

    Source: paper section 3, |D^i| = r^i·|D^0|; rounding as in the released code.

    Example:
        >>> from know_hf.forgetting.subsets import subset_sizes
        >>> subset_sizes(50_000, 0.5, 5)
        [50000, 25000, 12500, 6250, 3125]
    """
    if not 0 < ratio < 1:
        raise ValueError(f"sampling_ratio is {ratio}; it must lie strictly between 0 and 1.")
    # The tiny addend keeps 10 · 0.1^1 from becoming 0 by rounding.
    sizes = [int(examples * ratio**i + 1e-9) for i in range(stages)]
    if sizes[-1] < 1:
        raise ValueError(
            f"{examples} examples at sampling_ratio {ratio} leave stage {sizes.index(0)} without data: "
            f"use more data, a larger ratio or fewer than {stages} stages."
        )
    if equal := [i for i in range(1, stages) if sizes[i] == sizes[i - 1]]:
        raise ValueError(
            f"{examples} examples at sampling_ratio {ratio} give stages {equal[0] - 1} and {equal[0]} the same "
            f"{sizes[equal[0]]}, so that nothing would be forgotten between them: use more data, a smaller ratio or "
            f"fewer than {stages} stages."
        )
    return sizes


def nested_subsets(
    examples: int, ratio: float, stages: int, seed: int, labels: np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices of the data sets of each stage; each contains the next.

    Args:
        examples: Number of examples in all.
        ratio: Sampling ratio r in (0, 1).
        stages: Number of stages.
        seed: Seed of the one permutation behind all of them.
        labels: ``(examples,)`` class of each example; when given, every subset keeps the class shares.

    Returns:
        ``stages`` int64 arrays of indices; the first holds them all.

    Raises:
        ValueError: As [`subset_sizes`], or if ``labels`` has another length.

    Source: paper section 3, but for the stratification.

    Example:
        >>> from know_hf.forgetting.subsets import nested_subsets
        >>> [len(subset) for subset in nested_subsets(1000, 0.33, 4, seed=0)]
        [1000, 330, 108, 35]
    """
    sizes = subset_sizes(examples, ratio, stages)
    generator = np.random.default_rng(seed)
    order = generator.permutation(examples)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (examples,):
            raise ValueError(f"labels has shape {labels.shape}; expected ({examples},).")
        order = _spread_classes(order, labels, generator)
    return [order[:size] for size in sizes]


def _spread_classes(order: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Reorders a permutation so that every prefix holds each class in proportion, to within about one example."""
    shuffled = labels[order]
    position = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return order[np.argsort(position, kind="stable")]
