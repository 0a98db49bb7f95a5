"""What a verdict has to be told by the run: on which data scores are, and why something is missing."""

from collections.abc import Sequence
from typing import Any

from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.verdict import Deciding, asked_metric, deciding_score
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.training.set_aside import FEWEST


def left_out(names: Sequence[str]) -> str:
    """Which steps are not there, as they are not finite; nothing where all are."""
    if not names:
        return ""
    return (
        f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} not finite and left out: a lower learning rate keeps "
        "the stages nearer to each other, and fewer steps go less far. "
    )


def not_chosen(trainer: Any, fresh: bool) -> str:
    """Why nothing was chosen, though it should have been."""
    if fresh:
        return (
            "Nothing was chosen: with new normalisation layers (norms='reset') no checkpoint has a score of its own. "
        )
    if trainer.set_aside.how == "too few":
        return (
            f"Nothing was chosen: {len(trainer.train_dataset)} training examples are too few to choose on a part of "
            f"them ({FEWEST} at least); give examples to choose on (--selection_split), or more data. "
        )
    return (
        "Nothing was chosen: no examples were set aside when this run began, so that all of them were trained on; give "
        "others to choose on (--selection_split), or begin a run in another folder. "
    )


def former_data(trainer: Any) -> list[str]:
    """Of which data the scores are that are shown without evaluation data; nothing where there are none."""
    record = trainer.trajectory.record
    if trainer.eval_dataset is not None or not record.stages[0].metrics:
        return []
    examples = (record.dataset.get("evaluation") or {}).get("examples")
    which = f"the {examples:,} evaluation examples" if isinstance(examples, int) else "the evaluation data"
    return [f"No evaluation data were given this time: what is said of scores is of {which} that were given before."]


def deciding(trainer: ForgettingTrainer, result: EnrichmentResult) -> Deciding | None:
    """The score that decides what is said of the stages, and on how many evaluation examples it is."""
    args, data = trainer.args, trainer.eval_dataset
    examples: int | dict[str, int] | None
    if isinstance(data, dict):
        examples = {name: len(part) for name, part in data.items() if hasattr(part, "__len__")}
    else:
        examples = len(data) if hasattr(data, "__len__") else None
    record = result.trajectory.record
    return deciding_score(record.model.get("task"), record.stages[0].metrics, examples, *asked_metric(args))
