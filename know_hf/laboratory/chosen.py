"""Starts as ``enrich`` would make them of the same stages: the fitted point, and what selection examples choose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from know_hf.choice.best import choose
from know_hf.choice.options import Choosing
from know_hf.enrichment.finishing import Finisher, renews
from know_hf.enrichment.options import Placement, Prediction
from know_hf.enrichment.stream import Enrichment
from know_hf.fitting.options import Fitting
from know_hf.laboratory.pretraining import ForgettingRun
from know_hf.laboratory.setting import CHOSEN
from know_hf.retrodiction import DEFAULT
from know_hf.training.set_aside import SetAside
from know_hf.trajectory import Trajectory

#: Of a run's data: the examples that choose.
SELECTION = "selection"


@dataclass(frozen=True)
class ChosenStarts:
    """What was fitted and chosen.

    Args:
        candidate: What the best is: ``stage-0`` where nothing is better, else the name of a candidate.
        folders: ``fitted`` and ``best`` → folder.
    """

    candidate: str
    folders: Mapping[str, Path]


def choose_starts(run: ForgettingRun, trajectory: Trajectory, steps: int) -> ChosenStarts:
    """Predicts, fits and chooses in the folder of a finished forgetting, unless that is done.

    Args:
        run: The forgetting, with examples for [`SELECTION`] among its data.
        trajectory: Its stages, as the methods read them.
        steps: Number of KNOWN's steps, which are candidates.

    Returns:
        The chosen starts; killed and called again, it continues and gives the same.

    Raises:
        ValueError: If nothing could be fitted, or no score decides.

    Example:
        >>> from know_hf.laboratory.chosen import choose_starts
        >>> choose_starts(run, trajectory, 3).candidate  # doctest: +SKIP
        'stage-0'
    """
    trainer: Any = run.make_trainer()
    trainer.set_aside = SetAside(run.examples[SELECTION], "given")
    prediction = Prediction(method=DEFAULT, steps=steps)
    enrichment = Enrichment(trajectory, prediction, Placement(device=trainer.args.device))
    finisher = Finisher(trainer, trainer.train_dataset, renews(trainer, True))
    predicted = enrichment.write_steps(enrichment.folders(None), steps, finisher, finisher.notes)
    found = choose(
        trainer,
        enrichment,
        predicted,
        {},
        replace(finisher, score=False),
        Choosing(also=(), keep_candidates=True),
        Fitting(),
    )
    fitted, best = CHOSEN
    if found is None or fitted not in found.candidates:
        raise ValueError(
            f"{run.folder}: nothing was {'chosen, as no score decides' if found is None else 'fitted'}; leave "
            f"{fitted} and {best} out."
        )
    return ChosenStarts(found.candidate, {fitted: found.candidates[fitted], best: found.folder})
