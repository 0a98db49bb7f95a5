"""What a killed run needs to continue: Trainer's own checkpoints, and the optimizer between two stages."""

import json
import logging
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME as STATE
from transformers.utils import CONFIG_NAME

from know_hf.checkpoints.checkpoint import Checkpoint, check_file
from know_hf.records import TrajectoryError
from know_hf.store import read_json, write_tensors

logger = logging.getLogger(__name__)


def last_complete_checkpoint(
    folder: str | Path, processes: int = 1, scaler: bool = False, best: bool = False, further: Sequence[str] = ()
) -> str | None:
    """Finds the newest ``checkpoint-N`` from which a stage continues as if nothing had happened.

    A process may die while it writes one, and ``save_only_model`` leaves out all but the weights. What is left out is
    logged.

    Args:
        folder: Trainer's output folder of one stage.
        processes: Number of processes; each has random numbers of its own.
        scaler: Whether the training scales its gradients (fp16).
        best: Whether the best checkpoint so far is needed at the end.
        further: Names of safetensors files that it has to hold besides.

    Returns:
        The checkpoint's path, or None: the stage begins again.
    """
    checkpoints = [p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-[0-9]+", p.name)]
    checkpoints = [p for p in checkpoints if p.is_dir() and not p.is_symlink()]
    for path in sorted(checkpoints, key=lambda p: int(p.name.split("-")[1]), reverse=True):
        lacks = _lacks(path, processes, scaler, best, further)
        if lacks is None:
            return str(path)
        logger.warning("%s cannot be continued from, it is skipped: %s.", path, lacks)
    return None


def _lacks(path: Path, processes: int, scaler: bool, best: bool, further: Sequence[str]) -> str | None:
    """What is missing or damaged in one of Trainer's checkpoints; None if it is complete."""
    try:
        state = read_json(path / STATE)  # Trainer writes it last
        if not list(path.glob("pytorch_model_fsdp*")):  # FSDP's own form, read by no one else
            Checkpoint(path).tensors  # noqa: B018 (reads and checks the headers)
        if best and state.get("best_global_step"):
            Checkpoint(path.with_name(f"checkpoint-{state['best_global_step']}")).tensors  # noqa: B018
        for name in further:
            check_file(path / name)
        _ends(state)  # as it will be asked for
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return str(error)
    # DeepSpeed keeps optimizer and schedule in a folder of its own, FSDP the optimizer.
    deepspeed = any(path.glob("global_step*"))
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    needed = [*random, *(["scaler.pt"] if scaler else []), *([] if deepspeed else ["scheduler.pt"])]
    if not deepspeed and not any(path.glob("optimizer_*")) and not (path / "optimizer.bin").exists():
        needed.append("optimizer.pt")
    # torch writes zip archives, whose end says whether they are whole.
    missing = [name for name in needed if not zipfile.is_zipfile(path / name)]
    return f"no {', '.join(missing)} (save_only_model?)" if missing else None


def has_ended(checkpoint: str | Path) -> bool:
    """Whether a complete checkpoint is of the end of its stage, after which nothing is trained.

    Trainer itself would train to the end of the epoch that it is in.
    """
    return _ends(read_json(Path(checkpoint) / STATE))


def _ends(state: dict) -> bool:
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return bool(control.get("should_training_stop")) or state.get("global_step", 0) >= state.get("max_steps", math.inf)


def take_config(model: nn.Module, checkpoint: str | Path) -> None:
    """Gives a live model's config what training had added to it by the time of a checkpoint.

    Many models note in their config what they learned from the first batch (``problem_type``).
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig) or not (Path(checkpoint) / CONFIG_NAME).is_file():
        return
    stored = type(config).from_pretrained(checkpoint)
    live, saved = config.to_dict(), stored.to_dict()
    for name, value in saved.items():
        if not name.startswith("_") and not isinstance(value, dict) and value != live.get(name):
            setattr(config, name, getattr(stored, name))


def _storable(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, float | None]]:
    """Tensors and numbers that an optimizer keeps, as ``<parameter>.<name>``; ``TypeError`` for anything else."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, float | None] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value
            elif isinstance(value, (int, float, bool, type(None))):
                numbers[f"{index}.{name}"] = value
            else:
                raise TypeError(
                    f"This optimizer keeps a {type(value).__name__} as {name!r}, which cannot be carried over "
                    "between stages: set carry_optimizer=False."
                )
    return tensors, numbers


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [list(parameter.shape) for group in optimizer.param_groups for parameter in group["params"]]


class CheckMoments(TrainerCallback):
    """Sees after the first step of a stage, and not after its last, whether the optimizer's state can be stored."""

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        if args.carry_optimizer and state.global_step == 1 and optimizer is not None:
            _storable(optimizer)


class OptimizerState:
    """An optimizer's state as one safetensors file, no pickle: ``<parameter>.<name>`` → tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Writes the state, whole or not at all.

        Raises:
            TypeError: If the optimizer keeps anything but tensors and numbers for a parameter.
        """
        tensors, numbers = _storable(optimizer)
        metadata = {"numbers": json.dumps(numbers), "shapes": json.dumps(_shapes(optimizer))}
        write_tensors(self.path, tensors, metadata)

    def load_into(self, optimizer: torch.optim.Optimizer) -> None:
        """Restores the state into a fresh optimizer over the same parameters.

        Raises:
            TrajectoryError: If the file is damaged, or of an optimizer over other parameters.
        """
        state: dict[int, dict] = {}
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
            values = json.loads(metadata["numbers"])
            values.update(load_file(self.path))
            for key, value in values.items():
                index, name = key.split(".", 1)
                state.setdefault(int(index), {})[name] = value
            shapes = json.loads(metadata.get("shapes", "null"))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise TrajectoryError(
                f"{self.path} is damaged ({error}); delete the stage before and run again."
            ) from error
        self._check(state, shapes, _shapes(optimizer))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        # Reading a state dict back gives moments the type of their parameters; they keep their own.
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, values in state.items():
            live = optimizer.state.get(held[index], {})
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and isinstance(live.get(name), torch.Tensor):
                    if live[name].dtype != value.dtype:
                        live[name] = value.to(live[name].device)

    def _check(self, state: dict[int, dict], stored: list[list[int]] | None, live: list[list[int]]) -> None:
        """Compares what the state was of, by position, with what it is to be put into."""
        if stored is None:  # of before: what the usual optimizers keep for every value is shaped like the parameter
            stored = live + [[]] * (max(state, default=-1) + 1 - len(live))
            for index, values in state.items():
                for name in ("exp_avg_sq", "momentum_buffer"):
                    if index < len(live) and getattr(values.get(name), "ndim", None) == len(live[index]):
                        stored[index] = list(values[name].shape)
        if stored != live:
            where = next((i for i, pair in enumerate(zip(stored, live, strict=False)) if pair[0] != pair[1]), None)
            what = (
                f"{len(stored)} parameters, the optimizer has {len(live)}" if where is None else
                f"parameter {where} of shape {stored[where]}, which has shape {live[where]} in the optimizer"
            )  # fmt: skip
            raise TrajectoryError(
                f"{self.path} holds the moments of {what}: train the same parameters again, or set "
                "carry_optimizer=False in another output_dir."
            )
