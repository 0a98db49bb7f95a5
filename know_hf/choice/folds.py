"""Choosing where there are too few examples to set some aside: several runs leave out a part of them each."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from know_hf.choice.best import answers_of
from know_hf.choice.candidates import Candidates, with_fits
from know_hf.choice.options import Choosing
from know_hf.choice.scoring import Answers
from know_hf.enrichment.finishing import Finisher, renews
from know_hf.enrichment.options import Finishing, Placement
from know_hf.enrichment.resolved import ResolvedPrediction
from know_hf.enrichment.stream import Enrichment
from know_hf.fitting.options import Fitting
from know_hf.notices import said_once
from know_hf.store import inside, locked, remove
from know_hf.training.set_aside import FOLDS, Fold
from know_hf.trajectory.record import FILE_NAME

logger = logging.getLogger(__name__)

#: Of a run's folder, where the runs that leave out a part lie.
FOLDER = "folds"


def cross_fitted(
    make: Callable[[Fold], Any],
    prediction: ResolvedPrediction,
    finishing: Finishing,
    choosing: Choosing,
    fitting: Fitting,
) -> list[dict[str, Answers]]:
    """Lets the candidates of a run on two thirds of the data answer the third that it left out, three times.

    Killed and called again, it continues with the runs as they are.

    Args:
        make: From the part that is left out to a trainer of the rest, in a folder of its own.
        prediction: What is predicted.
        finishing: What is done to predicted checkpoints with the data.
        choosing: Among what is chosen.
        fitting: How coefficients are fitted.

    Returns:
        For each part: name of the candidate → answers.

    Source: the predictions that stacking is trained on (Wolpert, "Stacked generalization", 1992).
    """
    found = []
    for number in range(FOLDS):
        with said_once(alike=logging.INFO):
            trainer = make(Fold(number))
        logger.info(
            "Cross-fitting, run %d of %d: %d examples to train on, %d to choose on.",
            number + 1, FOLDS, len(trainer.train_dataset), len(trainer.set_aside.dataset),
        )  # fmt: skip
        with locked(trainer.args.output_dir, trainer.is_world_process_zero()):
            with said_once(alike=logging.WARNING):
                trainer.train()
            renew = renews(trainer, finishing.update_batch_norm)
            finisher = Finisher(trainer, trainer.train_dataset, renew, score=False)
            placement = Placement(device=trainer.args.device)
            run = Enrichment(trainer.trajectory, with_fits(trainer, prediction, placement, fitting), placement)
            enriched = run.write_steps(
                run.folders(None), prediction.options.steps, finisher, finisher.notes, lenient=True
            )
            candidates = Candidates(trainer, run, enriched, finisher, choosing, fitting)
            answered = answers_of(trainer, candidates.make(), candidates.selection)
        if answered is None:
            return []
        found.append(answered[1])
    return found


def clear_folds(root: Path) -> None:
    """Removes the runs that left out a part each from a run's folder, once the choice is made.

    Args:
        root: The run's folder.
    """
    folder = inside(root, FOLDER)
    for own in folder.glob("*"):
        if (own / FILE_NAME).exists():
            remove(own)
    with suppress(OSError):  # it holds something else, or was never there
        folder.rmdir()
