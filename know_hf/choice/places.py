"""Folders of candidates that are made for a choice alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from know_hf.enrichment.provenance import holds
from know_hf.enrichment.stream import Enrichment
from know_hf.records import ENRICHMENT_FILE
from know_hf.store import remove


def made_here(folder: Path) -> bool:
    """Whether a folder was written by know-hf: what somebody put in its place is theirs."""
    return (folder / ENRICHMENT_FILE).exists()


def make_room(
    trainer: Any, run: Enrichment, places: Mapping[Path, Mapping[str, Any]], notes: Mapping[str, Any]
) -> None:
    """Removes what an earlier choice, made otherwise, left where candidates are to be written.

    Args:
        trainer: Every process of it has to call.
        run: What will write them.
        places: Folder → what determines its content.
        notes: What is noted there beside.

    Raises:
        FileExistsError: If a folder is somebody else's.
    """
    for place, provenance in places.items() if trainer.is_world_process_zero() else ():
        try:
            holds(place, {**provenance, **notes}, run.trajectory.checkpoints[0], run.companions.files)
        except FileExistsError:
            if not made_here(place):
                raise
            remove(place)
    trainer.accelerator.wait_for_everyone()
