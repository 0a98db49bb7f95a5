"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from know_hf.metrics import scores
from know_hf.progress import progress_bar
from know_hf.tasks.images import IMAGES, image_reader, own_processor, saved_processor
from know_hf.tasks.shared import decoded, first, last_layer_of, on_reading, stack
from know_hf.tasks.task import Candidates, Columns, Labels, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel

#: Names that tell a mask from its image.
NAMES = ("mask", "masks", "label", "labels", "annotation", "segmentation_mask", "semantic_mask")

#: Value of mask pixels that belong to no class.
NO_CLASS = 255
#: Class names of masks that hold 0 and 255 and nothing else: 255 is then no gap but the foreground.
BINARY = ["0", "255"]

logger = logging.getLogger(__name__)


def _values(mask: Image.Image, columns: Columns) -> np.ndarray:
    """A mask's classes, ``(h, w)``; 255 is none."""
    found = np.asarray(mask)
    if found.ndim != 2:
        raise ValueError(f"Column {columns.label!r} holds colour images; a mask has one value a pixel, its class.")
    if columns.class_names == BINARY:
        found = found == NO_CLASS
    return found.astype(np.uint8 if found.dtype in (bool, np.uint8) else np.int32)


def mask_classes(dataset: Dataset, label: str) -> list[str]:
    """Names of the classes in masks, which are their values: 0 to the highest but 255, or 0 and 255 alone.

    Nothing but the masks themselves says how many classes there are.

    Raises:
        ValueError: If they are colour images, hold fewer than two classes, or grey levels.
    """
    found = mask_values(dataset, label)
    if found == {0, NO_CLASS}:
        logger.info("The masks hold 0 and 255 and nothing else: 255 is taken for the foreground, class 1.")
        return list(BINARY)
    classes = sorted(found - {NO_CLASS})
    highest = classes[-1] if classes else 0
    shown = ", ".join(map(str, sorted(found)[:6]))
    if highest < 1 or classes[0] < 0:
        raise ValueError(f"Column {label!r} holds the values {shown} only; a mask has two classes or more, from 0.")
    if len(classes) <= 4 and highest >= 64 and (NO_CLASS in found or highest > 200):
        raise ValueError(f"Column {label!r} holds the values {shown}: grey levels? Number the classes 0, 1, 2 ….")
    if 4 * len(classes) <= highest:
        logger.warning(
            "The masks hold only %d of the classes 0 to %d (%s …). If these are grey levels, number the classes 0, 1, "
            "2 … instead.", len(classes), highest, shown,
        )  # fmt: skip
    return [str(i) for i in range(highest + 1)]


def without_background(columns: Columns, source: Source, processing_class: Any = None) -> Columns:
    """Leaves out class 0 where the model's image processor makes it no class (``do_reduce_labels``).

    Args:
        columns: What is read of the masks.
        source: Folder or Hub id of the model.
        processing_class: The caller's own image processor, if any.

    Raises:
        ValueError: If fewer than two classes are left.
    """
    if not getattr(own_processor(processing_class) or saved_processor(source), "do_reduce_labels", False):
        return columns
    if len(columns.class_names) < 3:
        raise ValueError(
            f"The masks hold the classes {', '.join(columns.class_names)}, of which the model's image processor drops "
            "the first (do_reduce_labels): none is left to learn. Save a processor with do_reduce_labels=False."
        )
    return replace(columns, class_names=columns.class_names[1:])


def mask_values(dataset: Dataset, label: str) -> set[int]:
    """Every value that occurs in a column of masks.

    Raises:
        ValueError: If a mask is missing, or a colour image.
    """
    found: set[int] = set()
    masks = decoded(dataset.select_columns([label]))
    for i, row in enumerate(progress_bar(masks, desc="Looking for classes in the masks", leave=False)):
        if row[label] is None:
            raise ValueError(f"Column {label!r} misses the mask of row {i}.")
        values = np.asarray(row[label])
        if values.ndim != 2:
            raise ValueError(
                f"Column {label!r} holds colour images (row {i}); a mask has one value a pixel, its class."
            )
        found.update(np.unique(values).tolist())
    return {int(value) for value in found}


