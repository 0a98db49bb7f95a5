"""Branches: stages that do not follow one another, each of which begins with the same weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from know_hf.forgetting.checks import check_sizes
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.stages import branching
from know_hf.forgetting.weights import save_stage
from know_hf.models.adapters import is_adapted, make_plain
from know_hf.store import partial_name, publish, remove

if TYPE_CHECKING:
    from know_hf.forgetting.trainer import ForgettingMixin


def check_branches(trainer: "ForgettingMixin", sizes: Sequence[int]) -> None:
    """Looks whether the branches that are asked for, if any are, can be trained.

    Args:
        trainer: Before its first stage.
        sizes: Examples of each branch.

    Raises:
        ValueError: If the model is in pieces, or a branch would have no batch at all.
    """
    if not branching(trainer.args):
        return
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ValueError(
            f"recipe={trainer.args.recipe!r} puts the weights that it begins with back for every branch, which needs a "
            "whole model in every process: train it without FSDP and DeepSpeed."
        )
    check_sizes(sizes, trainer.args, trainer.model)


def keep_start(trainer: "ForgettingMixin", folder: RunFolder) -> None:
    """Saves what all branches begin with as a plain folder, unless that was done before; every process has to call it.

    Args:
        trainer: Holds the weights.
        folder: The run's.
    """
    if not branching(trainer.args) or folder.start.is_dir():
        return
    partial = partial_name(folder.start)
    trainer.accelerator.wait_for_everyone()  # everyone has looked before anyone writes
    if trainer.is_world_process_zero():
        remove(partial)
    trainer.accelerator.wait_for_everyone()
    save_stage(trainer, partial)
    if trainer.is_world_process_zero():
        if is_adapted(trainer.model):
            make_plain(trainer.model, partial)
        (partial / "training_args.bin").unlink(missing_ok=True)
        publish(partial, folder.start)
    trainer.accelerator.wait_for_everyone()
