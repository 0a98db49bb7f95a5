"""When a gain counts: what examples add to a score, how much of a difference is chance, and the words for it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from transformers import EvalPrediction

from know_hf.choice.resampling import interval, swap_error, swapped
from know_hf.choice.rule import LEVEL, LIKELY, Gain, judge
from know_hf.choice.scoring import Answers, Measure, guessing, in_units, pooled
from know_hf.choice.words import chosen_words, described, origin_words
from know_hf.enrichment.verdict import Deciding
from know_hf.tasks import Score
from know_hf.trajectory.functions import fingerprint

ACCURACY = Measure("eval_accuracy", True)
ACCURATE = Deciding("eval_accuracy", Score("accuracy", percent=True, higher_is_better=True), 200)


def right(flags) -> Answers:
    flags = np.asarray(flags, float)
    return Answers({"eval_accuracy": float(flags.mean())}, flags)


def test_a_plain_gain_is_taken_and_a_tie_is_not():
    start = np.arange(200) % 2
    better = np.where(np.arange(200) < 60, 1, start)
    answers = {"stage-0": right(start), "same": right(start), "mean": right(better)}
    name, gains = judge("stage-0", answers, ACCURACY)
    assert name == "mean" and gains["mean"].chance < 0.01 and gains["mean"].low > 0
    assert gains["same"].gain == 0 and gains["same"].chance == 1
    assert judge("stage-0", {**answers, "mean": right(start)}, ACCURACY)[0] == "stage-0"
    loss = Measure("eval_accuracy", False)
    assert judge("stage-0", answers, loss)[0] == "stage-0"


@pytest.mark.parametrize(("examples", "others", "likely"), [(20, 12, ()), (50, 20, ()), (50, 20, LIKELY)])
def test_the_best_of_many_by_chance_is_seldom_taken(examples, others, likely):
    draw, taken, times = np.random.default_rng(1), 0, 100
    for _ in range(times):
        answers = {"stage-0": right(draw.random(examples) < 0.7)}
        answers |= {f"other {i}": right(draw.random(examples) < 0.7) for i in range(others)}
        answers |= {name: right(draw.random(examples) < 0.7) for name in likely}
        taken += judge("stage-0", answers, ACCURACY)[0] != "stage-0"
    assert taken / times <= LEVEL + 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / times)


def test_many_others_do_not_hide_what_is_likely():
    draw, taken, times = np.random.default_rng(2), {LIKELY[0]: 0, "fitted": 0}, 40
    for _ in range(times):  # 8 of 100 examples more: two standard errors, little among 30, enough among 2
        start = draw.random(100) < 0.6
        answers = {"stage-0": right(start)} | {f"other {i}": right(draw.random(100) < 0.6) for i in range(30)}
        better = start.copy()
        better[draw.permutation(np.flatnonzero(~start))[:12]] = True
        better[draw.permutation(np.flatnonzero(start))[:4]] = False
        for name in taken:
            taken[name] += judge("stage-0", {**answers, name: right(better)}, ACCURACY)[0] == name
    assert taken[LIKELY[0]] > 0.7 * times > 0.3 * times > taken["fitted"]


def with_losses(flags, losses) -> Answers:
    return replace(right(flags), losses=np.asarray(losses, float))


@pytest.mark.parametrize(
    ("name", "more", "lower", "taken"),
    [
        ("equal_compute", 1, 0.1, True),
        ("equal_compute", 0, 0.1, True),  # as good, and its loss is lower
        ("equal_compute", -1, 0.1, False),
        ("equal_compute", 1, -0.1, False),
        ("equal_compute", 1, 0.0, False),
        ("mean", 1, 0.1, False),  # averages have lower losses without being better
    ],
)
def test_more_training_may_show_in_the_loss(name, more, lower, taken):
    start, draw = np.arange(60) % 2, np.random.default_rng(0)
    better = start.copy()
    better[np.flatnonzero(start == (more < 0))[: abs(more)]] = more > 0
    losses = draw.random(60)
    noisy = losses - lower + 0.1 * draw.standard_normal(60)
    answers = {"stage-0": with_losses(start, losses), name: with_losses(better, noisy)}
    chosen, gains = judge("stage-0", answers, ACCURACY)
    assert (chosen == name) == taken == gains[name].by_loss
    if taken:
        assert gains[name].loss == pytest.approx(0.1, abs=0.03) and gains[name].chance <= LEVEL
        words = chosen_words(name, gains, ACCURATE, 60, {}, {})
        assert "and a loss that is lower by 0." in words and "Θ⁰ was not trained to its end" in words
    else:
        assert gains[name].loss_chance == 1 and gains[name].loss == 0


def test_the_loss_of_more_training_is_compared_with_that_of_the_better_start():
    start, draw = np.arange(60) % 2, np.random.default_rng(0)
    renewed, losses = np.where(np.arange(60) < 30, 1, start), draw.random(60)
    lower = losses - 0.1 + 0.1 * draw.standard_normal(60)
    answers = {
        "stage-0": with_losses(start, losses),
        "stage-0-renewed": with_losses(renewed, lower - 0.1),
        "equal_compute": with_losses(renewed, lower),
    }
    chosen, gains = judge("stage-0", answers, ACCURACY, renewed="stage-0-renewed")
    assert chosen == "stage-0-renewed" and not gains["equal_compute"].by_loss


def test_losses_are_seldom_lower_by_chance():
    draw, taken, times = np.random.default_rng(3), 0, 100
    for _ in range(times):
        answers = {f"other {i}": right(draw.random(50) < 0.7) for i in range(5)}
        for name in ("stage-0", *LIKELY):
            answers[name] = with_losses(draw.random(50) < 0.7, draw.random(50))
        taken += judge("stage-0", answers, ACCURACY)[0] != "stage-0"
    assert taken / times <= LEVEL + 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / times)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions == prediction.label_ids).mean())}


def f1(prediction: EvalPrediction) -> dict[str, float]:
    found, right = prediction.predictions == 1, prediction.label_ids == 1
    return {"f1": 2 * float((found & right).sum()) / float(found.sum() + right.sum())}


def answered(draw, examples: int, share: float, metric: str, compute) -> Answers:
    labels = np.arange(examples) % 3 == 0
    given = np.where(draw.random(examples) < share, labels, ~labels).astype(int)
    return Answers({f"eval_{metric}": compute(EvalPrediction(given, labels))[metric]}, kept=(given, labels))


def test_swaps_and_intervals():
    draw = np.random.default_rng(0)
    one, other = ((draw.random(60) < share).astype(float) for share in (0.3, 0.5))
    drawn = swapped(one, other)
    assert len(drawn) == 2000 and abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(swap_error(one, other), rel=0.1)
    assert not swapped(one, one).any()
    low, high = interval(one, other)
    assert low < (other - one).mean() < high and high - low == pytest.approx(4 * (other - one).std() / 60**0.5, rel=0.1)


def test_parts_of_a_score_that_is_no_mean():
    draw, measure = np.random.default_rng(0), Measure("eval_f1", True, f1)
    answers = {name: answered(draw, 400, share, "f1", f1) for name, share in (("stage-0", 0.7), ("mean", 0.9))}
    units = in_units(answers, measure)
    for name, own in units.items():
        assert own.units.shape == (50,) and own.units.mean() == pytest.approx(answers[name].scores["eval_f1"])
    # The error that parts tell is that of other draws of as many examples.
    again = [answered(draw, 400, 0.7, "f1", f1).scores["eval_f1"] for _ in range(300)]
    assert units["stage-0"].units.std() / 50**0.5 == pytest.approx(np.std(again), rel=0.3)
    assert judge("stage-0", answers, measure)[0] == "mean"
    means = in_units({"a": answered(draw, 90, 0.7, "accuracy", accuracy)}, Measure("eval_accuracy", True, accuracy))
    assert set(means["a"].units) == {0, 1} and means["a"].units.shape == (90,)


def test_a_score_that_is_no_mean_is_seldom_better_by_chance():
    draw, measure, taken, times = np.random.default_rng(2), Measure("eval_f1", True, f1), 0, 40
    for _ in range(times):
        answers = {name: answered(draw, 60, 0.8, "f1", f1) for name in ("stage-0", "a", "b", "c", "d")}
        taken += judge("stage-0", answers, measure)[0] != "stage-0"
    assert taken / times <= LEVEL + 2.5 * np.sqrt(LEVEL * (1 - LEVEL) / times)


def test_few_examples_need_not_have_a_score():
    def rare(prediction: EvalPrediction) -> dict[str, float]:
        if not prediction.label_ids.any():
            raise ValueError("No example of that class.")
        return {"rare": float(prediction.predictions[prediction.label_ids == 1].mean())}

    labels = np.arange(30) == 7
    measure = Measure("eval_rare", True, rare)
    answers = {
        name: Answers({"eval_rare": float(value)}, kept=(np.full(30, value), labels))
        for name, value in (("stage-0", 0.0), ("mean", 1.0))
    }
    name, gains = judge("stage-0", answers, measure)
    assert name == "stage-0" and gains["mean"].gain == 1 and gains["mean"].chance > LEVEL


def test_the_better_of_both_forms_of_stage_zero_is_to_be_beaten():
    start, renewed, other = (right(np.arange(200) < count) for count in (80, 150, 152))
    answers = {"stage-0": start, "stage-1": other, "stage-0-renewed": renewed}
    assert judge("stage-0", answers, ACCURACY)[0] == "stage-1"
    name, gains = judge("stage-0", answers, ACCURACY, "stage-0-renewed")
    assert name == "stage-0-renewed" and gains["stage-1"].gain > 0.3 and gains["stage-1"].chance > LEVEL
    words = chosen_words(name, gains, ACCURATE, 200, {}, {})
    assert "not trained to its end" not in words and words.startswith("Take enriched/best, which is stage-0-renewed")
    better = {**answers, "stage-1": right(np.arange(200) < 190)}
    name, gains = judge("stage-0", better, ACCURACY, "stage-0-renewed")
    assert name == "stage-1" and gains["stage-1"].chance < 0.01
    words = chosen_words(name, gains, ACCURATE, 200, {}, {})
    assert "95.0 % against 75.0 % of Θ⁰ with BatchNorm statistics re-estimated (40.0 % with its own)" in words
    assert words.startswith("Θ⁰ was not trained to its end")


def test_a_score_that_is_not_a_number_is_not_taken():
    answers = {
        "stage-0": right(np.arange(100) % 2),
        "x8": Answers({"eval_accuracy": float("nan")}, np.full(100, np.nan)),
    }
    name, gains = judge("stage-0", answers, ACCURACY)
    assert name == "stage-0" and np.isnan(gains["x8"].gain)


def test_one_example_in_many_is_chance():
    start = np.arange(60) < 42
    for more, taken in ((1, False), (2, False), (8, True)):
        better = np.arange(60) < 42 + more
        name, gains = judge("stage-0", {"stage-0": right(start), "mean": right(better)}, ACCURACY)
        assert (name == "mean") == taken and (gains["mean"].chance > LEVEL) != taken


def test_what_is_certain_is_taken():
    zeros, ones = np.zeros(50), np.ones(50)
    assert judge("stage-0", {"stage-0": right(zeros), "mean": right(ones)}, ACCURACY)[0] == "mean"
    answers = {
        "stage-0": Answers({"eval_accuracy": float("nan")}, zeros * np.nan),
        "x2": right(zeros),
        "mean": right(ones),
    }
    assert judge("stage-0", answers, ACCURACY)[0] == "mean"


def test_answers_to_parts_are_put_together():
    measure = Measure("eval_accuracy", True, accuracy)
    parts = [Answers({}, kept=(np.ones((2, width)), np.ones((2, width)))) for width in (3, 5)]
    whole = pooled(parts, measure)
    assert whole.kept[0].shape == (4, 5) and (whole.kept[0][:2, 3:] == -100).all() and whole.size == 4
    losses = pooled([Answers({}, np.ones(3)), Answers({}, np.zeros(1))], Measure("eval_loss", False))
    assert losses.scores == {"eval_loss": 0.75} and losses.size == 4


@pytest.mark.parametrize(
    ("others", "trained_out", "said"), [((), False, True), (LIKELY[:1], False, False), ((), True, False)]
)
def test_where_training_on_was_not_tried_it_is_named(others, trained_out, said):
    answers = {name: right(np.arange(200) % 2) for name in ("stage-0", "mean", *others)}
    name, gains = judge("stage-0", answers, ACCURACY)
    words = chosen_words(name, gains, ACCURATE, 200, {}, {}, trained_out=trained_out)
    assert words.startswith("Keep Θ⁰") and ("--also equal_compute" in words) == said


def test_every_candidate_is_described():
    for name in ("fitted-unscaled", "fitted-held-out-unscaled", "soup-fitted-unscaled", "damped-held-out"):
        assert "{" not in described(name) and "(" in described(name)
    assert described("fitted-held-out-unscaled").endswith("fits held-out data best, without a multiple of Θ⁰)")


def test_functions_that_were_made_with_other_values_are_others():
    def with_threshold(threshold: float):
        return lambda prediction: {"hits": float((prediction.predictions > threshold).mean())}

    assert fingerprint(with_threshold(0.5)) == fingerprint(with_threshold(0.5)) != fingerprint(with_threshold(0.6))
    assert fingerprint(partial(f1, 1)) != fingerprint(partial(f1, 2))


def test_words_say_that_epochs_were_chosen_on_the_evaluation_data():
    gains = {"stage-0": Gain(0.5, 0, 0, 0, 1), "mean": Gain(0.9, 0.4, 0.3, 0.5, 0.01)}
    seen = chosen_words("mean", gains, ACCURATE, 200, {"eval_accuracy": 0.8}, {"eval_accuracy": 0.5}, False, True)
    assert "80.0 % against 50.0 % (on which load_best_model_at_end chose" in seen


def test_an_origin_that_only_guesses_is_said_first():
    deciding = replace(ACCURATE, examples=100)
    given = origin_words(0.34, 0.34, deciding, False)
    assert given.startswith("Θ⁰ only guesses: accuracy 34.0 %, and always giving the most frequent class has 34.0 %;")
    assert "the model as it was given, so train it first (--train_stage_zero True" in given
    assert "train it longer" in origin_words(0.36, 0.34, deciding, True)
    assert not origin_words(0.5, 0.34, deciding, False) and not origin_words(0.5, None, deciding, False)
    labels = np.array([0, 1, 1, 2])
    answers = Answers({}, kept=(np.zeros((4, 3)), labels))
    assert guessing(deciding, answers) == 0.5 and guessing(replace(deciding, examples=None), answers) is None
    assert guessing(deciding, Answers({}, kept=(labels, np.array([[0, 1]])))) is None
