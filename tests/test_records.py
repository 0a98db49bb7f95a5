"""``trajectory.json``: what it cannot say is refused when it is read, and not hours later."""

import json

import pytest

from know_hf import Trajectory, TrajectoryError
from know_hf.report.plots import plot_forgetting_curve
from know_hf.trajectory import TrajectoryRecord
from know_hf.trajectory.record import FILE_NAME

HUGE = 10**400


@pytest.fixture
def record(image_run) -> dict:
    return json.loads((image_run.trajectory.root / FILE_NAME).read_text())


def stage(**fields):
    return lambda record: record["stages"][1].update(fields)


def section(name, **fields):
    return lambda record: record[name].update(fields)


def top(**fields):
    return lambda record: record.update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (stage(metrics={"eval_loss": HUGE}), "stage 1: metrics.eval_loss must be a number, found 1000"),
        (stage(metrics={"eval_loss": -HUGE}), "metrics.eval_loss must be a number, found -1000"),
        (stage(metrics={"eval_loss": "0.1"}), "metrics.eval_loss must be a number, found '0.1'"),
        (stage(metrics={"eval_loss": True}), "metrics.eval_loss must be a number, found True"),
        (stage(examples=-1), "examples of stage 1 is -1, not a count"),
        (stage(examples=HUGE), "examples must be a whole number, found 1000"),
        (stage(steps=-5), "steps of stage 1 is -5, not a count"),
        (stage(ratio=float("nan")), "ratio of stage 1 is nan"),
        (stage(ratio=float("inf")), "ratio of stage 1 is inf"),
        (stage(ratio=1.5), "ratio of stage 1 is 1.5"),
        (stage(ratio=-HUGE), "stage 1: ratio must be a number, found -1000"),
        (stage(surprise=1), "surprise"),
        (top(sampling_ratio=float("nan")), "sampling_ratio is nan"),
        (top(sampling_ratio=HUGE), "sampling_ratio must be a number, found 1000"),
        (top(num_stages=7), "num_stages is 7, and there are 6 stages"),
        (top(num_stages=-2), "num_stages is -2"),
        (top(num_stages=HUGE), "num_stages must be a whole number, found 1000"),
        (section("model", id=5), "model: id must be text, found 5"),
        (section("model", id=["a"]), "model: id"),
        (section("model", task={}), "model: task"),
        (section("model", local="no"), "model: local must be true or false, found 'no'"),
        (section("model", auto_class=["AutoModel"]), "model: auto_class"),
        (section("model", auto_class="AutoModel\nimport os"), "auto_class of the model is .* no name of a class"),
        (section("model", parameters="many"), "model: parameters"),
        (section("model", parameters=-1), "parameters of the model is -1, not a count"),
        (section("model", adapter=1), "model: adapter"),
        (section("model", license={"a": 1}), "model: license"),
        (section("model", license=[1]), "model: license"),
        (section("dataset", id={"a": 1}), "dataset: id"),
        (section("dataset", examples=1.5), "dataset: examples"),
        (section("dataset", examples=-3), "examples of the dataset is -3, not a count"),
        (section("dataset", classes="cat"), "dataset: classes"),
        (section("dataset", columns=[1]), "dataset: columns"),
        (section("recipe", recipe=["forgetting"]), "recipe: recipe"),
        (section("versions", torch=2), "versions: torch"),
    ],
)  # fmt: skip
def test_what_a_record_cannot_say(record, tmp_path, change, words):
    change(record)
    (tmp_path / FILE_NAME).write_text(json.dumps(record))
    with pytest.raises(TrajectoryError, match=rf"(?s)not a trajectory record: .*{words}"):
        TrajectoryRecord.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        stage(metrics={"eval_loss": float("nan"), "eval_perplexity": float("inf")}),  # scores of what diverged
        stage(examples=None, ratio=None, steps=None),
        stage(metrics={}),
        section("model", license=["mit", "apache-2.0"], id=None, auto_class=None, later="more"),
        lambda record: record["model"].clear() or record["dataset"].clear() or record["versions"].clear(),
    ],
)
def test_what_a_record_may_say(record, tmp_path, change):
    change(record)
    (tmp_path / FILE_NAME).write_text(json.dumps(record))
    assert len(TrajectoryRecord.load(tmp_path).stages) == 6


def test_a_control_has_fewer_stages_than_what_it_controls(record, tmp_path):
    record["stages"] = record["stages"][:1]
    record["recipe"]["recipe"] = "equal_compute"
    (tmp_path / FILE_NAME).write_text(json.dumps(record))
    assert TrajectoryRecord.load(tmp_path).num_stages == 5


def test_a_stage_in_between_that_is_not_finished(record, tmp_path):
    record["stages"][1]["finished"] = False
    (tmp_path / FILE_NAME).write_text(json.dumps(record))
    with pytest.raises(TrajectoryError, match="4 of 5 stages"):
        Trajectory.load(tmp_path)


def test_stages_with_other_scores_are_drawn_by_what_they_share(record, tmp_path):
    pytest.importorskip("matplotlib")
    for index, scores in enumerate(({"a": 1.0, "b": 2.0}, {"b": 3.0}, {"b": 1.0, "c": 1.0}, {}, {"b": 4.0}, {})):
        record["stages"][index]["metrics"] = scores
    for shared in (True, False):
        record["stages"][1]["metrics"] = {"b" if shared else "d": 3.0}
        (tmp_path / FILE_NAME).write_text(json.dumps(record))
        drawn = plot_forgetting_curve(tmp_path / "curve.png", Trajectory.load(tmp_path))
        assert bool(drawn) == shared
