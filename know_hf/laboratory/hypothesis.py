"""The hypothesis itself: does fine-tuning a retrodicted Θ̂^-1 on the data of Θ^0 give Θ^0 back?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from know_hf.records import check_fields, file_name, read_record
from know_hf.store import write_json
from know_hf.trajectory import Checkpoint, Trajectory, TrajectoryError, TrajectoryRecord
from know_hf.trajectory.kinds import PREDICTED_KINDS

if TYPE_CHECKING:
    from know_hf.laboratory.pretraining import ForgettingRun

#: How runs are trained: on all the data of Θ^0, as long as the stage that made it.
RECIPE = "once_more"
#: Starts that no method predicted: Θ^0 itself, under two seeds, and initial values of another seed.
AGAIN, OTHER_SEED, ANEW = "stage-0", "stage-0, another seed", "initial values of another seed"
#: The start that nothing is fine-tuned from.
FIRST = "stage-1"
#: What is added to the seed of the stages for another one.
APART = 1000
#: Values read at a time.
BLOCK = 1 << 20
#: Every kind together.
ALL_KINDS = "all"


@dataclass(frozen=True)
class Return:
    """How near to Θ^0 a start lies, and how near fine-tuning it on the data of Θ^0 leads.

    Args:
        start: Name of the start.
        before: Kind → Euclidean distance of the start to Θ^0, ``all`` over the kinds together; None for initial values.
        after: Likewise of the fine-tuned start; None where nothing was fine-tuned.
        score_before: The start's score on the pre-training's own held-out data, of shares as a share.
        score_after: The fine-tuned one's.

    Source: paper section 3, whose Θ^-1 is what fine-tuning on D^0 makes Θ^0 of; the measurement is ours.
    """

    start: str
    before: dict[str, float] | None
    after: dict[str, float] | None
    score_before: float | None
    score_after: float | None


def refits(forgetting: "ForgettingRun", folder: Path, starts: Mapping[str, Path]) -> dict[str, "ForgettingRun"]:
    """What is trained for the hypothesis, all of it on all the data of Θ^0 for as long as a stage on them takes.

    No run has optimizer moments to carry over, so all begin alike.

    Args:
        forgetting: The run that made Θ^0.
        folder: Where the runs go.
        starts: Name of a prediction → folder of its first step.

    Returns:
        Name of the start → run: the predictions, Θ^0 with the stages' seed and with another, and a network of other
        initial values, which shows how far apart two that know the same may lie.
    """
    pretraining = forgetting.pretraining
    training = {**pretraining.training, "seed": pretraining.training.get("seed", 42) + APART}
    other = replace(pretraining, training=training)
    theta = forgetting.folder / "stage-0"
    named = {
        **{name: (pretraining, start) for name, start in starts.items()},
        AGAIN: (pretraining, theta), OTHER_SEED: (other, theta), ANEW: (other, None),
    }  # fmt: skip
    return {
        name: replace(forgetting, folder=folder / file_name(name), control=RECIPE, pretraining=described, start=start)
        for name, (described, start) in named.items()
    }


def measure(
    trajectory: Trajectory, runs: Mapping[str, "ForgettingRun"], score: Callable[[Path], float]
) -> list[Return]:
    """Measures finished runs, and Θ^1 beside them.

    Args:
        trajectory: Θ^0 and its stages.
        runs: As [`refits`] makes them.
        score: From a checkpoint's folder to its score on the pre-training's own held-out data.

    Returns:
        One entry a start; that of Θ^1, which is not fine-tuned, is the last.
    """
    pairs: dict[str, tuple[Path | None, Path | None]] = {}
    for name, run in runs.items():
        [stage] = TrajectoryRecord.load(run.folder).stages
        pairs[name] = run.start, run.folder / stage.folder
    pairs[FIRST] = trajectory.checkpoints[1].folder, None
    found = []
    for name, pair in pairs.items():
        before, after = (None if folder is None else distances(trajectory, folder) for folder in pair)
        score_before, score_after = (None if folder is None else score(folder) for folder in pair)
        found.append(Return(name, before, after, score_before, score_after))
    return found


def distances(trajectory: Trajectory, folder: Path) -> dict[str, float]:
    """Kind → Euclidean distance to Θ^0 over the parameters that are predicted; ``all`` over the kinds together.

    Raises:
        TrajectoryError: If a checkpoint is damaged.
    """
    theta, other = trajectory.checkpoints[0], Checkpoint(folder)
    squares: dict[str, float] = {}
    for name, parameter in trajectory.parameters.items():
        if parameter.kind not in PREDICTED_KINDS:
            continue
        for start in range(0, trajectory.tensors[name].numel, BLOCK):
            ours, theirs = (point.read(name, start, start + BLOCK).double() for point in (theta, other))
            square = (ours - theirs).square().sum().item()
            squares[parameter.kind] = squares.get(parameter.kind, 0.0) + square
    return {kind: math.sqrt(square) for kind, square in {**squares, ALL_KINDS: sum(squares.values())}.items()}


def save_returns(path: Path, returns: list[Return]) -> None:
    """Writes what was measured as JSON, whole or not at all."""
    write_json(path, {"returns": [asdict(one) for one in returns]})


def load_returns(path: Path) -> list[Return]:
    """Reads what [`save_returns`] wrote.

    Raises:
        TrajectoryError: If it is damaged.
    """
    remedy = "delete it and run again, which measures anew"
    form = {
        "start": str, "before": dict[str, float] | None, "after": dict[str, float] | None,
        "score_before": float | None, "score_after": float | None,
    }  # fmt: skip
    record = read_record(path, {"returns": list[dict]}, remedy)["returns"]
    found = [Return(**{name: check_fields(path, one, form, remedy)[name] for name in form}) for one in record]
    kinds = {tuple(distance) for one in found for distance in (one.before, one.after) if distance is not None}
    if len(kinds) != 1 or ALL_KINDS not in next(iter(kinds)):
        raise TrajectoryError(f"{path} is damaged: its distances are not of the same kinds; {remedy}.")
    return found
