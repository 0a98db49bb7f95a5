"""Examples as tensors, made once, gathered batch by batch, varied at random where asked."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from know_hf.training.options import NUMBERS, Augmentation

Batch = TypeVar("Batch")


class Examples(Dataset):
    """All examples as tensors, read by index, so that a batch is one indexing operation.

    Args:
        inputs: Name → tensor with one row an example.
        rows: Which rows this view holds; all by default.
        augmentation: Applied to ``pixel_values``, and to ``labels`` that are masks, whenever examples are read.
        centred: Images as they were and the mean that was subtracted from all of them, where that was done.
    """

    #: ``(NUMBERS, all examples)`` by which each is varied for the time being; None for new ones whenever it is read.
    numbers: Tensor | None = None

    def __init__(
        self,
        inputs: dict[str, Tensor],
        rows: Sequence[int] | np.ndarray | Tensor | None = None,
        augmentation: Augmentation | None = None,
        centred: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.inputs, self.augmentation, self.centred = inputs, augmentation, centred
        count = len(next(iter(inputs.values())))
        self.rows = torch.arange(count) if rows is None else torch.as_tensor(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Gathers a whole batch at once; a ``DataLoader`` asks for batches this way."""
        chosen = self.rows[torch.as_tensor(indices)]
        batch = {name: values[chosen] for name, values in self.inputs.items()}
        numbers = None if self.numbers is None else self.numbers[:, chosen]
        return varied(batch, self.augmentation, numbers)

    def vary(self, seed: int | None, epoch: int = 0) -> None:
        """Fixes how each example is varied, until this is called again.

        What an example is varied by depends on seed, epoch and example alone: not on batch, order or process, nor on
        what else draws random numbers, so that a continued epoch goes on as it would have.

        Args:
            seed: Of the training; None for other variations whenever an example is read.
            epoch: Number of the epoch, from 0.
        """
        if seed is None or self.augmentation is None:
            self.numbers = None
            return
        state = np.random.SeedSequence([seed, epoch]).generate_state(1)
        count = len(next(iter(self.inputs.values())))
        self.numbers = torch.rand(NUMBERS, count, generator=torch.Generator().manual_seed(int(state[0])))

    def select(self, positions: Sequence[int] | np.ndarray) -> "Examples":
        """A view of some of this view's examples."""
        return Examples(self.inputs, self.rows[torch.as_tensor(positions)], self.augmentation, self.centred)

    def augmented(self, augmentation: Augmentation | None) -> "Examples":
        """A view of the same examples, varied at random or, with None, as they are."""
        return Examples(self.inputs, self.rows, augmentation, self.centred)


def varied(batch: dict[str, Tensor], augmentation: Augmentation | None, numbers: Tensor | None) -> dict[str, Tensor]:
    """A batch with its images varied, and masks alike; without augmentation the batch itself.

    Args:
        batch: Name → tensor with one row an example, on any device.
        augmentation: How.
        numbers: As for [`Augmentation`].
    """
    if augmentation is None:
        return batch
    pixels, labels = batch["pixel_values"], batch.get("labels")
    if labels is not None and labels.dim() == 3:
        pixels, labels = augmentation.with_masks(pixels, labels, numbers)
        return {**batch, "pixel_values": pixels, "labels": labels}
    return {**batch, "pixel_values": augmentation(pixels, numbers)}


def as_it_is(batch: Batch) -> Batch:
    """The collator of [`Examples`], whose batches are made already."""
    return batch
