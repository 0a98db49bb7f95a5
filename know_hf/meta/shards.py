"""The meta-data set on disk: a Parquet file a trial, a row a tensor, which ``datasets`` reads and streams.

Columns: the trial's settings (``trial``, ``architecture``, ``data_set``, ``sampling_ratio`` …), then what the tensor is
(``tensor``, ``layer``, ``kind``, ``shape``) and ``stages``, its flattened values at every stage in stage order: the
first of them is Θ^0, trained on all the data.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from know_hf.store import hash_file
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.checkpoint import PREDICTABLE

#: Of the format; readers refuse what is newer.
VERSION = 1

SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("architecture", pa.string()),
        ("width", pa.int64()),
        ("data_set", pa.string()),
        ("examples", pa.int64()),
        ("sampling_ratio", pa.float64()),
        ("learning_rate", pa.float64()),
        ("batch_size", pa.int64()),
        ("epochs", pa.int64()),
        ("optimizer", pa.string()),
        ("schedule", pa.string()),
        ("tensor", pa.string()),
        ("layer", pa.string()),
        ("kind", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("stages", pa.list_(pa.list_(pa.float32()))),
    ],
    metadata={"know_hf": json.dumps({"version": VERSION})},
)


@dataclass(frozen=True)
class TensorStages:
    """One tensor through all stages of one trial.

    ``values`` is ``(stages, n)`` float32 in stage order; ``trial`` holds the settings as a dictionary.
    """

    trial: dict[str, Any]
    tensor: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    values: np.ndarray


def write_shard(path: Path, trial, trajectory: Trajectory) -> str:
    """Writes every floating-point tensor of a finished trial, whole or not at all.

    Tensors that are never predicted are kept too: with them a prediction can be run as a network.

    Args:
        path: The Parquet file.
        trial: The settings, a [`Trial`].
        trajectory: Its stages.

    Returns:
        SHA-256 of the file.

    Raises:
        TrajectoryError: If a value is not finite.
    """
    settings = asdict(trial)
    settings["trial"] = settings.pop("seed")
    rows = []
    for name, parameter in trajectory.parameters.items():
        if trajectory.tensors[name].dtype in PREDICTABLE:
            rows.append(
                {
                    **settings, "tensor": name, "layer": parameter.layer, "kind": parameter.kind,
                    "shape": list(trajectory.tensors[name].shape), "stages": list(trajectory.read(name).numpy()),
                }
            )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd", row_group_size=16)
    digest = hash_file(temporary)
    os.replace(temporary, path)
    return digest


def read_shard(path: Path) -> Iterator[TensorStages]:
    """Reads a shard row group by row group.

    Raises:
        TrajectoryError: If it is damaged, no shard, written by a newer version, or has stages of unequal lengths.
    """
    try:
        with pq.ParquetFile(path) as file:
            check_format(path, file.schema_arrow, SCHEMA)
            for batch in file.iter_batches(batch_size=16):
                for row in range(batch.num_rows):
                    yield _tensor(path, batch, row)
    except (pa.ArrowException, OSError) as error:
        raise TrajectoryError(f"{path} is damaged: {error}") from error


def check_format(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Raises if a Parquet file of a meta-data set is none, or of a format that this version does not read."""
    version = json.loads((found.metadata or {}).get(b"know_hf", b"{}")).get("version")
    if isinstance(version, int) and version > VERSION:
        raise TrajectoryError(f"{path} has format version {version}, this know-hf reads {VERSION}: upgrade know-hf.")
    if version is None or found.names != expected.names:
        raise TrajectoryError(f"{path} is no shard of a meta-data set, or of another kind.")


def _tensor(path: Path, batch: pa.RecordBatch, row: int) -> TensorStages:
    plain = {name: batch.column(name)[row].as_py() for name in SCHEMA.names if name != "stages"}
    listed = batch.column("stages")[row].values
    stages = [listed[i].values.to_numpy() for i in range(len(listed))]
    if len({len(stage) for stage in stages}) != 1:
        raise TrajectoryError(f"{path}: tensor {plain['tensor']!r} has stages of unequal lengths.")
    own = {name: plain.pop(name) for name in ("tensor", "layer", "kind", "shape")}
    return TensorStages(plain, own["tensor"], own["layer"], own["kind"], tuple(own["shape"]), np.stack(stages))
