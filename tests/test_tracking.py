"""Trackers see one run: one name, steps that go on counting, every score where it belongs."""

from pathlib import Path

import pytest
from conftest import QUICK, tiny_image_model

from know_hf import enrich_pretrained
from know_hf.forgetting.making import make_trainer
from know_hf.training.tracking import NAME_FILE, report_scores

RUN = {**QUICK, "logging_strategy": "steps", "logging_steps": 1, "num_stages": 3, "train_stage_zero": True}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name → (step, value) of what one TensorBoard run holds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


@pytest.fixture
def few(images):
    return images.select(range(64)), images.select(range(128, 160))


def test_tensorboard_sees_one_run(tmp_path, few):
    pytest.importorskip("tensorboard")
    train, test = few
    result = enrich_pretrained(
        tiny_image_model(), train, tmp_path / "run", eval_dataset=test, report_to="tensorboard", steps=2,
        choose="none", **RUN,
    )  # fmt: skip
    (folder,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert folder.name == (tmp_path / "run" / NAME_FILE).read_text() and folder.name.startswith("run-")
    found = scalars(folder)
    steps = [stage.steps for stage in result.trajectory.record.stages]
    assert steps == [4, 2, 1]
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6, 7], "one count over all stages"
    assert [stage for _, stage in found["train/stage"] if stage == 2], "what is logged says its stage"
    ends = [(step, pytest.approx(stage.metrics["eval_accuracy"])) for step, stage in
            zip((4, 6, 7), result.trajectory.record.stages, strict=True)]  # fmt: skip
    assert found["eval/accuracy"] == ends, "the score of each stage at its end, and of nothing else"
    for name in ("x2", "x4"):
        assert found[f"eval/{name}/accuracy"] == [(7, pytest.approx(result.metrics[name]["eval_accuracy"]))]


def test_a_run_that_goes_on_stays_one(tmp_path, few):
    pytest.importorskip("tensorboard")
    train, test = few

    def trainer():
        return make_trainer(
            tiny_image_model(), train, tmp_path / "run", report_to="tensorboard", run_name="mine", **RUN
        )

    stopped = trainer()

    def stop(stage):
        if stage.index == 1:
            raise KeyboardInterrupt

    stopped.on_stage_end = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    kinds = [type(one) for one in stopped.callback_handler.callbacks]
    assert all(kind.__name__ != "_Told" for kind in kinds), "its own callbacks are there again"
    trainer().train()
    (folder,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert folder.name == "mine" and not (tmp_path / "run" / NAME_FILE).exists()
    assert [step for step, _ in scalars(folder)["train/loss"]] == [1, 2, 3, 4, 5, 6, 7]


def test_trackio_sees_one_run(tmp_path, few):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    project = f"know-hf-test-{tmp_path.name}"
    train, test = few
    enrich_pretrained(
        tiny_image_model(), train, tmp_path / "run", eval_dataset=test, report_to="trackio", project=project, steps=1,
        choose="none", **RUN,
    )  # fmt: skip
    (name,) = SQLiteStorage.get_runs(project)
    assert name == (tmp_path / "run" / NAME_FILE).read_text()
    logs = SQLiteStorage.get_logs(project, name)
    losses = [row["train/global_step"] for row in logs if "train/loss" in row]
    assert losses == [1, 2, 3, 4, 5, 6, 7] and any("eval/x2/accuracy" in row for row in logs)


def test_a_comparison_s_scores_are_told(tmp_path):
    pytest.importorskip("tensorboard")
    report_scores(
        [{"eval_naive/accuracy": 50.0}, {"eval_naive/accuracy": 60.0}],
        tmp_path / "out",
        ["tensorboard"],
        run_name="two",
    )
    assert scalars(tmp_path / "out" / "tensorboard" / "two")["eval/naive/accuracy"] == [(0, 50.0), (1, 60.0)]
    with pytest.raises(ValueError, match="nothing-such"):
        report_scores([], tmp_path / "out", ["nothing-such"])
