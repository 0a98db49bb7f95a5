"""From a meta-data set to training samples: which trials, and rows drawn from them evenly."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from know_hf.meta.collection import MetaDataSet
from know_hf.meta.trials import STAGES
from know_hf.trajectory import to_history

#: Values of one tensor that are kept in memory at most; a random choice where it has more.
MOST_VALUES = 32_768


@dataclass(frozen=True)
class Split:
    """Names of trials: to train on, to choose by, to report on.

    The report's trials share neither network family nor data with the training's; the choice's share one of the two.
    """

    train: list[str]
    choice: list[str]
    report: list[str]


def split_trials(meta: MetaDataSet, held_out_architectures: Collection[str], held_out_data: Collection[str]) -> Split:
    """Splits trials by what is held out.

    Args:
        meta: The meta-data set.
        held_out_architectures: Names of network families.
        held_out_data: Names of data sets.

    Returns:
        The [`Split`].

    Raises:
        ValueError: If a part would be empty.

    Source: paper section 5.1 holds out nothing; ours.
    """
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for note in meta.trials:
        unseen = (note["settings"]["architecture"] in held_out_architectures) + (
            note["settings"]["data_set"] in held_out_data
        )
        parts[unseen].append(note["name"])
    for part, what in zip(parts, ("to train on", "to choose by", "to report on"), strict=True):
        if not part:
            seen = {n: sorted({note["settings"][n] for note in meta.trials}) for n in ("architecture", "data_set")}
            raise ValueError(
                f"Holding out {', '.join(held_out_architectures) or 'no network'} and "
                f"{', '.join(held_out_data) or 'no data'} leaves no trial {what}; the set has the networks "
                f"{', '.join(seen['architecture'])} and the data {', '.join(seen['data_set'])}."
            )
    return Split(*parts)


class Samples:
    """The values of one kind of some trials, in memory, to draw rows from.

    Args:
        meta: The meta-data set.
        names: The trials.
        kind: ``"conv"``, ``"fc"`` or ``"bias"``.

    Raises:
        ValueError: If no trial has a tensor of that kind.
    """

    def __init__(self, meta: MetaDataSet, names: Sequence[str], kind: str):
        values, self.sizes, trials = [], [], []
        for position, name in enumerate(tqdm(names, desc=f"Reading {kind}", leave=False)):
            for tensor in meta.read(name, [kind]):
                chosen = tensor.values
                if chosen.shape[1] > MOST_VALUES:
                    keep = np.random.default_rng(position).choice(chosen.shape[1], MOST_VALUES, replace=False)
                    chosen = chosen[:, np.sort(keep)]
                values.append(torch.from_numpy(np.ascontiguousarray(chosen.T)))
                self.sizes.append(chosen.shape[1])
                trials.append(position)
        if not values:
            raise ValueError(f"None of the {len(names)} trials has a tensor of kind {kind}.")
        self.values = torch.cat(values)
        self.sizes = torch.tensor(self.sizes)
        self.starts = self.sizes.cumsum(0) - self.sizes
        # Each trial is drawn from as often as any other, and each of its tensors as often as its others.
        per_trial = torch.bincount(torch.tensor(trials))
        self.shares = 1 / per_trial[torch.tensor(trials)].double()

    def draw(self, rows: int, length: int, generator: torch.Generator) -> Tensor:
        """Draws rows evenly over trials, their tensors, and the places of the window.

        Args:
            rows: Number of rows.
            length: Stages S that the predictor reads.
            generator: Source of the choice.

        Returns:
            ``(rows, length + 1)``: a history in the predictor's order, then the stage that it should find.
        """
        tensors = torch.multinomial(self.shares, rows, replacement=True, generator=generator)
        inside = (torch.rand(rows, generator=generator, dtype=torch.float64) * self.sizes[tensors]).long()
        found = self.values[self.starts[tensors] + inside.clamp_max(self.sizes[tensors] - 1)]
        windows = STAGES - length
        parts = found.tensor_split(windows)
        drawn = [to_history(part[:, t : t + length + 1].T).T for t, part in enumerate(parts)]
        return torch.cat(drawn)[torch.randperm(rows, generator=generator)].contiguous()
