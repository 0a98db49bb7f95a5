"""The data of a comparison as every arm reads them: with its own tokenizer or image processor, where it brings one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoConfig

from know_hf.model_config import brief
from know_hf.models.adapters import base_of
from know_hf.models.reader_files import reader_files
from know_hf.store import hash_file
from know_hf.tasks import Columns, get_task
from know_hf.training.prepared import open_examples, prepare

#: What no answer is, as transformers has it.
_NONE = -100


def reader_of(folder: Path) -> str | None:
    """What tells the tokenizer or image processor of a folder from others; None where it brings none.

    Example:
        >>> from know_hf.laboratory.readers import reader_of
        >>> reader_of("a/folder/without/one") is None
        True
    """
    found = [(path.name, hash_file(path)) for path in reader_files(Path(folder))]
    config = Path(folder) / "config.json"
    if config.is_file():  # timm's networks say there how they want their pictures
        described = json.loads(config.read_text(encoding="utf-8")).get("pretrained_cfg")
        found += [("pretrained_cfg", json.dumps(described, sort_keys=True))] if described else []
    if not found:
        return None
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:20]


def prepare_for(
    folders: Mapping[str, Path],
    data: Mapping[str, Dataset],
    cache_dir: Path,
    columns: Columns,
    known: Columns,
    *,
    image_size: int | None = None,
    max_length: int | None = None,
) -> dict[str, dict[str, Path]]:
    """Prepares data for every arm, in the same order for all; what reads alike shares them.

    Args:
        folders: Name → checkpoint, the reference first. One without tokenizer or image processor takes the reference's.
        data: Part → data.
        cache_dir: Folder of prepared data.
        columns: What the data hold.
        known: The same, with the classes in the order of the heads.
        image_size: As for [`prepare`](know_hf.training.prepared).
        max_length: As for [`prepare`](know_hf.training.prepared).

    Returns:
        Arm → part → file for [`open_examples`](know_hf.training.prepared).

    Raises:
        ValueError: If an arm cannot read the data, or answers are not the same for all, as of texts that another
            tokenizer cuts into other tokens.
    """
    task = get_task(known.task)
    made: dict[str | None, dict[str, Path]] = {}
    found: dict[str, dict[str, Path]] = {}
    reference, first = next(iter(folders.items()))
    usual = reader_of(first)
    for name, folder in folders.items():
        reader = reader_of(folder) or usual
        if reader not in made:
            # The cache tells data apart by their first rows, by which two tokenizers may well agree.
            place = cache_dir if not made else cache_dir / f"read-{reader}"
            try:
                if made and task.columns_for(columns, folder) != task.columns_for(columns, first):
                    raise ValueError(f"It reads other classes than {reference!r} in the same data.")
                config = AutoConfig.from_pretrained(base_of(folder))
                if known.class_names:
                    config.num_labels = len(known.class_names)
                own = {
                    part: prepare(rows, place, SimpleNamespace(config=config), folder, known,
                                  name=f"{part} data", image_size=image_size, max_length=max_length)
                    for part, rows in data.items()
                }  # fmt: skip
            except (ValueError, FileNotFoundError) as error:
                if not made:
                    raise
                raise ValueError(f"Arm {name!r} cannot read the data: {brief(error)}") from error
            made[reader] = _shared(name, own, reference, made[usual]) if made else own
        found[name] = made[reader]
    return found


def _shared(name: str, own: dict[str, Path], reference: str, usual: dict[str, Path]) -> dict[str, Path]:
    """The reference's data where an arm's are the same.

    Raises:
        ValueError: If other answers are asked for.
    """
    same = True
    for part, path in own.items():
        mine, theirs = (open_examples(file).inputs for file in (path, usual[part]))
        alike = mine.keys() == theirs.keys() and all(_equal(mine[key], theirs[key]) for key in mine)
        if not alike and not _same_answers(mine.get("labels"), theirs.get("labels")):
            raise ValueError(
                f"Arm {name!r} brings another tokenizer or image processor than {reference!r}, by which the answers to "
                f"the {part} data are others: their scores cannot be compared. Compare starts that share it, or delete "
                f"that of {name!r} if its weights are of the reference's."
            )
        same = same and alike
    return usual if same else own


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _same_answers(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether answers are the same, however far their rows are filled up."""
    if one is None or other is None or len(one) != len(other) or one.ndim != other.ndim:
        return False
    if one.ndim != 2:
        return _equal(one, other)
    given = [labels != _NONE for labels in (one, other)]
    return _equal(given[0].sum(1), given[1].sum(1)) and _equal(one[given[0]], other[given[1]])
