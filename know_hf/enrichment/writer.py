"""Folders written beside their target and renamed when complete: a copy of stage 0 with some byte ranges replaced."""

import errno
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from know_hf.checkpoints.patch import CheckpointPatch
from know_hf.reading import read_fields
from know_hf.records import ENRICHMENT_FILE
from know_hf.store import partial_name, publish, remove, write_json, write_text
from know_hf.trajectory import Checkpoint

# What reports and pushes read of it.
_FORM = {"method": str, "step": int, "metrics": dict[str, float], "baseline": dict[str, float] | None,
         "statistics": dict[str, dict[str, float]], "predicted": dict[str, int] | None,
         "sha256": dict[str, str] | None, "reset": list[str] | None, "remarks": list[str] | None}  # fmt: skip


def read_enrichment(folder: Path) -> dict[str, Any]:
    """What an enriched folder says about itself.

    Raises:
        FileNotFoundError: If it says nothing.
        ValueError: If its file is damaged or of something else.
    """
    return read_fields(folder / ENRICHMENT_FILE, _FORM)


def describe_again(folder: Path, content: dict[str, Any], card: str) -> None:
    """Replaces what a finished folder says about itself; a kill in between leaves what asks for it again."""
    write_text(folder / "README.md", card)
    write_json(folder / ENRICHMENT_FILE, content)


class PartialFolder:
    """A checkpoint folder in the making.

    Args:
        final: The folder's final name; until [`commit`] everything happens in a hidden one beside it.
    """

    def __init__(self, final: Path):
        self.final = final
        self.path = partial_name(final)

    def begin(self, folder: Path, files: Iterable[Path]) -> None:
        """Copies a checkpoint's weights and companion files (configuration, tokenizer …), given relative to it."""
        remove(self.path)
        self.path.mkdir(parents=True)
        for relative in files:
            (self.path / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / relative, self.path / relative)

    def fill(self, values: Mapping[str, float]) -> None:
        """Gives every weight of some tensors, by name, one value."""
        with CheckpointPatch(self.path) as patch:
            tensors = Checkpoint(self.path).tensors if values else {}
            for name, value in values.items():
                patch.write(name, 0, torch.full((tensors[name].numel,), value))

    def describe(self, content: dict[str, Any], card: str) -> None:
        """Writes ``enrichment.json`` and the model card."""
        write_json(self.path / ENRICHMENT_FILE, content)
        write_text(self.path / "README.md", card)

    def commit(self) -> None:
        """Gives the folder its final name, in place of a damaged one."""
        remove(self.final)
        publish(self.path, self.final)

    def discard(self) -> None:
        """Removes what was written so far."""
        with suppress(OSError):
            remove(self.path)


def check_targets(sources: Iterable[Checkpoint], targets: Iterable[Path]) -> None:
    """Refuses folders that are, or lie in, an input or another model.

    Raises:
        FileExistsError: If one is.
    """
    inputs = [source.folder.resolve() for source in sources]
    for path in targets:
        if any(path.resolve() == source or source in path.resolve().parents for source in inputs):
            raise FileExistsError(f"{path} is, or lies in, an input checkpoint; choose another output_dir.")
        if any((path.parent / name).exists() for name in ("config.json", "adapter_config.json")):
            raise FileExistsError(f"{path.parent} is a model's folder; choose another output_dir.")


def say_full(error: BaseException) -> None:
    """Raises in words, as an ``OSError``, what a full disk stopped; anything else is left to the caller."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise OSError(
            errno.ENOSPC, f"the disk is full; nothing was left half-written. Free space and run again ({error})"
        ) from error
