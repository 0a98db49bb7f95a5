"""The starts that predictions from one trajectory make: checked at once, written when all else is known to fit."""

from collections.abc import Sequence
from pathlib import Path

from know_hf.enrichment.folders import step_names
from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import method_names
from know_hf.enrichment.stream import Enrichment
from know_hf.retrodiction import METHODS
from know_hf.store import inside
from know_hf.trajectory import Trajectory


class PredictedArms:
    """Θ^0 and every step of several methods as starts to compare.

    Args:
        trajectory: The folder of a forgetting run.
        methods: The methods, or ``"all"``.
        steps: Number of steps; a method whose steps are all the same makes one start.

    Raises:
        OSError: If the trajectory cannot be read.
        TrajectoryError: If it is damaged or unfinished.
        ValueError: If a method is unknown, or cannot do that many steps.

    Source: ours.

    Example:
        >>> from know_hf.laboratory.arms import PredictedArms
        >>> PredictedArms("runs/mine", ["known", "mean"], 2).write("arms")  # doctest: +SKIP
    """

    def __init__(self, trajectory: str | Path, methods: str | Sequence[str], steps: int):
        names = [name for name in method_names("all" if "all" in methods else methods) if name != "naive"]
        self.run = Enrichment(Trajectory.load(trajectory), Prediction(method=["naive", *names]))
        self.run.check(steps)
        self.names = step_names(self.run.trajectory.record.sampling_ratio, steps)

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Predicts into a folder, in one pass over the trajectory; returns name → start, ``naive`` first.

        Raises:
            ValueError: If a folder in it that is written to is a link.
        """
        targets, arms = {}, {}
        for method in self.run.prediction.names:
            names = self.names[:1] if METHODS[method].same_every_step else self.names
            targets[method] = [inside(folder, Path(method) / name) for name in names]
            arms |= {"naive" if method == "naive" else f"{method}/{p.name}": p for p in targets[method]}
        self.run.write(targets)
        return arms
