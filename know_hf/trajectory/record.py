"""``trajectory.json``: what a forgetting run did, written atomically after every stage."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from know_hf.reading import LARGEST, check_form, shown
from know_hf.records import TrajectoryError, found_at
from know_hf.store import read_json, write_json
from know_hf.trajectory.kinds import Parameter
from know_hf.trajectory.rounds import Rounds

FILE_NAME = "trajectory.json"
SCHEMA_VERSION = 1
# What cards, reports and loaders read of a model and its data.
_TEXT = str | None
_MODEL = {**dict.fromkeys(("id", "class", "auto_class", "task", "adapter", "base_model", "start"), _TEXT),
          "local": bool | None, "license": str | list[str] | None, "parameters": int | None}  # fmt: skip
_DATASET = {"id": _TEXT, "fingerprint": _TEXT, "examples": int | None, "columns": list[str] | None,
            "classes": list[str] | None}  # fmt: skip
_PARAMETER: Any = {"kind": str, "layer": str, "trained": bool}
_SECTIONS = {"recipe": {"recipe": _TEXT}, "model": _MODEL, "dataset": _DATASET, "versions": dict[str, str],
             "parameters": dict[str, _PARAMETER]}  # fmt: skip
_STAGE = {"index": int, "folder": str, "finished": bool, "ratio": float | None, "examples": int | None,
          "steps": int | None, "metrics": dict[str, float], "source": _TEXT}  # fmt: skip
_TOP = {"num_stages": int, "sampling_ratio": float | None, "schema_version": int}


@dataclass
class StageRecord:
    """One stage: its folder (relative to the record), data and scores.

    ``ratio`` is the share of all examples; ``steps`` counts optimizer steps (None: not trained); ``metrics`` are the
    scores on the evaluation set; ``source`` is what a checkpoint that was there already is called.
    """

    index: int
    folder: str
    examples: int | None = None
    ratio: float | None = None
    steps: int | None = None
    finished: bool = True
    metrics: dict[str, float] = field(default_factory=dict)
    source: str | None = None


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
        if not path.exists():
            raise TrajectoryError(
                f"{folder} is not a forgetting run: {FILE_NAME} is expected there, and it {found_at(Path(folder))}. "
                "Give the output_dir of an enrich or forget."
            )
        try:
            content = read_json(path)
        except ValueError as error:
            raise TrajectoryError(str(error)) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise TrajectoryError(
                f"{path} has schema version {version}, this know-hf reads {SCHEMA_VERSION}: upgrade know-hf."
            )
        try:
            content["stages"] = [StageRecord(**stage) for stage in content["stages"]]
            content["parameters"] = {name: Parameter(**value) for name, value in content["parameters"].items()}
            record = cls(**content)
            record.check()
            return record
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TrajectoryError(f"{path} is not a trajectory record: {error}") from error

    def check(self) -> None:
        """Raises ``ValueError`` if a field holds something of another kind or size than it is declared to."""
        content = asdict(self)
        for name, form in _SECTIONS.items():
            check_form(content[name], form, name)
        Rounds.of(self.recipe)
        check_form(content, _TOP, "the record")
        ratio = self.sampling_ratio
        if ratio is not None and not 0 < ratio < 1:
            raise ValueError(f"sampling_ratio is {shown(ratio)}, not between 0 and 1")
        for name in ("class", "auto_class"):  # which cards and loaders take for names in Python
            value = self.model.get(name)
            if value and not value.isidentifier():
                raise ValueError(f"{name} of the model is {shown(value)}, which is no name of a class")
        for position, stage in enumerate(self.stages):
            _check_stage(position, stage)
        _check_counts("the model", self.model, "parameters")
        _check_counts("the dataset", self.dataset, "examples")
        # A control may have fewer stages than the forgetting that it stands beside.
        most = len(self.stages) if self.recipe.get("recipe", "forgetting") == "forgetting" else LARGEST
        if not 0 < self.num_stages <= most:
            raise ValueError(f"num_stages is {shown(self.num_stages)}, and there are {len(self.stages)} stages")

    def save(self, folder: str | Path) -> Path:
        """Writes the record into ``folder``, whole or not at all."""
        path = Path(folder) / FILE_NAME
        write_json(path, asdict(self))
        return path


def _check_stage(position: int, stage: StageRecord) -> None:
    check_form(asdict(stage), _STAGE, f"stage {position}")  # scores that are not a number, or infinite, are scores, too
    if stage.index != position:
        raise ValueError(f"stage {shown(stage.index)} is at position {position}")
    if not stage.folder or "\0" in stage.folder:
        raise ValueError(f"folder of stage {position} is {stage.folder!r}")
    if stage.ratio is not None and not 0 < stage.ratio <= 1:
        raise ValueError(f"ratio of stage {position} is {shown(stage.ratio)}, not between 0 and 1")
    _check_counts(f"stage {position}", vars(stage), "examples", "steps")


def _check_counts(what: str, content: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if (content.get(name) or 0) < 0:
            raise ValueError(f"{name} of {what} is {shown(content[name])}, not a count")
