"""The result of a fit: a small table that says where between and beyond the stages the weights lie."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from know_hf.records import TrajectoryError, read_record
from know_hf.store import write_json

#: Share of the forgetting's steps that a fit takes at most, where nobody says how many.
SHARE = 0.05
#: Of a run's folder, where its own lie.
OWN_FILE = Path("choice") / "fitted.json"
_REMEDY = "delete it and run again, which fits anew"


@dataclass(frozen=True)
class Coefficients:
    """A point of the subspace that the stages span.

    Args:
        table: Name of a tensor → its S coefficients c: the tensor becomes
            ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0``, i from 1 to S − 1. Other tensors are those of stage 0.
        record: How they were fitted: data, settings, stages, steps, losses.
        source: Where they come from, for messages.

    Example:
        >>> from know_hf.fitting.coefficients import Coefficients
        >>> Coefficients({"fc.weight": [0.1, 0.0]}).furthest
        0.1
    """

    table: dict[str, list[float]]
    record: dict[str, Any] = field(default_factory=dict)
    source: str = field(default="the table", compare=False)

    @property
    def furthest(self) -> float:
        """The largest coefficient, without its sign; 0 of an empty table."""
        return max((abs(value) for row in self.table.values() for value in row), default=0.0)

    def save(self, path: Path) -> None:
        """Writes them, whole or not at all."""
        write_json(path, {"coefficients": self.table, **self.record})

    @classmethod
    def load(cls, path: str | Path, remedy: str = _REMEDY) -> "Coefficients":
        """Reads them.

        Args:
            path: The file.
            remedy: What to do if it cannot be used, for the message.

        Raises:
            TrajectoryError: If the file is missing or damaged.
        """
        content = read_record(Path(path), {"coefficients": dict[str, list[float]]}, remedy)
        table = content.pop("coefficients")
        return cls(table, content, str(path))

    @classmethod
    def given(cls, value: Any) -> "Coefficients | None":
        """Coefficients as somebody passed them: a file of them, what is in one, or the table alone.

        Args:
            value: A path, such as that of a run's ``choice/fitted.json``; its content, or [`Coefficients`], of which is
                known what they were fitted to; or name of a tensor → coefficients, of which it is not.

        Returns:
            They; None for something else, which the method refuses.

        Raises:
            OSError: If the file cannot be read.
            TrajectoryError: If it is missing, damaged, or of something else.

        Example:
            >>> from know_hf.fitting.coefficients import Coefficients
            >>> Coefficients.given({"coefficients": {"fc.weight": [0.1, 0.0]}, "steps": 40}).record
            {'steps': 40}
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str | os.PathLike):
            if not os.fspath(value):
                return None
            return cls.load(os.fspath(value), "give a file that a fit made, such as choice/fitted.json of a run")
        if isinstance(value, Mapping) and isinstance(value.get("coefficients"), Mapping):
            content = dict(value)
            return cls(content.pop("coefficients"), content, "what is given")
        return cls(dict(value)) if isinstance(value, Mapping) else None

    @property
    def tells_stages(self) -> bool:
        """Whether they say which stages they were fitted to."""
        return self.record.get("stages") is not None

    def check(self, predicted: Collection[str], stages: Sequence[Sequence[str]]) -> None:
        """Looks whether they are of a trajectory.

        Args:
            predicted: Names of the tensors that are predicted.
            stages: SHA-256 of the files of each of its stages; looked at where they tell what they were fitted to.

        Raises:
            TrajectoryError: If they were fitted to other stages, as far as they tell, or to other tensors.
        """
        fitted_to = self.record.get("stages")
        if fitted_to is not None and fitted_to != [list(files) for files in stages]:
            if not isinstance(fitted_to, list) or len(fitted_to) != len(stages):
                what = (
                    f"{len(fitted_to) if isinstance(fitted_to, list) else 'unknown ones'}, and here are {len(stages)}"
                )
            else:
                differ = (number for number, own in enumerate(stages) if fitted_to[number] != list(own))
                what = f"stage {next(differ)} was another"
            raise TrajectoryError(
                f"The coefficients of {self.source} were fitted to other stages ({what}), and mean nothing for these: "
                "fit them on these. Where the weights are the same in other files, pass the table alone, which is "
                "'coefficients' in that file."
            )
        if fitted_to is not None and (foreign := sorted(self.table.keys() - set(predicted))):
            raise TrajectoryError(
                f"The coefficients of {self.source} are of tensors, too, that are not predicted here ({foreign[0]!r}, "
                f"{len(foreign)} of {len(self.table)}): choose what is predicted as it was for the fit (norms, "
                "embeddings, kinds)."
            )
        check_table(self.table, predicted, len(stages))


def check_table(table: Mapping[str, Sequence[float]], predicted: Collection[str], stages: int) -> None:
    """Raises ``TrajectoryError`` if coefficients are not of a trajectory of so many stages and these tensors."""
    if not table:
        raise TrajectoryError("The table of coefficients is empty; fit them on this trajectory.")
    if foreign := sorted(table.keys() - set(predicted)):
        raise TrajectoryError(
            f"The coefficients are of another model: {foreign[0]!r} is no tensor that is predicted here "
            f"({len(foreign)} of {len(table)} are not); fit them on this trajectory."
        )
    wrong = next((name for name, row in table.items() if len(row) != stages), None)
    if wrong is not None:
        raise TrajectoryError(
            f"The coefficients are of another trajectory: {wrong!r} has {len(table[wrong])}, of {stages} stages there "
            f"are {stages}; fit them on this one."
        )


def as_written(table: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The table as a file gives it back, so that memory and file predict the same."""
    return json.loads(json.dumps({name: list(row) for name, row in table.items()}))
