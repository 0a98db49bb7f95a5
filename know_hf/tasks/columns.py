"""Which columns of a data set a task reads, found by their types and names."""

import numpy as np
from datasets import ClassLabel, Dataset, Image, Value

from know_hf.progress import progress_bar
from know_hf.tasks.segmentation import NO_CLASS
from know_hf.tasks.table import get_task
from know_hf.tasks.task import Columns

#: Names that tell a mask from its image.
MASKS = ("mask", "masks", "label", "labels", "annotation", "segmentation_mask", "semantic_mask")
#: Names that tell a caption from other texts.
CAPTIONS = ("caption", "captions", "text", "sentence")


def find_columns(
    dataset: Dataset, *, task: str | None = None, inputs: list[str] | None = None, label: str | None = None
) -> Columns:
    """Finds the columns of a task by their types.

    Args:
        dataset: The data.
        task: A key of [`TASKS`](know_hf.tasks); by default what the columns are made for: classes mean
            classification, an image and its mask segmentation, an image and one text captioning, nothing but one text
            column a language model.
        inputs: The image column, or one or two text columns; found by type by default.
        label: The column of classes, masks or captions; found by type by default.

    Returns:
        The [`Columns`].

    Raises:
        ValueError: If a column is missing, none or several would do, or the task is unknown.

    Source: ours.
    """
    features = dataset.features
    for name in [*(inputs or []), *([label] if label else [])]:
        if name not in features:
            raise ValueError(f"There is no column {name!r}; found {_describe(features)}.")
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    texts = [n for n, f in features.items() if isinstance(f, Value) and f.dtype in ("string", "large_string")]
    found = get_task(task or _infer_task(features, images, texts, inputs, label))
    if found.answers == "mask" and label is None:  # before the input: both are images
        masks = [name for name in images if name not in (inputs or [])]
        label = _only([n for n in masks if n in MASKS] or (masks if inputs else []), features, "mask", "label_column")
    if inputs is None:
        readable = [name for name in (images if found.reads == "image" else texts) if name != label]
        option = "input_columns (an image column, or one or two text columns)"
        inputs = [_only(readable, features, "input", option)]
    if found.answers == "text":
        label = inputs[0]
    elif label is None and found.answers == "caption":
        label = _only([name for name in texts if name in CAPTIONS] or texts, features, "caption", "label_column")
    elif label is None:
        label = _only(_classes(features, inputs), features, "label", "label_column")
    name_classes = {"class": _class_names, "mask": _mask_classes}.get(found.answers)
    return Columns(found.name, inputs, label, name_classes(dataset, label) if name_classes else [])


def _infer_task(features, images: list[str], texts: list[str], inputs: list[str] | None, label: str | None) -> str:
    from_images = inputs[0] in images if inputs else bool([name for name in images if name != label])
    if label in images:
        return "image-segmentation"
    if label is None and not _classes(features, inputs or []):
        if from_images and len(images) > 1:
            return "image-segmentation"
        if from_images and texts:
            return "image-to-text"
        if texts == list(features):
            return "text-generation" if len(texts) == 1 else "text-classification"
    if from_images and label in texts and label in CAPTIONS:
        return "image-to-text"
    return "image-classification" if from_images else "text-classification"


def _classes(features, inputs: list[str]) -> list[str]:
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    named = [name for name in ("label", "labels") if name in features and name not in inputs]
    return labels or [name for name in named if not isinstance(features[name], Image)]


def _only(candidates: list[str], features, what: str, option: str) -> str:
    if len(candidates) != 1:
        raise ValueError(
            f"{'Several columns could' if candidates else 'No column can'} be the {what} ({_describe(features)}): "
            f"name it with {option}."
        )
    return candidates[0]


def _describe(features) -> str:
    return ", ".join(f"{name} ({getattr(f, 'dtype', None) or type(f).__name__})" for name, f in features.items())


def _class_names(dataset: Dataset, label: str) -> list[str]:
    feature = dataset.features[label]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    values = np.unique(dataset.with_format("numpy", columns=[label])[label][:])
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
        raise ValueError(
            f"Label column {label!r} holds {values.dtype} values; expected class indices from 0. "
            f"dataset.class_encode_column({label!r}) makes them."
        )
    return [str(i) for i in range(int(values.max()) + 1)]


def _mask_classes(dataset: Dataset, label: str) -> list[str]:
    """Classes 0 to the highest in any mask; nothing but the masks themselves says how many there are."""
    highest = 0
    for row in progress_bar(dataset.select_columns([label]), desc="Looking for classes in the masks", leave=False):
        values = np.asarray(row[label])
        highest = max(highest, int(values.max(where=values != NO_CLASS, initial=0)))
    return [str(i) for i in range(highest + 1)]
