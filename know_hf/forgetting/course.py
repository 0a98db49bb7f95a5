"""The course of a stage: what keeps a continued one that of one that was never interrupted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SameCourse(TrainerCallback):
    """Gives every epoch its own order, and writes a checkpoint due at the end of an epoch after what ends the epoch.

    A checkpoint that Trainer writes at the last step of an epoch does not hold that epoch's evaluation, on which early
    stopping, a schedule on a plateau and the choice of the best weights depend; whoever continues from it would never
    make it.

    Args:
        seed: Seed of the stage.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self._due = seed, False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_global_step:  # recorded by its path, which another machine or place of the folder makes another
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else None

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Tells all that draws an order which epoch it is.

        A sampler without ``set_epoch`` draws from the numbers that training has come to, which are others in a process
        that begins within the epoch; and where batches are skipped, a batch sampler shared by several processes lies
        deeper than Trainer and accelerate look for it.
        """
        epoch = int(state.epoch or 0)
        for part in _parts(train_dataloader):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
            elif hasattr(part, "generator"):
                part.generator = part.generator or torch.Generator()
                part.generator.manual_seed(self.seed + epoch)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        ends = control.should_training_stop or control.should_epoch_stop or state.epoch % 1 == 0
        if control.should_save and ends:
            self._due, control.should_save = True, False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._due:
            self._due, control.should_save = False, True


def _parts(loader: Any) -> Iterator[Any]:
    """The samplers of a data loader, from the outside in."""
    part = getattr(loader, "batch_sampler", None)
    while part is not None:
        yield part
        part = getattr(part, "batch_sampler", None) or getattr(part, "sampler", None)
