"""Told to stop: SIGTERM or Ctrl-C saves a checkpoint at the end of the step; the next run continues from it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Steps between two questions whether another process was told to stop; saving together needs all of them.
_ASK_EVERY = 10


class SaveWhenTerminated(TrainerCallback):
    """Saves and stops at the end of the step during which SIGTERM or Ctrl-C came; a second Ctrl-C stops at once.

    With several processes all stop after the same step, soon after the signal reached the first of them.
    """

    def __init__(self) -> None:
        self.requested = self.saving = self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Listens within the block; elsewhere, and in threads, the signal does what it did before.

        Raises:
            KeyboardInterrupt: At a second Ctrl-C, within the block.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: object) -> None:
            if self.requested and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.requested = True

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def told(self, args: TrainingArguments) -> bool:
        """Whether any process was told to stop; with several of them all have to ask."""
        if args.world_size == 1:
            return self.requested
        requested = torch.tensor(float(self.requested), device=args.device)
        return bool(reduce(requested, reduction="sum").item())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1 and state.global_step % _ASK_EVERY:
            return
        if self.told(args):
            self.saving = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Only now: a checkpoint that says that training is to stop is one of a stage that ended by itself.
        if self.saving:
            self.stopped = control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopped and state.epoch % 1:  # the epoch is not over, which another evaluation would make it seem
            control.should_evaluate = control.should_save = False
