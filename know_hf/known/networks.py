"""The networks of the KNOWN hyper-model, one a kind of parameter: plain modules, which need torch alone."""

import torch
from torch import Tensor, nn

from .differences import DifferenceNetwork
from .sizes import KnownSizes


class ScaledLinear(nn.Linear):
    """A stream's first or last layer, which the L1 penalties are on.

    Starts from Keras' VarianceScaling(0.1, fan_in, uniform) instead of Glorot's values.
    """


class KnownStream(nn.Module):
    """One of the two streams: a gated layer between two linear ones."""

    def __init__(self, inputs: int, config: KnownSizes) -> None:
        super().__init__()
        hidden, bottleneck = config.hidden_size, config.bottleneck_size
        self.expand = ScaledLinear(inputs, hidden)
        self.squeeze = nn.Linear(hidden, bottleneck)
        self.shift = nn.Linear(bottleneck, hidden)
        self.gain = nn.Linear(bottleneck, hidden)
        self.rate = nn.Linear(bottleneck, hidden)
        self.output = ScaledLinear(hidden, config.output_size)
        self.negative_slope = config.negative_slope

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps ``(…, inputs)`` to ``(…, output_size)``."""
        hidden = self.expand(inputs)
        gate = torch.relu(self.squeeze(hidden))
        hidden = self.gain(gate) * torch.exp(self.rate(gate) * hidden) + self.shift(gate)
        return nn.functional.leaky_relu(self.output(hidden), self.negative_slope)


class KnownNetwork(nn.Module):
    """The network of one kind."""

    def __init__(self, config: KnownSizes) -> None:
        super().__init__()
        self.values = KnownStream(config.history_length, config)
        self.differences = KnownStream(config.history_length - 1, config)
        self.head = nn.Linear(2 * config.output_size, 1)

    def forward(self, history: Tensor) -> Tensor:
        """Maps ``(…, S)`` histories, the most forgotten stage first, to ``(…)`` residuals."""
        streams = self.values(history), self.differences(history.diff(dim=-1))
        return torch.tanh(self.head(torch.cat(streams, dim=-1))).squeeze(-1)


def networks_of(sizes: KnownSizes) -> nn.ModuleDict:
    """The networks of a predictor, by kind, with the values that torch gives them."""
    network = DifferenceNetwork if sizes.inputs == "differences" else KnownNetwork
    return nn.ModuleDict({kind: network(sizes) for kind in sizes.kinds})
