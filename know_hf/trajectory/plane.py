"""The plane of a trajectory's first two principal components, and where checkpoints lie on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from know_hf.checkpoints.checkpoint import Checkpoint
from know_hf.trajectory.noise import CHUNK, Noise, NoisyCheckpoint, noisy_copies
from know_hf.trajectory.trajectory import Trajectory

#: Values read at a time from every checkpoint.
BLOCK = 1 << 20
#: An axis with less than this share of the first one's variance holds rounding, and no place.
FLAT = 1e-10


@dataclass(frozen=True)
class Plane:
    """The plane that best holds a trajectory's points.

    Args:
        names: Name of every point: the stages, then what was given beside them.
        coordinates: ``(points, 2)`` places on the plane, in the units of the weights; the origin is the mean of what
            spans it.
        directions: ``(2, spanning)`` the axes as combinations of the differences of what spans the plane, the stages
            and then their noisy copies, from its mean; zeros for an axis that it does not reach along, such as the
            second of two stages.
        distances: ``(points, points)`` Euclidean distances in the space of all weights, not only on the plane.
        explained: Share along each axis of the variance of what spans the plane.
        noisy: ``(copies, 2)`` places of the noisy copies.

    Source: paper Figure 3.
    """

    names: list[str]
    coordinates: np.ndarray
    directions: np.ndarray
    distances: np.ndarray
    explained: tuple[float, float]
    noisy: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def stages(self) -> int:
        """Number of stages among the points."""
        return self.directions.shape[1] - len(self.noisy)

    def mixture(self, x: float, y: float) -> np.ndarray:
        """The weights, summing to 1, of what spans the plane, whose mixture lies at a place on it."""
        spanning = self.directions.shape[1]
        return 1 / spanning + np.array([x, y]) @ self.directions


def principal_plane(
    trajectory: Trajectory, others: Mapping[str, str | Path] | None = None, noise: Noise | None = None
) -> Plane:
    """Finds the plane by streaming: memory is a block of every point, whatever the network's size.

    Args:
        trajectory: Its stages span the plane, the self-check's included.
        others: Name → checkpoint folder of further points, such as predictions.
        noise: Copies of the stages that span the plane with them, as in the paper; none by default.

    Returns:
        The [`Plane`] over all floating-point parameters; buffers are left out.

    Raises:
        TrajectoryError: If a checkpoint is damaged.

    Source: paper section 5.1 and Figure 3; computed from the points' inner products.

    Example:
        >>> from know_hf import Trajectory
        >>> from know_hf.trajectory.plane import principal_plane
        >>> principal_plane(Trajectory.load("runs/mine"), {"x2": "runs/mine/enriched/x2"})  # doctest: +SKIP
    """
    spanning = spanning_points(trajectory, noise)
    first = len(spanning)
    points = [*spanning, *(Checkpoint(folder) for folder in (others or {}).values())]
    products = np.zeros((len(points), len(points)))
    size = BLOCK if noise is None else CHUNK
    for name in plane_parameters(trajectory):
        for start in range(0, trajectory.tensors[name].numel, size):
            block = torch.stack([point.read(name, start, start + size).double() for point in points])
            block = torch.where(block.isfinite(), block, 0)  # masks hold -inf, which moves nowhere
            block -= block[0].clone()  # what is equal becomes exactly 0, which the mean alone would round
            block -= block[:first].mean(0)
            products += (block @ block.T).numpy()
    variances, vectors = np.linalg.eigh(products[:first, :first])
    order = [i for i in np.argsort(variances)[::-1][:2] if variances[i] > FLAT * max(float(variances.max()), 0.0)]
    directions, explained = np.zeros((2, first)), np.zeros(2)
    directions[: len(order)] = (vectors[:, order] / np.sqrt(variances[order])).T
    explained[: len(order)] = variances[order] / (variances.sum() or 1)
    # An axis may point either way; let the latest stage lie to the right of the first, and the upper half be fuller.
    coordinates, stages = products[:, :first] @ directions.T, len(all_stages(trajectory))
    signs = np.array([1.0 if coordinates[0, 0] <= 0 else -1.0, 1.0 if coordinates[stages // 2, 1] >= 0 else -1.0])
    squares = np.diag(products)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * products, 0))
    names = [f"stage-{i}" for i in range(stages)] + list(others or {})
    shares = float(explained[0]), float(explained[1])
    shown = np.r_[:stages, first : len(points)]  # noisy copies have places, and no names
    coordinates = coordinates * signs
    return Plane(
        names, coordinates[shown], directions * signs[:, None], distances[np.ix_(shown, shown)], shares,
        coordinates[stages:first],
    )  # fmt: skip


def spanning_points(trajectory: Trajectory, noise: Noise | None = None) -> Sequence[Checkpoint | NoisyCheckpoint]:
    """What spans the plane: the stages, then their noisy copies."""
    stages = all_stages(trajectory)
    return [*stages, *noisy_copies(stages, noise)]


def all_stages(trajectory: Trajectory) -> list[Checkpoint]:
    """The checkpoints of all finished stages, the self-check's included."""
    return [Checkpoint(trajectory.root / stage.folder) for stage in trajectory.record.stages if stage.finished]


def plane_parameters(trajectory: Trajectory) -> list[str]:
    """Names of the tensors that span the plane: every floating-point parameter."""
    return [name for name, parameter in trajectory.parameters.items() if parameter.kind not in ("buffer", "unknown")]
