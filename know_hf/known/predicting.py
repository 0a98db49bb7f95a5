"""From histories to predicted weights: what every form of a predictor computes, with torch alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .differences import DifferenceNetwork
from .inference import FoldedNetwork
from .networks import KnownNetwork
from .sizes import KnownSizes


class Predicting(nn.Module):
    """The arithmetic of a predictor, which has its sizes as ``config``, and ``networks``."""

    config: KnownSizes
    networks: nn.ModuleDict
    # Within a block of ``frozen``: the folded networks, and weights times steps of the job.
    _folded: Mapping[str, FoldedNetwork] = MappingProxyType({})
    _work: int | None = None

    if TYPE_CHECKING:  # what transformers adds has no types

        def __getattr__(self, name: str) -> Any: ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

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
            kind: One of ``config.kinds``; ``"fc"`` with three dimensions is a mixture's experts, a matrix each.
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
            # The matrices of a mixture's experts are tensors each, as where they are stored one by one.
            parts = history.unbind(1) if kind == "fc" and history.ndim == 4 else [history]
            made = [network.predict(part, self.config, steps, sampling_ratio, block_size) for part in parts]
            predicted = torch.stack(made, 1) if len(made) > 1 else made[0]
        else:
            flat = history.reshape(history.shape[0], -1)
            folded = self._folded.get(kind) or FoldedNetwork.of(network)
            predicted = folded.predict(flat, steps, block_size, self._work, precision)
        return predicted.reshape(steps, *history.shape[1:])
