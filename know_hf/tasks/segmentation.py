"""Semantic segmentation: a class for every pixel."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from know_hf.metrics import scores
from know_hf.tasks.images import image_reader
from know_hf.tasks.task import Columns, Preprocessing, Score, Task, first, last_layer_of, on_reading, stack

#: Value of mask pixels that belong to no class.
NO_CLASS = 255


def preprocessing(
    model, source, columns: Columns, image_size: int | None, max_length: int | None, processing_class: Any
) -> Preprocessing:
    """Pixels ``(3, s, s)`` and classes ``(s, s)`` int64, both resized to the same square.

    Raises:
        ValueError: If nothing says how large, or, as rows are read, if a mask is none or holds an unknown class.

    Source: ours.
    """
    reader = image_reader(model.config, source, image_size, square=True)
    size, classes = (reader.size, reader.size), model.config.num_labels

    def read(mask: Image.Image) -> Tensor:
        found = np.array(mask.resize(size, resample=Image.Resampling.NEAREST), dtype=np.int64)
        if found.ndim != 2:
            raise ValueError(f"Column {columns.label!r} holds colour images; a mask has one value a pixel, its class.")
        if (wrong := found[found != NO_CLASS]).size and wrong.max() >= classes:
            raise ValueError(f"Column {columns.label!r} holds class {wrong.max()}; the model knows 0 to {classes - 1}.")
        return torch.from_numpy(found)

    def transform(batch: dict[str, list]) -> dict[str, Any]:
        return {
            "pixel_values": list(reader(batch[columns.inputs[0]])),
            "labels": [read(mask) for mask in batch[columns.label]],
        }

    return Preprocessing(on_reading(columns, transform), stack, processing_class or reader.processor)


def class_maps(outputs: Any, labels: Tensor) -> Tensor:
    """Class of every pixel.

    Args:
        outputs: Scores ``(n, classes, h', w')`` at any resolution, alone or first of several.
        labels: ``(n, h, w)``.

    Returns:
        ``(n, h, w)`` int16.

    Source: ours.
    """
    found = F.interpolate(first(outputs).float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return found.argmax(1).short()


def metrics(classes: int):
    """Makes a ``compute_metrics`` of mean IoU and mean class accuracy, as shares, over ``(n, h, w)`` class maps.

    Source: ours.
    """

    def compute(prediction) -> dict[str, float]:
        confusion = scores.confusion_matrix(prediction.predictions, prediction.label_ids, classes)
        return {"mean_iou": scores.mean_iou(confusion), "mean_class_accuracy": scores.mean_class_accuracy(confusion)}

    return compute


SEGMENTATION = Task(
    name="image-segmentation",
    reads="image",
    answers="mask",
    auto_class="AutoModelForSemanticSegmentation",
    preprocessing=preprocessing,
    score=Score("mean_iou"),
    metrics=metrics,
    keep=class_maps,
    head=last_layer_of,
)
