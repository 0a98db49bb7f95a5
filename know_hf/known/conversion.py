"""Reads the authors' Keras weights from a user's own disk into a KnownPredictor."""

import re
from pathlib import Path

import torch

from know_hf.known.configuration_known import KnownConfig
from know_hf.known.modeling_known import KnownPredictor

_FILES = {"conv": "KNOWN_Conv.h5", "fc": "KNOWN_FC.h5", "bias": "KNOWN_Bias.h5"}
# The Dense layers in the order of their numbers: each stream's six, then the head.
_STREAM = ("expand", "squeeze", "shift", "gain", "rate", "output")
_LAYERS = [f"{stream}.{layer}" for stream in ("values", "differences") for layer in _STREAM] + ["head"]


def convert_keras(keras_dir: str | Path) -> KnownPredictor:
    """Builds a predictor from the authors' three ``.h5`` files.

    The official repository states no licence: use your own copy for comparison, and do not redistribute it.

    Args:
        keras_dir: Folder that holds ``KNOWN_Conv.h5``, ``KNOWN_FC.h5`` and ``KNOWN_Bias.h5``.

    Returns:
        A [`KnownPredictor`] that computes what the Keras networks compute.

    Raises:
        FileNotFoundError: If one of the three files is missing.
        ImportError: If h5py is not installed.
        ValueError: If a file does not hold the thirteen Dense layers of the network.

    Source: layer order from the authors' released files.

    Example:
        >>> from know_hf.known.conversion import convert_keras
        >>> convert_keras("path/to/keras").save_pretrained("official-known")  # doctest: +SKIP
    """
    keras_dir = Path(keras_dir)
    missing = [name for name in _FILES.values() if not (keras_dir / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{keras_dir} lacks {', '.join(missing)}; point to the folder that holds the three .h5 files."
        )
    states = {kind: _read_dense_layers(keras_dir / name) for kind, name in _FILES.items()}
    stages = states["conv"]["values.expand.weight"].shape[1]
    predictor = KnownPredictor(KnownConfig(history_length=stages))
    for kind, state in states.items():
        try:
            predictor.network(kind).load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{keras_dir / _FILES[kind]} is not a KNOWN network: {error}") from error
    return predictor.eval()


def _read_dense_layers(path: Path) -> dict[str, torch.Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('Reading .h5 files needs h5py: pip install "know-hf[convert]"') from error

    arrays: dict[int, dict[str, torch.Tensor]] = {}

    def visit(name: str, item):
        found = re.search(r"dense(?:_(\d+))?/(kernel|bias)(?::0)?$", name)
        if found and isinstance(item, h5py.Dataset):
            arrays.setdefault(int(found[1] or 0), {})[found[2]] = torch.from_numpy(item[...])

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    if len(arrays) != len(_LAYERS) or any(set(layer) != {"kernel", "bias"} for layer in arrays.values()):
        raise ValueError(f"{path} holds {len(arrays)} Dense layers; a KNOWN network has {len(_LAYERS)}.")
    state = {}
    # Only the order of the numbers matters: a session that built other layers before starts above 0.
    for layer, (_, values) in zip(_LAYERS, sorted(arrays.items()), strict=True):
        state[f"{layer}.weight"], state[f"{layer}.bias"] = values["kernel"].T.contiguous(), values["bias"]
    return state
