"""``trajectory.json``: what a forgetting run did, written atomically after every stage."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from know_hf.reading import LARGEST, check_form, shown
from know_hf.store import read_json, write_json
from know_hf.trajectory.checkpoint import TrajectoryError
from know_hf.trajectory.kinds import Parameter

FILE_NAME = "trajectory.json"
SCHEMA_VERSION = 1
# What cards, reports and loaders read of a model and its data.
_TEXT = str | None
_MODEL = {**dict.fromkeys(("id", "class", "auto_class", "task", "adapter"), _TEXT), "local": bool | None,
          "license": str | list[str] | None, "parameters": int | None}  # fmt: skip
_DATASET = {"id": _TEXT, "fingerprint": _TEXT, "examples": int | None, "columns": list[str] | None,
            "classes": list[str] | None}  # fmt: skip
_RECIPE = {"recipe": _TEXT}


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
            content = read_json(path)
        except FileNotFoundError as error:
            raise TrajectoryError(f"{folder} holds no {FILE_NAME}: it is not a forgetting run.") from error
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
        number = (int, float)
        _expect("num_stages", self.num_stages, int)
        _expect("sampling_ratio", self.sampling_ratio, *number, None)
        if self.sampling_ratio is not None and not 0 < self.sampling_ratio < 1:
            raise ValueError(f"sampling_ratio is {shown(self.sampling_ratio)}, not between 0 and 1")
        _expect("schema_version", self.schema_version, int)
        forms = {"recipe": _RECIPE, "model": _MODEL, "dataset": _DATASET, "versions": dict[str, str]}
        for name, form in forms.items():
            check_form(getattr(self, name), form, name)
        _expect("parameters of the model", self.model.get("parameters"), int, None)
        _expect("examples of the dataset", self.dataset.get("examples"), int, None)
        for name in ("class", "auto_class"):  # which cards and loaders take for names in Python
            value = self.model.get(name)
            if value and not value.isidentifier():
                raise ValueError(f"{name} of the model is {shown(value)}, which is no name of a class")
        for position, stage in enumerate(self.stages):
            self._check_stage(position, stage)
        # A control may have fewer stages than the forgetting that it stands beside.
        most = len(self.stages) if self.recipe.get("recipe", "forgetting") == "forgetting" else LARGEST
        if not 0 < self.num_stages <= most:
            raise ValueError(f"num_stages is {shown(self.num_stages)}, and there are {len(self.stages)} stages")
        for name, parameter in self.parameters.items():
            _expect(f"kind of {name!r}", parameter.kind, str)
            _expect(f"layer of {name!r}", parameter.layer, str)
            _expect(f"trained of {name!r}", parameter.trained, bool)

    @staticmethod
    def _check_stage(position: int, stage: StageRecord) -> None:
        number = (int, float)
        if stage.index != position or isinstance(stage.index, bool):
            raise ValueError(f"stage {shown(stage.index)} is at position {position}")
        _expect("folder of a stage", stage.folder, str)
        if not stage.folder or "\0" in stage.folder:
            raise ValueError(f"folder of stage {position} is {stage.folder!r}")
        _expect("finished", stage.finished, bool)
        _expect("ratio of a stage", stage.ratio, *number, None)
        if stage.ratio is not None and not 0 < stage.ratio <= 1:
            raise ValueError(f"ratio of stage {position} is {shown(stage.ratio)}, not between 0 and 1")
        for name in ("examples", "steps"):
            _expect(f"{name} of a stage", getattr(stage, name), int, None)
        _expect("metrics of a stage", stage.metrics, dict)
        for metric, value in stage.metrics.items():  # not a number, or infinite, are scores as well
            _expect(f"metric {metric!r}", value, *number)
            if isinstance(value, int) and abs(value) >= LARGEST:
                raise ValueError(f"metric {metric!r} of stage {position} is {shown(value)}, too large for a score")

    def save(self, folder: str | Path) -> Path:
        """Writes the record into ``folder``, whole or not at all."""
        path = Path(folder) / FILE_NAME
        write_json(path, asdict(self))
        return path


def _expect(what: str, value: Any, *kinds: type | None) -> None:
    fits = value is None if None in kinds else False
    types = tuple(kind for kind in kinds if kind is not None)
    if not fits and not (isinstance(value, types) and (bool in kinds or not isinstance(value, bool))):
        raise ValueError(f"{what} is {shown(value)}")
    if isinstance(value, int) and float not in kinds and not 0 <= value < LARGEST:
        raise ValueError(f"{what} is {shown(value)}, not a count")
