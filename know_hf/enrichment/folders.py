"""What the folders of predictions are called."""

from pathlib import Path

from know_hf.retrodiction import DEFAULT
from know_hf.store import inside
from know_hf.trajectory.trajectory import growth


def step_names(sampling_ratio: float | None, steps: int) -> list[str]:
    """Folder names by nominal growth of the data: x2, x4, x8 at r = 0.5; x3, x9, x28 at r = 0.33.

    Args:
        sampling_ratio: Ratio r of successive stages' data.
        steps: Number of steps.

    Raises:
        TrajectoryError: If no data set could grow so much.
        ValueError: If r is too close to 1 to tell steps apart.
    """
    scales = [growth(sampling_ratio, step) for step in range(1, steps + 1)]
    for digits in range(1, 8):
        names = [f"x{scale:.0f}" if scale >= 3 and digits == 1 else f"x{scale:.{digits}f}" for scale in scales]
        names = [name.rstrip("0").rstrip(".") if "." in name else name for name in names]
        if len(set(names)) == steps:
            return names
    raise ValueError(f"sampling_ratio {sampling_ratio} is too close to 1 to tell steps apart.")


def enriched_folder(root: Path, method: str) -> Path:
    """Where a method's checkpoints go within a run: ``enriched``, or ``enriched-<method>`` for others."""
    return inside(root, "enriched" if method == DEFAULT else f"enriched-{method}")
