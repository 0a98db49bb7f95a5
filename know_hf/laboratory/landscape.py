"""Scores over the plane of a trajectory: the paper's Figure 3."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from know_hf.progress import progress_bar
from know_hf.records import check_fields, read_record
from know_hf.store import write_json
from know_hf.tasks import Task
from know_hf.training.examples import Examples
from know_hf.training.scoring import ROWS, network_score
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.kinds import stored_names
from know_hf.trajectory.plane import Plane, all_stages, plane_parameters

#: Share of the points' extent that the landscape reaches beyond them.
MARGIN = 0.25


@dataclass(frozen=True)
class Landscape:
    """The task's score at every place of a grid: ``scores[i, j]`` at ``(x[j], y[i])``; of shares as a share."""

    x: np.ndarray
    y: np.ndarray
    scores: np.ndarray

    def save(self, path: Path) -> None:
        """Writes it as JSON, whole or not at all."""
        write_json(path, {name: values.tolist() for name, values in vars(self).items()}, indent=None)

    @classmethod
    def load(cls, path: Path) -> "Landscape":
        """Reads what [`save`] wrote; files of know-hf before it drew other scores call them ``accuracy``.

        Raises:
            TrajectoryError: If it is damaged.
        """
        remedy = "delete it and run again, which draws it anew"
        found = read_record(path, {"x": list[float], "y": list[float]}, remedy)
        name = "accuracy" if "accuracy" in found else "scores"
        scores = check_fields(path, found, {name: list[list[float]]}, remedy)[name]
        sizes = {len(row) for row in scores}
        if len(scores) != len(found["y"]) or sizes != {len(found["x"])}:
            raise TrajectoryError(f"{path} is damaged: its scores are of another grid; {remedy}.")
        return cls(*(np.array(found[part]) for part in ("x", "y", name)))


def score_landscape(
    trajectory: Trajectory,
    plane: Plane,
    model: PreTrainedModel,
    test: Examples,
    train: Examples,
    task: Task,
    rows: int = ROWS,
    resolution: int = 21,
) -> Landscape:
    """Evaluates mixtures of the stages over a grid on the plane.

    Args:
        trajectory: The stages.
        plane: Their plane.
        model: A model of the same class; it ends with the last mixture's weights.
        test: Examples to score on.
        train: Examples to estimate BatchNorm statistics on, where the model has any.
        task: What the score is of.
        rows: Examples in a batch.
        resolution: Points along each axis.

    Returns:
        The [`Landscape`], which covers all points of the plane and a margin around them.

    Source: paper Figure 3.
    """
    low, high = plane.coordinates.min(0), plane.coordinates.max(0)
    margin = MARGIN * (float(max(high - low)) or 1.0)  # where all points are one, any size will do
    x, y = (np.linspace(low[axis] - margin, high[axis] + margin, resolution) for axis in (0, 1))
    stages, names = all_stages(trajectory), plane_parameters(trajectory)
    own, live = dict(model.named_parameters()), stored_names(model)
    scores = np.zeros((resolution, resolution))
    with progress_bar(total=resolution**2, desc="Landscape", unit=" points") as bar:
        for i, j in np.ndindex(resolution, resolution):
            weights = torch.from_numpy(plane.mixture(x[j], y[i]))
            for name in names:
                parameter = own[live[name]]
                mixed = sum(w * stage.read(name).double() for w, stage in zip(weights, stages, strict=True))
                parameter.data.copy_(mixed.view_as(parameter))
            scores[i, j] = network_score(model, test, train, task, rows)
            bar.update()
    return Landscape(x, y, scores)
