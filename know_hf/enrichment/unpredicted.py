"""What of a model's weights is not predicted, where that is worth saying."""

from collections.abc import Mapping

from know_hf.checkpoints.checkpoint import PREDICTABLE, TensorSpec
from know_hf.trajectory import Parameter

# Share of the weights above which it is said that they are not predicted.
_WORTH_SAYING = 0.1


def not_predicted(
    tensors: Mapping[str, TensorSpec], parameters: Mapping[str, Parameter], copied: Mapping[str, str]
) -> dict[str, float]:
    """What of the weights is copied from stage 0, where that is more than a tenth of them.

    Args:
        tensors: Name → where it lies, and its shape.
        parameters: Name → kind and owning layer.
        copied: Name → why it is copied.

    Returns:
        Reason and layer → share of all weights that are numbers with a fraction, the largest first; empty where it is
        no more than a tenth of them in all.
    """
    sizes = {name: spec.numel for name, spec in tensors.items() if spec.dtype in PREDICTABLE}
    total, shares = sum(sizes.values()), dict[str, float]()
    for name, reason in copied.items():
        layer = parameters[name].layer
        what = f"{reason} ({layer})" if layer else reason
        shares[what] = shares.get(what, 0.0) + sizes.get(name, 0) / max(total, 1)
    largest = sorted(((what, share) for what, share in shares.items() if share), key=lambda item: -item[1])
    return dict(largest) if sum(shares.values()) > _WORTH_SAYING else {}
