"""A training's progress on disk: its state, its newest and its best weights, whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from know_hf.forgetting.resume import OptimizerState
from know_hf.store import write_json


class Progress:
    """Epochs of one training, the best of which counts.

    Args:
        folder: Where its files lie.
        name: What they begin with.
        module: What is trained; continued from where the files left it.
        optimizer: Its optimizer, likewise.
        epochs: Epochs at most.
        patience: Epochs without a better score after which it ends.
    """

    def __init__(
        self, folder: Path, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, patience: int
    ):
        self.folder, self.name, self.module, self.optimizer = folder, name, module, optimizer
        self.epochs, self.patience = epochs, patience
        self.state: dict[str, Any] = {"epoch": 0, "best": math.inf, "best_epoch": -1, "history": []}
        if self._note.exists():
            self.state = json.loads(self._note.read_text())
            module.load_state_dict(load_file(folder / f"{name}-last.safetensors"))
            self._optimizer.load_into(optimizer)

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return self.state["epoch"]

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or nothing gets better any more."""
        waited = self.epoch - self.state["best_epoch"]
        return self.epoch >= self.epochs or (self.state["best_epoch"] >= 0 and waited > self.patience)

    def finish_epoch(self, loss: float, score: float) -> None:
        """Notes an epoch; the smaller the score, the better."""
        self.state["history"].append([loss, score])
        if score < self.state["best"]:
            self.state |= {"best": score, "best_epoch": self.epoch}
            self._save("best")
        self.state["epoch"] += 1
        self._save("last")
        self._optimizer.save(self.optimizer)
        write_json(self._note, self.state, indent=None)

    def load_best(self) -> None:
        """Puts the best epoch's weights into the module."""
        self.module.load_state_dict(load_file(self.folder / f"{self.name}-best.safetensors"))

    @property
    def _note(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def _optimizer(self) -> OptimizerState:
        return OptimizerState(self.folder / f"{self.name}-optimizer.safetensors")

    def _save(self, which: str) -> None:
        path = self.folder / f"{self.name}-{which}.safetensors"
        temporary = path.with_suffix(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.module.state_dict().items()}, temporary)
        os.replace(temporary, path)
