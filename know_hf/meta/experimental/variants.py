"""Other targets than the stage before the window, another unit of errors, and the statistics of differences."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from know_hf.known import KnownConfig
from know_hf.known.differences import tensor_statistics
from know_hf.meta.shards import TensorStages
from know_hf.meta.trials import STAGES
from know_hf.trajectory import to_history


def branched_starts(target: str, history_length: int) -> list[int]:
    """First stages of the windows for which there is a target of branches; none if the stages do not suffice."""
    starts = (2,) if target == "repeated" else (1, 2)
    return [start for start in starts if start <= STAGES - history_length]


def branched_target(
    stages: np.ndarray, start: int, target: str, branches: Mapping[tuple[int, int], np.ndarray]
) -> np.ndarray:
    """What a predictor should find from a window of a tensor that has branches.

    Args:
        stages: ``(stages, n)`` float32, the tensor in stage order.
        start: First stage of the window.
        target: ``"repeated"`` or ``"same_compute"``, see ``know_hf.meta.options``.
        branches: (stage, stage of the data) → ``(repetitions, n)`` float32, the tensor's own.

    Returns:
        ``(n,)`` float32.
    """
    if target == "repeated":
        before = start - 1
        return np.concatenate([stages[before : before + 1], branches[before, before]]).mean(0)
    return stages[start] + branches[start, start - 1].mean(0) - branches[start, start].mean(0)


def relative_errors(errors: Tensor, distance: Tensor) -> Tensor:
    """Errors ``(n,)`` as shares of how far each row's tensor moved, ``(n,)``; 0 where it did not."""
    return torch.where(distance > 0, errors / distance.clamp_min(1e-12), 0.0)


def window_statistics(tensor: TensorStages, config: KnownConfig, start: int, horizon: int) -> Tensor:
    """What a predictor of differences is told of a window of a tensor: ``(1 + conditions,)`` float32."""
    stages = torch.from_numpy(tensor.values[start : start + config.history_length])
    history = to_history(stages.reshape(-1, *tensor.shape))
    return tensor_statistics(history, config, sampling_ratio=tensor.trial["sampling_ratio"], horizon=horizon)
