"""Options of a prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from know_hf.settings import STEPS, Options, documented, option
from know_hf.settings.registered import registered

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from know_hf.known import KnownPredictor


def usual_methods() -> tuple[str, ...]:
    """What ``method`` may name, as far as this package's own methods go."""
    return (*registered("know_hf.retrodiction", "method"), "all")


@documented
@dataclass(frozen=True, kw_only=True)
class Extent(Options):
    """What is predicted, how far, and by which learned weights."""

    steps: int = option(
        3,
        help="Number of prediction steps; step s stands for r^(-s) times the data and names its folder.",
        limits=STEPS,
    )
    predictor: "KnownPredictor | str | Path | None" = option(
        None, help="For learned methods: a KnownPredictor, its folder or Hub id; the bundled one by default.", kind=str
    )
    norms: str = option(
        "copy",
        help="copy, bias to predict normalisation parameters, or reset to begin with those of a new network in every "
        "step: of layers with running statistics (BatchNorm) weight 1, bias 0, mean 0, variance 1; others are copied.",
    )
    embeddings: str = option("copy", help="copy, or fc to predict embedding tables.")
    kinds: Mapping[str, str] | None = option(
        None,
        help="Name patterns and the kind that their parameters are predicted as, or copy: over everything else but "
        "what did not move. A tensor that is equal in all stages is copied, as there is nothing to predict it from.",
        metavar="PATTERN=KIND",
    )

    @property
    def selection(self) -> dict[str, Any]:
        """The options that say which tensors are predicted, as ``resolve_kinds`` takes them."""
        return {"norms": self.norms, "embeddings": self.embeddings, "kinds": self.kinds}


@documented
@dataclass(frozen=True, kw_only=True)
class Prediction(Extent):
    """What is predicted, and by which methods.

    Example:
        >>> from know_hf.enrichment.options import Prediction
        >>> Prediction(method="shrink").steps
        3
    """

    method: str | Sequence[str] = option(
        "known",
        help="Name of the retrodiction method, several of them, or all, predicted in one pass over the inputs; the "
        "self-check is of the first.",
        usual=usual_methods,
        former="retrodictor",
    )
    parameters: Mapping[str, Any] | None = option(
        None,
        help="The method's own parameters by name; with several methods the method comes first, as in tsv.frac=0.2.",
        metavar="NAME=VALUE",
    )
    iterate: bool = option(
        False, help="Take single steps and slide the window, whatever the method's own way to further steps."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class Placement(Options):
    """Where a prediction is computed, and what of earlier ones is trusted."""

    device: "str | torch.device | None" = option(
        None,
        help="Where to predict, such as cpu or cuda:0; by default the process's accelerator, else the CPU.",
        kind=str,
    )
    verify: bool = option(
        False,
        help="Hash the weights of results that are already there, too; else their sizes and headers are looked at. "
        "What is damaged is named, and made again.",
    )


@documented
@dataclass(frozen=True, kw_only=True)
class Finishing(Options):
    """What is done to predicted checkpoints with the data."""

    update_batch_norm: bool = option(
        True, help="Re-estimate the BatchNorm statistics of every enriched checkpoint on the training data."
    )
