"""What is done to predicted folders with a trainer's model and data: BatchNorm statistics, scores."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from know_hf.forgetting.evaluation import evaluate_all, evaluated_on, quality_scores
from know_hf.forgetting.trainer import ForgettingMixin
from know_hf.forgetting.weights import load_weights
from know_hf.models.adapters import is_adapted
from know_hf.training.batch_norm import Batches, estimate_batch_norm, has_batch_norm, write_batch_norm


def renews(trainer: Any, update_batch_norm: bool) -> bool:
    """Whether predicted folders of this trainer's model get new BatchNorm statistics."""
    # An adapter's file holds no statistics of the base model.
    return update_batch_norm and has_batch_norm(trainer.model) and not is_adapted(trainer.model)


@dataclass(frozen=True)
class Finisher:
    """Completes a predicted folder: as ``finish`` of [`Enrichment.write`](know_hf.enrichment.stream).

    Args:
        trainer: Holds model and evaluation data.
        dataset: Data to estimate BatchNorm statistics on.
        renew: Whether to.
        fresh: Whether normalisation layers begin as in a new network.
        score: Whether to score it on the evaluation data.
    """

    trainer: ForgettingMixin
    dataset: Any
    renew: bool
    fresh: bool = False
    score: bool = True

    def __call__(self, folder: Path) -> dict[str, float]:
        """Completes the folder; its scores."""
        load_weights(self.trainer.model, folder)
        if self.renew:
            estimate_batch_norm(self.trainer, self.batches)
            if self.trainer.is_world_process_zero():
                write_batch_norm(self.trainer.model, folder)
        return evaluation_scores(self.trainer) if self.score else {}

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What the scores are of; None where there are none."""
        return evaluated_on(self.trainer) if self.score else None

    @property
    def described(self) -> dict[str, Any]:
        """What the scores are of, and what is to be said of that, for the folder; nothing where there are none."""
        if self.evaluation is None:
            return {}
        return {"evaluation": self.evaluation, **({"remarks": said} if (said := list(self.trainer.remarks)) else {})}

    @cached_property
    def batches(self) -> Batches:
        """The data to estimate statistics on, read once for all folders where they fit."""
        return Batches(self.trainer, self.dataset)

    @property
    def notes(self) -> dict[str, Any]:
        """The note about it for the provenance."""
        kept = "those of a new network" if self.fresh else "those of stage 0"
        return {"batch_norm": f"re-estimated on {len(self.dataset)} training examples" if self.renew else kept}

    def baseline(self, folder: Path) -> dict[str, float]:
        """Scores of a folder, which stays as it is, with statistics re-estimated."""
        load_weights(self.trainer.model, folder)
        estimate_batch_norm(self.trainer, self.batches)
        return evaluation_scores(self.trainer)


def evaluation_scores(trainer: Any) -> dict[str, float]:
    """Scores of a trainer's model on its evaluation data; none where there are none."""
    return {} if trainer.eval_dataset is None else quality_scores(evaluate_all(trainer))
