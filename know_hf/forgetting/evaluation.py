"""Scores of a model in a Trainer: of all its examples, and without what differs between equal runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer

# Scores that say how fast, not how well: they would make equal runs differ.
_TIMINGS = ("runtime", "per_second", "epoch", "_time")


def evaluate_all(trainer: Trainer, *args: Any) -> dict[str, float]:
    """Evaluates on every example."""
    with without_dropping(trainer):
        return trainer.evaluate(*args)


@contextmanager
def without_dropping(trainer: Trainer) -> Iterator[None]:
    """Takes every example within the block: ``dataloader_drop_last`` is for training, but Trainer drops there, too."""
    dropping, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False
    try:
        yield
    finally:
        trainer.args.dataloader_drop_last = dropping


def quality_scores(metrics: dict[str, float]) -> dict[str, float]:
    """Keeps the numbers of an evaluation that say how well, not how fast, the model does."""
    return {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not k.endswith(_TIMINGS)}
