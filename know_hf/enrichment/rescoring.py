"""Scores of finished folders made again, where they are of other evaluation data than those at hand."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from know_hf.enrichment.finishing import Finisher, evaluation_scores
from know_hf.enrichment.stream import Enrichment
from know_hf.enrichment.writer import describe_again, read_enrichment
from know_hf.forgetting.weights import load_weights
from know_hf.hub.cards import enriched_card


def stale(content: Mapping[str, Any], now: Mapping[str, Any] | None) -> bool:
    """Whether scores are of other data than these; what does not say of which it is was written before it did.

    Args:
        content: What holds ``metrics``, and ``evaluation``: of what they are.
        now: What new scores would be of; None where there would be none.
    """
    if now is None:
        return False
    known = content.get("evaluation")
    return not content.get("metrics") if known is None else known != now


def score_again(run: Enrichment, folders: Iterable[Path], finisher: Finisher) -> None:
    """Scores folders again whose scores are of other data than the finisher's; every process has to call it.

    Args:
        run: What wrote them.
        folders: The folders.
        finisher: Whose trainer has the evaluation data.
    """
    trainer, now = finisher.trainer, finisher.evaluation
    for folder in folders:
        content = read_enrichment(folder)
        trainer.accelerator.wait_for_everyone()  # all have read what is to be replaced
        if not stale(content, now):
            continue
        load_weights(trainer.model, folder)
        content.pop("remarks", None)
        content |= {"metrics": evaluation_scores(trainer), "baseline": run.baseline, **finisher.described}
        if trainer.is_world_process_zero():
            describe_again(folder, content, enriched_card(run.trajectory, content, folder.name, run.self_check))
        trainer.accelerator.wait_for_everyone()
