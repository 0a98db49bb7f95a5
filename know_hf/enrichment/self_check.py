"""The self-check: retrodict a stage that is known, and see how near the prediction comes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from know_hf.enrichment.finishing import Finisher
from know_hf.enrichment.options import Placement, Prediction
from know_hf.enrichment.ranges import BLOCK
from know_hf.enrichment.rescoring import score_again
from know_hf.enrichment.resolved import ResolvedPrediction
from know_hf.enrichment.stream import Enrichment, Finish
from know_hf.settings import takes
from know_hf.store import inside
from know_hf.trajectory import Checkpoint, Trajectory, TrajectoryError

FOLDER = "self-check"


@takes(prediction=Prediction, placement=Placement)
def check_retrodiction(
    trajectory: Trajectory,
    finish: Finish | None = None,
    notes: Mapping[str, Any] | None = None,
    *,
    prediction: Prediction | ResolvedPrediction,
    placement: Placement,
) -> dict[str, Any]:
    """Retrodicts Θ^0 from Θ^1 … Θ^S and compares it with the true one.

    Args:
        trajectory: A trajectory with the extra stage S (``self_check=True`` in its settings).
        finish: As for [`Enrichment.write`]: completes the folder of Θ̂^0 and scores it.
        notes: As for [`Enrichment.write`].

    Returns:
        ``method``: which was checked; ``ratios``: kind → ‖Θ̂^0−Θ^0‖₁/‖Θ^1−Θ^0‖₁ over its predicted tensors
        (1 = no nearer than Θ^1 itself);
        ``scores``: metric → scores of the retrodicted Θ̂^0, the true Θ^0 and Θ^1.

    Raises:
        TrajectoryError: If the trajectory has no extra stage.

    Source: paper section 4.6 and Figure 3 (retrodicting a known stage); as a check for users, ours.
    """
    window = trajectory.self_check_window()
    if window is None:
        raise TrajectoryError(
            f"{trajectory.root} has no stage {len(trajectory)}: run the forgetting with self_check=True first."
        )
    run = Enrichment(window, prediction, placement)
    folder = inside(trajectory.root, FOLDER)
    first = run.prediction.names[0]
    predicted = folder / first
    run.write({first: [predicted]}, finish, notes)
    if isinstance(finish, Finisher):
        score_again(run, [predicted], finish)
    ratios = [retrodiction_ratios(trajectory, predicted, run.predicted) if run.state.is_main_process else None]
    if run.state.num_processes > 1:
        broadcast_object_list(ratios)
    scored = run.result(folder, {"retrodicted": predicted}).metrics.get("retrodicted", {})
    stages = trajectory.record.stages
    scores = {
        metric: {"retrodicted": value, "stage_0": stages[0].metrics[metric], "stage_1": stages[1].metrics[metric]}
        for metric, value in scored.items()
        if metric in stages[0].metrics and metric in stages[1].metrics
    }
    return {"method": first, "ratios": ratios[0], "scores": scores}


def retrodiction_ratios(trajectory: Trajectory, predicted: Path, tensors: Iterable[str]) -> dict[str, float]:
    """Compares a retrodicted Θ̂^0 with the true one.

    Args:
        trajectory: Its stages 0 and 1 are Θ^0 and Θ^1.
        predicted: Folder of Θ̂^0.
        tensors: Names of the tensors to compare.

    Returns:
        Kind → ‖Θ̂^0−Θ^0‖₁/‖Θ^1−Θ^0‖₁; NaN where nothing moved.

    Source: paper section 4.6.
    """
    sources = [Checkpoint(predicted), trajectory.checkpoints[0], trajectory.checkpoints[1]]
    sums: dict[str, list[float]] = {}
    for name in tensors:
        for start in range(0, trajectory.tensors[name].numel, BLOCK):
            guess, truth, start_point = (source.read(name, start, start + BLOCK).double() for source in sources)
            total = sums.setdefault(trajectory.parameters[name].kind, [0.0, 0.0])
            total[0] += (guess - truth).abs().sum().item()
            total[1] += (start_point - truth).abs().sum().item()
    return {kind: error / distance if distance else float("nan") for kind, (error, distance) in sorted(sums.items())}
