"""What a caller says about checkpoints of his own: looked at, and answered in words, before anything is made of it."""

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from know_hf.trajectory.checkpoint import TrajectoryError
from know_hf.trajectory.kinds import KINDS, Parameter
from know_hf.trajectory.names import match_names

logger = logging.getLogger(__name__)

# Names that a message gives before it says how many more there are.
_SHOWN = 4


def given_folders(checkpoints: Sequence[str | Path]) -> list[Path]:
    """The folders of given checkpoints, in stage order.

    Raises:
        TrajectoryError: If one is missing or given twice, or there are fewer than two.
        TypeError: If this is not a list of paths.
    """
    if isinstance(checkpoints, (str, os.PathLike)) or not isinstance(checkpoints, Iterable):
        raise TypeError(f"checkpoints is {checkpoints!r}; give a list of folders, one for each stage, stage 0 first.")
    folders = []
    for checkpoint in checkpoints:
        if not isinstance(checkpoint, (str, os.PathLike)):
            raise TypeError(f"checkpoints: {checkpoint!r:.80} is not the path of a folder.")
        folders.append(Path(checkpoint))
    if len(folders) < 2:
        raise TrajectoryError(f"A trajectory needs at least 2 checkpoints, one for each stage; found {len(folders)}.")
    seen: dict[Path, int] = {}
    for stage, folder in enumerate(folders):
        if not folder.is_dir():
            what = "is a file; give the folder that it lies in." if folder.exists() else (
                "is not a folder. Of a model on the Hub, give the folder that snapshot_download returns."
            )  # fmt: skip
            raise TrajectoryError(f"Checkpoint {str(folder)!r}, given as stage {stage}, {what}")
        first = seen.setdefault(folder.resolve(), stage)
        if first != stage:
            raise TrajectoryError(f"{folder} is given twice, as stage {first} and as stage {stage}.")
    return folders


def given_kinds(kinds: Mapping[str, str | Parameter], tensors: Collection[str]) -> dict[str, Parameter]:
    """The parameters that a caller's ``kinds`` describe, by the names of the stored tensors.

    Raises:
        ValueError: If a kind is unknown, or something is named that is not stored.
    """
    for name, kind in kinds.items():
        if not isinstance(kind, Parameter) and kind not in KINDS:
            raise ValueError(f"kinds: {kind!r} of {name!r} is not known; use one of {list(KINDS)}.")
    names = match_names(kinds, tensors)
    # What was read from a live module also has names that are not stored (of tied tensors, for example).
    absent = [n for n, kind in kinds.items() if not isinstance(kind, Parameter) and n not in names.values()]
    if absent or not names:
        raise ValueError(
            f"kinds: the checkpoints hold no {listed(absent or list(kinds))}; they hold {listed(list(tensors))}."
        )
    given = {name: kinds[known] for name, known in names.items()}
    return {n: kind if isinstance(kind, Parameter) else Parameter(kind, "given") for n, kind in given.items()}


def report_unmatched(parameters: Collection[str], tensors: Collection[str], source: str) -> None:
    """Names the stored tensors that a model does not have.

    Raises:
        ValueError: If it has none of them.
    """
    absent = [name for name in tensors if name not in parameters]
    if absent and len(absent) == len(tensors):
        raise ValueError(f"{source} has no tensor of the checkpoints: they hold {listed(absent)}.")
    if absent:
        logger.warning("%s does not have %s, which will be copied.", source, listed(absent))


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
