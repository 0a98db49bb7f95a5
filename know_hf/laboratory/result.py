"""Every fine-tuning of a comparison, and what follows from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from know_hf.laboratory.arms import Arm, read_arms
from know_hf.laboratory.asked import read_asked, unfinished
from know_hf.laboratory.statistics import Difference, paired_difference
from know_hf.records import check_fields, found_at, read_record
from know_hf.tasks import TASKS, Score
from know_hf.training.scoring import score_of
from know_hf.trajectory import TrajectoryError

#: What a comparison's folder keeps its settings in.
SETTINGS_FILE = "transfer.json"


class ReferenceLostError(ValueError):
    """Nothing can be compared: what all others are compared with has no score."""


@dataclass(frozen=True)
class ComparisonResult:
    """Every fine-tuning of a comparison, and what follows from them.

    Args:
        output_dir: Folder of the comparison.
        arms: Name → arm, the reference first.
        learning_rates: The grid.
        seeds: Number of seeds.
        fine_tunings: (name of the arm, learning rate, seed) → what [`fine_tune`] returned; an arm has all seeds of a
            rate or none.
        score: What the scores are.
        chosen: Arm → the one of its candidates that validation chose ([`settled`]).
        lost: Arms that diverged at all of their learning rates, and are compared with nothing.
        unfinished: What is missing of what was asked for, in words; nothing where all of it is there.

    Example:
        >>> from know_hf.laboratory.comparison import compare
        >>> arms = {"naive": "run/stage-0", "KNOWN": "run/enriched/x2"}
        >>> result = compare(arms, "user/data", "out")  # doctest: +SKIP
        >>> result.against("KNOWN", "naive").verdict  # doctest: +SKIP
        'no difference shown'
    """

    output_dir: Path
    arms: dict[str, Arm]
    learning_rates: list[float]
    seeds: int
    fine_tunings: dict[tuple[str, float, int], dict[str, Any]]
    score: Score = Score("accuracy")
    chosen: dict[str, str] = field(default_factory=dict)
    lost: dict[str, Arm] = field(default_factory=dict)
    unfinished: str = ""

    @classmethod
    def load(cls, output_dir: str | Path) -> "ComparisonResult":
        """Reads what the latest call asked of a comparison's folder, as much as can be compared of it.

        Raises:
            TrajectoryError: If it is not one, or is damaged, or fewer than two seeds are done.
        """
        output_dir = Path(output_dir)
        path = output_dir / SETTINGS_FILE
        if not path.exists():
            raise TrajectoryError(
                f"{output_dir} is not a comparison: {SETTINGS_FILE} is expected there, and it {found_at(output_dir)}."
            )
        settings, score, done = read_fine_tunings(output_dir)
        asked = read_asked(path, settings, done, _REMEDY)
        arms = {name: arm for name, arm in read_arms(path, settings, _REMEDY).items() if name in asked.arms}
        seeds = asked.whole_seeds(done)
        missing = asked.planned - asked.count(done)
        if len(seeds) < 2 or not asked.grid:
            raise TrajectoryError(f"{output_dir}: {unfinished(asked, missing, len(seeds), [])}")
        # Seeds are only paired with each other: that one is missing in between is no matter.
        kept = {(*place, i): done[*place, seed] for place in asked.grid for i, seed in enumerate(seeds)}
        names = [name for name in asked.arms if name not in asked.one_rate]
        found = cls(output_dir, {name: arms[name] for name in names}, asked.learning_rates, len(seeds), kept, score)
        waiting = [name for name in asked.arms if name in asked.one_rate]
        if waiting and len(seeds) == asked.seeds:  # of fewer seeds the reference may choose another rate
            rate = found.own_rate(found.reference)
            for name in list(waiting):
                own = {(name, rate, seed): done[name, rate, seed] for seed in seeds if (name, rate, seed) in done}
                missing -= len(own)
                if len(own) == len(seeds):
                    kept.update(own)
                    waiting.remove(name)
        if len({len(result["curve"]) for result in kept.values() if DIVERGED not in result}) > 1:
            raise TrajectoryError(f"{output_dir} is damaged: its runs are not of this comparison; run it elsewhere.")
        there = {name: arms[name] for name in asked.arms if name not in waiting}
        words = unfinished(asked, missing, len(seeds), waiting)
        return replace(found, arms=there, fine_tunings=kept, unfinished=words).settled()

    @property
    def reference(self) -> str:
        """Name of the arm that all others are compared with."""
        return next(iter(self.arms))

    def rates(self, arm: str) -> list[float]:
        """Learning rates at which the arm can be compared: those it was run at, without any where a seed diverged."""
        return [rate for rate in self.run_at(arm) if not self.diverged(arm, rate)]

    def run_at(self, arm: str) -> list[float]:
        """Learning rates that the arm was run at with all seeds."""
        arm = self.chosen.get(arm, arm)
        places = ((rate, [(arm, rate, seed) for seed in range(self.seeds)]) for rate in self.learning_rates)
        return [rate for rate, seeds in places if all(place in self.fine_tunings for place in seeds)]

    def diverged(self, arm: str, rate: float) -> int:
        """Number of the seeds with which the arm diverged at a rate that it was run at."""
        return sum(DIVERGED in run for run in self.runs(arm, rate))

    def own_rate(self, arm: str) -> float:
        """The learning rate with the best mean validation score.

        Raises:
            ReferenceLostError: If the arm diverged at every one.
        """
        if rates := self.rates(arm):
            return self.score.best(rates, key=lambda rate: float(np.mean(self.scores(arm, rate, "validation"))))
        tried = self.run_at(arm)
        reason = next((run[DIVERGED] for rate in tried for run in self.runs(arm, rate) if DIVERGED in run), "")
        raise ReferenceLostError(
            f"{arm}, which all others are compared with, has no score at any of its learning rates "
            f"({', '.join(f'{rate:g}' for rate in tried)}). {reason} What was fine-tuned is kept: give lower "
            "rates, of an experiment in another output_dir."
        )

    def runs(self, arm: str, rate: float) -> list[dict[str, Any]]:
        """The fine-tunings of each seed."""
        return [self.fine_tunings[self.chosen.get(arm, arm), rate, seed] for seed in range(self.seeds)]

    def scores(self, arm: str, rate: float, part: str = "test") -> list[float]:
        """Scores of each seed, shares in percent; ``part`` is ``"test"`` or ``"validation"``."""
        return [self.score.shown(run[part]) for run in self.runs(arm, rate)]

    def settled(self) -> "ComparisonResult":
        """The result without arms that diverged at all their rates, and with one arm in place of its candidates.

        That is the best on validation, each at its own learning rate; the test scores have no part in the choice.

        Raises:
            ReferenceLostError: If the reference diverged at every learning rate.
        """
        self.own_rate(self.reference)
        chosen: dict[str, str] = {}
        arms: dict[str, Arm] = {}
        lost: dict[str, Arm] = {}
        for name, arm in self.arms.items():
            of = arm.candidate_of or name
            if of in arms or of in lost:
                continue
            rivals = [other for other, one in self.arms.items() if (one.candidate_of or other) == of]
            sound = [other for other in rivals if self.rates(other)]
            if not sound:
                lost[of] = replace(arm, name=of, candidate_of=None)
                continue
            best = self.score.best(
                sound, key=lambda one: float(np.mean(self.scores(one, self.own_rate(one), "validation")))
            )
            if arm.candidate_of is not None:
                chosen[of] = best
            arms[of] = replace(self.arms[best], name=of, candidate_of=None)
        return replace(self, arms=arms, chosen=chosen, lost=lost) if chosen or lost else self

    @cached_property
    def chosen_rates(self) -> dict[str, float]:
        """Each arm's own learning rate, by its mean validation score."""
        return {arm: self.own_rate(arm) for arm in self.arms}

    def best(self, arm: str) -> list[float]:
        """Test scores of each seed at the arm's own learning rate.

        Raises:
            ValueError: If it has none, as it diverged at every one.
        """
        if arm in self.lost:
            raise ValueError(
                f"{arm} has no score at any of its learning rates; arms and lost say which have and have not."
            )
        return self.scores(arm, self.chosen_rates[arm])

    @property
    def metric(self) -> str:
        """Name of the score."""
        return self.score.name

    @property
    def controls(self) -> list[str]:
        """Names of the controls among the arms; without any, the reference."""
        return [name for name, arm in self.arms.items() if arm.counts_as_control] or [self.reference]

    @cached_property
    def best_control(self) -> str:
        """The control with the best mean test score at its own learning rate: the hardest one to beat."""
        return self.score.best(self.controls, key=lambda arm: np.mean(self.best(arm)))

    def against(self, arm: str, other: str) -> Difference:
        """Paired difference of two arms, of shares in points, each at its own learning rate."""
        return paired_difference(
            self.best(arm), self.best(other), higher_is_better=self.score.higher_is_better, most=self.score.most
        )

    def area(self, arm: str) -> float:
        """Mean of the learning curves, of shares in percent, at the arm's own learning rate."""
        scores = [score for run in self.runs(arm, self.chosen_rates[arm]) for _, score in run["curve"]]
        return self.score.shown(float(np.mean(scores)))

    def curve(self, arm: str) -> list[tuple[float, float]]:
        """Mean learning curve at the arm's own learning rate: (epoch, validation score, shares in percent)."""
        curves = [run["curve"] for run in self.runs(arm, self.chosen_rates[arm])]
        return [
            (points[0][0], self.score.shown(float(np.mean([score for _, score in points]))))
            for points in zip(*curves, strict=True)
        ]

    def epochs_to(self, arm: str, score: float) -> float | None:
        """First epoch at which the mean learning curve is as good as a score; None if it never is."""
        return next((epoch for epoch, value in self.curve(arm) if self.score.best(value, score) == value), None)

    @property
    def share_in_steps(self) -> float:
        """Share of the runs' time that was spent inside training steps, of those that did not diverge."""
        results = [result for result in self.fine_tunings.values() if DIVERGED not in result]
        return sum(result["training"] for result in results) / sum(result["seconds"] for result in results)


