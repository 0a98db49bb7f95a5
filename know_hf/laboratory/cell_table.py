"""The cells of a setting over all its pre-trainings: scores, differences to the naive start, best rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from know_hf.laboratory.arms import Arm
from know_hf.laboratory.cells import Place, places
from know_hf.laboratory.result import DIVERGED, SETTINGS_FILE, read_fine_tunings, twins
from know_hf.laboratory.setting import Setting
from know_hf.laboratory.statistics import Nested, holm, nested_difference
from know_hf.tasks import Score
from know_hf.trajectory import TrajectoryError


@dataclass(frozen=True)
class CellRuns:
    """The fine-tunings of the cells of one pre-training, as many as there are yet.

    Args:
        score: What their scores are.
        fine_tunings: (arm, learning rate, seed) → what [`fine_tune`](know_hf.laboratory.protocol) returned.
        same: Arm → the arm whose weights are the same, and whose fine-tunings are its, too.
    """

    score: Score
    fine_tunings: Mapping[tuple[str, float, int], dict[str, Any]]
    same: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path) -> "CellRuns":
        """Reads a folder of fine-tunings, which may be unfinished.

        Raises:
            TrajectoryError: If there is none, or it is damaged.
        """
        if not (folder / SETTINGS_FILE).exists():
            raise TrajectoryError(
                f"{folder} holds no {SETTINGS_FILE}: nothing was fine-tuned yet; run the recipe again."
            )
        settings, score, fine_tunings = read_fine_tunings(folder)
        return cls(score, fine_tunings, twins(settings["arms"]))

    def of(self, place: Place, seed: int) -> dict[str, Any] | None:
        """The fine-tuning of a cell, if it is there."""
        return self.fine_tunings.get((self.same.get(place[0], place[0]), place[1], seed))


@dataclass(frozen=True)
class CellTable:
    """All cells of a setting: scores by pre-training and seed of fine-tuning.

    Args:
        setting: As the recipe has it.
        arms: Name → arm, of those that were run.
        runs: The fine-tunings of each pre-training.
        examples: Number of the examples of stage 0.
        candidates: What ``best`` is, of each pre-training; None where nothing was chosen.

    Example:
        >>> from know_hf.laboratory.outcome import ExperimentResult
        >>> table = ExperimentResult.load("regime-cpu").tables[0]  # doctest: +SKIP
        >>> table.against(("naive", 9e-4)).verdict  # doctest: +SKIP
        'better'
    """

    setting: Setting
    arms: Mapping[str, Arm]
    runs: Sequence[CellRuns]
    examples: int
    candidates: Sequence[str | None] = ()

    @property
    def score(self) -> Score:
        """What the scores are."""
        return self.runs[0].score

    @cached_property
    def planned(self) -> list[Place]:
        """Arm and learning rate of all cells that are to be run, the reference first."""
        return [place for place in places(self.setting.cells) if place[0] in self.arms]

    @cached_property
    def cells(self) -> list[Place]:
        """Those of them that can be compared with the reference by now: where a seed diverged, nothing is compared."""
        if self.diverged(self.reference):
            return []
        theirs = self.scores(self.reference)
        sound = [place for place in self.planned if not self.diverged(place)]
        return [place for place in sound if np.isfinite(self.scores(place) - theirs).any()]

    @cached_property
    def lost(self) -> dict[Place, int]:
        """Cells that diverged → with how many of the fine-tunings."""
        counts = {place: self.diverged(place) for place in self.planned}
        return {place: count for place, count in counts.items() if count}

    @property
    def left_out(self) -> list[str]:
        """Arms of cells that could not be run, for want of their predictor."""
        return list(dict.fromkeys(arm for arm, _ in places(self.setting.cells) if arm not in self.arms))

    @property
    def reference(self) -> Place:
        """The cell that all others are compared with."""
        return places(self.setting.cells)[0]

    @property
    def missing(self) -> int:
        """Number of fine-tunings that are not there yet; those that stand for two arms count for both."""
        return sum(found is None for place in self.planned for row in self.fine_tunings(place) for found in row)

    def diverged(self, place: Place) -> int:
        """Number of the fine-tunings of a cell that have no score, as they diverged."""
        return sum(found is not None and DIVERGED in found for row in self.fine_tunings(place) for found in row)

    def fine_tunings(self, place: Place) -> list[list[dict[str, Any] | None]]:
        """A cell's fine-tunings, by pre-training and seed; None where there is none yet."""
        return [[run.of(place, seed) for seed in range(self.setting.seeds)] for run in self.runs]

    def scores(self, place: Place, part: str = "test") -> np.ndarray:
        """``(pre-trainings, seeds)`` scores of a cell, shares in percent; NaN where there is none."""
        found = [
            [np.nan if one is None or DIVERGED in one else self.score.shown(one[part]) for one in row]
            for row in self.fine_tunings(place)
        ]
        return np.array(found)

    def against(self, place: Place, other: Place | None = None) -> Nested:
        """Paired difference of two cells' test scores, of shares in points; by default to the reference."""
        ours, theirs = self.scores(place), self.scores(other or self.reference)
        return nested_difference(ours.tolist(), theirs.tolist(), self.score.higher_is_better, self.score.most)

    def rates(self, arm: str) -> list[float]:
        """Learning rates of an arm's cells."""
        return [rate for name, rate in self.cells if name == arm]

    def best(self, arm: str) -> Place:
        """An arm at the rate whose mean validation score is best, over the runs that all its rates have."""
        scores = {rate: self.scores((arm, rate), "validation") for rate in self.rates(arm)}
        shared = np.isfinite(np.stack(list(scores.values()))).all(0)
        if not shared.any():
            return arm, next(iter(scores))
        return arm, self.score.best(scores, key=lambda rate: float(scores[rate][shared].mean()))

    @cached_property
    def best_cells(self) -> list[Place]:
        """Every arm at its best rate, naive first."""
        return [self.best(arm) for arm in dict.fromkeys(arm for arm, _ in self.cells)]

    def compared(self, cells: Sequence[Place]) -> list[tuple[Place, Nested, tuple[float, float]]]:
        """All cells but the first against the first: each with its p-values adjusted over all of them.

        Returns:
            Cell, difference, and the p-values over fine-tunings and over pre-trainings; NaN where there is none.
        """
        first, *others = cells
        found = [self.against(place, first) for place in others]
        adjusted = [
            holm([one.chance if one is not None else float("nan") for one in level])
            for level in ([one.within for one in found], [one.between for one in found])
        ]
        return list(zip(others, found, zip(*adjusted, strict=True), strict=True))


def between(table: CellTable, place: Place, more: CellTable, other: Place) -> Nested:
    """A cell of one table against one of another, paired: the pre-trainings in order, the seeds by number."""
    pretrainings, seeds = (
        min(sizes) for sizes in zip(table.scores(place).shape, more.scores(other).shape, strict=True)
    )
    ours, theirs = (one.scores(cell)[:pretrainings, :seeds].tolist() for one, cell in ((table, place), (more, other)))
    return nested_difference(ours, theirs, table.score.higher_is_better, table.score.most)
