"""Examples as tensors, made once, gathered batch by batch, varied at random where asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, shift and zoom of every image, one interpolation for all three.

    Args:
        rotation: Largest angle in degrees.
        shift: Largest shift along each axis, as a share of the side.
        zoom: Largest relative change of size of each axis.
        flip: Whether to mirror every other image.

    Source: paper section 5.2 (rotation 10°, shift 0.15, zoom 0.3; borders repeated, as Keras does).

    Example:
        >>> import torch
        >>> from know_hf.training.examples import Augmentation
        >>> Augmentation()(torch.zeros(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    rotation: float = 10.0
    shift: float = 0.15
    zoom: float = 0.3
    flip: bool = False

    def __call__(self, pixels: Tensor) -> Tensor:
        """Varies ``(n, c, h, w)`` images with numbers from torch's generator."""
        turn, across, down, wide, high = 2 * torch.rand(5, len(pixels)) - 1
        angle = turn * math.radians(self.rotation)
        wide, high = 1 + self.zoom * wide, 1 + self.zoom * high
        if self.flip:
            wide = wide * (2 * (torch.rand(len(pixels)) < 0.5) - 1)
        # Rows of the map from places in the result to places in the source, which span -1 … 1.
        cosine, sine = torch.cos(angle), torch.sin(angle)
        first = torch.stack((cosine * wide, -sine * high, 2 * self.shift * across), 1)
        second = torch.stack((sine * wide, cosine * high, 2 * self.shift * down), 1)
        grid = F.affine_grid(torch.stack((first, second), 1), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


class Examples(Dataset):
    """All examples as tensors, read by index, so that a batch is one indexing operation.

    Args:
        inputs: Name → tensor with one row an example.
        rows: Which rows this view holds; all by default.
        augmentation: Applied to ``pixel_values`` whenever examples are read.
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
            batch["pixel_values"] = self.augmentation(batch["pixel_values"])
        return batch

    def select(self, positions: Sequence[int] | np.ndarray) -> "Examples":
        """A view of some of this view's examples."""
        return Examples(self.inputs, self.rows[torch.as_tensor(positions)], self.augmentation)

    def augmented(self, augmentation: Augmentation | None) -> "Examples":
        """A view of the same examples, varied at random or, with None, as they are."""
        return Examples(self.inputs, self.rows, augmentation)


def as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The collator of [`Examples`], whose batches are made already."""
    return batch