def check_masks(dataset: Dataset, columns: Columns, classes: int, what: str) -> None:
    """Looks at every mask before anything is trained or scored.

    Args:
        dataset: The data.
        columns: What to read.
        classes: Number of the model's classes.
        what: Whose data they are, for the messages.

    Raises:
        ValueError: If a mask is none, holds unknown classes, or all of them hold no class but 0.
    """
    if columns.label not in dataset.features:
        raise ValueError(f"The {what} have no column {columns.label!r}; found {', '.join(dataset.column_names)}.")
    found = mask_values(dataset, columns.label)
    reduced = columns.class_names[:1] == ["1"]
    known = set(map(int, BINARY)) if columns.class_names == BINARY else {*range(classes + reduced), NO_CLASS}
    if unknown := sorted(found - known):
        raise ValueError(
            f"Column {columns.label!r} of the {what} holds the values {', '.join(map(str, unknown[:6]))}; the classes "
            f"are {', '.join(columns.class_names[:6])}{' …' if len(columns.class_names) > 6 else ''}."
        )
    if columns.class_names != BINARY and found == {0, NO_CLASS}:
        raise ValueError(
            f"The masks of the {what} hold 0 and 255 and nothing else; 255 means no class in the training masks."
        )
    if not found - {NO_CLASS}:
        raise ValueError(f"The masks of the {what} hold no class at all.")


def class_maps(outputs: Any, labels: Tensor) -> Tensor:
    """Class of every pixel.

    Args:
        outputs: Scores ``(n, classes, h', w')`` at any resolution, alone or first of several.
        labels: ``(n, h, w)``.

    Returns:
        ``(n, h, w)`` int16.
    """
    found = F.interpolate(first(outputs).float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return found.argmax(1).short()


def metrics(classes: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """Makes a ``compute_metrics`` of mean IoU and mean class accuracy, as shares, over ``(n, h, w)`` class maps."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        confusion = scores.confusion_matrix(prediction.predictions, prediction.label_ids, classes)
        return {"mean_iou": scores.mean_iou(confusion), "mean_class_accuracy": scores.mean_class_accuracy(confusion)}

    return compute


def _find(candidates: Candidates) -> str:
    named = candidates.inputs or []
    masks = [name for name in candidates.images if name not in named]
    return candidates.only([n for n in masks if n in NAMES] or (masks if named else []), "mask", "label_column")


def _matches(candidates: Candidates) -> bool:
    pairs = candidates.unlabelled and candidates.from_images and len(candidates.images) > 1
    return candidates.label in candidates.images or pairs


#: A mask an example, a class for every pixel; not every class of a model need occur in the data.
MASKS = Labels(
    _find,
    names=mask_classes,
    check=check_masks,
    for_model=without_background,
    fewer_will_do=lambda names: names != BINARY,
)


@task(
    "image-segmentation",
    matches=_matches,
    inputs=IMAGES,
    labels=MASKS,
    auto_class="AutoModelForSemanticSegmentation",
    score=Score("mean_iou"),
    metrics=metrics,
    keep=class_maps,
    head=last_layer_of,
)
def preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, image_size: int | None = None
) -> Preprocessing:
    """Pixels ``(c, h, w)`` and classes ``(h, w)`` int64, as the model's image processor makes them of both.

    Where it has none that takes masks, both are resized to the same square.

    Raises:
        ValueError: If nothing says how large, or, as rows are read, if a mask is none or holds an unknown class.
    """
    reader = image_reader(model.config, source, image_size, given=processing_class, square=True)
    classes = model.config.num_labels
    if getattr(model.config, "semantic_loss_ignore_index", NO_CLASS) != NO_CLASS:
        logger.warning(
            "The model's semantic_loss_ignore_index is %s; it is now %d, as in the masks.",
            model.config.semantic_loss_ignore_index, NO_CLASS,
        )  # fmt: skip
        model.config.semantic_loss_ignore_index = NO_CLASS

    def transform(batch: dict[str, list]) -> dict[str, Any]:
        masks = [_values(mask, columns) for mask in batch[columns.label]]
        pixels, labels = reader.with_masks(batch[columns.inputs[0]], masks)
        for found in labels:
            if (known := found[found != NO_CLASS]).numel() and known.max() >= classes:
                raise ValueError(
                    f"Column {columns.label!r} holds class {int(known.max())}; the model knows 0 to {classes - 1}."
                )
        return {"pixel_values": pixels, "labels": labels}

    return Preprocessing(on_reading(columns, transform), stack, processing_class or reader.companion)
