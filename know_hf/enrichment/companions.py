"""Which files of a checkpoint's folder go into its enriched copies, and which weights stay behind."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from know_hf.model_config import ADAPTER_FILE
from know_hf.trajectory import Checkpoint, TrajectoryError

logger = logging.getLogger(__name__)

# The weights of the whole model in other formats are not predicted: beside those that are, they would be wrong.
_OTHER_WEIGHTS = ".bin .pt .pth .pkl .ckpt .h5 .msgpack .onnx .onnx_data .gguf .ot .tflite".split()
_LEFTOVERS = (".lock", ".partial", ".log")
# A README is written anew, and a run's records are not its checkpoint's.
_NOT_OURS = (
    "README.md",
    "trainer_state.json",
    "all_results.json",
    "run.yaml",
    "trajectory.json",
    "enrichment.json",
)
# What Trainer pickles beside a model.
_TRAINING = ("training_args.bin", "optimizer", "scheduler", "scaler", "rng_state")


@dataclass
class Companions:
    """Files of a checkpoint's folder.

    Args:
        files: What travels, the weights included; relative to the folder.
        left: Weights in other formats, what leads out of the folder, and an adapter's configuration beside the weights
            of a whole model, which stay behind.
        nbytes: Size of what travels.
    """

    nbytes: int = 0
    files: list[Path] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)


def companions(source: Checkpoint) -> Companions:
    """Sorts the files of a checkpoint's folder.

    Configurations, tokenizers and whatever else loading needs travel, also in sub-folders, and there safetensors, too:
    they are modules of their own (a projection of sentence-transformers, for example). In the folder itself only those
    safetensors do that are the checkpoint. Pickles, other formats of weights, hidden files and what training left
    behind never travel.

    Raises:
        TrajectoryError: If the checkpoint's own weights are links that lead out of the folder.
    """
    found, weights = Companions(), {path.resolve() for path in source.files}
    whole_model = not source.weight_file.name.startswith("adapter_")
    for path in sorted(_walk(source.folder)):
        relative = path.relative_to(source.folder)
        if any(part.startswith((".", "checkpoint-")) for part in relative.parts):
            continue
        if not path.is_file():  # a link to nothing, to a folder elsewhere, or to one that it lies in
            found.left.append(relative)
            continue
        own, top = path.resolve() in weights, relative.parent == Path()
        if not _belongs(path, source.folder):
            if own:
                raise TrajectoryError(f"{path} is a link that leads out of its folder; put the file itself there.")
            found.left.append(relative)
        elif path.suffix in _OTHER_WEIGHTS or top and path.suffix in (".npz", ".safetensors") and not own:
            if not path.name.startswith(_TRAINING):
                found.left.append(relative)
        elif top and path.name == ADAPTER_FILE and whole_model:
            found.left.append(relative)  # of an adapter whose weights stay behind
        elif top and path.name.endswith(".safetensors.index.json") and path != source.weight_file:
            found.left.append(relative)
        elif path.suffix not in _LEFTOVERS and not (top and path.name in _NOT_OURS):
            found.files.append(relative)
            found.nbytes += path.stat().st_size
    return found


def report_left(source: Checkpoint, left: list[Path]) -> None:
    """Says which weights of a folder do not go into its enriched copies."""
    if left:
        names = ", ".join(path.as_posix() for path in left)
        needed = [path.as_posix() for path in left if len(path.parts) > 1 and path.suffix in (".bin", ".pt", ".pth")]
        hint = f" Save {', '.join(needed)} as safetensors if loading needs it." if needed else ""
        logger.warning(
            "%s: %s stay behind; enriched folders hold safetensors, and nothing from outside.%s",
            source.folder, names, hint,
        )  # fmt: skip


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder, also below links to folders within it, and the links that lead nowhere or elsewhere."""
    root = folder.resolve()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        above = {here.resolve(), *here.resolve().parents, *(parent.resolve() for parent in here.parents)}
        for name in list(folders):
            target = (here / name).resolve()
            if (here / name).is_symlink() and (target in above or not target.is_relative_to(root)):
                folders.remove(name)
                yield here / name
        yield from (here / name for name in files)


def _belongs(path: Path, folder: Path) -> bool:
    """Whether a file, followed through links, lies in the folder, or in the download cache of the same repository."""
    target, root = path.resolve(), folder.resolve()
    homes = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    return any(target.is_relative_to(home) for home in homes)
