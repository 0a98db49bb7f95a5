"""The verdict of an enrichment: constructed cases, and a real run."""

from types import SimpleNamespace

import pytest

from know_hf.enrichment.stream import BASELINE
from know_hf.enrichment.verdict import deciding_score, verdict


def result(stages, metrics, ratios=None, name="accuracy", method="known"):
    """What a verdict reads of a result: scores of the stages, of the checkpoints, and the self-check's ratios."""
    record = SimpleNamespace(
        num_stages=len(stages),
        stages=[SimpleNamespace(index=i, metrics={f"eval_{name}": s} if s is not None else {})
                for i, s in enumerate(stages)],
    )  # fmt: skip
    named = {key: {f"eval_{name}": value} for key, value in metrics.items()}
    check = None if ratios is None else {"ratios": ratios, "scores": {}, "method": method}
    names, trajectory = [key for key in metrics if not key.startswith("stage-0")], SimpleNamespace(record=record)
    return SimpleNamespace(trajectory=trajectory, metrics=named, self_check=check, checkpoints=names)


def said(stages, metrics, ratios=None, name="accuracy", task="image-classification", examples=1000, **arguments) -> str:
    made = result(stages, metrics, ratios, name)
    return verdict(made, deciding_score(task, made.trajectory.record.stages[0].metrics, examples, **arguments))


def test_forgotten_and_better():
    ratios = {"conv": 0.7, "fc": 0.97, "bias": 1.2}
    text = said([0.9, 0.8, 0.6], {"stage-0": 0.9, "x2": 0.95, "x4": 0.85, "x8": 0.895}, ratios)
    assert "The stages forgot: accuracy went from 90.0 % at stage 0 to 60.0 % at 2." in text
    assert "comes nearer to the known Θ⁰ than Θ¹ is for conv (0.70 of the distance)" in text
    assert "hardly nearer, do not trust it for fc (0.97" in text and "no nearer, do not trust it for bias (1.20" in text
    assert "x2 has the best accuracy (95.0 %), better than Θ⁰ (90.0 %)" in text
    assert "Do not use x4 (85.0 %): worse than Θ⁰." in text and "one standard error with 1,000" in text


def test_noise_is_no_difference():
    text = said([0.9, 0.895], {"stage-0": 0.9, "x2": 0.905, "x4": 0.895}, {"fc": 0.5})
    assert "No forgetting shows" in text and "no prediction has a better accuracy" in text and "Do not use" not in text
    assert "x2 has the best" in said([0.9, 0.895], {"stage-0": 0.9, "x2": 0.905}, examples=100_000)  # now it is
    assert "no prediction has a better" in said([1.0, 0.5], {"stage-0": 0.0, "x2": 0.01}, examples=20)  # not exact


@pytest.mark.parametrize(("name", "task"), [("perplexity", "text-generation"), ("loss", None), ("loss", "dreaming")])
def test_less_may_be_better(name, task):
    text = said([20.0, 30.0], {"stage-0": 20.0, "x2": 15.0, "x4": 25.0}, name=name, task=task)
    assert f"x2 has the best {name} (15), better than Θ⁰ (20)" in text and "Do not use x4 (25)" in text
    assert "The stages forgot" in text and "differences below 1 % of the score" in text


def test_the_arguments_may_name_the_score():
    better = said([3.0, 1.0], {"stage-0": 3.0, "x2": 4.0}, name="reward", task=None, metric_for_best_model="reward")
    assert "x2 has the best reward (4), better than Θ⁰ (3)" in better
    worse = said([3.0, 9.0], {"stage-0": 3.0, "x2": 4.0}, name="wer", task=None, metric_for_best_model="eval_wer",
                 greater_is_better=False)  # fmt: skip
    assert "Do not use x2 (4)" in worse and "The stages forgot" in worse
    # Trainer fills in the loss by itself: the task's own score still decides.
    scores = {"eval_loss": 1.0, "eval_accuracy": 0.5}
    assert deciding_score("image-classification", scores, 10, "loss", False).metric == "eval_accuracy"
    assert deciding_score(None, {"eval_other": 1.0}) is None


def test_training_that_was_not_at_its_end_is_told_from_forgetting():
    assert "Nothing was forgotten: accuracy even got better" in said([0.6, 0.9], {"stage-0": 0.6, "x2": 0.6})


def test_batch_norm_alone_gets_no_credit():
    text = said([0.6, 0.5], {"stage-0": 0.6, BASELINE: 0.75, "x2": 0.75, "x4": 0.65})
    assert "no prediction has a better accuracy than Θ⁰ with BatchNorm statistics re-estimated (75.0 %)" in text
    assert "Do not use x4 (65.0 %)" in text
    # Where new statistics do harm, stage 0 as it is stays what has to be beaten.
    assert "Θ⁰ itself has the best accuracy (60.0 %)" in said([0.6, 0.5], {"stage-0": 0.6, BASELINE: 0.4, "x2": 0.5})


def test_what_was_not_looked_at_is_said():
    text = verdict(result([None, None], {}), None)
    assert "not measured" in text and "--self_check" in text and "--eval_split" in text
    assert "did not move" in said([0.6, 0.5], {"stage-0": 0.6, "x2": 0.6}, {"fc": float("nan")})


def test_scores_that_are_not_finite_are_worst():
    text = said([2.0, 3.0], {"stage-0": 2.0, "x2": float("nan"), "x4": float("inf"), "x8": 1.0}, name="loss", task=None)
    assert "x8 has the best loss" in text and "Do not use x2 (nan), x4 (inf)" in text


def test_several_methods_are_judged_together():
    metrics = {"stage-0": 0.9, "known/x2": 0.8, "mean/x2": 0.95, "shrink/x2": 0.2}
    text = said([0.9, 0.5], metrics, {"fc": 0.5})
    assert "mean/x2 has the best" in text and "Do not use known/x2 (80.0 %), shrink/x2 (20.0 %)" in text
    assert "the retrodiction of known comes" in text
