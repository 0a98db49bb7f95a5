"""Branches: stages that do not follow one another, each of which begins with the same weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from know_hf.forgetting.checks import check_sizes
from know_hf.forgetting.stages import branching

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