_REMEDY = "choose another output_dir"


def read_settings(path: Path) -> dict[str, Any]:
    """Reads what a comparison is of.

    Raises:
        TrajectoryError: If it is damaged.
    """
    settings = read_record(path, {"arms": dict[str, list[str]], "columns": dict, "protocol": dict}, _REMEDY)
    check_fields(path, settings["columns"], {"task": str}, _REMEDY)
    metric = settings["protocol"].get("metric")
    if settings["columns"]["task"] not in TASKS or not isinstance(metric, str | None):
        raise TrajectoryError(f"{path} is damaged: its task or metric is none; {_REMEDY}.")
    return settings


def read_fine_tunings(
    folder: Path,
) -> tuple[dict[str, Any], Score, dict[tuple[str, float, int], dict[str, Any]]]:
    """Reads a folder of fine-tunings, as many as there are.

    Returns:
        What [`read_settings`] finds there; what the scores are; (arm, learning rate, seed) → what
        [`read_fine_tuning`] finds.

    Raises:
        TrajectoryError: If any of it is damaged.
    """
    settings = read_settings(folder / SETTINGS_FILE)
    read = [read_fine_tuning(path) for path in sorted((folder / "runs").glob("*.json"))]
    score = score_of(settings["protocol"].get("metric"), settings["columns"]["task"])
    return settings, score, {(one["arm"], one["rate"], one["seed"]): one for one in read}


