"""The verdict of an enrichment: constructed cases, and a real run."""

from types import SimpleNamespace

import pytest
from transformers import TrainingArguments

from know_hf.enrichment.result import BASELINE
from know_hf.enrichment.verdict import asked_metric, deciding_score, verdict


def result(stages, metrics, ratios=None, name="accuracy", method="known", steps=1):
    """What a verdict reads of a result: scores of the stages, of the checkpoints, and the self-check's ratios."""
    record = SimpleNamespace(
        num_stages=len(stages),
        recipe={},
        stages=[SimpleNamespace(index=i, steps=steps, metrics={f"eval_{name}": s} if s is not None else {})
                for i, s in enumerate(stages)],
    )  # fmt: skip
    named = {key: {f"eval_{name}": value} for key, value in metrics.items()}
    check = None if ratios is None else {"ratios": ratios, "scores": {}, "method": method}
    names, trajectory = [key for key in metrics if not key.startswith("stage-0")], SimpleNamespace(record=record)
    return SimpleNamespace(
        trajectory=trajectory, metrics=named, self_check=check, checkpoints=names, reset=0, choice=None
    )


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


def test_few_examples_do_not_show_forgetting():
    text = said([0.472, 0.361], {"stage-0": 0.472, "x2": 0.4}, examples=36)
    assert (
        "Whether the stages forgot is not sure: accuracy went from 47.2 % at stage 0 to 36.1 % at 1, less than" in text
    )
    assert "The stages forgot" in said([0.472, 0.361], {"stage-0": 0.472, "x2": 0.4}, examples=400)


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
    scores = {"eval_loss": 1.0, "eval_accuracy": 0.5}
    assert deciding_score("image-classification", scores, 10, "loss", False).metric == "eval_loss"
    assert deciding_score(None, {"eval_other": 1.0}) is None


def test_training_that_was_not_at_its_end_is_told_from_forgetting():
    assert "Nothing was forgotten: accuracy even got better" in said([0.6, 0.9], {"stage-0": 0.6, "x2": 0.6})

    taken = result([0.6, 0.9], {"stage-0": 0.6, "x2": 0.6}, steps=None)
    text = verdict(taken, deciding_score("image-classification", {"eval_accuracy": 0.6}, 1000))
    assert "even got better" in text and "--train_stage_zero" in text and "num_train_epochs" not in text


def test_batch_norm_alone_gets_no_credit():
    text = said([0.6, 0.5], {"stage-0": 0.6, BASELINE: 0.75, "x2": 0.75, "x4": 0.65})
    assert "no prediction has a better accuracy than Θ⁰ with BatchNorm statistics re-estimated (75.0 %)" in text
    assert "Do not use x4 (65.0 %): worse than Θ⁰ with BatchNorm statistics re-estimated." in text
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


def several_sets(stages, metrics, **arguments):
    """A verdict where every score is there of two evaluation sets."""

    def both(value):
        return {f"eval_{data}_{name}": value for data in ("near", "far_off") for name in ("loss", "accuracy")}

    made = result(stages, metrics)
    for stage, value in zip(made.trajectory.record.stages, stages, strict=True):
        stage.metrics = both(value)
    made.metrics = {name: both(value) for name, value in metrics.items()}
    return verdict(
        made, deciding_score("text-classification", both(stages[0]), {"near": 50, "far_off": 5}, **arguments)
    )


def test_of_several_evaluation_sets_one_decides_and_is_named():
    text = several_sets([0.9, 0.5], {"stage-0": 0.9, "x2": 0.95})
    assert "The stages forgot: accuracy of evaluation set 'near' went from 90.0 % at" in text
    assert "x2 has the best accuracy of evaluation set 'near'" in text and "with 50 evaluation examples" in text
    text = several_sets([0.9, 0.5], {"stage-0": 0.9, "x2": 0.95}, metric_for_best_model="far_off_loss")
    assert "Nothing was forgotten: loss of evaluation set 'far_off' even got better" in text
    assert deciding_score("text-classification", {"eval_a_accuracy": 0.5}).data == "a"  # a model without a loss
    own = {"eval_loss": 1.0, "eval_balanced_accuracy": 0.5}  # no evaluation set called "balanced"
    assert deciding_score("text-classification", own).metric == "eval_loss"


def test_scores_that_cannot_decide_are_named():
    made = result([0.9, 0.5], {"stage-0": 0.9, "x2": 0.8}, name="f1")
    text = verdict(made, deciding_score("text-classification", {"eval_f1": 0.9}, 10))
    assert "none of the scores that there are (eval_f1)" in text and "--metric_for_best_model" in text
    assert "not scored" not in text and "not measured" not in text
    text = said([0.9, 0.5], {"stage-0": 0.9, "x2": 0.8}, metric_for_best_model="f2")
    assert "metric_for_best_model names 'f2', which is not among the scores (eval_accuracy): accuracy decides" in text
    text = said([0.9, 0.5], {"stage-0": 0.9, "x2": 0.8}, metric_for_best_model="loss")
    assert "metric_for_best_model names 'loss'" in text


def test_what_trainer_fills_in_names_no_score(tmp_path):
    own = {"eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}
    for settings in ({"load_best_model_at_end": True}, {"lr_scheduler_type": "reduce_lr_on_plateau"}):
        assert asked_metric(TrainingArguments(str(tmp_path), **own, **settings)) == (None, None)
    assert asked_metric(TrainingArguments(str(tmp_path), **own)) == (None, None)
    args = TrainingArguments(str(tmp_path), **own, metric_for_best_model="loss", greater_is_better=False)
    assert asked_metric(args) == ("loss", False)


@pytest.mark.parametrize("stages", [[60.0, 50.0], [0.5, 0.4]])
def test_only_what_lies_between_0_and_1_is_a_share(stages):
    text = said(stages, {"stage-0": stages[0], "x2": 60.3}, examples=100)
    assert "%" not in text.replace("1 % of the score", "") and "differences below 1 % of the score" in text


@pytest.mark.parametrize(
    ("name", "task"), [("mean_iou", "image-segmentation"), ("masked_accuracy", "fill-mask"), ("f1", None)]
)
def test_only_a_share_of_examples_has_their_standard_error(name, task):
    text = said([0.5, 0.4], {"stage-0": 0.5, "x2": 0.51}, name=name, task=task, examples=20, metric_for_best_model=name)
    assert f"x2 has the best {name} (51.0 %)" in text and "differences below 1 % of the score" in text


def test_what_is_not_a_number_is_no_result():
    nan = float("nan")
    text = said([nan, nan], {"stage-0": nan, "x2": nan}, {}, name="f1", metric_for_best_model="f1")
    assert "cannot be said: f1 is not a number at stage 0 and 1." in text
    assert "The f1 of Θ⁰ is not a number" in text and "no tensor moved, so that none was checked" in text
    assert "accuracy is not a number at stage 1." in said([0.5, nan], {"stage-0": 0.5, "x2": 0.5})
    assert "is infinite at stage 0 and 1" in said([float("inf")] * 2, {"stage-0": 1.0, "x2": 1.0})
