"""The record of the run in a folder: found, or begun."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from know_hf.forgetting.evaluation import evaluated_on
from know_hf.forgetting.folder import stage_name
from know_hf.forgetting.optimization import Optimization
from know_hf.forgetting.start import describe_start
from know_hf.trajectory import StageRecord, TrajectoryError, TrajectoryRecord, kinds_of
from know_hf.trajectory.identity import describe_dataset, describe_model, describe_recipe, differences, versions
from know_hf.trajectory.record import FILE_NAME

if TYPE_CHECKING:
    from know_hf.forgetting.trainer import ForgettingMixin


def open_record(
    trainer: "ForgettingMixin", root: Path, subsets: Sequence[Any], optimization: Optimization
) -> TrajectoryRecord:
    """Finds the run that a folder holds, or begins one.

    Args:
        trainer: Whose settings, model and data the run is of.
        root: The folder.
        subsets: Data of each stage.
        optimization: What the stages begin with.

    Returns:
        The run's record; nothing is written.

    Raises:
        TrajectoryError: If the folder holds another run.
    """
    total = len(trainer.train_dataset)
    fresh = TrajectoryRecord(
        num_stages=trainer.args.num_stages,
        sampling_ratio=trainer.args.sampling_ratio,
        stages=[
            StageRecord(i, stage_name(i), len(subset), len(subset) / total, finished=False)
            for i, subset in enumerate(subsets)
        ],
        parameters=kinds_of(trainer.accelerator.unwrap_model(trainer.model)),
        recipe={**describe_recipe(trainer.args), **optimization.describe(trainer)},
        model=describe_model(trainer.model, trainer.task),
        dataset={
            "id": trainer.dataset_id,
            **describe_dataset(trainer.train_dataset),
            **({"classes": trainer.class_names} if trainer.class_names else {}),
            **trainer.set_aside.described,
            **({} if (evaluated := evaluated_on(trainer)) is None else {"evaluation": evaluated}),
        },
        versions=versions(),
    )
    if trainer.rounds is not None:
        fresh.recipe |= trainer.rounds.recorded
        fresh.stages[0].steps = trainer.rounds.kept_steps
    if not (root / FILE_NAME).exists():
        if root.is_dir() and any(root.glob("stage-*")):
            raise TrajectoryError(f"{root} holds stage folders but no {FILE_NAME}; choose another output_dir.")
        fresh.model |= describe_start(trainer)
        return fresh
    recorded = TrajectoryRecord.load(root)
    trainer.accelerator.wait_for_everyone()
    if different := differences(recorded, fresh, root, (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled)):
        raise TrajectoryError(
            f"{root} holds another run: {'; '.join(different[:4])}. Choose another output_dir, or repeat the "
            "settings to continue that run."
        )
    return recorded
