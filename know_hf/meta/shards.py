"""The meta-data set on disk: a Parquet file a trial, a row a tensor, which ``datasets`` reads and streams.

Columns: the trial's settings (``trial``, ``architecture``, ``data_set``, ``sampling_ratio`` …), then what the tensor is
(``tensor``, ``layer``, ``kind``, ``shape``) and ``stages``, its flattened values at every stage in stage order: the
first of them is Θ^0, trained on all the data.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from know_hf.checkpoints.checkpoint import PREDICTABLE
from know_hf.store import hash_file, writing
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.kinds import stored_names

if TYPE_CHECKING:
    from know_hf.meta.trials import Trial

#: What pyarrow raises for files that are damaged or no Parquet.
DAMAGES = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)
#: Version of the format; readers refuse what is newer.
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


def write_shard(path: Path, trial: "Trial", trajectory: Trajectory) -> str:
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
    return write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA), row_group_size=16)


def write_table(path: Path, table: pa.Table, **options: Any) -> str:
    """Writes a Parquet file, whole or not at all, also where other machines write it too; returns its SHA-256.

    Raises:
        OSError: If it cannot be written, for example because the disk is full.
    """
    with writing(path, shared=True) as beside:
        pq.write_table(table, beside, compression="zstd", **options)
        return hash_file(beside)


def is_noted(path: Path, note: Mapping[str, Any]) -> bool:
    """Whether a note's file is there, the very one that it describes, or the note says that there is none."""
    return "diverged" in note or (path.exists() and hash_file(path) == note["sha256"])


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
    except DAMAGES as error:
        raise TrajectoryError(f"{path} is damaged: {error}") from error


def check_format(path: Path, schema: pa.Schema, expected: pa.Schema) -> None:
    """Raises if a Parquet file of a meta-data set is none, or of a format that this version does not read."""
    try:
        described = json.loads((schema.metadata or {}).get(b"know_hf", b"{}"))
    except (ValueError, RecursionError):
        described = None
    version = described.get("version") if isinstance(described, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise TrajectoryError(f"{path} has format version {version}, this know-hf reads {VERSION}: upgrade know-hf.")
    if version is None or schema.names != expected.names or schema.types != expected.types:
        raise TrajectoryError(f"{path} is no shard of a meta-data set, or of another kind.")


def check_tensors(path: Path, tensors: Sequence[TensorStages], model: nn.Module) -> dict[str, str]:
    """Raises if tensors of a shard are not those of the network that its trial was run on.

    Returns:
        Name of every stored tensor → its name in the live model.

    Raises:
        TrajectoryError: If one is missing, unknown or of another shape.
    """
    live, state = stored_names(model), model.state_dict()
    wanted = {name: tuple(state[key].shape) for name, key in live.items() if state[key].is_floating_point()}
    stored = {tensor.tensor: tensor.shape for tensor in tensors}
    if other := sorted(name for name in {*wanted, *stored} if wanted.get(name) != stored.get(name)):
        raise TrajectoryError(f"{path}: tensor {other[0][:80]!r} is not as the trial's network has it.")
    return live


def _tensor(path: Path, batch: pa.RecordBatch, row: int) -> TensorStages:
    plain = {name: batch.column(name)[row].as_py() for name in SCHEMA.names if name != "stages"}
    listed = batch.column("stages")[row].values
    if listed is None or listed.null_count or None in (*plain.values(), *(plain["shape"] or ())):
        raise TrajectoryError(f"{path} is damaged: a tensor lacks its name, shape, settings or stages.")
    stages = [listed[i].values.to_numpy() for i in range(len(listed))]
    if len({len(stage) for stage in stages}) != 1:
        raise TrajectoryError(f"{path}: tensor {plain['tensor']!r} has stages of unequal lengths.")
    if min(plain["shape"], default=1) < 0 or math.prod(plain["shape"]) != len(stages[0]):
        raise TrajectoryError(f"{path}: tensor {plain['tensor']!r} has {len(stages[0])} values, not {plain['shape']}.")
    if not 0 < plain["sampling_ratio"] < 1:
        raise TrajectoryError(f"{path}: sampling_ratio is {plain['sampling_ratio']!r}, not between 0 and 1.")
    described = {name: plain.pop(name) for name in ("tensor", "layer", "kind", "shape")}
    return TensorStages(
        plain, described["tensor"], described["layer"], described["kind"], tuple(described["shape"]), np.stack(stages)
    )
