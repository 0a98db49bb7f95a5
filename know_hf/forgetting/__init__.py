"""Forgetting: data → trajectory."""

from know_hf.forgetting.arguments import ForgettingArguments, ForgettingSettings
from know_hf.forgetting.subsets import nested_subsets, subset_sizes
from know_hf.forgetting.trainer import ForgettingMixin, ForgettingTrainer

__all__ = [
    "ForgettingArguments",
    "ForgettingMixin",
    "ForgettingSettings",
    "ForgettingTrainer",
    "nested_subsets",
    "subset_sizes",
]
