"""The loss on the selection data as Trainer reports it, and what parts of the data add to it, whatever loss it is."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from know_hf.forgetting.evaluation import without_dropping
from know_hf.training.taking import take

#: Parts of the data that are one unit each, where a score is no mean over examples.
PARTS = 50
#: So many batches tell by themselves how much of a difference is chance.
ENOUGH = 20
#: Share of a loss by which the mean of its parts may differ from it and still be it: rounding, in half precision, too.
SLACK = 0.01
#: Name of the loss among a trainer's scores.
LOSS = "eval_loss"
#: Ways to take a loss apart: whole batches, slices of them, and what is missing without a slice.
BATCHES, SLICES, WITHOUT = "batches", "slices", "without"


@dataclass(frozen=True)
class Losses:
    """A loss, taken apart.

    Args:
        value: The loss, as Trainer reports it.
        units: ``(parts,)`` what each part of the data adds to it, which is their mean.
        way: How it was taken apart; only what was in one way is compared.
    """

    value: float
    units: np.ndarray
    way: str


class LossParts:
    """Takes the loss of a trainer's model on a data set apart.

    Trainer reports the mean of its batches' losses, each counted as often as the batch has examples. What an example
    adds to the loss of its batch, only the loss itself knows: where that is no plain mean over examples (class weights,
    means over tokens of texts of different lengths, contrastive losses), the mean of the losses of small parts may be
    quite another number. So where there are many batches, these are the parts. Where there are few, slices of them
    are, as long as their mean is the loss of their batch, which is looked at for every model. Where it is not, those
    batches are, if there are [`ENOUGH`]; else a slice's share is its pseudo-value: so many times the loss of its batch,
    less one time fewer that of the batch without the slice. That takes `PARTS` batches a model, not more.

    What is random in the data (masks, augmentation) is the same for every model.

    Args:
        trainer: Its model is measured, as it is when this is called.
        dataset: The data.

    Source: pseudo-values are those of the jackknife that leaves out groups; Tukey (1958), Miller, "The jackknife - a
        review" (Biometrika 1974).
    """

    def __init__(self, trainer: Trainer, dataset: Any) -> None:
        size, batch = len(dataset), trainer.args.eval_batch_size
        self.trainer, self.dataset = trainer, dataset
        self.batches = [np.arange(begun, min(begun + batch, size)) for begun in range(0, size, batch)]
        #: How it is taken apart; another way once a model shows that this one does not do.
        self.way = BATCHES if len(self.batches) >= PARTS else SLICES
        # Whether all of the data at once give another loss than their batches in turn, as with batches drawn otherwise.
        self._apart: bool | None = None

    def __call__(self) -> Losses:
        """Measures the trainer's model."""
        groups = np.array_split(np.arange(len(self.batches)), min(len(self.batches), PARTS))
        parts = [np.concatenate([self.batches[number] for number in group]) for group in groups]
        losses, sizes = self._losses(parts), _sizes(parts)
        value, units = float(sizes @ losses / sizes.sum()), losses * sizes / sizes.mean()
        shares: list[np.ndarray] = []
        if self.way == SLICES:
            shares = self._of_slices()
            off = sizes @ np.abs([own.mean() for own in shares] - losses) / sizes.sum()
            if math.isfinite(value) and not off <= SLACK * abs(value):
                self.way = BATCHES if len(self.batches) >= ENOUGH else WITHOUT
        if self.way == WITHOUT:
            shares = [self._pseudo_values(*one) for one in zip(self.batches, self._cut(), losses, strict=True)]
        if self.way != BATCHES:  # a batch counts by its size, and its slices add up to its own loss
            shares = [own + (loss - _mean(own)) for own, loss in zip(shares, losses, strict=True)]
            count = sum(map(len, shares))
            weights = sizes / sizes.sum()
            units = np.concatenate(
                [own * weight * count / len(own) for own, weight in zip(shares, weights, strict=True)]
            )
        return self._as_reported(value, units)

    def _cut(self) -> list[list[np.ndarray]]:
        """The slices of each batch."""
        most = math.ceil(PARTS / len(self.batches))
        return [[batch[i :: min(most, len(batch))] for i in range(min(most, len(batch)))] for batch in self.batches]

    def _of_slices(self) -> list[np.ndarray]:
        """What its slices add to each batch's loss, if that is their mean."""
        cut = self._cut()
        losses = self._losses([rows for slices in cut for rows in slices])
        own = np.split(losses, np.cumsum([len(slices) for slices in cut])[:-1])
        return [values * _sizes(rows) / _sizes(rows).mean() for values, rows in zip(own, cut, strict=True)]

    def _pseudo_values(self, batch: np.ndarray, slices: Sequence[np.ndarray], loss: float) -> np.ndarray:
        if len(slices) == 1:
            return np.asarray([loss])
        without = self._losses([np.setdiff1d(batch, rows) for rows in slices])
        return loss + (len(slices) - 1) * (loss - without)

    def _as_reported(self, value: float, units: np.ndarray) -> Losses:
        """The parts, of the loss of all of the data at once where that is another."""
        if self._apart is not False:
            whole = float(self._losses([np.arange(len(self.dataset))])[0])
            if self._apart is None and math.isfinite(value):
                self._apart = math.isfinite(whole) and abs(whole - value) > SLACK * abs(value)
            if self._apart and math.isfinite(value):
                value, units = whole, units + (whole - value)
        return Losses(value, units, self.way)

    def _losses(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """``(parts,)`` losses of the trainer's model on some of the rows each, NaN where there is none."""
        found = []
        for rows in parts:
            with same_chance(int(rows[0])):
                found.append(whole_loss(self.trainer, take(self.dataset, rows)))
        return np.asarray(found)


def whole_loss(trainer: Trainer, dataset: Any) -> float:
    """The loss of the trainer's model on a data set, as Trainer reports it; NaN where there is none."""
    with without_dropping(trainer), quiet(trainer), loss_alone(trainer):
        return float((trainer.predict(dataset, metric_key_prefix="eval").metrics or {}).get(LOSS, math.nan))


def _sizes(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray([len(rows) for rows in parts], dtype=float)


def _mean(values: np.ndarray) -> float:
    """Of those that are numbers: a slice may be all that a loss is of."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


@contextmanager
def same_chance(seed: int = 0) -> Iterator[None]:
    """Varies data within the block as in every such block of this seed, and leaves what is drawn after it as it was."""
    held = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(held[0])
            random.setstate(held[1])


@contextmanager
def quiet(trainer: Trainer) -> Iterator[None]:
    """Lets a trainer predict many times without a bar for each."""
    hidden, trainer.args.disable_tqdm = trainer.args.disable_tqdm, True
    callbacks = list(trainer.callback_handler.callbacks)
    trainer.callback_handler.callbacks = []
    try:
        yield
    finally:
        trainer.args.disable_tqdm, trainer.callback_handler.callbacks = hidden, callbacks


@contextmanager
def loss_alone(trainer: Trainer) -> Iterator[None]:
    """Lets a trainer predict without keeping what the model says: of language models that is a great deal."""
    compute: Callable[..., Any] | None
    compute, trainer.compute_metrics = trainer.compute_metrics, None
    before, trainer.args.prediction_loss_only = trainer.args.prediction_loss_only, True
    try:
        yield
    finally:
        trainer.compute_metrics, trainer.args.prediction_loss_only = compute, before
