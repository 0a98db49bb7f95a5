"""Scores of a model in a Trainer: of all its examples, and without what differs between equal runs."""

from typing import Any

from transformers import Trainer

# Scores that say how fast, not how well: they would make equal runs differ.
_TIMINGS = ("runtime", "per_second", "epoch", "_time")


def evaluate_all(trainer: Trainer, *args: Any) -> dict[str, float]:
    """Evaluates on every example: ``dataloader_drop_last`` is meant for training, but Trainer drops there too."""
    dropping, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False
    try:
        return trainer.evaluate(*args)
    finally:
        trainer.args.dataloader_drop_last = dropping


def quality_scores(metrics: dict[str, float]) -> dict[str, float]:
    """Keeps the numbers of an evaluation that say how well, not how fast, the model does."""
    return {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not k.endswith(_TIMINGS)}
