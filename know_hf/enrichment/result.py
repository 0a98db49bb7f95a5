"""What an enrichment leaves behind."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from know_hf.trajectory import Trajectory


@dataclass
class EnrichmentResult:
    """Enriched checkpoints and what is known about them.

    Args:
        output_dir: Folder of the whole run.
        trajectory: The trajectory they were predicted from.
        checkpoints: Step name (``"x2"`` …) → plain ``from_pretrained`` folder.
        statistics: Step name → kind → relative change ``‖Θ̂−Θ^0‖/‖Θ^0‖`` and norm ratio ``‖Θ̂‖/‖Θ^0‖``,
            and the cosine to KNOWN's change where both were predicted in one pass.
        metrics: ``"stage-0"`` and step names → scores on the evaluation set, when there was one; with BatchNorm also
            those of stage 0 with its statistics re-estimated like the predictions', the fair comparison.
        self_check: Result of the self-check, when it was asked for.
        report: Folder of plots and tables, when they were made.

    Source: ours.

    Example:
        >>> from know_hf import enrich
        >>> result = enrich("runs/my-model", steps=1)  # doctest: +SKIP
        >>> result.checkpoints["x2"]  # doctest: +SKIP
        PosixPath('runs/my-model/enriched/x2')
    """

    output_dir: Path
    trajectory: Trajectory
    checkpoints: dict[str, Path]
    statistics: dict[str, dict[str, dict[str, float]]]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    self_check: dict[str, Any] | None = None
    report: Path | None = None
