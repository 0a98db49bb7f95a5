"""Every run of a comparison, and what follows from them."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from know_hf.laboratory.statistics import Difference, paired_difference
from know_hf.records import check_fields, read_record
from know_hf.tasks import TASKS, Score
from know_hf.training.scoring import score_of
from know_hf.trajectory import TrajectoryError

#: Arms whose names begin so are controls: a gain counts only beyond the best of them.
CONTROLS = ("naive", "shrink", "mean", "equal_compute", "incremental")


@dataclass(frozen=True)
class TransferResult:
    """Every run of a comparison, and what follows from them.

    Args:
        output_dir: Folder of the comparison.
        arms: Names of the arms, the reference first.
        learning_rates: The grid.
        seeds: Number of seeds.
        runs: (arm, learning rate, seed) → what [`fine_tune`] returned; an arm has all seeds of a rate or none.
        score: What the scores are.

    Source: ours.

    Example:
        >>> from know_hf.laboratory.comparison import transfer
        >>> arms = {"naive": "run/stage-0", "KNOWN": "run/enriched/x2"}
        >>> result = transfer(arms, "user/data", "out")  # doctest: +SKIP
        >>> result.against("KNOWN", "naive").verdict  # doctest: +SKIP
        'no difference shown'
    """

    output_dir: Path
    arms: list[str]
    learning_rates: list[float]
    seeds: int
    runs: dict[tuple[str, float, int], dict[str, Any]]
    score: Score = Score("accuracy")

    @classmethod
    def load(cls, output_dir: str | Path) -> "TransferResult":
        """Reads a comparison's folder; what not all seeds were run of is left out.

        Raises:
            TrajectoryError: If it is not one, or holds no complete run.
        """
        output_dir = Path(output_dir)
        if not (output_dir / "transfer.json").exists():
            raise TrajectoryError(f"{output_dir} holds no transfer.json: it is not a comparison.")
        settings = read_settings(output_dir / "transfer.json")
        found = [read_run(path) for path in sorted((output_dir / "runs").glob("*.json"))]
        runs = {(run["arm"], run["rate"], run["seed"]): run for run in found}
        seeds = 1 + max((run["seed"] for run in found), default=-1)
        whole = {key[:2] for key in runs if all((*key[:2], seed) in runs for seed in range(seeds))}
        if not whole:
            raise TrajectoryError(f"{output_dir} holds no arm that was run with all seeds; run the command again.")
        runs = {key: run for key, run in runs.items() if key[:2] in whole}
        arms = [arm for arm in settings["arms"] if any(arm == key[0] for key in runs)]
        if not arms or len({len(runs[key]["curve"]) for key in runs}) > 1:
            raise TrajectoryError(f"{output_dir} is damaged: its runs are not of this comparison; run it elsewhere.")
        score = score_of(settings["protocol"].get("metric"), settings["columns"]["task"])
        rates = sorted({rate for _, rate in whole})
        return cls(output_dir, arms, rates, seeds, runs, score)

    def rates(self, arm: str) -> list[float]:
        """Learning rates that the arm was run at."""
        return [rate for rate in self.learning_rates if (arm, rate, 0) in self.runs]

    def scores(self, arm: str, rate: float, part: str = "test") -> list[float]:
        """Scores of each seed, shares in percent; ``part`` is ``"test"`` or ``"validation"``."""
        return [self.score.shown(self.runs[arm, rate, seed][part]) for seed in range(self.seeds)]

    @cached_property
    def chosen_rates(self) -> dict[str, float]:
        """Each arm's own learning rate, by its mean validation score."""
        return {
            arm: self.score.best(self.rates(arm), key=lambda rate: np.mean(self.scores(arm, rate, "validation")))
            for arm in self.arms
        }

    def best(self, arm: str) -> list[float]:
        """Test scores of each seed at the arm's own learning rate."""
        return self.scores(arm, self.chosen_rates[arm])

    @property
    def metric(self) -> str:
        """Name of the score."""
        return self.score.name

    @property
    def controls(self) -> list[str]:
        """The controls among the arms; without any, the reference."""
        return [arm for arm in self.arms if arm.startswith(CONTROLS)] or self.arms[:1]

    @cached_property
    def best_control(self) -> str:
        """The control with the best mean test score at its own learning rate: the hardest one to beat."""
        return self.score.best(self.controls, key=lambda arm: np.mean(self.best(arm)))

    def against(self, arm: str, other: str) -> Difference:
        """Paired difference of two arms, of shares in points, each at its own learning rate."""
        return paired_difference(self.best(arm), self.best(other), higher_is_better=self.score.higher_is_better)

    def area(self, arm: str) -> float:
        """Mean of the learning curves, of shares in percent, at the arm's own learning rate."""
        rate = self.chosen_rates[arm]
        scores = [score for s in range(self.seeds) for _, score in self.runs[arm, rate, s]["curve"]]
        return self.score.shown(float(np.mean(scores)))

    def curve(self, arm: str) -> list[tuple[float, float]]:
        """Mean learning curve at the arm's own learning rate: (epoch, validation score, shares in percent)."""
        curves = [self.runs[arm, self.chosen_rates[arm], seed]["curve"] for seed in range(self.seeds)]
        return [
            (points[0][0], self.score.shown(float(np.mean([score for _, score in points]))))
            for points in zip(*curves, strict=True)
        ]

    def epochs_to(self, arm: str, score: float) -> float | None:
        """First epoch at which the mean learning curve is as good as a score; None if it never is."""
        return next((epoch for epoch, value in self.curve(arm) if self.score.best(value, score) == value), None)

    @property
    def share_in_steps(self) -> float:
        """Share of the runs' time that was spent inside training steps."""
        return sum(r["training"] for r in self.runs.values()) / sum(r["seconds"] for r in self.runs.values())


def read_settings(path: Path) -> dict[str, Any]:
    """Reads what a comparison is of.

    Raises:
        TrajectoryError: If it is damaged.
    """
    remedy = "choose another output_dir"
    found = read_record(path, {"arms": dict[str, list[str]], "columns": dict, "protocol": dict}, remedy)
    check_fields(path, found["columns"], {"task": str}, remedy)
    metric = found["protocol"].get("metric")
    if found["columns"]["task"] not in TASKS or not isinstance(metric, str | None):
        raise TrajectoryError(f"{path} is damaged: its task or metric is none; {remedy}.")
    return found


#: What the result of one fine-tuning holds.
_RUN = {
    "arm": str, "rate": float, "seed": int, "test": float, "validation": float, "curve": list[tuple[float, float]],
    "seconds": float, "training": float,
}  # fmt: skip


def read_run(path: Path) -> dict[str, Any]:
    """Reads the result of one fine-tuning.

    Raises:
        TrajectoryError: If it is damaged.
    """
    remedy = "delete it and run the comparison again, which makes it anew"
    run = read_record(path, _RUN, remedy)
    numbers = [
        run["rate"],
        run["test"],
        run["validation"],
        run["training"],
        *(v for pair in run["curve"] for v in pair),
    ]
    sound = all(map(math.isfinite, numbers)) and run["rate"] > 0 and run["seed"] >= 0 and run["curve"]
    if not sound or not 0 < run["seconds"] < math.inf:
        raise TrajectoryError(f"{path} is damaged: no fine-tuning gives such numbers; {remedy}.")
    return run
