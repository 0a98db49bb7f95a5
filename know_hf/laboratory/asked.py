"""What was asked of a comparison, and how much of that is there: a killed one has no verdicts about what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from know_hf.records import TrajectoryError, check_fields

#: Name of the arm, learning rate, seed.
Place = tuple[str, float, int]
#: The part of a comparison's record that holds it.
ASKED = "asked"


@dataclass(frozen=True)
class Asked:
    """What the latest call asked of a comparison.

    Args:
        arms: Names, the reference first.
        learning_rates: The grid, ascending.
        one_rate: Arms that are only run at the rate that the reference chose.
        seeds: Number of seeds.

    Example:
        >>> from know_hf.laboratory.asked import Asked
        >>> asked = Asked(["naive", "mine"], [1e-3], [], 3)
        >>> asked.whole_seeds({("naive", 1e-3, 0), ("mine", 1e-3, 0), ("naive", 1e-3, 1)}), asked.planned
        ([0], 6)
    """

    arms: list[str]
    learning_rates: list[float]
    one_rate: list[str]
    seeds: int

    @property
    def record(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return asdict(self)

    @property
    def grid(self) -> list[tuple[str, float]]:
        """Arm and learning rate of all that is run at every rate."""
        return [(arm, rate) for arm in self.arms if arm not in self.one_rate for rate in self.learning_rates]

    @property
    def planned(self) -> int:
        """Number of fine-tunings."""
        return self.seeds * (len(self.grid) + sum(arm in self.one_rate for arm in self.arms))

    def whole_seeds(self, done: Mapping[Place, Any] | set[Place]) -> list[int]:
        """Seeds that all arms of the grid have at all rates: only these can be compared without favour."""
        seeds = sorted({seed for _, _, seed in done if seed < self.seeds})
        return [seed for seed in seeds if all((*place, seed) in done for place in self.grid)]

    def count(self, done: Mapping[Place, Any]) -> int:
        """Number of fine-tunings of the grid that are there."""
        grid = set(self.grid)
        return sum((arm, rate) in grid and seed < self.seeds for arm, rate, seed in done)


def read_asked(path: Path, settings: Mapping[str, Any], done: Mapping[Place, Any], remedy: str) -> Asked:
    """Reads what was asked of a comparison; records of former versions did not tell, of those it is what was begun.

    Args:
        path: The record's file, for messages.
        settings: What it holds.
        done: What was fine-tuned.
        remedy: What to do if it is damaged.

    Raises:
        TrajectoryError: If it is damaged.
    """
    found = check_fields(path, settings, {ASKED: dict | None}, remedy).get(ASKED)
    if found is None:
        begun = _begun(list(settings["arms"]), done)
        if done and not begun.grid:
            raise TrajectoryError(f"{path} is damaged: it names no arms; {remedy}.")
        return begun
    kinds = {"arms": list[str], "learning_rates": list[float], "one_rate": list[str], "seeds": int}
    asked = Asked(**{name: check_fields(path, found, kinds, remedy)[name] for name in kinds})
    if not asked.grid or asked.seeds < 1 or not set(asked.arms) <= set(settings["arms"]):
        raise TrajectoryError(f"{path} is damaged: what was asked of it is no comparison; {remedy}.")
    return asked


def _begun(arms: Sequence[str], done: Mapping[Place, Any]) -> Asked:
    """The least that must have been asked for: all arms, the rates and seeds that any of them has."""
    rates = {arm: {rate for name, rate, _ in done if name == arm} for arm in arms}
    every = set().union(*rates.values())
    searched = any(len(own) == len(every) for own in rates.values())
    spared = [arm for arm in arms if searched and len(rates[arm]) == 1 < len(every)]
    return Asked(list(arms), sorted(every), spared, 1 + max((seed for _, _, seed in done), default=-1))


def unfinished(asked: Asked, missing: int, seeds: int, waiting: Sequence[str]) -> str:
    """That fine-tunings are missing, in words; nothing where none are.

    Args:
        asked: What was asked for.
        missing: Number of fine-tunings that are not there.
        seeds: Number of seeds that are compared.
        waiting: Arms that are not.
    """
    if not missing:
        return ""
    text = f"Unfinished: {missing} of {asked.planned} fine-tunings are missing; the same command again goes on."
    if seeds < 2:
        return f"{text} Nothing can be compared before two seeds are done."
    text += f" Only seeds that every arm has at every learning rate are compared, {seeds} of {asked.seeds}."
    return f"{text} Not compared yet: {', '.join(waiting)}." if waiting else text
