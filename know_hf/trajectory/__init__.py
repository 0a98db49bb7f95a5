"""The record of what training did: checkpoints, kinds and the order of the stages."""

from know_hf.checkpoints.checkpoint import Checkpoint
from know_hf.records import TrajectoryError
from know_hf.trajectory.kinds import Parameter, kinds_of, resolve_kinds
from know_hf.trajectory.record import StageRecord, TrajectoryRecord
from know_hf.trajectory.trajectory import Trajectory, to_history

__all__ = [
    "Checkpoint",
    "Parameter",
    "StageRecord",
    "Trajectory",
    "TrajectoryError",
    "TrajectoryRecord",
    "kinds_of",
    "resolve_kinds",
    "to_history",
]