def twins(hashes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Arms that have the very weights of another: name → the first that has them.

    Args:
        hashes: Name → hashes of its files of weights.

    Example:
        >>> from know_hf.laboratory.result import twins
        >>> twins({"naive": ["a"], "known x2": ["b"], "best": ["a"]})
        {'best': 'naive'}
    """
    first: dict[tuple[str, ...], str] = {}
    for name, digests in hashes.items():
        first.setdefault(tuple(digests), name)
    return {name: first[tuple(digests)] for name, digests in hashes.items() if first[tuple(digests)] != name}


#: In place of the scores of a fine-tuning that has none: why.
DIVERGED = "diverged"
#: What the result of one fine-tuning holds, and beside that its scores.
_FINE_TUNING = {"arm": str, "rate": float, "seed": int, "seconds": float, "training": float}
_SCORES = {"test": float, "validation": float, "curve": list[tuple[float, float]]}


def read_fine_tuning(path: Path) -> dict[str, Any]:
    """Reads the result of one fine-tuning: its scores, or in their place [`DIVERGED`] and why.

    Raises:
        TrajectoryError: If it is damaged.
    """
    remedy = "delete it and run the comparison again, which makes it anew"
    result = read_record(path, _FINE_TUNING, remedy)
    numbers = [result["rate"], result["training"]]
    if DIVERGED in result:
        check_fields(path, result, {DIVERGED: str}, remedy)
    else:
        check_fields(path, result, _SCORES, remedy)
        numbers += [result["test"], result["validation"], *(value for point in result["curve"] for value in point)]
    sound = all(map(math.isfinite, numbers)) and result["rate"] > 0 and result["seed"] >= 0
    sound = sound and (DIVERGED in result or bool(result["curve"]))
    if not sound or not 0 < result["seconds"] < math.inf:
        raise TrajectoryError(f"{path} is damaged: no fine-tuning gives such numbers; {remedy}.")
    return result
