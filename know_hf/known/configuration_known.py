"""Configuration of the KNOWN hyper-model."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .sizes import KnownSizes


@strict
class KnownConfig(KnownSizes, PreTrainedConfig):
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
        huggingface_hub.errors.StrictDataclassError: If a value is of another type or out of range, or a name is unknown
            or given twice.

    Source: paper section 4.4; sizes, slope and activations from the authors' released network.

    Example:
        >>> from know_hf import KnownConfig
        >>> KnownConfig(history_length=3).history_length
        3
    """

    model_type = "known"
