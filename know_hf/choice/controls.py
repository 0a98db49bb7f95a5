"""Controls that are trained beside a run, as candidates: by the run's own trainer, and at no risk to its result."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from know_hf.choice.options import Choosing
from know_hf.forgetting.beside import another_run
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.weights import load_weights
from know_hf.store import inside

logger = logging.getLogger(__name__)

# What the machine lacks now and may have again: the run continues then, and comes to what it would have.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM)


@contextmanager
def sparing(name: str, asked: bool) -> Iterator[None]:
    """Leaves a candidate out, in words, that cannot be made, if nobody asked for it: the run is to have its result.

    Only what would be the same another time counts. A disk or a memory that is full ends the run, which continues when
    there is room, with the candidate.

    Args:
        name: The candidate.
        asked: Whether somebody asked for it by name.

    Example:
        >>> from know_hf.choice.controls import sparing
        >>> with sparing("equal_compute", asked=False):
        ...     raise RuntimeError("this loss takes no such batch")
    """
    try:
        yield
    except Exception as error:
        passing = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if asked or passing or getattr(error, "errno", None) in _PASSING:
            raise
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        logger.warning("%s is no candidate: %s", name, said)


def control_folder(run: str | Path, recipe: str) -> Path:
    """Where a control lies that is trained beside a run."""
    return inside(run, Path("also") / recipe)


def check_controls(trainer: Any, choosing: Choosing) -> None:
    """Looks, before anything is trained, whether the controls could be.

    Args:
        trainer: Of the run.
        choosing: Among what is chosen.

    Raises:
        ValueError: If one that was asked for by name could not; of others it is said.
    """
    for name in choosing.beside:
        with sparing(name, choosing.also is not None):
            with another_run(trainer, control_folder(trainer.args.output_dir, name), name):
                trainer.check_stages()


def train_control(trainer: Any, recipe: str) -> Path:
    """Trains a control beside a forgetting run, from its Θ^0; the folder of its run.

    Args:
        trainer: Whose forgetting is finished; its model ends with the weights of the control.
        recipe: Name of the control.
    """
    root = control_folder(trainer.args.output_dir, recipe)
    load_weights(trainer.model, RunFolder(trainer.args.output_dir).stage(0))
    hears, state, trainer.on_stage_end = trainer.on_stage_end, trainer.state, None  # which are of the run's own stages
    try:
        with another_run(trainer, root, recipe):
            trainer.train()
    finally:
        trainer.on_stage_end, trainer.state = hears, state
    return root
