"""What a killed run needs to continue: Trainer's own checkpoints, and the optimizer between two stages."""

import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from know_hf.trajectory.checkpoint import Checkpoint, TrajectoryError


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Finds the newest ``checkpoint-N`` that was written to its end.

    A process may die while it writes one; Trainer writes ``trainer_state.json`` last.

    Args:
        folder: Trainer's output folder of one stage.

    Returns:
        The checkpoint's path, or None.

    Source: ours.
    """
    found = [p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    for path in sorted(found, key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
            Checkpoint(path).tensors  # noqa: B018 (reads and checks the headers)
        except (OSError, ValueError):
            continue
        return str(path)
    return None


class OptimizerState:
    """An optimizer's state as one safetensors file, no pickle: ``<parameter>.<name>`` → tensor."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Writes the state, whole or not at all.

        Raises:
            TypeError: If the optimizer keeps anything but tensors and numbers for a parameter.
        """
        tensors, numbers = {}, {}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{index}.{name}"] = value.contiguous()
                elif isinstance(value, (int, float, bool, type(None))):
                    numbers[f"{index}.{name}"] = value
                else:
                    raise TypeError(
                        f"This optimizer keeps a {type(value).__name__} as {name!r}, which cannot be carried over "
                        "between stages: set carry_optimizer=False."
                    )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".partial")
        save_file(tensors, temporary, metadata={"numbers": json.dumps(numbers)})
        os.replace(temporary, self.path)

    def load_into(self, optimizer: torch.optim.Optimizer) -> None:
        """Restores the state into a fresh optimizer over the same parameters.

        Raises:
            TrajectoryError: If the file is damaged.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                values = json.loads(file.metadata()["numbers"])
            values.update(load_file(self.path))
        except (SafetensorError, OSError, KeyError) as error:
            raise TrajectoryError(
                f"{self.path} is damaged ({error}); delete the stage before and run again."
            ) from error
        state: dict[int, dict] = {}
        for key, value in values.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
