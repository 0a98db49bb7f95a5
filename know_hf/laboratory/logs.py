"""What the stages of a run in the laboratory left of their training: learning curves and times."""

import math
import re
from pathlib import Path
from typing import Any

from know_hf.records import TrajectoryError, read_record


def read_logs(folder: Path) -> list[dict[str, Any]]:
    """For each trained stage of a run its learning curve, its steps, and seconds in all and in steps.

    Raises:
        TrajectoryError: If there are none, or one is damaged.
    """
    kinds = {"stage": int, "curve": list[tuple[float, float]], "steps": int, "seconds": float, "training": float}
    remedy = f"delete {folder} and run again, which trains it anew"
    found = {}
    for path in (folder / "curves").glob("stage-*.json"):
        if number := re.fullmatch(r"stage-(\d{1,9})", path.stem):
            found[int(number[1])] = log = read_record(path, kinds, remedy)
            if not (0 < log["seconds"] < math.inf and 0 <= log["training"] < math.inf):
                raise TrajectoryError(f"{path} is damaged: no stage takes {log['seconds']} seconds; {remedy}.")
    if not found:
        raise TrajectoryError(f"{folder / 'curves'} holds no log of a stage; {remedy}.")
    return [found[stage] for stage in sorted(found)]
