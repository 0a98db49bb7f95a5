"""Relatives of KNOWN as retrodictors: weight nowcasters, with a user's own copy of their weights.

Both were made to look ahead in training time, not in data size; used here, they transfer that.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from know_hf.known.predicting import Predicting
from know_hf.retrodiction.predictors import load_predictor
from know_hf.retrodiction.registry import PredictorFamily, method
from know_hf.trajectory import to_history

WNN = PredictorFamily("WNN", load_predictor)


@method(predictor=WNN)
def wnn(stages: Tensor, kind: str, steps: int = 1, *, predictor: Predicting) -> Tensor:
    """Weight Nowcasting Network: KNOWN's network on each weight's history, shifted and scaled to its range.

    Args:
        stages: ``(S, *shape)`` floating point in stage order.
        kind: Kind of the tensor; the predictor has one network for each.
        steps: Number of steps, by sliding window.
        predictor: WNN's weights as a predictor (``know-hf convert`` reads the ``.h5`` files).

    Returns:
        ``(steps, *shape)`` float32 on the predictor's device.

    Raises:
        ValueError: If the predictor reads another number of stages or has no network for ``kind``.

    Limits: S = 5; looks along epochs, not data.

    Source: Jang et al., "Learning to boost training by periodic nowcasting near future weights" (ICML 2023); the
        released bias formula adds to unscaled weights, mended here.

    Example:
        >>> from know_hf.retrodiction.learned import wnn
        >>> wnn(stages, "conv", predictor=KnownPredictor.from_pretrained("my-wnn"))  # doctest: +SKIP
    """
    window = to_history(stages).to(predictor.device, torch.float32)
    results = []
    for _ in range(steps):
        first, span = window[0], window.amax(0) - window.amin(0) + (1e-8 + 1e-5)
        scaled = (window - first) / span / 2
        newest = predictor.predict(scaled, kind)[0] * span * 2 + first
        results.append(newest)
        window = torch.cat((window[1:], newest[None]))
    return torch.stack(results)


class NinoMLP(nn.Module):
    """NiNo's variant without a graph (WNN+): one network, told the kind of parameter by an embedding.

    Source: Knyazev et al., "Accelerating training with neuron interaction and nowcasting networks" (ICLR 2025).
    """

    TYPES = {"fc": 1, "bias": 2, "conv": 3}

    def __init__(self, context: int = 5, hidden: int = 128, horizon: int = 40, types: int = 15):
        super().__init__()
        #: Number of stages it reads, and of steps that it can look ahead.
        self.context, self.horizon = context, horizon
        self.layer_embed = nn.Embedding(types, hidden)
        self.edge_proj = nn.ModuleDict({"fc": nn.Sequential(nn.Linear(context, hidden))})
        layers = [layer for _ in range(3) for layer in (nn.Linear(hidden, hidden), nn.SiLU())]
        self.edge_mlp = nn.ModuleDict({"fc": nn.Sequential(*layers, nn.Linear(hidden, horizon))})

    @classmethod
    def from_file(cls, path: str | Path) -> "NinoMLP":
        """Loads weights from safetensors (``know-hf convert`` reads the released ``.pt`` file).

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file holds no NiNo MLP.
        """
        path = Path(path)
        path = path / "model.safetensors" if path.is_dir() else path
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is not safetensors; `know-hf convert {path.name} OUT_DIR` makes one of it.")
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise OSError(f"Predictor {str(path)!r} is not there, or damaged. ({error})") from error
        return cls.from_state(state, str(path))

    @classmethod
    def from_state(cls, state: dict[str, Tensor], source: str) -> "NinoMLP":
        """Builds the network whose sizes a state has.

        Raises:
            ValueError: If it is the state of something else; ``source`` is named.
        """
        try:
            types, hidden = state["layer_embed.weight"].shape
            context, horizon = state["edge_proj.fc.0.weight"].shape[1], state["edge_mlp.fc.6.weight"].shape[0]
            model = cls(context, hidden, horizon, types)
            model.load_state_dict(state)
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{source} is not a NiNo MLP: {str(error).splitlines()[0]}") from error
        return model.eval()

    def forward(self, history: Tensor, kind: str, steps: int) -> Tensor:
        """``(n, context)`` scaled histories, newest last → ``(n, steps)`` scaled residuals for 1 … steps ahead."""
        hidden = self.edge_proj["fc"](history) + self.layer_embed.weight[self.TYPES[kind]]
        *layers, last = self.edge_mlp["fc"].children()
        for layer in layers:
            hidden = layer(hidden)
        return nn.functional.linear(hidden, last.get_parameter("weight")[:steps], last.get_parameter("bias")[:steps])


def _load_nino(given: NinoMLP | str | Path, stages: int) -> NinoMLP:
    return given if isinstance(given, NinoMLP) else NinoMLP.from_file(given)


@method(predictor=PredictorFamily("NiNo", _load_nino), whole_tensors=True)
@torch.no_grad()
def nino(stages: Tensor, kind: str, steps: int = 1, *, predictor: NinoMLP, block_size: int = 16384) -> Tensor:
    """NiNo's MLP: standardised over the whole tensor and its stages, all steps predicted directly.

    Args:
        stages: ``(S, *shape)`` floating point in stage order, a whole tensor.
        kind: ``"conv"``, ``"fc"`` or ``"bias"``.
        steps: Number of steps, at most the network's horizon (40).
        predictor: A [`NinoMLP`].
        block_size: Weights per block.

    Returns:
        ``(steps, *shape)`` float32 on the predictor's device.

    Raises:
        ValueError: If it reads another number of stages, ``steps`` is too many or the kind unknown.

    Limits: S = 5, s at most 40; looks along epochs, not data.

    Source: Knyazev et al. (ICLR 2025); as a retrodictor, ours.

    Example:
        >>> from know_hf.retrodiction.learned import NinoMLP, nino
        >>> nino(stages, "fc", 3, predictor=NinoMLP.from_file("my-nino"))  # doctest: +SKIP
    """
    if len(stages) != predictor.context:
        raise ValueError(f"The predictor reads {predictor.context} stages, the trajectory has {len(stages)}.")
    if not 1 <= steps <= predictor.horizon:
        raise ValueError(f"steps is {steps}; this predictor looks 1 to {predictor.horizon} steps ahead.")
    if kind not in predictor.TYPES:
        raise ValueError(f"NiNo has no type for kind {kind!r}; it has {list(predictor.TYPES)}.")
    device = predictor.layer_embed.weight.device
    history = to_history(stages).to(device, torch.float32)
    flat = history.reshape(len(history), -1)
    centre = flat.mean()
    spread = flat.std() if flat.numel() > 1 else torch.zeros((), device=device)
    scaled = (flat - centre) / (spread + 1e-6)
    moves = torch.cat([predictor(block, kind, steps) for block in scaled.T.split(block_size)]).T
    return ((scaled[-1] + moves) * spread + centre).reshape(steps, *stages.shape[1:])
