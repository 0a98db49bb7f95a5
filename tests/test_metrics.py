"""The metric modules, against scikit-learn and by hand."""

import math

import numpy as np
import pytest

from know_hf.metrics import NAMES, load_metric

sklearn_metrics = pytest.importorskip("sklearn.metrics")
random = np.random.default_rng(0)
PREDICTED, LABELS = random.integers(0, 4, (2, 6, 50))


def test_accuracy():
    found = load_metric("accuracy").compute(predictions=PREDICTED[0], references=LABELS[0])
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(LABELS[0], PREDICTED[0]))


def test_masked_accuracy():
    labels = LABELS.copy()
    labels[:, ::3] = -100
    counted = labels >= 0
    found = load_metric("masked_accuracy").compute(predictions=PREDICTED, references=labels)
    expected = sklearn_metrics.accuracy_score(labels[counted], PREDICTED[counted])
    assert found["masked_accuracy"] == pytest.approx(expected)


def test_mean_iou_and_class_accuracy():
    labels = LABELS.copy()
    labels[:, ::7] = 255  # the border of objects, in many data sets
    labels[labels == 3] = 2  # a class that is predicted but never there
    counted = labels < 4
    truth, guess = labels[counted], PREDICTED[counted]
    found = load_metric("mean_iou").compute(predictions=PREDICTED, references=labels, num_labels=4)
    expected = sklearn_metrics.jaccard_score(truth, guess, average="macro", labels=range(4))
    assert found["mean_iou"] == pytest.approx(expected)
    found = load_metric("mean_class_accuracy").compute(predictions=PREDICTED, references=labels, num_labels=4)
    expected = sklearn_metrics.recall_score(truth, guess, average="macro", labels=range(3))
    assert found["mean_class_accuracy"] == pytest.approx(expected)


def test_perplexity_by_hand():
    metric = load_metric("perplexity")
    found = metric.compute(predictions=[[math.log(0.5), math.log(0.25), -9.0]], references=[[4, 7, -100]])
    assert found["perplexity"] == pytest.approx(2**1.5)


def test_added_batch_by_batch_and_unknown_names():
    metric = load_metric("accuracy")
    for start in (0, 25):
        metric.add_batch(predictions=PREDICTED[0, start : start + 25], references=LABELS[0, start : start + 25])
    assert metric.compute()["accuracy"] == pytest.approx((PREDICTED[0] == LABELS[0]).mean())
    with pytest.raises(ValueError, match="no metric 'bleu' here, only accuracy"):
        load_metric("bleu")
    assert len(NAMES) == 8
