"""From pictures to what a model's own image processor makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from know_hf.model_config import brief
from know_hf.remote import bounded
from know_hf.tasks.task import Inputs, Source

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor

#: The image processor beside a model.
PROCESSOR_FILE = "preprocessor_config.json"
# Pillow's modes by number of channels.
_MODES = {1: "L", 3: "RGB"}


def is_image(feature: Any) -> bool:
    """Whether a column holds pictures."""
    from datasets import Image as ImageFeature

    return isinstance(feature, ImageFeature)


#: Pictures as inputs.
IMAGES = Inputs("images", is_image, "Image()")


def eight_bit(image: Image.Image) -> Image.Image:
    """Brings 16-bit grey levels to 8 bits, which everything after takes pictures to have; others pass.

    Raises:
        ValueError: If it holds 32-bit integers or floating point, whose range nothing tells.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen:
        return Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"A picture holds {'32-bit integers' if image.mode == 'I' else 'floating point numbers'}, whose range is "
            "not known: convert such pictures to 8 or 16 bits first."
        )
    return image


@dataclass(frozen=True)
class ImageReader:
    """Turns pictures, and masks with them, into what a model wants.

    Args:
        mode: Pillow's mode for the model's number of channels.
        processor: The model's image processor, if any; it also goes with the model.
        options: What the processor is told with every call.
        mean: Without a processor, mean of each channel, ``(c, 1, 1)``, in units of the full range.
        std: Likewise, standard deviation of each channel.
        size: Without a processor, or where it takes no masks, the side of the squares that everything is resized to;
            None leaves pictures as they are.
    """

    mode: str
    processor: Any
    options: dict[str, Any]
    mean: Tensor
    std: Tensor
    size: int | None

    def __call__(self, images: list[Image.Image]) -> list[Tensor]:
        """Reads pictures, each ``(c, h, w)`` float32."""
        images = [self._prepared(image) for image in images]
        if self.processor is None:
            return [self._pixels(self._squared(image, Image.Resampling.BICUBIC)) for image in images]
        return [self._processed(image)["pixel_values"][0] for image in images]

    def with_masks(self, images: list[Image.Image], masks: list[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
        """Reads pictures, each ``(c, h, w)`` float32, and their masks ``(H, W)``, each ``(h, w)`` int64.

        Raises:
            ValueError: If the image processor makes no labels for every pixel.
        """
        if self.takes_masks:
            pairs = [(self._prepared(image), [mask]) for image, mask in zip(images, masks, strict=True)]
            pixels = [self._processed(i, segmentation_maps=m)["pixel_values"][0] for i, m in pairs]
            # Some processors interpolate masks as they do pictures, which makes classes that are in none of them.
            nearest = {"resample": Image.Resampling.NEAREST}
            made = [self._processed(i, segmentation_maps=m, **nearest) for i, m in pairs]
            if "labels" not in made[0]:
                raise ValueError(
                    f"The {type(self.processor).__name__} makes {', '.join(made[0])} of masks, no labels for every "
                    "pixel: give another image processor, or prepared data with a data_collator."
                )
            return pixels, [one["labels"][0].long() for one in made]
        images = [self._squared(self._prepared(image), Image.Resampling.BICUBIC) for image in images]
        still = {"do_resize": False, "do_center_crop": False}
        pixels = [
            self._pixels(image) if self.processor is None else self._processed(image, **still)["pixel_values"][0]
            for image in images
        ]
        squares = [self._squared(Image.fromarray(mask), Image.Resampling.NEAREST) for mask in masks]
        return pixels, [torch.from_numpy(np.array(mask, dtype=np.int64)) for mask in squares]

    @property
    def companion(self) -> Any:
        """The image processor to save with the model; timm's lies in the configuration."""
        return None if hasattr(self.processor, "val_transforms") else self.processor

    @property
    def takes_masks(self) -> bool:
        """Whether the image processor reads masks beside their pictures."""
        return self.processor is not None and "segmentation_maps" in signature(self.processor.preprocess).parameters

    def _prepared(self, image: Image.Image) -> Image.Image:
        image = eight_bit(image)
        # A processor that converts knows how, with transparency perhaps.
        own = self.mode == "RGB" and getattr(self.processor, "do_convert_rgb", False)
        return image if own or image.mode == self.mode else image.convert(self.mode)

    def _processed(self, image: Image.Image, **options: Any) -> dict[str, list[Tensor]]:
        return self.processor(images=[image], return_tensors="pt", **self.options, **options)

    def _squared(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        if self.size is None or image.size == (self.size, self.size):
            return image
        return image.resize((self.size, self.size), resample=resample)

    def _pixels(self, image: Image.Image) -> Tensor:
        values = np.asarray(image).reshape(image.height, image.width, len(image.getbands()))
        return (torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 255 - self.mean) / self.std


def image_reader(
    config: PreTrainedConfig, source: Source, image_size: int | None, *, given: Any = None, square: bool = False
) -> ImageReader:
    """Finds how a model wants its pictures: what its own image processor does, if it has one.

    Args:
        config: The model's configuration, or its vision encoder's.
        source: Folder or Hub id that may hold an image processor; by default where the configuration came from.
        image_size: Side in pixels, instead of the model's own.
        given: The caller's own image processor, or a processor that has one, to use instead; others are not looked at.
        square: There are masks: where the processor does not take them, all is resized to squares, of the
            configuration's size if nothing else is known, and never cropped.

    Returns:
        An [`ImageReader`].

    Raises:
        ValueError: If squares are asked for and nothing says how large, or the channels do not fit.
    """
    processor = own_processor(given)
    source = source or getattr(config, "_name_or_path", None)
    described = getattr(config, "pretrained_cfg", None)
    if described and (processor is None or hasattr(processor, "val_transforms")):
        processor = _timm_processor(config, described, image_size)
    else:
        processor = processor or saved_processor(source)
        processor = processor and _resized(processor, image_size)
    channels = _channels(config, processor)
    if channels not in _MODES:
        raise ValueError(f"The model reads {channels} channels; pictures have 1 or 3: pass a data_collator.")
    options = {} if channels > 1 or processor is None or described else _one_channel(processor)
    # Networks of our own say what their pixels are in their configuration.
    mean, std = (torch.full((channels, 1, 1), _number(config, name, 0.5)) for name in ("image_mean", "image_std"))
    reader = ImageReader(_MODES[channels], processor, options, mean, std, image_size)
    if not square or reader.takes_masks or image_size is not None:
        return reader
    own = dict(getattr(processor, "size", None) or {})
    side = own.get("height") or own.get("shortest_edge") or getattr(config, "image_size", None)
    if not isinstance(side, int):
        raise ValueError("Say how large the images are: image_size=…; neither model nor processor do.")
    return replace(reader, size=side)


def _number(config: PreTrainedConfig, name: str, otherwise: float) -> float:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, (int, float)) else otherwise


def _timm_processor(config: PreTrainedConfig, described: dict[str, Any], image_size: int | None) -> BaseImageProcessor:
    """What timm itself does to pictures for this network."""
    from transformers import TimmWrapperImageProcessor

    if image_size is not None:  # in the configuration too, which is what is saved of it
        described = {**described, "input_size": [described["input_size"][0], image_size, image_size]}
        config.pretrained_cfg = described
    return TimmWrapperImageProcessor(pretrained_cfg=described, architecture=getattr(config, "architecture", None))


def own_processor(given: Any) -> BaseImageProcessor | None:
    """The image processor that a caller's processing class is or has, if any."""
    given = getattr(given, "image_processor", given)
    from transformers.image_processing_utils import BaseImageProcessor

    return given if isinstance(given, BaseImageProcessor) else None


@bounded()
def saved_processor(source: Source) -> BaseImageProcessor | None:
    """The image processor beside a model, if there is one.

    Raises:
        ValueError: If it is damaged.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source) if source else None
    except OSError as error:
        if source and (file := Path(source) / PROCESSOR_FILE).exists():
            raise ValueError(f"{file} cannot be read: {brief(error)}") from error
        return None
    except ImportError:
        raise
    except Exception as error:  # the library raises many types for a file that is none of it
        if not source or not (Path(source) / PROCESSOR_FILE).exists():
            raise
        raise ValueError(f"The image processor in {str(source)!r} cannot be loaded: {brief(error)}") from error


def _resized(processor: BaseImageProcessor, image_size: int | None) -> BaseImageProcessor:
    """The same image processor for pictures of another size."""
    if image_size is None:
        return processor
    size, crop = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
    crops = bool(getattr(processor, "do_center_crop", False) and crop)
    edge = size.get("shortest_edge")
    # As large a share is cut off as at the processor's own size.
    grown = round(image_size * edge / crop["height"]) if crops and edge and crop.get("height") else image_size
    square = {"height": image_size, "width": image_size}
    changed = {"do_resize": True, "size": {"shortest_edge": grown} if edge else square}
    changed |= {"crop_size": square} if crops else {}
    return type(processor).from_dict({**processor.to_dict(), **changed})


def _channels(config: PreTrainedConfig, processor: BaseImageProcessor | None) -> int:
    """Number of channels that a model reads."""
    if settings := getattr(config, "pretrained_cfg", None):
        return settings["input_size"][0]
    for described in (config, getattr(config, "vision_config", None)):
        if isinstance(found := getattr(described, "num_channels", None), int):
            return found
    mean = getattr(processor, "image_mean", None)
    return 1 if isinstance(mean, (list, tuple)) and len(mean) == 1 else 3


def _one_channel(processor: BaseImageProcessor) -> dict[str, Any]:
    """What an image processor has to be told about a one-channel model's pictures: it may be made for three."""
    found: dict[str, Any] = {"do_convert_rgb": False} if getattr(processor, "do_convert_rgb", False) else {}
    for name in ("image_mean", "image_std"):
        values = getattr(processor, name, None)
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if len(set(values)) > 1:
            raise ValueError(
                f"The model reads one channel, its image processor states {name} {values} for {len(values)}: save a "
                "processor with one value beside the model."
            )
        if values[0] is not None:
            found[name] = values[:1]
    return found
