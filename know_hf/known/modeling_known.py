"""The KNOWN hyper-model: predicts, weight by weight, what a larger data set would have changed."""

import importlib
import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .bundled import bundled
from .configuration_known import KnownConfig
from .differences import ZeroLinear
from .networks import ScaledLinear, networks_of
from .predicting import Predicting


class KnownPredictor(Predicting, PreTrainedModel):
    """KNOWN (KNowledge-Overflowed Weights Nowcaster): one small network per kind of parameter.

    It reads the history of each weight along a forgetting trajectory, **ordered from the most forgotten stage to
    the least**, and returns the residual to add to the last entry. [`Trajectory`] and [`retrodict`] put
    histories into that order; use them unless you have a reason not to.

    Args:
        config: Sizes and kinds of its networks, which begin with the paper's initial values.

    Raises:
        TypeError: If ``config`` is no configuration.

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
        self.networks = networks_of(config)
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
        """Loads a predictor as any model is loaded; within know-hf no request to the Hub waits without end.

        Args:
            *args: As for ``PreTrainedModel.from_pretrained``: a folder or Hub id.
            **kwargs: Likewise, such as ``revision`` and ``dtype``.

        Returns:
            A [`KnownPredictor`], in evaluation mode.

        Raises:
            OSError: If there is no predictor there, or its configuration is no JSON.
            RuntimeError: If the weights do not have the sizes that the configuration says.
            huggingface_hub.errors.StrictDataclassError: As [`KnownConfig`].

        Example:
            >>> from know_hf import KnownPredictor
            >>> KnownPredictor.from_pretrained("me/known").config.kinds  # doctest: +SKIP
            ['conv', 'fc', 'bias']
        """
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
        with bundled(history_length) as folder:
            return cls.from_pretrained(folder, **kwargs)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the predictor with its card, and with its code for machines without know-hf.

        Args:
            repo_id: ``user/name``; made if need be.
            **options: As for [`push`][know_hf.hub.push.push], and so as for transformers: ``commit_message``,
                ``commit_description``, ``private``, ``token``, ``revision``, ``create_pr``; ``dry_run``,
                ``overwrite_card``.

        Returns:
            Address of the repository.

        Raises:
            ConnectionError, PermissionError, ValueError: As [`push`][know_hf.hub.push.push].

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
