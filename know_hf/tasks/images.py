"""From pictures to what a model's configuration or image processor asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor


@dataclass(frozen=True)
class ImageReader:
    """Turns pictures into pixels as a model wants them.

    Args:
        mean: Mean of each channel, ``(1, c, 1, 1)``, in units of the full range.
        std: Standard deviation of each channel, likewise.
        size: Side in pixels; None leaves pictures as they are.
        processor: The image processor to use instead, if any; it also goes with the model.
        own_size: Whether the processor decides the size.

    Source: ours.
    """

    mean: Tensor
    std: Tensor
    size: int | None = None
    processor: Any = None
    own_size: bool = False

    def __call__(self, images: list[Image.Image]) -> Tensor:
        """Reads pictures of one size: ``(n, c, h, w)`` float32."""
        if self.own_size:
            return self.processor([i.convert("RGB") for i in images], return_tensors="pt")["pixel_values"]
        pixels = torch.from_numpy(np.stack([self._read(image) for image in images])).permute(0, 3, 1, 2)
        return (pixels.float() / 255 - self.mean) / self.std

    def _read(self, image: Image.Image) -> np.ndarray:
        channels = self.mean.shape[1]
        image = image.convert("L" if channels == 1 else "RGB")
        if self.size and image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), resample=Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(image.height, image.width, channels)


def image_reader(config, source: str | Path | None, image_size: int | None, *, square: bool = False) -> ImageReader:
    """Finds how a model wants its pictures.

    Args:
        config: The model's configuration, or its vision encoder's.
        source: Folder or Hub id that may hold an image processor; None without one.
        image_size: Side in pixels, instead of the model's own.
        square: Always resize to squares, of the configuration's size if nothing else is known, and never let the
            processor crop: what a mask needs to stay in its place.

    Returns:
        An [`ImageReader`].

    Raises:
        ValueError: If squares are asked for and nothing says how large.

    Source: ours.
    """
    settings = getattr(config, "pretrained_cfg", None) or {}
    processor = None
    if not settings and source is not None:
        try:
            processor = AutoImageProcessor.from_pretrained(source)
        except OSError:
            processor = None
    mean = settings.get("mean") or getattr(processor, "image_mean", None) or [0.5]
    std = settings.get("std") or getattr(processor, "image_std", None) or [0.5]
    channels = (settings.get("input_size") or [getattr(config, "num_channels", 3)])[0]
    given = image_size
    if image_size is None and settings.get("input_size"):
        image_size = settings["input_size"][-1]
    if square and image_size is None:
        known = dict(getattr(processor, "size", None) or {})
        image_size = known.get("height") or known.get("shortest_edge") or getattr(config, "image_size", None)
        if not isinstance(image_size, int):
            raise ValueError("Say how large the images are: image_size=…; neither model nor processor do.")
    shape = (1, -1, 1, 1)
    mean, std = torch.tensor(mean[:channels]).view(shape), torch.tensor(std[:channels]).view(shape)
    own_size = processor is not None and given is None and not square
    return ImageReader(mean.expand(1, channels, 1, 1), std.expand(1, channels, 1, 1), image_size, processor, own_size)
