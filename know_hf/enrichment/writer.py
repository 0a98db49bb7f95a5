"""Folders written beside their target and renamed when complete: a copy of stage 0 with some byte ranges replaced."""

import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from know_hf.trajectory import Checkpoint
from know_hf.trajectory.checkpoint import DTYPES

ENRICHMENT_FILE = "enrichment.json"

# Weights in other formats, pickles and training leftovers never travel; a README is written anew.
_LEFT_BEHIND = ".bin .pt .pth .pkl .ckpt .h5 .msgpack .onnx .gguf .ot .tflite .npz .lock .partial .log".split()
_LEFT_BEHIND_NAMES = (
    "README.md",
    "trainer_state.json",
    "all_results.json",
    "run.yaml",
    "trajectory.json",
    ENRICHMENT_FILE,
)


class CheckpointPatch:
    """Overwrites byte ranges of a checkpoint's tensors in place; header and every other byte stay.

    Args:
        folder: A checkpoint folder of our own; never an input.
    """

    def __init__(self, folder: Path):
        self._checkpoint = Checkpoint(folder)
        self._files: dict[Path, BinaryIO] = {}

    def __enter__(self) -> "CheckpointPatch":
        return self

    def __exit__(self, *_) -> None:
        for file in self._files.values():
            file.close()

    def write(self, name: str, start: int, values: Tensor) -> Tensor:
        """Overwrites values from ``start`` of a flattened tensor, in its storage type.

        Returns:
            The values as stored, ``(n,)``.

        Raises:
            ValueError: If a value is not finite; nothing is written.
        """
        spec = self._checkpoint.tensors[name]
        stored = values.to(DTYPES[spec.dtype]).contiguous()
        if stored.is_floating_point() and not torch.isfinite(stored).all():
            raise ValueError(f"The prediction of tensor {name!r} is not finite in {spec.dtype}; nothing was written.")
        file = self._files.get(spec.file)
        if file is None:
            file = self._files[spec.file] = open(spec.file, "r+b", buffering=0)
        file.seek(spec.offset + start * spec.itemsize)
        view = memoryview(stored.view(torch.uint8).numpy())
        while view:
            view = view[file.write(view) :]
        return stored


def _belongs(path: Path, folder: Path) -> bool:
    """Whether a file, followed through links, lies in the folder, or in the download cache of the same repository."""
    target, root = path.resolve(), folder.resolve()
    homes = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    return any(target.is_relative_to(home) for home in homes)


class PartialFolder:
    """A checkpoint folder in the making.

    Args:
        final: The folder's final name; until [`commit`] everything happens in a hidden one beside it.
    """

    def __init__(self, final: Path):
        self.final = final
        self.path = final.with_name(f".{final.name}.partial")

    def begin(self, source: Checkpoint) -> None:
        """Copies a checkpoint's weights and companion files (configuration, tokenizer …)."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        weights = {path.resolve() for path in source.files}
        for path in sorted(source.folder.rglob("*")):
            relative = path.relative_to(source.folder)
            hidden = any(part.startswith((".", "checkpoint-")) for part in relative.parts)
            unwanted = path.suffix in _LEFT_BEHIND or path.name in _LEFT_BEHIND_NAMES
            foreign_weights = path.suffix == ".safetensors" and path.resolve() not in weights
            if path.is_file() and _belongs(path, source.folder) and not (hidden or unwanted or foreign_weights):
                (self.path / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.path / relative)

    def describe(self, content: dict[str, Any], card: str) -> None:
        """Writes ``enrichment.json`` and the model card."""
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (self.path / ENRICHMENT_FILE).write_text(text + "\n", encoding="utf-8")
        (self.path / "README.md").write_text(card, encoding="utf-8")

    def commit(self) -> None:
        """Gives the folder its final name."""
        self.path.replace(self.final)

    def discard(self) -> None:
        """Removes what was written so far."""
        shutil.rmtree(self.path, ignore_errors=True)
