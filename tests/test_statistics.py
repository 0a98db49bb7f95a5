"""Intervals of paired differences."""

import pytest

from know_hf.laboratory.statistics import paired_difference


def test_intervals():
    difference = paired_difference([2.0, 4.0, 3.0], [1.0, 2.0, 3.0])
    assert difference.mean == 1.0 and difference.high - difference.mean == pytest.approx(
        4.302653 * 1 / 3**0.5, rel=1e-5
    )
    assert difference.verdict == "no difference shown"
    assert paired_difference([1.0, 1.0], [2.0, 2.0]).verdict == "worse"
    with pytest.raises(ValueError, match="two seeds"):
        paired_difference([1.0], [1.0])
