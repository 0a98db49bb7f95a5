"""A control of branches as a trajectory: what they began with, then the branches."""

from glob import escape
from pathlib import Path
from typing import Any

from know_hf.checkpoints.checkpoint import PREDICTABLE
from know_hf.forgetting.controls import CONTROLS
from know_hf.forgetting.folder import RunFolder
from know_hf.trajectory import Trajectory, TrajectoryError, TrajectoryRecord


def branches_of(folder: str | Path) -> Trajectory:
    """Opens a finished run of branches, for methods that read such (``soup_mean``, ``model_stock``).

    Args:
        folder: The ``output_dir`` of a run with ``recipe="soup"``.

    Returns:
        A trajectory whose stage 0 is what the branches began with; the others are the branches.

    Raises:
        TrajectoryError: If it holds another run, or one that is unfinished or damaged.

    Example:
        >>> from know_hf import enrich
        >>> from know_hf.enrichment.branches import branches_of, whole_model
        >>> branches = branches_of("runs/soup")  # doctest: +SKIP
        >>> enrich(branches, "soup", method="soup_mean", steps=1, **whole_model(branches))  # doctest: +SKIP
    """
    places, record = RunFolder(folder), TrajectoryRecord.load(folder)
    recipe = record.recipe.get("recipe")
    if recipe not in CONTROLS or not CONTROLS[recipe].branches:
        raise TrajectoryError(f"{places.root} is a run of {recipe!r}, whose stages are no branches.")
    if not all(stage.finished for stage in record.stages):
        raise TrajectoryError(f"{places.root} has unfinished branches; run the same command again to finish.")
    found = Trajectory.from_checkpoints(
        [places.start, *(places.root / stage.folder for stage in record.stages)], kinds=record.parameters
    )
    for branch, stage in zip(found.record.stages[1:], record.stages, strict=True):
        branch.steps = stage.steps
    return found


def whole_model(trajectory: Trajectory) -> dict[str, Any]:
    """The options of a prediction that leaves out nothing that was trained: an average is one of whole models."""
    others = [
        name
        for name, parameter in trajectory.parameters.items()
        if parameter.kind == "other" and parameter.trained and trajectory.tensors[name].dtype in PREDICTABLE
    ]
    return {"norms": "bias", "embeddings": "fc", "kinds": {escape(name): "bias" for name in others} or None}
