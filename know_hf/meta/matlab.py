"""Reads the authors' meta-data files (MATLAB v7.3, which is HDF5), if a user has them."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from know_hf.meta.shards import TensorStages
from know_hf.trajectory import TrajectoryError

#: Name in the file → kind, and how many axes hold values before the last one, the stages.
ARRAYS = {"ConvWeights": "conv", "FCWeights": "fc", "Bias": "bias"}
_SETTINGS = {"sampling_ratio": "SamplingRate", "learning_rate": "LR", "batch_size": "BS"}


def read_matlab(path: str | Path) -> Iterator[TensorStages]:
    """Reads one file: all kernels, all other weights and all biases of a trial, each as one tensor.

    Args:
        path: A file such as ``…SamplingRate_0.344…LR_0.000898…BS_33….mat`` with the arrays ``ConvWeights``
            (3, 3, N, 7), ``FCWeights`` (M, 7) and ``Bias`` (K, 7) as MATLAB shows them; their last axis goes from
            the smallest data set to all of it.

    Yields:
        A [`TensorStages`] for each array, values in stage order. Layers are not told apart in these files.

    Raises:
        ImportError: If h5py is not installed.
        TrajectoryError: If the file cannot be read, or holds none of the arrays, or values that are not finite.

    Source: the documentation of the authors' data; ``FCWeights`` holds every weight that is not a 3×3 kernel.

    Example:
        >>> from know_hf.meta.matlab import read_matlab
        >>> [tensor.kind for tensor in read_matlab("CNN_SamplingRate_0.5_LR_0.001_BS_64.mat")]  # doctest: +SKIP
        ['conv', 'fc', 'bias']
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('MATLAB files need h5py: pip install "know-hf[convert]"') from error
    path = Path(path)
    number = r"_(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    settings = {}
    for name, written in _SETTINGS.items():
        if match := re.search(written + number, path.name):
            settings[name] = int(match[1]) if name == "batch_size" else float(match[1])
    try:
        with h5py.File(path, "r") as file:
            # HDF5 shows MATLAB's axes in reverse: the stages come first.
            arrays = {kind: np.asarray(file[name], np.float32) for name, kind in ARRAYS.items() if name in file}
    except OSError as error:
        raise TrajectoryError(f"{path} is no readable MATLAB v7.3 file: {error}") from error
    if not arrays:
        raise TrajectoryError(f"{path} holds none of the arrays {', '.join(ARRAYS)}.")
    if len({len(values) for values in arrays.values()}) != 1:
        shapes = ", ".join(f"{kind} {list(values.shape[::-1])}" for kind, values in arrays.items())
        raise TrajectoryError(f"{path}: the arrays have unequal numbers of stages ({shapes}).")
    for kind, values in arrays.items():
        if not np.isfinite(values).all():
            raise TrajectoryError(f"{path}: the {kind} values are not all finite.")
        flat = values.reshape(len(values), -1)[::-1]  # all of the data first
        yield TensorStages({"trial": path.stem, **settings}, kind, "", kind, values.shape[:0:-1], flat.copy())
