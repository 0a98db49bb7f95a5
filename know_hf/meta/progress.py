"""A training's progress on disk: one set of files an epoch, of which the note that is written last says what counts."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from know_hf.forgetting.resume import OptimizerState
from know_hf.records import read_record
from know_hf.store import hash_file, remove, write_json, write_tensors
from know_hf.trajectory import TrajectoryError

_FIELDS = {"epoch": int, "best": float, "best_epoch": int, "history": list[tuple[float, float]]}


class Progress:
    """Epochs of one training, the best of which counts.

    The files of an epoch carry its number, so that none is overwritten while the note still names it; those that the
    note does not name are left by a killed process, and go.

    Args:
        folder: Where its files lie.
        name: What they begin with.
        module: What is trained; continued from where the files left it.
        optimizer: Its optimizer, likewise.
        epochs: Epochs at most.
        patience: Epochs without a better score after which it ends.

    Raises:
        TrajectoryError: If the files are damaged, or an earlier version's that cannot be continued from.
    """

    def __init__(
        self, folder: Path, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, patience: int
    ):
        self.folder, self.name, self.module, self.optimizer = folder, name, module, optimizer
        self.epochs, self.patience = epochs, patience
        self.state = read_state(folder, name) or {"epoch": 0, "best": math.inf, "best_epoch": -1, "history": []}
        if self.epoch and not self.ended:
            if "files" not in self.state:
                raise TrajectoryError(
                    f"{self._note} is of an earlier know-hf, which did not keep the parts of an epoch together: "
                    f"{self._remedy}."
                )
            self._load(self._weights(self.epoch))
            OptimizerState(self._check(self._moments(self.epoch))).load_into(optimizer)
        self._sweep()

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return self.state["epoch"]

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or nothing gets better any more."""
        return has_ended(self.state, self.epochs, self.patience)

    def finish_epoch(self, loss: float, score: float) -> None:
        """Notes an epoch; the smaller the score, the better.

        Raises:
            OSError: If it cannot be written; the epoch before is kept.
        """
        state = {**self.state, "history": [*self.state["history"], [loss, score]], "epoch": self.epoch + 1}
        if score < state["best"]:
            state |= {"best": score, "best_epoch": self.epoch}
        number, best = state["epoch"], state["best_epoch"] + 1
        kept = {self._weights(best)} if best else set()
        if not has_ended(state, self.epochs, self.patience):  # else only the best weights count
            OptimizerState(self._moments(number)).save(self.optimizer)
            kept |= {self._weights(number), self._moments(number)}
        if self._weights(number) in kept:
            write_tensors(self._weights(number), self.module.state_dict())
        state["files"] = {path.name: hash_file(path) for path in sorted(kept)}
        write_json(self._note, state, indent=None)
        self.state = state
        self._sweep()

    def load_best(self) -> None:
        """Puts the best epoch's weights into the module.

        Raises:
            TrajectoryError: If there are none, or they are damaged.
        """
        if self.state["best_epoch"] < 0:
            raise TrajectoryError(f"{self._note}: no epoch ended with a finite score; train otherwise.")
        older = self.folder / f"{self.name}-best.safetensors"
        self._load(self._weights(self.state["best_epoch"] + 1) if "files" in self.state else older)

    def _load(self, path: Path) -> None:
        try:
            self.module.load_state_dict(load_file(self._check(path)))
        except (OSError, SafetensorError, RuntimeError) as error:  # torch's for tensors of other names or shapes
            raise TrajectoryError(f"{path} is missing or damaged ({error}); {self._remedy}.") from error

    def _check(self, path: Path) -> Path:
        """Raises if a file is not the one that was written with the note."""
        noted = self.state.get("files")
        if noted is not None and (not path.is_file() or hash_file(path) != noted.get(path.name)):
            raise TrajectoryError(f"{path} is missing or damaged; {self._remedy}.")
        return path

    def _sweep(self) -> None:
        """Deletes files of epochs that no longer count, or were never noted."""
        pattern = re.compile(rf"(\.tensors)?\.?{re.escape(self.name)}-\d+(-optimizer)?\.safetensors(\.partial)?")
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if pattern.fullmatch(path.name) and path.name not in self.state.get("files", ()):
                remove(path)

    @property
    def _note(self) -> Path:
        return note_path(self.folder, self.name)

    @property
    def _remedy(self) -> str:
        return remedy(self.folder, self.name)

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"{self.name}-{epoch}.safetensors"

    def _moments(self, epoch: int) -> Path:
        return self.folder / f"{self.name}-{epoch}-optimizer.safetensors"


def note_path(folder: Path, name: str) -> Path:
    """The note of a training's progress."""
    return folder / f"{name}.json"


def remedy(folder: Path, name: str) -> str:
    """What helps where a training's files cannot be used."""
    return f"delete {folder / name}.json and run again, which trains it from the start"


def read_state(folder: Path, name: str) -> dict[str, Any] | None:
    """Reads the note of a training: ``epoch``, ``best``, ``best_epoch``, ``history`` (losses, scores), ``files``.

    Returns:
        The note, or None if no epoch was finished.

    Raises:
        TrajectoryError: If it is damaged.
    """
    path = note_path(folder, name)
    if not path.exists():
        return None
    state = read_record(path, _FIELDS, remedy(folder, name))
    files = state.get("files", {})
    counted = -1 <= state["best_epoch"] < state["epoch"] == len(state["history"])
    if not counted or not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise TrajectoryError(f"{path} is damaged: its entries do not fit each other; {remedy(folder, name)}.")
    return state


def has_ended(state: dict[str, Any], epochs: int, patience: int) -> bool:
    """Whether all epochs are done, or nothing gets better any more."""
    waited = state["epoch"] - state["best_epoch"]
    return state["epoch"] >= epochs or (state["best_epoch"] >= 0 and waited > patience)
