"""The KNOWN hyper-model: predicts, weight by weight, what a larger data set would have changed."""

import importlib
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_known import KnownConfig
from .differences import DifferenceNetwork, ZeroLinear
from .inference import FoldedNetwork

#: Numbers of stages that the predictors in the package read.
BUNDLED = (2, 3, 4, 5)


class ScaledLinear(nn.Linear):
    """A stream's first or last layer, which the L1 penalties are on.

    Starts from Keras' VarianceScaling(0.1, fan_in, uniform) instead of Glorot's values.
    """


class KnownStream(nn.Module):
    """One of the two streams: a gated layer between two linear ones."""

    def __init__(self, inputs: int, config: KnownConfig) -> None:
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

    def __init__(self, config: KnownConfig) -> None:
        super().__init__()
        self.values = KnownStream(config.history_length, config)
        self.differences = KnownStream(config.history_length - 1, config)
        self.head = nn.Linear(2 * config.output_size, 1)

    def forward(self, history: Tensor) -> Tensor:
        """Maps ``(…, S)`` histories, the most forgotten stage first, to ``(…)`` residuals."""
        streams = self.values(history), self.differences(history.diff(dim=-1))
        return torch.tanh(self.head(torch.cat(streams, dim=-1))).squeeze(-1)


class KnownPredictor(PreTrainedModel):
    """KNOWN (KNowledge-Overflowed Weights Nowcaster): one small network per kind of parameter.

    It reads the history of each weight along a forgetting trajectory, **ordered from the most forgotten stage to
    the least**, and returns the residual to add to the last entry. [`Trajectory`] and [`retrodict`] put
    histories into that order; use them unless you have a reason not to.

    Source: paper section 4.4, Eq. 4; network details from the authors' released code.

    Example:
        >>> import torch
        >>> from know_hf import KnownPredictor
        >>> predictor = KnownPredictor.default()
        >>> predictor.predict(torch.randn(5, 8, 3, 3, 3) * 0.05, "conv", steps=3).shape
        torch.Size([3, 8, 3, 3, 3])
    """

    config: KnownConfig
    base_model_prefix = ""
    main_input_name = "history"

    def __init__(self, config: KnownConfig) -> None:
        super().__init__(config)
        network = DifferenceNetwork if config.inputs == "differences" else KnownNetwork
        self.networks = nn.ModuleDict({kind: network(config) for kind in config.kinds})
        self._folded: dict[str, FoldedNetwork] = {}
        self._work: int | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The paper's initial values; a network of differences begins by predicting no change."""
        if not isinstance(module, nn.Linear):
            return
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, ScaledLinear):
            bound = math.sqrt(3 * 0.1 / module.in_features)
            init.uniform_(module.weight, -bound, bound)
        else:
            init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "KnownPredictor":
        """Loads a predictor as any model is loaded; within know-hf no request to the Hub waits without end."""
        try:
            bounded: Any = importlib.import_module("know_hf.remote").bounded
        except ImportError:  # this file also runs where know-hf is not installed
            bounded = nullcontext
        with bounded():
            return super().from_pretrained(*args, **kwargs)

    @classmethod
    def default(cls, history_length: int = 5, **kwargs: Any) -> "KnownPredictor":
        """Loads a predictor that comes with the package; needs no network.

        Args:
            history_length: Number S of stages to read, 2 to 5. All had the same 40 epochs at most.
            **kwargs: Passed on to ``from_pretrained`` (for example ``dtype``).

        Returns:
            A [`KnownPredictor`] for that many stages and the kinds conv, fc and bias.

        Raises:
            ValueError: If none that comes with the package reads so many stages.

        Example:
            >>> from know_hf import KnownPredictor
            >>> KnownPredictor.default().config.history_length
            5
        """
        if history_length not in BUNDLED:
            raise ValueError(
                f"No predictor for {history_length} stages comes with know-hf, only for "
                f"{', '.join(map(str, BUNDLED))}: forget in so many stages, or pass a predictor of your own."
            )
        with resources.as_file(resources.files("know_hf.known") / "weights" / f"stages-{history_length}") as folder:
            return cls.from_pretrained(Path(folder), **kwargs)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the predictor with its card, and with its code for machines without know-hf.

        Args:
            repo_id: ``user/name``; made if need be.
            **options: As for [`push`](know_hf.hub.push), and so as for transformers: ``commit_message``,
                ``commit_description``, ``private``, ``token``, ``revision``, ``create_pr``; ``dry_run``,
                ``overwrite_card``.

        Returns:
            Address of the repository.

        Raises:
            ConnectionError, PermissionError, ValueError: As [`push`](know_hf.hub.push).

        Example:
            >>> from know_hf import KnownPredictor
            >>> KnownPredictor.default().push_to_hub("me/known")  # doctest: +SKIP
            'https://huggingface.co/me/known'
        """
        # Imported by name: this file also runs where know-hf is not installed.
        hub, readme = (importlib.import_module(f"know_hf.hub.{name}") for name in ("push", "readme"))
        with tempfile.TemporaryDirectory(prefix="know-hf-") as folder:
            self.save_pretrained(folder)
            readme.add_predictor_card(self, Path(folder))
            return hub.push(folder, repo_id, **options)

    @property
    def reads_whole_tensors(self) -> bool:
        """Whether predicting a part of a tensor needs all of it, for its statistics."""
        return self.config.inputs == "differences"

    def network(self, kind: str) -> KnownNetwork | DifferenceNetwork:
        """Returns the network of one kind.

        Args:
            kind: One of ``config.kinds``.

        Raises:
            ValueError: If there is no network for that kind.

        Source: paper section 4.5 (operation-specific models).
        """
        if kind not in self.networks:
            raise ValueError(f"This predictor has no network for kind {kind!r}; it has {list(self.networks)}.")
        return cast("KnownNetwork | DifferenceNetwork", self.networks[kind])

    def forward(self, history: Tensor, kind: str, statistics: Tensor | None = None) -> Tensor:
        """Computes residuals, differentiably.

        Args:
            history: ``(…, S)`` floating point, the last axis from the most forgotten stage to the least.
            kind: One of ``config.kinds``.
            statistics: With ``config.inputs="differences"``: ``(…, 1 + conditions)``, what
                ``know_hf.known.differences.tensor_statistics`` measures of each weight's tensor.

        Returns:
            ``(…)`` residuals, in (-1, 1) for the paper's network, to be added to ``history[..., -1]``.

        Raises:
            ValueError: If the last axis is not ``config.history_length`` long, the kind is unknown, or statistics
                are missing or not wanted.

        Source: paper Eq. 4, in the orientation of the released code.
        """
        if history.shape[-1] != self.config.history_length:
            raise ValueError(
                f"history has {history.shape[-1]} stages on its last axis; this predictor reads "
                f"{self.config.history_length}."
            )
        if (statistics is None) == self.reads_whole_tensors:
            raise ValueError(
                f"inputs={self.config.inputs!r}: statistics are {'needed' if statistics is None else 'not read'}."
            )
        return self.network(kind)(*(history,) if statistics is None else (history, statistics))

    @contextmanager
    def frozen(self, work: int) -> Iterator[None]:
        """Readies [`predict`] for a large job: folds the networks once, and compiles a kernel if that repays.

        Args:
            work: Weights times steps of all that will be predicted within the block. The weights of the predictor
                must not change there.

        Example:
            >>> import torch
            >>> from know_hf import KnownPredictor
            >>> predictor = KnownPredictor.default()
            >>> with predictor.frozen(work=100):
            ...     predictor.predict(torch.zeros(5, 100), "fc").shape
            torch.Size([1, 100])
        """
        networks = self.networks.items() if not self.reads_whole_tensors else ()
        with torch.no_grad():
            self._folded, self._work = {kind: FoldedNetwork.of(network) for kind, network in networks}, work
        try:
            yield
        finally:
            self._folded, self._work = {}, None

    @torch.no_grad()
    def predict(
        self,
        history: Tensor,
        kind: str,
        steps: int = 1,
        block_size: int | None = None,
        sampling_ratio: float | None = None,
        precision: str = "float32",
    ) -> Tensor:
        """Predicts whole tensors, several steps by sliding window, block by block.

        Args:
            history: ``(S, *shape)`` floating point, the first axis from the most forgotten stage to the least.
            kind: One of ``config.kinds``.
            steps: Number of steps beyond the last entry, at least 1.
            block_size: Weights per block; by default what suits the device's caches.
            sampling_ratio: Ratio r of successive stages' data, for predictors with the condition ``ratio``.
            precision: ``"bfloat16"`` multiplies hidden values in bfloat16 and adds in float32, where the processor or
                GPU can; weights and their differences stay float32. Residuals are then off by about a hundredth.

        Returns:
            ``(steps, *shape)`` float32 predicted weights (not residuals), nearest step first.

        Raises:
            ValueError: If the number of stages, the kind or ``steps`` does not fit, the ratio is missing, or the
                precision is not to be had here.

        Source: paper Eq. 4 and section 4.6; evaluated in a folded form that is equal up to rounding.
        """
        if history.shape[0] != self.config.history_length:
            raise ValueError(
                f"history has {history.shape[0]} stages on its first axis; this predictor reads "
                f"{self.config.history_length}."
            )
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1.")
        network, history = self.network(kind), history.to(self.device, torch.float32)
        if isinstance(network, DifferenceNetwork):
            if precision != "float32":
                raise ValueError(f"precision={precision!r}: a predictor of differences computes in float32 only.")
            predicted = network.predict(history, self.config, steps, sampling_ratio, block_size)
        else:
            flat = history.reshape(history.shape[0], -1)
            folded = self._folded.get(kind) or FoldedNetwork.of(network)
            predicted = folded.predict(flat, steps, block_size, self._work, precision)
        return predicted.reshape(steps, *history.shape[1:])
