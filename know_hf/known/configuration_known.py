"""Configuration of the KNOWN hyper-model."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

#: Most weights of a predictor, whose networks have some ten thousand; a file that asks for more is refused early.
MOST_WEIGHTS = 100_000_000
INPUTS = ("values", "differences")
#: What a predictor of differences may be told of a tensor, beside the differences themselves.
CONDITIONS = ("ratio", "horizon", "movement", "fan_in", "profile", "agreement")


@strict
class KnownConfig(PreTrainedConfig):
    """Sizes of a [`KnownPredictor`]; the defaults are the paper's network (9,425 parameters a kind).

    Args:
        history_length: Number S of stages that the predictor reads, at least 2.
        hidden_size: Width of the two gated layers of each stream; of both hidden layers with ``differences``.
        bottleneck_size: Width of the layer between them.
        output_size: Width of each stream's last layer.
        negative_slope: Slope of the leaky ReLU (0.3, Keras' default, not PyTorch's 0.01).
        kinds: Names of the parameter kinds, one network each.
        inputs: ``"values"``: the paper's network, which reads weights as they are. ``"differences"``: a network that
            reads a tensor's differences from stage to stage in units of their own size and weighs them, so that its
            residual moves and scales with the tensor, and turns its sign with it.
        conditions: With ``differences``, what else the network is told of the tensor: ``"ratio"`` (the sampling
            ratio), ``"horizon"`` (how many steps ahead; all steps are then predicted from the same window),
            ``"movement"`` (size of the newest difference relative to the weights), ``"fan_in"``, ``"profile"`` (sizes
            of the differences, one by one) and ``"agreement"`` (cosines of successive differences, the part of the
            movement that repeats).

    Raises:
        ValueError: If a size is out of range, or a name is unknown or given twice.

    Source: paper section 4.4; sizes, slope and activations from the authors' released network.

    Example:
        >>> from know_hf import KnownConfig
        >>> KnownConfig(history_length=3).history_length
        3
    """

    model_type = "known"

    history_length: int = 5
    hidden_size: int = 64
    bottleneck_size: int = 8
    output_size: int = 32
    negative_slope: float | int = 0.3
    kinds: list[str] | tuple[str, ...] = ("conv", "fc", "bias")
    inputs: str = "values"
    conditions: list[str] | tuple[str, ...] = ()

    def validate_sizes(self) -> None:
        """Raises ``ValueError`` if a size is out of range."""
        if self.history_length < 2:
            raise ValueError(
                f"history_length is {self.history_length}; a predictor needs at least 2 stages to see a difference."
            )
        if min(self.hidden_size, self.bottleneck_size, self.output_size) < 1:
            raise ValueError("hidden_size, bottleneck_size and output_size must be at least 1.")
        # A rough bound for either kind of network.
        width = self.history_length + self.hidden_size + 4 * self.bottleneck_size + self.output_size
        if 2 * len(self.kinds) * self.hidden_size * width > MOST_WEIGHTS:
            raise ValueError(
                f"history_length {self.history_length}, hidden_size {self.hidden_size}, bottleneck_size "
                f"{self.bottleneck_size} and output_size {self.output_size} for {len(self.kinds)} kinds make a network "
                f"of more than {MOST_WEIGHTS:,} weights; no predictor is as large."
            )
        if not math.isfinite(self.negative_slope):
            raise ValueError(f"negative_slope is {self.negative_slope}; it must be a finite number.")
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds must name each kind once, found {list(self.kinds)}.")

    def validate_inputs(self) -> None:
        """Raises ``ValueError`` if a name is unknown, given twice, or of no use to the network."""
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs={self.inputs!r} is not known; use one of {', '.join(INPUTS)}.")
        wrong = [name for name in self.conditions if name not in CONDITIONS]
        if wrong or len(set(self.conditions)) != len(self.conditions):
            raise ValueError(
                f"conditions must name each condition once, out of {', '.join(CONDITIONS)}; found "
                f"{list(self.conditions)}."
            )
        if self.conditions and self.inputs == "values":
            raise ValueError("conditions need inputs='differences'; the paper's network reads weights alone.")
