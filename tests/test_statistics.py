"""Intervals and p-values of paired differences, over seeds of fine-tuning and of pre-training."""

import math

import numpy as np
import pytest
from scipy import stats

from know_hf.laboratory.statistics import allowed, holm, nested_difference, paired_difference


def test_intervals():
    difference = paired_difference([2.0, 4.0, 3.0], [1.0, 2.0, 3.0])
    assert difference.mean == 1.0 and difference.high - difference.mean == pytest.approx(
        4.302653 * 1 / 3**0.5, rel=1e-5
    )
    assert difference.verdict == "no difference shown"
    assert paired_difference([1.0, 1.0], [2.0, 2.0]).verdict == "worse"
    with pytest.raises(ValueError, match="two seeds"):
        paired_difference([1.0], [1.0])


def test_students_sleep():
    """Hours of sleep of ten patients under two drugs (Student 1908): t = -4.0621, p = 0.002833 in every textbook."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_difference(second, first)
    assert (found.mean, found.seeds) == (pytest.approx(1.58), 10)
    assert (found.low, found.high) == (pytest.approx(0.7001142), pytest.approx(2.4598858))
    assert found.chance == pytest.approx(0.002833, abs=1e-6)
    assert paired_difference([1.0, 1.0], [1.0, 1.0]).chance == 1.0
    assert paired_difference([1.0, 1.0], [2.0, 2.0]).chance == 0.0


def test_over_pre_trainings_their_means_are_the_units():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(61, 1, (3, 5)), rng.normal(60, 1, (3, 5))
    found = nested_difference(ours.tolist(), theirs.tolist())
    differences = ours - theirs
    assert found.mean == pytest.approx(differences.mean())
    assert found.within.chance == pytest.approx(stats.ttest_rel(ours.ravel(), theirs.ravel()).pvalue)
    test = stats.ttest_1samp(differences.mean(1), 0)
    low, high = test.confidence_interval(0.95)
    assert found.between.chance == pytest.approx(test.pvalue) and found.between.seeds == 3
    assert (found.between.low, found.between.high) == (pytest.approx(low), pytest.approx(high))
    # By hand: means 1, 2 and 3, their standard error 1 / √3, quantile 4.302653 of two degrees of freedom.
    exact = nested_difference([[1.0, 1.0], [1.0, 3.0], [3.0, 3.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert exact.between.high - exact.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert exact.within.verdict == "better" and exact.verdict == "no difference shown"


def test_what_is_missing_makes_no_pair():
    gap = math.nan
    found = nested_difference([[1.0, 2.0], [gap, 4.0]], [[0.0, 0.0], [0.0, 1.0]])
    assert (found.mean, found.within.seeds, found.between.seeds) == (2.0, 3, 2)
    alone = nested_difference([[1.0, 2.0]], [[0.0, 0.0]])
    assert alone.between is None and alone.within.seeds == 2
    one = nested_difference([[3.0]], [[1.0]])
    assert (one.mean, one.within, one.between, one.verdict) == (2.0, None, None, "no difference shown")
    with pytest.raises(ValueError, match="needs a pair"):
        nested_difference([[gap]], [[1.0]])


def test_holm():
    """As statsmodels' multipletests(…, method="holm") has them."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []
    found = holm([0.02, math.nan, 0.01])
    assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.02) and math.isnan(found[1])


def test_an_interval_ends_where_the_score_does():
    wide = paired_difference([0.9, 0.5], [0.5, 0.8])
    cut = paired_difference([0.9, 0.5], [0.5, 0.8], most=1.0)
    assert wide.low < -1 and wide.high > 1
    assert (cut.low, cut.high) == pytest.approx((-0.65, 0.35)) and cut.verdict == wide.verdict and cut.mean == wide.mean
    found = nested_difference([[90.0, 50.0], [60.0, 61.0]], [[50.0, 80.0], [60.0, 50.0]], most=100.0)
    assert (found.within.low, found.within.high) == pytest.approx((-42.2, 42.7), abs=10)
    assert found.between.high <= 40 and found.between.low >= -60
    # Of an accuracy in percent that calls itself a share, and of a loss, nothing is known.
    assert allowed((-200.0, 200.0), [90.0, 50.0], [50.0, 80.0], 1.0) == (-200.0, 200.0)
    assert allowed((-2.0, 2.0), [0.9, 0.5], [0.5, 0.8], None) == (-2.0, 2.0)
    better = paired_difference([1.0, 0.99, 1.0], [0.0, 0.02, 0.01], most=1.0)
    assert better.verdict == "better" and better.high <= 0.99
