"""``trajectory.json``: what a forgetting run did, written atomically after every stage."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from know_hf.trajectory.checkpoint import TrajectoryError
from know_hf.trajectory.kinds import Parameter

FILE_NAME = "trajectory.json"
SCHEMA_VERSION = 1


@dataclass
class StageRecord:
    """One stage: its folder (relative to the record), data and scores.

    ``ratio`` is the share of all examples; ``steps`` counts optimizer steps (None: not trained); ``metrics`` are the
    scores on the evaluation set.
    """

    index: int
    folder: str
    examples: int | None = None
    ratio: float | None = None
    steps: int | None = None
    finished: bool = True
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class TrajectoryRecord:
    """The content of ``trajectory.json``.

    ``num_stages`` counts the stages that a predictor reads; ``stages`` holds one more when the run made the extra,
    most forgotten stage of the self-check.
    """

    num_stages: int
    sampling_ratio: float | None
    stages: list[StageRecord]
    parameters: dict[str, Parameter]
    recipe: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def load(cls, folder: str | Path) -> "TrajectoryRecord":
        """Reads a run folder's record.

        Raises:
            TrajectoryError: If it is missing, not a record, or written by a newer version.
        """
        path = Path(folder) / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TrajectoryError(f"{folder} holds no {FILE_NAME}: it is not a forgetting run.") from error
        except (OSError, ValueError) as error:
            raise TrajectoryError(f"{path} cannot be read: {error}") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise TrajectoryError(
                f"{path} has schema version {version}, this know-hf reads {SCHEMA_VERSION}: upgrade know-hf."
            )
        try:
            content["stages"] = [StageRecord(**stage) for stage in content["stages"]]
            content["parameters"] = {name: Parameter(**value) for name, value in content["parameters"].items()}
            return cls(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise TrajectoryError(f"{path} is not a trajectory record: {error}") from error

    def save(self, folder: str | Path) -> Path:
        """Writes the record into ``folder``, whole or not at all."""
        path = Path(folder) / FILE_NAME
        write_atomically(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file beside its target and renames it, so that readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
