"""The images that trials are run on: prepared once for each data set."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset

from know_hf.meta.networks import CLASSES
from know_hf.tasks import Columns, find_columns
from know_hf.training.data import load_split
from know_hf.training.prepared import prepare

#: Test examples that scores are measured on, and the side of the images in pixels.
TEST_EXAMPLES, SIDE = 1000, 32


def prepare_images(
    data: Sequence[str], cache_dir: Path, largest: int, shared: bool = False
) -> dict[str, tuple[Path, Path]]:
    """Prepares the images of every data set once.

    Args:
        data: Hub ids or folders of image data sets with ten classes.
        cache_dir: Folder for the prepared images.
        largest: Training examples that a trial may need.
        shared: Whether other machines may be preparing the same.

    Returns:
        Last part of each name → files of training and test examples, for [`open_examples`].

    Raises:
        FileNotFoundError: If a data set cannot be found.
        ValueError: If two share a name, or one is too small or has other than ten classes.
    """
    loaded = {}
    for name, source in named_sources(data).items():  # all of them, before the first is prepared
        train, test = (load_split(source, part) for part in ("train", "test"))
        columns = image_columns(source, train, largest)
        loaded[name] = columns, train.select(range(largest)), test.select(range(min(TEST_EXAMPLES, len(test))))
    return {
        name: (
            prepare_part(train, columns, cache_dir, name, shared),
            prepare_part(test, columns, cache_dir, name, shared),
        )
        for name, (columns, train, test) in loaded.items()
    }


def named_sources(data: Sequence[str]) -> dict[str, str]:
    """Last part of each name → the name; ``ValueError`` if two share it."""
    names = [str(name).rstrip("/").split("/")[-1] for name in data]
    if len(set(names)) < len(names):
        raise ValueError(f"Two data sets share a name: {', '.join(names)}.")
    return dict(zip(names, data, strict=True))


def image_columns(source: str, train: Dataset, needed: int) -> Columns:
    """The columns of a data set; ``ValueError`` if it has other than ten classes, or fewer images than needed."""
    columns = find_columns(train, task="image-classification")
    if len(columns.class_names) != CLASSES or len(train) < needed:
        raise ValueError(
            f"{source} has {len(columns.class_names)} classes and {len(train)} training images; trials need "
            f"{CLASSES} and {needed}: take smaller ranges of examples, no large trials, or other data."
        )
    return columns


def prepare_part(part: Dataset, columns: Columns, cache_dir: Path, name: str, shared: bool = False) -> Path:
    """Prepares some images, of one channel or three as they are; returns the file for [`open_examples`]."""
    colour = part[0][columns.inputs[0]].mode not in ("L", "1")
    like = SimpleNamespace(config=SimpleNamespace(num_channels=3 if colour else 1))
    return prepare(part, cache_dir, like, None, columns, image_size=SIDE, name=f"images of {name}", shared=shared)
