"""What a dry run knows of data: those that are at hand, or what a recipe declares of those that are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, ReadInstruction

from know_hf.laboratory.recipe import Recipe
from know_hf.laboratory.setting import Downstream, Pretraining
from know_hf.tasks import Columns
from know_hf.training.data import load_split, open_parts
from know_hf.training.held_out import hold_out

#: The task of data that are only declared, where nothing says another.
_IMAGES = "image-classification"
# Tasks whose answers are texts, of no classes.
_TEXTS = ("image-to-text", "text-generation")


@dataclass(frozen=True)
class Data:
    """What is known of data.

    Args:
        sizes: Examples by part.
        columns: What the data hold.
        rows: The training examples, where they are at hand.
        side: Side of images in pixels, where it is declared.
    """

    sizes: dict[str, int]
    columns: Columns
    rows: Dataset | None = None
    side: int | None = None


def read_data(
    recipe: Recipe, part: Pretraining | Downstream, splits: Mapping[str, str | None], unknown: list[str]
) -> Data | None:
    """Reads data that are at hand, or their declaration.

    Args:
        recipe: It.
        part: What names the data.
        splits: ``train`` and other parts → split, or None.
        unknown: What is missing joins it, in words.

    Returns:
        What is known; None where that is not enough.
    """
    place, named = recipe.data(part.dataset), {role: split for role, split in splits.items() if split is not None}
    held_out = part.held_out if isinstance(part, Downstream) else None
    if Path(place).exists():
        parts: dict[str, Any] = {role: load_split(place, split) for role, split in named.items()}
        if held_out is not None:
            parts = hold_out(parts, held_out)
        parts, columns = open_parts(parts, task=part.task, label=part.label_column)
        return Data({role: len(rows) for role, rows in parts.items()}, columns, parts["train"])
    declared = recipe.data_sets.get(part.dataset)
    if declared is None:
        unknown.append(f"{part.dataset} is neither in the data_folder nor declared in the recipe's data_sets.")
        return None
    task = part.task or _IMAGES
    try:
        sizes = {role: _declared(declared, split) for role, split in named.items()}
        if held_out is not None:
            (value,) = held_out.values()
            apart = declared[str(value)]
            sizes = {role: apart if role == "test" else size - apart for role, size in sizes.items()}
        classes = 0 if task in _TEXTS else declared["classes"]
    except (KeyError, ValueError) as error:
        unknown.append(f"data_sets does not say enough of {part.dataset}: {error}.")
        return None
    columns = Columns(task, ["image"], part.label_column or "label", [str(number) for number in range(classes)])
    return Data(sizes, columns, side=declared.get("image_size"))


def _declared(declared: Mapping[str, int], split: str) -> int:
    """Examples of a split, slices such as ``train[:25%]`` included."""
    parts = ReadInstruction.from_spec(split).to_absolute(declared)
    return sum(part.to - part.from_ for part in parts)
