"""Scores that are no shares keep their figures."""

from know_hf.laboratory.statistics import Difference, paired_difference
from know_hf.report.figures import spread
from know_hf.tasks import Score

RMSE = Score("rmse", percent=False, higher_is_better=False)


def test_small_scores_are_told_apart():
    assert spread([1.381, 1.379], RMSE) == "1.38 ± 0.00" and spread([1.40, 1.38], RMSE) == "1.39 ± 0.01"
    assert spread([0.031, 0.033], RMSE) == "0.0320 ± 0.0014"
    assert spread([123.4, 125.4], RMSE) == "124.4 ± 1.4" and spread([0.0, 0.0], RMSE) == "0.0 ± 0.0"
    assert spread([61.04, 63.04], Score("accuracy")) == "62.0 ± 1.4"


def test_small_differences_are_no_zeros():
    assert str(paired_difference([0.0312, 0.0318, 0.0314], [0.0309, 0.0313, 0.0311])).startswith("+0.00037 [")
    assert str(Difference(1.5, 0.25, 2.75, 3)) == "+1.50 [+0.25, +2.75]"
    assert str(Difference(0.0, 0.0, 0.0, 3)) == "+0.00 [+0.00, +0.00]"
