"""From a meta-data set to training samples: which trials, which targets, and rows drawn from them evenly."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from know_hf.known import KnownConfig
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.experimental.variants import branched_starts, branched_target, window_statistics
from know_hf.meta.options import TARGETS
from know_hf.meta.shards import TensorStages
from know_hf.meta.trials import STAGES
from know_hf.progress import progress_bar
from know_hf.trajectory import TrajectoryError, to_history

#: Values of one tensor that are kept in memory at most; a random choice where it has more.
MOST_VALUES = 32_768
#: Rows gathered at a time while an epoch is drawn.
CHUNK = 1 << 18


@dataclass(frozen=True)
class Split:
    """Names of trials: to train on, to choose by, to report on.

    The report's trials share neither network family nor data with the training's; the choice's share one of the two.
    """

    train: list[str]
    choice: list[str]
    report: list[str]


def split_trials(
    meta: MetaDataSet, held_out_architectures: Collection[str], held_out_data: Collection[str], branched: bool = False
) -> Split:
    """Splits trials by what is held out.

    Args:
        meta: The meta-data set.
        held_out_architectures: Names of network families.
        held_out_data: Names of data sets.
        branched: Train on and choose by trials with branches only.

    Returns:
        The [`Split`].

    Raises:
        ValueError: If a part would be empty.
    """
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for note in meta.trials:
        unseen = (note["settings"]["architecture"] in held_out_architectures) + (
            note["settings"]["data_set"] in held_out_data
        )
        if unseen == 2 or not branched or note["name"] in meta.branches:
            parts[unseen].append(note["name"])
    for part, what in zip(parts, ("to train on", "to choose by", "to report on"), strict=True):
        if not part:
            seen = {n: sorted({note["settings"][n] for note in meta.trials}) for n in ("architecture", "data_set")}
            raise ValueError(
                f"Holding out {', '.join(held_out_architectures) or 'no network'} and "
                f"{', '.join(held_out_data) or 'no data'} leaves no trial {what}"
                f"{' that has branches' if branched else ''}; the set has the networks "
                f"{', '.join(seen['architecture'])} and the data {', '.join(seen['data_set'])}."
            )
    return Split(*parts)


@dataclass(frozen=True)
class Window:
    """Stages ``start`` … that are read, and how many steps before them the target lies."""

    start: int
    horizon: int = 1


def windows_of(target: str, config: KnownConfig) -> list[Window]:
    """The windows of a trial for which there is a target.

    Raises:
        ValueError: If the target is unknown, or the trials' stages do not suffice for it.
    """
    room = STAGES - config.history_length
    if target not in TARGETS:
        raise ValueError(f"target={target!r} is not known; use one of {', '.join(TARGETS)}.")
    if target == "stage":
        most = room if "horizon" in config.conditions else 1
        windows = [Window(t + h, h) for h in range(1, most + 1) for t in range(room - h + 1)]
    else:
        windows = [Window(start) for start in branched_starts(target, config.history_length)]
    if not windows:
        raise ValueError(
            f"history_length is {config.history_length}; for target={target!r} trials of {STAGES} stages allow at most "
            f"{STAGES - (2 if target == 'repeated' else 1)}."
        )
    return windows


def find_target(
    tensor: TensorStages, window: Window, target: str, branches: Mapping[tuple[int, int], np.ndarray] | None
) -> np.ndarray:
    """What a predictor should find from a window of a tensor.

    Args:
        tensor: The tensor's stages.
        window: What is read of them.
        target: One of ``TARGETS``.
        branches: The tensor's own, (stage, stage of the data) → ``(repetitions, n)`` float32; not read for ``stage``.

    Returns:
        ``(n,)`` float32.

    Raises:
        TrajectoryError: If the target needs branches and the tensor has none.
    """
    if target == "stage":
        return tensor.values[window.start - window.horizon]
    if branches is None:
        raise TrajectoryError(f"Tensor {tensor.tensor!r} has no branches, which target={target!r} needs: collect them.")
    return branched_target(tensor.values, window.start, target, branches)


@dataclass(frozen=True)
class Batch:
    """Rows to train on, as columns.

    ``history`` is ``(S, n)`` in the predictor's order, ``target`` ``(n,)``, ``statistics`` ``(n, 1 + conditions)`` or
    None for predictors that read weights alone, ``distance`` ``(n,)``: how far each row's whole tensor moved on
    average, to the target or from stage to stage, whichever is more.
    """

    history: Tensor
    target: Tensor
    statistics: Tensor | None
    distance: Tensor

    def __getitem__(self, part: slice) -> "Batch":
        statistics = None if self.statistics is None else self.statistics[part]
        return Batch(self.history[:, part], self.target[part], statistics, self.distance[part])


class Samples:
    """The values of one kind of some trials, in memory, to draw rows from.

    Args:
        meta: The meta-data set.
        names: The trials.
        kind: ``"conv"``, ``"fc"`` or ``"bias"``.
        config: The predictor's: how many stages it reads, and what of their tensor.
        target: One of ``TARGETS``.
        device: Where the values are kept and rows come from.

    Raises:
        TrajectoryError: If a trial's file is damaged or holds values that are not finite, or branches are missing.
        ValueError: If no trial has a tensor of that kind, or the target does not fit.
    """

    def __init__(
        self,
        meta: MetaDataSet,
        names: Sequence[str],
        kind: str,
        config: KnownConfig,
        target: str = "stage",
        device: torch.device | str = "cpu",
    ):
        self.config, self.windows = config, windows_of(target, config)
        values, sizes, trials, statistics, distances = [], [], [], [], []
        for position, name in enumerate(progress_bar(names, desc=f"Reading {kind}", leave=False)):
            branches = {} if target == "stage" else meta.read_branches(name)
            for tensor in meta.read(name, [kind]):
                wanted = [find_target(tensor, w, target, branches.get(tensor.tensor)) for w in self.windows]
                columns = np.concatenate([tensor.values, wanted])
                if not np.isfinite(columns).all():
                    raise TrajectoryError(f"{meta.path(name)}: tensor {tensor.tensor!r} holds NaN or infinite values.")
                if config.inputs == "differences":
                    told = [window_statistics(tensor, config, w.start, w.horizon) for w in self.windows]
                    statistics.append(torch.stack(told))
                distances.append([self._distance(tensor, w, t) for w, t in zip(self.windows, wanted, strict=True)])
                if columns.shape[1] > MOST_VALUES:
                    keep = np.random.default_rng(position).choice(columns.shape[1], MOST_VALUES, replace=False)
                    columns = columns[:, np.sort(keep)]
                values.append(torch.from_numpy(np.ascontiguousarray(columns.T)))
                sizes.append(columns.shape[1])
                trials.append(position)
        if not values:
            raise ValueError(f"None of the {len(names)} trials has a tensor of kind {kind}.")
        self.device, self.values, self.sizes = device, torch.cat(values).to(device), torch.tensor(sizes, device=device)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.distances = torch.tensor(np.array(distances), dtype=torch.float32, device=device)
        self.statistics = torch.stack(statistics).to(device) if statistics else None
        # Each trial is drawn from as often as any other, and each of its tensors as often as its others.
        per_trial = torch.bincount(torch.tensor(trials))
        self.shares = (1 / per_trial[torch.tensor(trials)].double()).to(device)

    def _distance(self, tensor: TensorStages, window: Window, target: np.ndarray) -> float:
        stages = tensor.values[window.start : window.start + self.config.history_length]
        return max(np.abs(stages[0] - target).mean(), np.abs(np.diff(stages, axis=0)).mean())

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        """Draws rows evenly over trials, their tensors, and the windows.

        Args:
            rows: Number of rows.
            generator: Source of the choice, on the same device.
        """
        tensors = torch.multinomial(self.shares, rows, replacement=True, generator=generator)
        place = torch.rand(rows, generator=generator, dtype=torch.float64, device=self.device)
        inside = (place * self.sizes[tensors]).long()
        drawn = self.values[self.starts[tensors] + inside.clamp_max(self.sizes[tensors] - 1)]
        length, order = self.config.history_length, torch.randperm(rows, generator=generator, device=self.device)
        history, target, distance, statistics = [], [], [], []
        for i, (part, owners) in enumerate(
            zip(drawn.tensor_split(len(self.windows)), tensors.tensor_split(len(self.windows)), strict=True)
        ):
            start = self.windows[i].start
            history.append(to_history(part[:, start : start + length].T))
            target.append(part[:, STAGES + i])
            distance.append(self.distances[owners, i])
            if self.statistics is not None:
                statistics.append(self.statistics[owners, i])
        return Batch(
            torch.cat(history, 1)[:, order].contiguous(),
            torch.cat(target)[order],
            torch.cat(statistics)[order] if statistics else None,
            torch.cat(distance)[order],
        )

    def batches(self, rows: int, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Draws an epoch, a chunk at a time, and yields it in batches; the last may be smaller."""
        chunk = max(CHUNK // batch_size, 1) * batch_size
        for begun in range(0, rows, chunk):
            drawn = self.draw(min(chunk, rows - begun), generator)
            for start in range(0, len(drawn.target), batch_size):
                yield drawn[start : start + batch_size]
