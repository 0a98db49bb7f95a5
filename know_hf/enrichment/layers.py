"""Layer by layer: how long a prediction's tensors are, how far they moved and which way."""

from collections.abc import Mapping
from pathlib import Path

from know_hf.enrichment.ranges import BLOCK
from know_hf.trajectory import Checkpoint, Trajectory

NORM, RESIDUAL, COSINE = "‖Θ̂‖ / ‖Θ⁰‖", "‖Θ̂−Θ⁰‖ / ‖Θ⁰‖", "cosine of Θ̂−Θ⁰ and Θ⁰−Θ¹"


def layer_statistics(
    trajectory: Trajectory, predictions: Mapping[str, str | Path]
) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    """Compares predictions with Θ^0, tensor by tensor, by streaming.

    Args:
        trajectory: Where they were predicted from.
        predictions: Name → folder.

    Returns:
        Names of the tensors that can be predicted, in the module's order; and norm ratio, relative residual and cosine
        with the last step of training on more data, each name of prediction → value per tensor (NaN where nothing
        moved).

    Raises:
        TrajectoryError: If a checkpoint is damaged.
    """
    kinds = trajectory.parameters
    order = [*trajectory.record.parameters, *kinds]  # the module's order, not the file's
    names = [name for name in dict.fromkeys(order) if name in kinds and kinds[name].kind in ("conv", "fc", "bias")]
    checkpoints = {name: Checkpoint(folder) for name, folder in predictions.items()}
    found: dict[str, dict[str, list[float]]] = {q: {n: [] for n in checkpoints} for q in (NORM, RESIDUAL, COSINE)}
    for tensor in names:
        size = trajectory.tensors[tensor].numel
        sums = {name: [0.0] * 3 for name in checkpoints}
        length = step = 0.0
        for start in range(0, size, BLOCK):
            stages = trajectory.read(tensor, start, start + BLOCK).double()
            last = stages[0] - stages[1]
            length += stages[0].square().sum().item()
            step += last.square().sum().item()
            for name, checkpoint in checkpoints.items():
                values = checkpoint.read(tensor, start, start + BLOCK).double()
                moved = values - stages[0]
                for i, term in enumerate((values.square(), moved.square(), moved * last)):
                    sums[name][i] += term.sum().item()
        for name, (norm, change, product) in sums.items():
            found[NORM][name].append((norm / length) ** 0.5 if length else float("nan"))
            found[RESIDUAL][name].append((change / length) ** 0.5 if length else float("nan"))
            found[COSINE][name].append(product / (change * step) ** 0.5 if change * step else float("nan"))
    return names, found
