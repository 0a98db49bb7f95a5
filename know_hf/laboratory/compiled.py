"""Compiled training steps, with the word that it goes on without where compiling fails."""

import functools
import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

#: What compiles; inductor unless a test says otherwise.
BACKEND: Any = "inductor"
_compiled: dict[tuple[type, int], Callable] = {}


class CompiledSteps(TrainerCallback):
    """Compiles a model's forward and backward pass for whole batches of training; all else runs as it is.

    One compiled function serves all models of a class, so that of many fine-tunings only the first waits for it; a
    smaller batch at the end of an epoch, and scoring, run uncompiled, since every further shape would be compiled
    anew. Before the first step one is tried, which leaves no trace: if it cannot be compiled, that is said, and the
    training goes on without.

    Args:
        trainer: The trainer, made; its model runs compiled from now on.

    Raises:
        torch.OutOfMemoryError: If even one step does not fit on the device, before the first step.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.on = trainer, True
        self.rows: int = trainer.args.train_batch_size
        self._tried = False
        self._install(trainer.model)

    def _install(self, model: nn.Module) -> None:
        plain = type(model).forward
        if "forward" in vars(model):
            logger.warning("The model's forward was replaced by another library: its steps run uncompiled.")
            self.on = False
            return

        @functools.wraps(plain)
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            pixels = kwargs.get("pixel_values")
            whole = torch.is_tensor(pixels) and len(pixels) == self.rows
            if self.on and whole and module.training and torch.is_grad_enabled():
                return compiled_forward(type(module))(module, *args, **kwargs)
            return plain(module, *args, **kwargs)

        model.forward = types.MethodType(forward, model)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Tries one step, and puts everything back."""
        if self._tried or not self.on or model is None or len(train_dataloader.dataset) < self.rows:
            return
        self._tried = True
        kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        devices = [args.device] if args.device.type != "cpu" else []
        with torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"):
            try:
                self._step(model, train_dataloader.dataset.__getitems__(list(range(self.rows))))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler raises whatever its many parts do
                first = (str(error).strip().splitlines() or [""])[0]
                logger.warning(
                    "The training step could not be compiled (%s: %s): it runs uncompiled, which is slower.",
                    type(error).__name__, first[:200],
                )  # fmt: skip
                self.on = False
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        model.zero_grad()

    def _step(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
        """One step just as the trainer takes it, without the optimizer's."""
        batches, items = self.trainer.get_batch_samples(iter([batch]), 1, self.trainer.args.device)
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer.training_step(model, batches[0], items)


def compiled_forward(kind: type) -> Callable:
    """The compiled ``forward`` of a class of models, made once in a process."""
    key = kind, id(BACKEND)
    if key not in _compiled:
        _compiled[key] = torch.compile(kind.forward, backend=BACKEND, dynamic=False)  # type: ignore[attr-defined]
    return _compiled[key]
