"""Reads released weights of KNOWN and its relatives from a user's own disk."""

import re
from pathlib import Path

import torch

from know_hf.installing import missing
from know_hf.known import KnownConfig, KnownPredictor
from know_hf.model_config import brief
from know_hf.store import write_tensors

# KNOWN's and the Weight Nowcasting Network's files; both are the same network.
_PATTERNS = {
    kind: rf"(KNOWN|NWNN)_{name}(_\d+)?\.h5" for kind, name in (("conv", "Conv"), ("fc", "FC"), ("bias", "Bias"))
}
# The Dense layers in the order of their numbers: each stream's six, then the head.
_STREAM = ("expand", "squeeze", "shift", "gain", "rate", "output")
_LAYERS = [f"{stream}.{layer}" for stream in ("values", "differences") for layer in _STREAM] + ["head"]


def convert_keras(keras_dir: str | Path) -> KnownPredictor:
    """Builds a predictor from the authors' three ``.h5`` files, of KNOWN or of WNN.

    The official repositories state no licence: use your own copy for comparison, and do not redistribute it.

    Args:
        keras_dir: Folder that holds ``KNOWN_Conv.h5``, ``KNOWN_FC.h5`` and ``KNOWN_Bias.h5``, or WNN's
            ``NWNN_Conv_13.h5`` and so on.

    Returns:
        A [`KnownPredictor`] that computes what the Keras networks compute.

    Raises:
        FileNotFoundError: If one of the three files is missing.
        ImportError: If h5py is not installed.
        ValueError: If there are several for a kind, or a file does not hold the network's thirteen Dense layers.

    Source: layer order from the authors' released files.

    Example:
        >>> from know_hf.retrodiction.conversion import convert_keras
        >>> convert_keras("path/to/keras").save_pretrained("official-known")  # doctest: +SKIP
    """
    keras_dir = Path(keras_dir)
    names = sorted(path.name for path in keras_dir.iterdir()) if keras_dir.is_dir() else []
    files: dict[str, Path] = {}
    for kind, pattern in _PATTERNS.items():
        found = [name for name in names if re.fullmatch(pattern, name)]
        if len(found) > 1:
            raise ValueError(f"{keras_dir} holds several predictors: {', '.join(found)}; keep one set in the folder.")
        if not found:
            readable = "KNOWN_" + pattern.split("_")[1].partition("(")[0]
            raise FileNotFoundError(
                f"{keras_dir} lacks {readable}.h5; point to the folder that holds the three .h5 files."
            )
        files[kind] = keras_dir / found[0]
    states = {kind: _read_dense_layers(path) for kind, path in files.items()}
    if any(value.ndim != (2 if name.endswith("weight") else 1) for s in states.values() for name, value in s.items()):
        raise ValueError(f"{keras_dir} holds layers that are none of a KNOWN network.")
    stages = states["conv"]["values.expand.weight"].shape[1]
    predictor = KnownPredictor(KnownConfig(history_length=stages))
    for kind, state in states.items():
        try:
            predictor.network(kind).load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{files[kind]} is not a KNOWN network: {error}") from error
    return predictor.eval()


def convert_nino(path: str | Path, out_dir: str | Path) -> Path:
    """Writes NiNo's MLP from its released ``.pt`` file as safetensors.

    A ``.pt`` file is a pickle; it is read with torch's restricted unpickler, which runs no code, here and nowhere else.

    Args:
        path: ``nino_mlp.pt`` or ``nino_mlp_h32.pt``.
        out_dir: Folder for ``model.safetensors``.

    Returns:
        The file written.

    Raises:
        ValueError: If the file is not a plain state, or not of NiNo's variant without a graph.

    Source: file layout from the released checkpoints (MIT licence).

    Example:
        >>> from know_hf.retrodiction.conversion import convert_nino
        >>> convert_nino("nino_mlp.pt", "my-nino")  # doctest: +SKIP
    """
    from know_hf.retrodiction.learned import NinoMLP

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises many types for a file that is none
        raise ValueError(f"{path} is not a plain torch checkpoint: {brief(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dictionary.")
    model = NinoMLP.from_state({name: value.float() for name, value in state.items()}, str(path))
    target = Path(out_dir) / "model.safetensors"
    write_tensors(target, model.state_dict())
    return target


def _read_dense_layers(path: Path) -> dict[str, torch.Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise missing("Reading .h5 files needs", "h5py", "convert") from error

    arrays: dict[int, dict[str, torch.Tensor]] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found = re.search(r"dense(?:_(\d+))?/(kernel|bias)(?::0)?$", name)
        if found and isinstance(item, h5py.Dataset):
            arrays.setdefault(int(found[1] or 0), {})[found[2]] = torch.from_numpy(item[...])

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except Exception as error:  # h5py raises many types for a file that is damaged
        raise ValueError(f"{path} is not a readable HDF5 file: {brief(error)}") from error
    if len(arrays) != len(_LAYERS) or any(set(layer) != {"kernel", "bias"} for layer in arrays.values()):
        raise ValueError(f"{path} holds {len(arrays)} Dense layers; a KNOWN network has {len(_LAYERS)}.")
    state = {}
    # Only the order of the numbers matters: a session that built other layers before starts above 0.
    for layer, (_, values) in zip(_LAYERS, sorted(arrays.items()), strict=True):
        state[f"{layer}.weight"], state[f"{layer}.bias"] = values["kernel"].T.contiguous(), values["bias"]
    return state
