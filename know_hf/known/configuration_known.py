"""Configuration of the KNOWN hyper-model."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class KnownConfig(PreTrainedConfig):
    """Sizes of a [`KnownPredictor`]; the defaults are the paper's network (9,425 parameters a kind).

    Args:
        history_length: Number S of stages that the predictor reads, at least 2.
        hidden_size: Width of the two gated layers of each stream.
        bottleneck_size: Width of the layer between them.
        output_size: Width of each stream's last layer.
        negative_slope: Slope of the leaky ReLU (0.3, Keras' default, not PyTorch's 0.01).
        kinds: Names of the parameter kinds, one network each.

    Raises:
        ValueError: If a size is out of range or a kind is named twice.

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

    def validate_sizes(self):
        if self.history_length < 2:
            raise ValueError(
                f"history_length is {self.history_length}; a predictor needs at least 2 stages to see a difference."
            )
        if min(self.hidden_size, self.bottleneck_size, self.output_size) < 1:
            raise ValueError("hidden_size, bottleneck_size and output_size must be at least 1.")
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds must name each kind once, found {list(self.kinds)}.")
