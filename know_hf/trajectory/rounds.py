"""What a record says of the rounds that stage 0 was trained in before anything was forgotten."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from know_hf.reading import check_form, shown
from know_hf.tasks import Score

_NUMBERS = list[float | None]
_FORM = {"metric": str, "score": str, "percent": bool, "examples": int, "scores": _NUMBERS, "chances": _NUMBERS,
         "steps": list[int | None], "kept": int, "trained": bool, "converged": bool,
         "losses": _NUMBERS | None}  # fmt: skip


@dataclass(frozen=True)
class Rounds:
    """Trainings of stage 0, one after the other, and what each was worth on examples set aside.

    Args:
        metric: The score that decided, such as ``eval_accuracy``.
        score: What a reader calls it.
        percent: Whether it is a share, shown in percent.
        examples: Number of the examples set aside.
        scores: After every round, before them that of the model as it was given unless ``trained``; None where a score
            was not finite.
        chances: Probability that so large a gain over the one before comes about by chance; None for the first.
        steps: Optimizer steps of each; None for a model as it was given.
        kept: Index of the one that became Θ⁰.
        trained: Whether the first of the scores is that of a round.
        converged: Whether the last round gained nothing beyond chance; else the budget was used up.
        losses: By how much the loss of each is lower than that of the one before, where it decided; else None. Empty
            where it never did.
    """

    metric: str
    score: str
    percent: bool
    examples: int
    scores: Sequence[float | None]
    chances: Sequence[float | None]
    steps: Sequence[int | None]
    kept: int
    trained: bool
    converged: bool
    losses: Sequence[float | None] = ()

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> "Rounds | None":
        """Those of a run, from the recipe of its record; None if there were none.

        Raises:
            ValueError: If they are not what they should be.
        """
        content = recipe.get("rounds")
        if content is None:
            return None
        check_form(content, _FORM, "rounds of the recipe")
        made = cls(**{name: content[name] for name in _FORM if content.get(name) is not None})
        if not (made.scores and len(made.scores) == len(made.chances) == len(made.steps)):
            raise ValueError("rounds of the recipe: scores, chances and steps must be as many.")
        if made.losses and len(made.losses) != len(made.scores):
            raise ValueError("rounds of the recipe: scores and losses must be as many.")
        if not 0 <= made.kept < len(made.scores):
            raise ValueError(f"rounds of the recipe: kept is {shown(made.kept)}, of {len(made.scores)}.")
        return made

    @property
    def recorded(self) -> dict[str, Any]:
        """What they add to the recipe of a record."""
        told = {name: value for name, value in asdict(self).items() if name != "losses" or any(self.by_loss)}
        return {"rounds": told, "train_stage_zero": self.trained}

    @property
    def by_loss(self) -> list[bool]:
        """Whether it was the loss that showed a round to be better."""
        return [loss is not None for loss in self.losses or [None] * len(self.scores)]

    @property
    def count(self) -> int:
        """How many times stage 0 was trained."""
        return len(self.scores) - (not self.trained)

    @property
    def kept_steps(self) -> int | None:
        """Optimizer steps that led to Θ⁰; None if it is the model as it was given."""
        return sum(steps or 0 for steps in self.steps[: self.kept + 1]) or None

    @property
    def names(self) -> list[str]:
        """What each of the scores is of."""
        return [f"round {i + self.trained}" if i + self.trained else "as given" for i in range(len(self.scores))]

    @property
    def words(self) -> str:
        """How many there were, why they ended, and their scores, as a sentence."""
        times = f"{self.count} round{'s' if self.count > 1 else ''}"
        where = f"{self.score} on the {self.examples:,} examples set aside"
        values = " → ".join(self._shown(score) for score in self.scores)
        decided = [
            f"{name} was taken for its loss, {loss:.3g} lower beyond chance"
            for name, loss in zip(self.names, self.losses, strict=False)
            if loss is not None
        ]
        values, nor = "; ".join([values, *decided]), ", nor the loss lower," if decided else ""
        number = self.kept + self.trained
        start = f"the end of round {number}" if number else "the model as it was given"
        if self.converged:
            ended = f"until {where} got no better{nor} beyond chance ({values})"
            return f"Stage 0 was trained for {times} {ended}; Θ⁰ is {start}."
        return (
            f"Stage 0 was trained for {times}, all that --converge_rounds allows, and {where} was still getting better "
            f"({values}): Θ⁰, {start}, may not be trained to its end."
        )

    def _shown(self, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "not a number"
        return f"{Score(self.score, self.percent).shown(value):.1f} %" if self.percent else f"{value:.4g}"
