"""Small image classifiers of six families, whose forgetting trajectories KNOWN learns from."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from know_hf.models.plain_cnn import plain_layers

CLASSES = 10


class Classifier(nn.Module):
    """A network with the interface that ``Trainer`` expects: pixels and labels in, loss and scores out."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Returns ``logits`` and, with labels, ``loss``."""
        logits = self.layers(pixel_values)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3, groups: int = 1) -> nn.Module:
    """Convolution without bias, normalisation and ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Adds what its body makes of the input to it."""

    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Dense(nn.Module):
    """Appends what its body makes of the input to it, channel-wise."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: one half passes, the other is convolved, then channels of both interleave."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            conv(half, half, size=1), nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half), conv(half, half, size=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        both = torch.stack((kept, self.body(changed)), 2)
        return both.flatten(1, 2)


def _head(features: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, CLASSES)]


def cnn(channels: int, width: int) -> nn.Module:
    """A plain network with biases, without normalisation, and a hidden linear layer."""
    return Classifier(*plain_layers(channels, (width, 2 * width, 2 * width), 4 * width, CLASSES))


def resnet(channels: int, width: int) -> nn.Module:
    """Two stages of residual blocks."""
    w = width
    return Classifier(
        conv(channels, w, 2), Residual(conv(w, w), conv(w, w)),
        conv(w, 2 * w, 2), Residual(conv(2 * w, 2 * w), conv(2 * w, 2 * w)), *_head(2 * w),
    )  # fmt: skip


def densenet(channels: int, width: int) -> nn.Module:
    """Two densely connected blocks with a transition between them."""
    w, growth = width, max(4, width // 2)
    first, second = w + 3 * growth, w + 6 * growth
    return Classifier(
        conv(channels, w, 2), *(Dense(w + i * growth, growth) for i in range(3)),
        conv(first, first, 2, size=1), *(Dense(first + i * growth, growth) for i in range(3)), *_head(second),
    )  # fmt: skip


def shufflenet(channels: int, width: int) -> nn.Module:
    """Two stages of shuffle units."""
    w = 2 * width
    return Classifier(conv(channels, w, 2), Shuffle(w), Shuffle(w), conv(w, 2 * w, 2), Shuffle(2 * w), *_head(2 * w))


def mobilenet(channels: int, width: int) -> nn.Module:
    """Inverted residuals with depthwise convolutions, as in MobileNetV2."""

    def inverted(w: int) -> nn.Module:
        wide = 4 * w
        last = [nn.Conv2d(wide, w, 1, bias=False), nn.BatchNorm2d(w)]
        return Residual(conv(w, wide, size=1), conv(wide, wide, groups=wide), *last)

    w = width
    return Classifier(conv(channels, w, 2), inverted(w), conv(w, 2 * w, 2), inverted(2 * w), *_head(2 * w))


def vit(channels: int, width: int) -> nn.Module:
    """A small vision transformer for images of 16 to 32 pixels."""
    config = ViTConfig(
        hidden_size=4 * width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8 * width, image_size=32,
        patch_size=8, num_channels=channels, num_labels=CLASSES, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return ViTForImageClassification(config)


#: Name → function of input channels and width.
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    network.__name__: network for network in (cnn, resnet, densenet, shufflenet, mobilenet, vit)
}
