"""Scores over the plane of a trajectory: the paper's Figure 3."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from know_hf.progress import progress_bar
from know_hf.records import check_fields, read_record
from know_hf.store import write_json
from know_hf.tasks import Task
from know_hf.training.examples import Examples
from know_hf.training.scoring import ROWS, network_score
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.kinds import stored_names
from know_hf.trajectory.noise import Noise
from know_hf.trajectory.plane import Plane, plane_parameters, spanning_points

#: Share of the points' extent that the landscape reaches beyond them.
MARGIN = 0.25


@dataclass(frozen=True)
class Landscape:
    """The task's score at every place of a grid; of shares as a share.

    Args:
        x: ``(nx,)`` places along the first axis.
        y: ``(ny,)`` places along the second.
        scores: ``(ny, nx)`` scores of the networks there.
        noisy: ``(copies,)`` scores of the stages' noisy copies, in the order of their places on the plane.
    """

    x: np.ndarray
    y: np.ndarray
    scores: np.ndarray
    noisy: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def save(self, path: Path) -> None:
        """Writes it as JSON, whole or not at all."""
        write_json(path, {name: values.tolist() for name, values in vars(self).items()}, indent=None)

    @classmethod
    def load(cls, path: Path) -> "Landscape":
        """Reads what [`save`] wrote; files of know-hf before it drew other scores call them ``accuracy``.

        Those from before there were noisy copies have none.

        Raises:
            TrajectoryError: If it is damaged.
        """
        remedy = "delete it and run again, which draws it anew"
        found = read_record(path, {"x": list[float], "y": list[float], "noisy": list[float] | None}, remedy)
        name = "accuracy" if "accuracy" in found else "scores"
        scores = check_fields(path, found, {name: list[list[float]]}, remedy)[name]
        sizes = {len(row) for row in scores}
        if len(scores) != len(found["y"]) or sizes != {len(found["x"])}:
            raise TrajectoryError(f"{path} is damaged: its scores are of another grid; {remedy}.")
        return cls(*(np.array(part) for part in (found["x"], found["y"], scores, found.get("noisy") or [])))


def score_landscape(
    trajectory: Trajectory,
    plane: Plane,
    model: PreTrainedModel,
    test: Examples,
    train: Examples,
    task: Task,
    rows: int = ROWS,
    resolution: int = 21,
    noise: Noise | None = None,
) -> Landscape:
    """Evaluates the networks at the places of a grid on the plane, and the noisy copies that span it.

    Args:
        trajectory: The stages.
        plane: Their plane.
        model: A model of the same class; it ends with the weights that were scored last.
        test: Examples to score on.
        train: Examples to estimate BatchNorm statistics on, where the model has any.
        task: What the score is of.
        rows: Examples in a batch.
        resolution: Points along each axis.
        noise: As the plane was made with.

    Returns:
        The [`Landscape`], which covers all points of the plane and a margin around them.

    Source: paper section 5.1 and Figure 3, which scores the noisy copies; the networks on the plane itself are ours.
    """
    places = np.concatenate([plane.coordinates, plane.noisy])
    low, high = places.min(0), places.max(0)
    margin = MARGIN * (float(max(high - low)) or 1.0)  # where all points are one, any size will do
    x, y = (np.linspace(low[axis] - margin, high[axis] + margin, resolution) for axis in (0, 1))
    points, names = spanning_points(trajectory, noise), plane_parameters(trajectory)
    own, live = dict(model.named_parameters()), stored_names(model)

    def mixed(name: str, weights: np.ndarray) -> Tensor:
        return sum(w * point.read(name).double() for w, point in zip(weights.tolist(), points, strict=True) if w)

    def score(values: Callable[[str], Tensor]) -> float:
        for name in names:
            parameter = own[live[name]]
            parameter.data.copy_(values(name).view_as(parameter))
        return network_score(model, test, train, task, rows)

    at_origin = plane.mixture(0.0, 0.0)
    # The plane's origin and axes in the space of all weights: every place on it is made of these three.
    axes = {name: [mixed(name, weights) for weights in (at_origin, *plane.directions)] for name in names}

    def at(x: float, y: float, name: str) -> Tensor:
        origin, first, second = axes[name]
        return origin + x * first + y * second

    scores, noisy = np.zeros((resolution, resolution)), np.zeros(len(plane.noisy))
    with progress_bar(total=scores.size + noisy.size, desc="Landscape", unit=" points") as bar:
        for i, j in np.ndindex(resolution, resolution):
            scores[i, j] = score(partial(at, float(x[j]), float(y[i])))
            bar.update()
        for i, copy in enumerate(points[plane.stages :]):
            noisy[i] = score(copy.read)
            bar.update()
    return Landscape(x, y, scores, noisy)
