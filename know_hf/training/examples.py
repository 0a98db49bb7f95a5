"""Examples as tensors, made once, gathered batch by batch, varied at random where asked."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from know_hf.training.options import Augmentation

Batch = TypeVar("Batch")


class Examples(Dataset):
    """All examples as tensors, read by index, so that a batch is one indexing operation.

    Args:
        inputs: Name → tensor with one row an example.
        rows: Which rows this view holds; all by default.
        augmentation: Applied to ``pixel_values``, and to ``labels`` that are masks, whenever examples are read.
    """

    def __init__(
        self,
        inputs: dict[str, Tensor],
        rows: Sequence[int] | np.ndarray | Tensor | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.inputs, self.augmentation = inputs, augmentation
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
        if self.augmentation is not None:
            pixels, labels = batch["pixel_values"], batch.get("labels")
            if labels is not None and labels.dim() == 3:
                batch["pixel_values"], batch["labels"] = self.augmentation.with_masks(pixels, labels)
            else:
                batch["pixel_values"] = self.augmentation(pixels)
        return batch

    def select(self, positions: Sequence[int] | np.ndarray) -> "Examples":
        """A view of some of this view's examples."""
        return Examples(self.inputs, self.rows[torch.as_tensor(positions)], self.augmentation)

    def augmented(self, augmentation: Augmentation | None) -> "Examples":
        """A view of the same examples, varied at random or, with None, as they are."""
        return Examples(self.inputs, self.rows, augmentation)


def as_it_is(batch: Batch) -> Batch:
    """The collator of [`Examples`], whose batches are made already."""
    return batch
