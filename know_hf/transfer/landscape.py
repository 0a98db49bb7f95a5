"""Accuracy over the plane of a trajectory: the paper's Figure 3."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from know_hf.trajectory import Trajectory
from know_hf.trajectory.kinds import stored_names
from know_hf.trajectory.plane import Plane, all_stages, plane_parameters
from know_hf.transfer.examples import Examples
from know_hf.transfer.metrics import network_accuracy

#: Share of the points' extent that the landscape reaches beyond them.
MARGIN = 0.25


@dataclass(frozen=True)
class Landscape:
    """Accuracy at every place of a grid: ``accuracy[i, j]`` at ``(x[j], y[i])``, as a share."""

    x: np.ndarray
    y: np.ndarray
    accuracy: np.ndarray


def accuracy_landscape(
    trajectory: Trajectory, plane: Plane, model: PreTrainedModel, test: Examples, train: Examples, resolution: int = 21
) -> Landscape:
    """Evaluates mixtures of the stages over a grid on the plane.

    Args:
        trajectory: The stages.
        plane: Their plane.
        model: A model of the same class; it ends with the last mixture's weights.
        test: Examples to score on.
        train: Examples to estimate BatchNorm statistics on, where the model has any.
        resolution: Points along each axis.

    Returns:
        The [`Landscape`], which covers all points of the plane and a margin around them.

    Source: paper Figure 3.
    """
    low, high = plane.coordinates.min(0), plane.coordinates.max(0)
    margin = MARGIN * max(*(high - low), 1e-12)
    x, y = (np.linspace(low[axis] - margin, high[axis] + margin, resolution) for axis in (0, 1))
    stages, names = all_stages(trajectory), plane_parameters(trajectory)
    own, live = dict(model.named_parameters()), stored_names(model)
    accuracy = np.zeros((resolution, resolution))
    with tqdm(total=resolution**2, desc="Landscape", unit=" points") as bar:
        for i, j in np.ndindex(resolution, resolution):
            weights = torch.from_numpy(plane.mixture(x[j], y[i]))
            for name in names:
                parameter = own[live[name]]
                mixed = sum(w * stage.read(name).double() for w, stage in zip(weights, stages, strict=True))
                parameter.data.copy_(mixed.view_as(parameter))
            accuracy[i, j] = network_accuracy(model, test, train)
            bar.update()
    return Landscape(x, y, accuracy)
