"""Options about data and models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from know_hf.settings import Options, documented, option
from know_hf.settings.registered import registered

if TYPE_CHECKING:
    from torch import Tensor


@documented
@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """What is read of a data set."""

    task: str | None = option(
        None,
        help="image-classification, text-classification, image-segmentation, image-to-text (captions), "
        "text-generation, multi-label-classification, text-regression, token-classification, text2text-generation, "
        "conversation, prompt-completion or audio-classification; inferred from the data by default.",
        usual=partial(registered, "know_hf.tasks", "task"),
    )
    dataset_config: str | None = option(
        None, help="Configuration (subset) of the data set, where it has several, such as sst2 of glue."
    )
    input_columns: Sequence[str] | None = option(None, help="Input columns; found by type by default.")
    label_column: str | None = option(None, help="Column of classes, masks or captions; found by type by default.")
    image_size: int | None = option(
        None, help="Side of the images in pixels, instead of the model's own.", limits=(1, 1 << 16)
    )
    max_length: int | None = option(
        None, help="Longest text in tokens; of a language model the length of its examples.", limits=(1, 1 << 30)
    )
    drop_incomplete: bool = option(
        False, help="Leave out rows that lack a text, an image or a label, which are refused otherwise."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class ModelCode(Options):
    """What a model's repository may do."""

    trust_remote_code: bool = option(False, help="Let code of the model's repository run.")


@documented
@dataclass(frozen=True, kw_only=True)
class ModelSource(ModelCode):
    """How a model that is named is loaded."""

    from_scratch: bool = option(False, help="Take only the architecture; the model may be timm/<architecture>.")
    revision: str | None = option(None, help="Revision of the model on the Hub.")


#: Random numbers that one image is varied by: rotation, shift and zoom along each axis, mirroring.
NUMBERS = 6


@documented
@dataclass(frozen=True)
class Augmentation(Options):
    """Random rotation, shift and zoom of every image, and of its mask alike, one interpolation for all three.

    Source: paper section 5.2 (rotation 10°, shift 0.15, zoom 0.3; borders repeated, as Keras does).

    Example:
        >>> import torch
        >>> from know_hf.training.options import Augmentation
        >>> Augmentation()(torch.zeros(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    rotation: float = option(10.0, help="Largest angle in degrees.")
    shift: float = option(0.15, help="Largest shift along each axis, as a share of the side.")
    zoom: float = option(0.3, help="Largest relative change of size of each axis.")
    flip: bool = option(False, help="Mirror every other image.")

    def __call__(self, pixels: "Tensor", numbers: "Tensor | None" = None) -> "Tensor":
        """Varies ``(n, c, h, w)`` images.

        Args:
            pixels: The images, on any device.
            numbers: ``(NUMBERS, n)`` in 0 … 1, what each of them is varied by; by default from torch's generator.
        """
        return self._taken(pixels, self._places(pixels, numbers), "bilinear")

    def with_masks(
        self, pixels: "Tensor", masks: "Tensor", numbers: "Tensor | None" = None
    ) -> tuple["Tensor", "Tensor"]:
        """Varies ``(n, c, h, w)`` images, and their ``(n, h, w)`` masks alike, whose values stay what they are."""
        places = self._places(pixels, numbers)
        moved = self._taken(masks.unsqueeze(1).to(pixels.dtype), places, "nearest")
        return self._taken(pixels, places, "bilinear"), moved.squeeze(1).to(masks.dtype)

    def _taken(self, values: "Tensor", places: "Tensor", mode: str) -> "Tensor":
        from torch.nn import functional as F

        return F.grid_sample(values, places, mode=mode, padding_mode="border", align_corners=False)

    def _places(self, pixels: "Tensor", numbers: "Tensor | None") -> "Tensor":
        """Where in the source every pixel of the result is taken from, ``(n, h, w, 2)``, -1 … 1."""
        import torch  # which takes longer than help has time for
        from torch.nn import functional as F

        if numbers is None:
            numbers = torch.rand(NUMBERS - 1, len(pixels))
            if self.flip:
                numbers = torch.cat((numbers, torch.rand(1, len(pixels))))
            numbers = numbers.to(pixels.device)
        turn, across, down, wide, high = 2 * numbers[: NUMBERS - 1] - 1
        angle = turn * math.radians(self.rotation)
        wide, high = 1 + self.zoom * wide, 1 + self.zoom * high
        if self.flip:
            wide = wide * (2 * (numbers[NUMBERS - 1] < 0.5) - 1)
        # Rows of the map from places in the result to places in the source, which span -1 … 1.
        cosine, sine = torch.cos(angle), torch.sin(angle)
        first = torch.stack((cosine * wide, -sine * high, 2 * self.shift * across), 1)
        second = torch.stack((sine * wide, cosine * high, 2 * self.shift * down), 1)
        return F.affine_grid(torch.stack((first, second), 1), list(pixels.shape), align_corners=False)
