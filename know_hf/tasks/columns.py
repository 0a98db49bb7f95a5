"""Which columns of a data set a task reads, found by their types and names."""

import re
from dataclasses import replace

from datasets import ClassLabel, Dataset, Image

from know_hf.tasks.labels import class_names, is_text
from know_hf.tasks.segmentation import mask_classes
from know_hf.tasks.table import get_task
from know_hf.tasks.task import Columns

#: Names that tell a mask from its image.
MASKS = ("mask", "masks", "label", "labels", "annotation", "segmentation_mask", "semantic_mask")
#: Names that tell a caption from other texts.
CAPTIONS = ("caption", "captions", "text", "sentence")
#: Names that tell classes from other columns; the first that is there counts.
LABELS = ("label", "labels", "class", "category")


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
        ValueError: If a column is missing, none or several would do, its classes are none, or the task is unknown.

    Source: ours.
    """
    return name_classes(dataset, find_roles(dataset, task=task, inputs=inputs, label=label))


def name_classes(dataset: Dataset, columns: Columns) -> Columns:
    """Adds the names of the classes to columns that were found by [`find_roles`].

    Raises:
        ValueError: If the label column holds no classes.

    Source: ours.
    """
    name = {"class": class_names, "mask": mask_classes}.get(get_task(columns.task).answers)
    return columns if name is None else replace(columns, class_names=name(dataset, columns.label))


def find_roles(
    dataset: Dataset, *, task: str | None = None, inputs: list[str] | None = None, label: str | None = None
) -> Columns:
    """[`find_columns`] without a look at the rows: class names are empty.

    Raises:
        ValueError: If a column is missing, none or several would do, or the task is unknown.

    Source: ours.
    """
    features = dataset.features
    for name in [*(inputs or []), *([label] if label else [])]:
        if name not in features:
            raise ValueError(f"There is no column {name!r}; found {_describe(features)}.")
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    texts = [name for name, feature in features.items() if is_text(feature) and not _is_identifier(name)]
    found = get_task(task or _infer_task(features, images, texts, inputs, label))
    if found.answers == "mask" and label is None:  # before the input: both are images
        masks = [name for name in images if name not in (inputs or [])]
        label = _only([n for n in masks if n in MASKS] or (masks if inputs else []), features, "mask", "label_column")
    if found.answers == "class" and label is None:  # before the input: both may be texts
        label = _only(_classes(features, inputs or []), features, "label", "label_column")
    if inputs is None:
        readable = [name for name in (images if found.reads == "image" else texts) if name != label]
        option = "input_columns (an image column, or one or two text columns)"
        inputs = [_only(readable, features, "input", option)]
    if found.answers == "text":
        label = inputs[0]
    elif label is None and found.answers == "caption":
        label = _only([name for name in texts if name in CAPTIONS] or texts, features, "caption", "label_column")
    return Columns(found.name, inputs, label, [])


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


def _is_identifier(name: str) -> bool:
    return bool(re.search(r"(^|[_ ])(id|idx|uid|uuid|guid|index)$", name.strip().lower()))


def _classes(features, inputs: list[str]) -> list[str]:
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    others = [name for name, feature in features.items() if name not in inputs and not isinstance(feature, Image)]
    named = {name.strip().lower(): name for name in reversed(others)}  # however they are capitalised
    return labels or [named[name] for name in LABELS if name in named][:1]


def _only(candidates: list[str], features, what: str, option: str) -> str:
    if len(candidates) != 1:
        raise ValueError(
            f"{'Several columns could' if candidates else 'No column can'} be the {what} ({_describe(features)}): "
            f"name it with {option}."
        )
    return candidates[0]


def _describe(features) -> str:
    return ", ".join(f"{name} ({getattr(f, 'dtype', None) or type(f).__name__})" for name, f in features.items())
