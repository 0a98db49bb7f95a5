"""A plain convolutional network that recipes can name: ``architecture: {model_type: plain_cnn}``."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


def plain_layers(channels: int, widths: Sequence[int], hidden: int, classes: int) -> list[nn.Module]:
    """Convolutions with biases and without normalisation, then two linear layers.

    Args:
        channels: Channels of the images.
        widths: Channels after each 3×3 convolution; each halves the image.
        hidden: Width of the hidden linear layer, which reads what averages over the four quarters leave.
        classes: Number of outputs.

    Returns:
        The layers, in order.
    """
    pairs = pairwise([channels, *widths])
    convolutions = [nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()) for before, after in pairs]
    linear = [nn.Linear(4 * widths[-1], hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return [*convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *linear]


class PlainCnnConfig(PreTrainedConfig):
    """What a [`PlainCnnForImageClassification`] is made of; with the defaults and ten classes it has 24,910 weights.

    Args:
        num_channels: Channels of the images.
        hidden_sizes: As ``widths`` of [`plain_layers`].
        hidden_size: As ``hidden`` of [`plain_layers`].
        **kwargs: As for ``PreTrainedConfig``.

    Source: paper section 5.1 and Figure 3 ("vanilla CNN, ≈ 25K parameters"; the layers are ours).
    """

    model_type = "plain_cnn"

    def __init__(
        self, num_channels: int = 3, hidden_sizes: Sequence[int] = (16, 32, 32), hidden_size: int = 76, **kwargs: Any
    ) -> None:
        self.num_channels, self.hidden_sizes, self.hidden_size = num_channels, list(hidden_sizes), hidden_size
        super().__init__(**kwargs)


class PlainCnnForImageClassification(PreTrainedModel):
    """The network; Auto classes load its folders, which bring this file for machines without know-hf.

    Example:
        >>> from know_hf.models.plain_cnn import PlainCnnConfig, PlainCnnForImageClassification
        >>> PlainCnnForImageClassification(PlainCnnConfig(num_labels=10)).num_parameters()
        24910
    """

    config_class = PlainCnnConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PlainCnnConfig) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(
            *plain_layers(config.num_channels, config.hidden_sizes, config.hidden_size, config.num_labels)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # torch's own initial values
            module.reset_parameters()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Scores images.

        Args:
            pixel_values: ``(n, channels, height, width)`` float32.
            labels: ``(n,)`` int64; with them the loss is computed too.
            **kwargs: For the loss, such as ``num_items_in_batch``.

        Returns:
            ``logits``, ``(n, classes)``, and ``loss``.
        """
        logits = self.layers(pixel_values)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits)
