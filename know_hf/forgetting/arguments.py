"""Training arguments of a forgetting run."""

from dataclasses import dataclass

from transformers import TrainingArguments

from know_hf.forgetting.options import ForgettingSettings
from know_hf.settings import documented

__all__ = ["ForgettingArguments", "ForgettingSettings"]


@documented
@dataclass
class ForgettingArguments(ForgettingSettings, TrainingArguments):
    """Training arguments of a [`ForgettingTrainer`].

    All of ``TrainingArguments`` with their own defaults, applied to every stage alike (the same number of epochs a
    stage), plus the fields of [`ForgettingSettings`].

    Args:
        output_dir: Folder of the run. This and what is not below is as for ``TrainingArguments``.

    Raises:
        ValueError: As [`ForgettingSettings`], and as ``TrainingArguments``.

    Source: paper section 5.

    Example:
        >>> from know_hf import ForgettingArguments
        >>> ForgettingArguments("run", sampling_ratio=0.33, num_train_epochs=2).num_stages
        5
    """
