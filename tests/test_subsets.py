"""Nested subsets: sizes, nesting, determinism, stratification."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from know_hf.forgetting.subsets import nested_subsets, subset_sizes


@pytest.mark.parametrize(
    ("examples", "ratio", "sizes"),
    [
        (50000, 0.5, [50000, 25000, 12500, 6250, 3125]),
        (1281, 0.5, [1281, 640, 320, 160, 80]),
        (1000, 0.33, [1000, 330, 108, 35, 11]),
        (10, 0.1, [10, 1]),
    ],
)
def test_sizes(examples, ratio, sizes):
    assert subset_sizes(examples, ratio, len(sizes)) == sizes


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.5])
def test_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        subset_sizes(100, ratio, 3)


def test_empty_subset_is_refused():
    with pytest.raises(ValueError, match="leave stage 4 without data"):
        subset_sizes(10, 0.5, 5)


@settings(deadline=None, max_examples=50)
@given(
    examples=st.integers(40, 400),
    ratio=st.floats(0.4, 0.95),
    stages=st.integers(2, 5),
    seed=st.integers(0, 2**31),
    classes=st.integers(0, 5),
)
def test_subsets_are_nested_and_reproducible(examples, ratio, stages, seed, classes):
    labels = np.arange(examples) % classes if classes else None
    subsets = nested_subsets(examples, ratio, stages, seed, labels)
    assert [len(s) for s in subsets] == subset_sizes(examples, ratio, stages)
    assert sorted(subsets[0]) == list(range(examples))
    for larger, smaller in zip(subsets, subsets[1:], strict=False):
        assert set(smaller) <= set(larger)
    again = nested_subsets(examples, ratio, stages, seed, labels)
    assert all(np.array_equal(a, b) for a, b in zip(subsets, again, strict=True))
    if classes:
        for subset in subsets:
            counts = np.bincount(labels[subset], minlength=classes)
            expected = np.bincount(labels, minlength=classes) * len(subset) / examples
            assert np.abs(counts - expected).max() <= 2


def test_seed_matters():
    assert not np.array_equal(nested_subsets(100, 0.5, 2, 0)[1], nested_subsets(100, 0.5, 2, 1)[1])


def test_rare_class_survives_stratification():
    labels = np.array([0] * 990 + [1] * 10)
    smallest = nested_subsets(1000, 0.5, 4, seed=3, labels=labels)[-1]
    assert (labels[smallest] == 1).sum() in (1, 2)
