"""Scores of a model in a Trainer: of all its examples, and without what differs between equal runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from know_hf.forgetting.weights import load_weights
from know_hf.trajectory import TrajectoryError, TrajectoryRecord
from know_hf.trajectory.functions import fingerprint
from know_hf.trajectory.rows import content_hash

if TYPE_CHECKING:
    from know_hf.forgetting.folder import RunFolder

logger = logging.getLogger(__name__)

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


def evaluated_on(trainer: Any) -> dict[str, Any] | None:
    """What a trainer's scores are of, as plain data: two that are not the same are not to be compared.

    Args:
        trainer: Any Trainer.

    Returns:
        Number and content of the evaluation examples, of several sets by name, and a mark of what computes the scores;
        None where there are none.
    """
    data, compute = trainer.eval_dataset, trainer.compute_metrics
    if data is None:
        return None
    known = vars(trainer).get("_evaluated_on")
    if known is None or known[0] is not data or known[1] is not compute:  # every row of it is looked at
        parts = data.items() if isinstance(data, dict) else [("", data)]
        sized = {name: len(part) if hasattr(part, "__len__") else None for name, part in parts}
        content = {name: content_hash(part) for name, part in parts}
        told = (
            {"examples": sized, "content": content}
            if isinstance(data, dict)
            else {"examples": sized[""], "content": content[""]}
        )
        known = trainer._evaluated_on = data, compute, {**told, "scores": fingerprint(compute)}
    return dict(known[2])


def score_again(trainer: Any, folder: "RunFolder", record: TrajectoryRecord) -> bool:
    """Scores finished stages whose scores are of other evaluation data, or which have none; whether there were any.

    Args:
        trainer: The run's; its model is left with other weights then.
        folder: The run's places.
        record: What the run came to; its scores are all of the same data afterwards.

    Raises:
        TrajectoryError: If the evaluation data had a part in the training.
    """
    now, was = evaluated_on(trainer), record.dataset.get("evaluation")
    finished = [stage for stage in record.stages if stage.finished]
    scored = [stage for stage in finished if stage.metrics]
    if now is None or (was is None and scored):  # records did not always say what scores are of
        return False
    if was != now and scored:
        _check_same(trainer.args, was, now, folder.root)
        logger.info("The evaluation data, or the scores, are others than those of before: all stages are scored again.")
    missing = finished if was != now else [stage for stage in finished if scored and not stage.metrics]
    found = {}
    for stage in missing:
        load_weights(trainer.model, folder.stage(stage.index))
        trainer.begin_random(stage)
        found[stage.index] = quality_scores(evaluate_all(trainer))
    for index, scores in found.items():  # all or none, should this process be killed
        record.stages[index].metrics = scores
    record.dataset["evaluation"] = now
    return bool(missing)


def _check_same(args: Any, was: Any, now: dict[str, Any], root: Path) -> None:
    decides = args.load_best_model_at_end or args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    same = isinstance(was, dict) and all(was.get(name) == now[name] for name in ("examples", "content"))
    if decides and not same:
        counts = " and now ".join(str(one.get("examples")) for one in (was, now) if isinstance(one, dict))
        raise TrajectoryError(
            f"{root} holds a run on other evaluation data (examples: {counts}), by which its training was steered "
            "(load_best_model_at_end or a schedule on a plateau): give the same again, or choose another output_dir."
        )
