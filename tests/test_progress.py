"""One can see what it does: bars that move within a job and over all stages, lines where there is no terminal."""

import logging
import re
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUICK, tiny_image_model
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from know_hf import ForgettingArguments, progress
from know_hf.cli.watching import WatchedTrainer
from know_hf.forgetting.making import make_trainer
from know_hf.laboratory.arms import Arm, PredictedArms, read_arms
from know_hf.laboratory.outcome import SettingResult
from know_hf.laboratory.result import ComparisonResult
from know_hf.notices import said_once
from know_hf.report.plots import plot_bars, plot_differences, plot_forgetting_curve, score_limits
from know_hf.tasks import Score, get_task
from know_hf.training import workers
from know_hf.trajectory import Checkpoint

PERPLEXITY = Score("perplexity", percent=False, higher_is_better=False)


@dataclass(frozen=True)
class Slow:
    """Reports a unit of its cost ten times a second."""

    cost: float
    done = False
    ready = True

    def run(self):
        for _ in range(int(self.cost)):
            time.sleep(0.1)
            workers.advance(1)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.further_slow
def test_bars_move_within_jobs(monkeypatch, processes):
    seen = []

    class Bar(progress.Lines):
        def update(self, n=1):
            super().update(n)
            seen.append(self.n)

    monkeypatch.setattr(workers, "progress_bar", Bar)
    monkeypatch.setattr(workers, "_POLL", 0.1)
    with workers.Workers(processes) as pool:
        pool.run([Slow(12.0)], "Slow")
    assert len({n for n in seen if 0 < n < 12}) >= 3 and seen == sorted(seen) and seen[-1] == 12
    workers.advance(1)  # outside of a job it says nothing to nobody


def test_lines_are_few(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    with progress.progress_bar(total=1000, desc="Counting") as bar:
        for _ in range(1000):
            time.sleep(0.0003)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 12 and all(re.match(r"Counting: \d+ %, .* passed, .* left$", line) for line in lines)
    assert "Counting: 100 %" in lines[-1]
    with progress.progress_bar(range(3), desc="Quick") as bar:
        assert list(bar) == [0, 1, 2]
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_one_bar_over_all_stages(monkeypatch, tmp_path, images, capsys):
    made = []

    class Bar(progress.Lines):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.titles = [self.desc]
            made.append(self)

        def set_description(self, desc, refresh=True):
            self.titles.append(desc)

    monkeypatch.setattr("know_hf.cli.watching.progress_bar", Bar)

    def run(**changed):
        args = ForgettingArguments(
            num_stages=3, train_stage_zero=True, carry_optimizer=False,
            **{"output_dir": str(tmp_path), **QUICK, "logging_strategy": "steps", "logging_steps": 1,
               "disable_tqdm": False, **changed},
        )  # fmt: skip
        trainer = make_trainer(tiny_image_model(), images.select(range(64)), args=args, trainer_class=WatchedTrainer)
        trainer.train()

    run()
    (bar,) = made
    assert bar.total == bar.n == 4 + 2 + 1 and bar.titles[-1] == "Stage 2 of 0–2" and bar.postfix.startswith("loss ")
    assert bar.closed and "{'loss'" not in capsys.readouterr().out
    (tmp_path / "stage-2").rename(tmp_path / "gone")  # a run that continues begins where it is
    run()
    assert len(made) == 2 and made[1].initial == 6 and made[1].n == made[1].total == 7
    (tmp_path / "stage-2").rename(tmp_path / "gone too")
    run(disable_tqdm=True)
    assert len(made) == 2 and not capsys.readouterr().out
    run(output_dir=str(tmp_path / "checked"), self_check=True)
    assert made[2].titles[-2:] == ["Stage 2 of 0–2", "Stage 3, the self-check's"], "as num_stages and the plan count"


def test_notices_come_once(caplog):
    ours, others = logging.getLogger("know_hf.forgetting.checks"), logging.getLogger("elsewhere")

    def part(examples):
        ours.warning("The smallest subset has %d examples.", examples)
        ours.info("Part of %d.", examples)
        others.warning("not ours")

    def said():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    caplog.set_level(logging.INFO)
    whole = ["The smallest subset has 26 examples.", "Part of 26.", "not ours"]
    with said_once():
        part(26)
        assert said() == whole
        part(26)
        assert said() == whole[1:], "progress may look alike"
        with said_once(alike=logging.WARNING):
            part(17)
        assert said() == ["Part of 17.", "not ours"]
        with said_once(alike=logging.INFO):
            part(17)
        assert said() == ["not ours"]
        part(13)
        assert len(said()) == 3
    part(26)
    assert said() == whole, "another run says it again"


#: Name → role and method of the arms below.
WHAT = {
    "naive": ("naive", None), "known x3": ("method", "known"), "known x9": ("method", "known"),
    "mean": ("control", "mean"), "shrink": ("control", "shrink"), "shrink x3": ("control", "shrink"),
}  # fmt: skip


def compared(score: Score, values) -> ComparisonResult:
    runs = {
        (arm, rate, seed): {"test": value + 0.01 * seed, "validation": value, "curve": [(1.0, value)]}
        for arm, value in values.items() for rate in (1e-3, 1e-2) for seed in range(2)
    }  # fmt: skip
    arms = {name: Arm(name, None, *what) for name, what in WHAT.items() if name in values}
    return ComparisonResult("nowhere", arms, [1e-3, 1e-2], 2, runs, score)


def test_axes_follow_the_score(tmp_path):
    for scores, score in (([250.0, 300.0], PERPLEXITY), ([1.01, 1.02], PERPLEXITY), ([-0.5, -0.2], Score("r", False)),
                          ([40.0, 99.0], Score("accuracy")), ([-20.0, -5.0], Score("kappa"))):  # fmt: skip
        low, high = score_limits(scores, score)
        assert low < min(scores) and max(scores) < high <= max(100.0, high * (not score.percent))
    assert score_limits([0.5, 98.0], Score("accuracy")) == (0.0, 100.0)
    assert np.ptp(score_limits([1.01, 1.02], PERPLEXITY)) < 0.1
    result = compared(PERPLEXITY, {"naive": 250.0, "known x3": 260.0, "shrink x3": 900.0})
    assert plot_bars(tmp_path / "bars.png", result) and plot_differences(tmp_path / "differences.png", result)
    # An interval that goes on beyond the axis ends in an arrow, one within it does not.
    result = compared(
        PERPLEXITY, {"naive": 250.0, "known x3": 260.0, "known x9": 251.0, "mean": 252.0, "shrink": 900.0}
    )
    axes = plot_differences.__wrapped__(Figure, result).axes[0]
    arrows = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() in "<>"]
    assert arrows == [(axes.get_xlim()[1], 0)] and axes.get_yticklabels()[0].get_text() == "shrink"
    assert plot_differences(tmp_path / "none.png", replace(result, arms={"naive": Arm("naive")})) is None


