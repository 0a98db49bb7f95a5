"""The result of a fit: a small table that says where between and beyond the stages the weights lie."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from know_hf.records import TrajectoryError, read_record
from know_hf.store import write_json

#: Share of the forgetting's steps that a fit takes at most, where nobody says how many.
SHARE = 0.05
_REMEDY = "delete it and run again, which fits anew"


@dataclass(frozen=True)
class Coefficients:
    """A point of the subspace that the stages span.

    Args:
        table: Name of a tensor → its S coefficients c: the tensor becomes
            ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0``, i from 1 to S − 1. Other tensors are those of stage 0.
        record: How they were fitted: data, settings, steps, losses.

    Example:
        >>> from know_hf.fitting.coefficients import Coefficients
        >>> Coefficients({"fc.weight": [0.1, 0.0]}).furthest
        0.1
    """

    table: dict[str, list[float]]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def furthest(self) -> float:
        """The largest coefficient, without its sign; 0 of an empty table."""
        return max((abs(value) for row in self.table.values() for value in row), default=0.0)

    def save(self, path: Path) -> None:
        """Writes them, whole or not at all."""
        write_json(path, {"coefficients": self.table, **self.record})

    @classmethod
    def load(cls, path: str | Path) -> "Coefficients":
        """Reads them.

        Raises:
            TrajectoryError: If the file is damaged.
        """
        content = read_record(Path(path), {"coefficients": dict[str, list[float]]}, _REMEDY)
        table = content.pop("coefficients")
        return cls(table, content)


def check_table(table: Mapping[str, Sequence[float]], predicted: Sequence[str], stages: int) -> None:
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
