"""ResNets for small images: the one of KNOW's authors, and the common one of the field."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

#: Standard deviation of a standard normal distribution that is cut off at two of them.
_CUT_OFF = 0.87962566103423978


class SmallResNetConfig(PreTrainedConfig):
    """Configuration of a ResNet of two convolutions a block, for images of some 32 pixels.

    The defaults are the ResNet18 of KNOW's authors. The common one is ``stem_kernel=3, stem_padding=0, strides=(1, 2,
    2, 2), bias=False, keras_padding=False, batch_norm_eps=1e-5, batch_norm_momentum=0.1``.

    Args:
        width: Channels of the stem and the first stage; each further stage doubles them. 16 is a quarter of the width.
        depths: Blocks of each stage.
        strides: Stride of the first block of each stage.
        stem_kernel: Side of the stem's kernel, whose stride is 1.
        stem_padding: Pixels of zeros put around the maps after the stem's ReLU.
        bias: Whether convolutions have biases.
        keras_padding: Whether convolutions of stride 2 pad maps of even side below and to the right only, as Keras'
            ``same`` does, instead of on all sides.
        batch_norm_eps: Added to variances.
        batch_norm_momentum: Share of a batch in running statistics; Keras' momentum is 1 less this.
        num_channels: Of the images.
        image_mean: Mean that is subtracted from pixels, in units of their full range.
        image_std: What they are divided by then.
        **others: As for every configuration, ``num_labels`` among them.

    Raises:
        ValueError: If ``depths`` and ``strides`` are not for the same stages.

    Source: ``ResNet18`` in the authors' ``1_CIFAR100_Pretraininng.py``; He et al. 2016 (arXiv 1512.03385), with the
    stem that implementations for CIFAR have.

    Example:
        >>> from know_hf.models.resnet import SmallResNetConfig
        >>> SmallResNetConfig(width=16, num_labels=10).model_type
        'know_resnet'
    """

    model_type = "know_resnet"

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2, 2),
        strides: Sequence[int] = (1, 1, 2, 2),
        stem_kernel: int = 7,
        stem_padding: int = 1,
        bias: bool = True,
        keras_padding: bool = True,
        batch_norm_eps: float = 1e-3,
        batch_norm_momentum: float = 0.01,
        num_channels: int = 3,
        image_mean: float = 0.0,
        image_std: float = 1.0,
        **others: Any,
    ) -> None:
        if len(depths) != len(strides):
            raise ValueError(f"depths has {len(depths)} stages, strides {len(strides)}; give as many of both.")
        self.width, self.depths, self.strides = width, list(depths), list(strides)
        self.stem_kernel, self.stem_padding, self.bias, self.keras_padding = (
            stem_kernel, stem_padding, bias, keras_padding,
        )  # fmt: skip
        self.batch_norm_eps, self.batch_norm_momentum = batch_norm_eps, batch_norm_momentum
        self.num_channels, self.image_mean, self.image_std = num_channels, image_mean, image_std
        super().__init__(**others)


class SmallResNetForImageClassification(PreTrainedModel):
    """A ResNet of two convolutions a block with a linear head on the mean of the last maps.

    Args:
        config: Its configuration.

    Source: As [`SmallResNetConfig`]. Kernels start from Keras' ``he_normal``, the head from Glorot's uniform values.

    Example:
        >>> import torch
        >>> from know_hf.models.resnet import SmallResNetConfig, SmallResNetForImageClassification
        >>> model = SmallResNetForImageClassification(SmallResNetConfig(width=4, num_labels=10))
        >>> model(torch.zeros(2, 3, 32, 32)).logits.shape
        torch.Size([2, 10])
    """

    config: SmallResNetConfig
    config_class = SmallResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SmallResNetConfig) -> None:
        super().__init__(config)
        channels = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(config.num_channels, channels, config.stem_kernel, 1, config.stem_kernel // 2, bias=config.bias),
            _norm(channels, config),
            nn.ReLU(),
            nn.ZeroPad2d(config.stem_padding),
        )
        self.stages = nn.ModuleList()
        for stage, (depth, stride) in enumerate(zip(config.depths, config.strides, strict=True)):
            blocks = []
            for block in range(depth):
                made = config.width * 2**stage
                blocks.append(Block(channels, made, 1 if block else stride, config))
                channels = made
            self.stages.append(nn.Sequential(*blocks))
        self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Classifies images.

        Args:
            pixel_values: ``(n, c, h, w)`` float.
            labels: ``(n,)`` int64, for the loss.

        Returns:
            Loss, if there are labels, and ``logits``, ``(n, num_labels)``.
        """
        maps = self.stem(pixel_values)
        for stage in self.stages:
            maps = stage(maps)
        logits = self.classifier(maps.mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / module.weight[0].numel()) / _CUT_OFF
            init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            init.zeros_(module.bias)


class Block(nn.Module):
    """Two convolutions beside a shortcut, which has one of its own where the maps change.

    Args:
        before: Channels of what it reads.
        channels: Channels of what it makes.
        stride: Of its first convolution.
        config: Of the network.
    """

    def __init__(self, before: int, channels: int, stride: int, config: SmallResNetConfig) -> None:
        super().__init__()
        self.one_sided = config.keras_padding and stride == 2
        padding, bias = 0 if self.one_sided else 1, config.bias
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding, bias=bias)
        self.norm1 = _norm(channels, config)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=bias)
        self.norm2 = _norm(channels, config)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=bias), _norm(channels, config))

    def forward(self, maps: Tensor) -> Tensor:
        """Makes ``(n, channels, h, w)`` of ``(n, before, …)`` maps."""
        padded = maps
        if self.one_sided:  # a side of odd length gets its zeros on both ends
            down, across = (side % 2 for side in maps.shape[2:])
            padded = F.pad(maps, (across, 1, down, 1))
        made = F.relu(self.norm1(self.conv1(padded)))
        return F.relu(self.norm2(self.conv2(made)) + self.shortcut(maps))


def _norm(channels: int, config: SmallResNetConfig) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)