def test_a_prediction_is_drawn_at_the_size_of_its_step():
    stages = [SimpleNamespace(index=i, examples=100 >> i, metrics={"eval_accuracy": 0.5}) for i in range(3)]
    trajectory = SimpleNamespace(record=SimpleNamespace(stages=stages), scale=lambda step: 2.0**step)
    points = [(step, f"x{2**step}", {"eval_accuracy": 0.1 * step}) for step in (3, 1)]  # in whatever order
    axes = plot_forgetting_curve.__wrapped__(Figure, trajectory, points).axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[800, pytest.approx(0.3)], [200, 0.1]]


def test_the_steps_of_a_prediction_are_found_whatever_their_names(tmp_path):
    names = ["naive", "known x3", "known x9", "known x28", "known-2 x3", "mean"]  # a record of former versions
    setting = SimpleNamespace(arms=read_arms(tmp_path, {"arms": dict.fromkeys(names)}, ""))

    def steps(prediction: str) -> list[str]:
        return [arm.name for arm in SettingResult.steps(setting, prediction)]

    assert steps("known") == ["known x3", "known x9", "known x28"]
    assert steps("mean") == ["mean"] and steps("known-2") == ["known-2 x3"] and not steps("linear_fit")
    setting.arms = read_arms(tmp_path, {"arms": {"known": []}}, "")
    assert steps("known") == ["known"]
    setting.arms = {"x": Arm("x", prediction="known"), "known x3": Arm("known x3")}
    assert steps("known") == ["x"]


def test_a_method_whose_steps_are_all_the_same_makes_one_start(trajectory, tmp_path):
    arms = PredictedArms(trajectory.root, ["mean", "linear_fit"], 2).write(tmp_path)
    assert list(arms) == ["naive", "mean/x2", "linear_fit/x2", "linear_fit/x4"]
    assert all(Checkpoint(arm.folder).tensors for arm in arms.values())
    assert [arm.role for arm in arms.values()] == ["naive", "control", "method", "method"]
    last = arms["linear_fit/x4"]
    assert (last.method, last.prediction, last.step, last.scale) == ("linear_fit", "linear_fit", 2, 4.0)
    assert sorted(p.name for p in (tmp_path / "mean").glob("x*")) == ["x2"]


def test_scores_that_take_room_are_made_in_small_batches():
    assert get_task("image-classification").eval_batch_size(16) == 512
    assert get_task("image-segmentation").eval_batch_size(16) == get_task("text-generation").eval_batch_size(16) == 16


def test_a_drawn_bar_changes_no_order(monkeypatch):
    def batches(drawn: bool) -> list:
        monkeypatch.setattr(progress, "_is_drawn", lambda: drawn)
        loader = DataLoader(range(40), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))
        return [batch.tolist() for batch in progress.progress_bar(loader, leave=False)]

    assert batches(True) == batches(False)
