"""Sizes of the KNOWN hyper-model, and checks of them; needs neither transformers nor torch."""

import math
from dataclasses import dataclass

from huggingface_hub.dataclasses import strict

#: Most weights of a predictor, whose networks have some ten thousand; a file that asks for more is refused early.
MOST_WEIGHTS = 100_000_000
INPUTS = ("values", "differences")
#: What a predictor of differences may be told of a tensor, beside the differences themselves.
CONDITIONS = ("ratio", "horizon", "movement", "fan_in", "profile", "agreement")


@strict
@dataclass(kw_only=True, repr=False, eq=False)
class KnownSizes:
    """What a [`KnownConfig`] says of the networks, which documents the fields; enough to compute with them."""

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
