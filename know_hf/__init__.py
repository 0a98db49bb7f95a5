"""know-hf: better pre-trained weights from the data you already have.

Importing the package loads nothing heavy: every public name is fetched on first use, and the predictor's classes are
registered with ``AutoConfig`` and ``AutoModel`` when those are.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "EnrichmentResult",
    "ForgettingArguments",
    "ForgettingMixin",
    "ForgettingSettings",
    "ForgettingTrainer",
    "KnownConfig",
    "KnownPredictor",
    "Trajectory",
    "TrajectoryCallback",
    "TrajectoryError",
    "__version__",
    "enrich",
    "enrich_pretrained",
    "enrich_trained",
    "kinds_of",
    "retrodict",
]

_HOME = {
    "EnrichmentResult": "know_hf.enrichment.result",
    "ForgettingArguments": "know_hf.forgetting.arguments",
    "ForgettingMixin": "know_hf.forgetting.trainer",
    "ForgettingSettings": "know_hf.forgetting.options",
    "ForgettingTrainer": "know_hf.forgetting.trainer",
    "KnownConfig": "know_hf.known",
    "KnownPredictor": "know_hf.known",
    "Trajectory": "know_hf.trajectory",
    "TrajectoryCallback": "know_hf.forgetting.recording",
    "TrajectoryError": "know_hf.trajectory",
    "enrich": "know_hf.enrichment.stream",
    "enrich_pretrained": "know_hf.pretrained",
    "enrich_trained": "know_hf.pretrained",
    "kinds_of": "know_hf.trajectory",
    "retrodict": "know_hf.retrodiction",
}

if TYPE_CHECKING:
    from know_hf.enrichment.result import EnrichmentResult
    from know_hf.enrichment.stream import enrich
    from know_hf.forgetting.arguments import ForgettingArguments
    from know_hf.forgetting.options import ForgettingSettings
    from know_hf.forgetting.recording import TrajectoryCallback
    from know_hf.forgetting.trainer import ForgettingMixin, ForgettingTrainer
    from know_hf.known import KnownConfig, KnownPredictor
    from know_hf.pretrained import enrich_pretrained, enrich_trained
    from know_hf.retrodiction import retrodict
    from know_hf.trajectory import Trajectory, TrajectoryError, kinds_of


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'know_hf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


importlib.import_module("know_hf.auto_classes").register_when_asked()
