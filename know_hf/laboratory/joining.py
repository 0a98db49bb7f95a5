"""The record of a comparison: what a later call may add to it, and what it may not change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from know_hf.laboratory.asked import ASKED
from know_hf.records import check_file_names
from know_hf.trajectory import TrajectoryError
from know_hf.trajectory.identity import as_told


def joined(path: Path, recorded: dict[str, Any] | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings to record, once they are known to be those recorded; more arms, rates and seeds may join.

    What the latest call asked for is what a report shows: its arms come first, and are what it calls them.

    Raises:
        TrajectoryError: If another comparison is recorded.
        ValueError: As [`check_file_names`].
    """
    settings = json.loads(json.dumps(settings))
    if recorded is None:
        return settings
    check_file_names([*recorded["arms"], *settings["arms"]], f"{path.parent}: the arms")
    joining = ("arms", "starts", "beside")
    # What records did not always tell is not compared: of the data, of the files beside weights, of the metric.
    told = {name: as_told(recorded.get(name), value) for name, value in settings.items()}
    later = {"metric_files"} - recorded.keys()
    skipped = {*joining, "beside", ASKED, *later}
    different = [name for name in settings if name not in skipped and recorded.get(name) != told[name]]
    for part, words in (("arms", "arm"), ("beside", "configuration or preprocessing of arm")):
        then = recorded.get(part) or {}
        different += [f"{words} {name}" for name, own in settings[part].items() if then.get(name, own) != own]
    if different:
        raise TrajectoryError(
            f"{path.parent} holds another comparison (different {', '.join(different)}); choose another output_dir."
        )
    return {
        **settings, **{part: {**settings[part], **_others(recorded.get(part), settings[part])} for part in joining}
    }  # fmt: skip


def _others(recorded: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """What a record holds of arms that are not among those of now."""
    return {name: value for name, value in (recorded or {}).items() if name not in now}
