"""What a judgement of a run's candidates says, whoever makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from know_hf.choice.rule import Gain
from know_hf.enrichment.verdict import Deciding
from know_hf.tasks import Score


@dataclass(frozen=True)
class Purpose:
    """What a start was chosen for, and what it is worth there on examples that had no part in the choice.

    Args:
        data: Name of the downstream data.
        metric: Name of their score.
        percent: Whether that is a share.
        higher_is_better: Its direction.
        examples: Examples that each fine-tuning trained on.
        epochs: Its epochs, those of the head alone included.
        rates: Θ⁰, the start that was compared with it last → own learning rate.
        reported: Number of the examples that the following scores are of.
        scores: Likewise → mean score after fine-tuning on other examples than these.
        low: Lower end of the 95 % interval of the gain over Θ⁰ in that score, over seeds.
        high: Upper end.
        seeds: Number of those seeds.
        trainings: Number of all fine-tunings.
        spent: Examples that all of them together trained on, repeated ones counted each time.
        budget: The most of those that they were allowed.
    """

    data: str
    metric: str
    percent: bool
    higher_is_better: bool
    examples: int
    epochs: int
    rates: dict[str, float]
    reported: int
    scores: dict[str, float]
    low: float
    high: float
    seeds: int
    trainings: int
    spent: int
    budget: int

    @property
    def deciding(self) -> Deciding:
        """The score that decided."""
        return Deciding(self.metric, Score(self.metric, self.percent, self.higher_is_better))


@dataclass(frozen=True)
class Judgement:
    """Which candidate is to be taken.

    Args:
        candidate: Its name.
        deciding: The score that decided.
        gains: Every candidate's gain over Θ⁰.
        examples: Number of the examples that decided.
        rule: The rule, in words.
        words: What to take and how sure that is; empty where what the answers say is to be said.
        purpose: What it was chosen for, if not for the run's own task.
        guessing: Accuracy of always giving the most frequent class of these examples, where the score is one.
    """

    candidate: str
    deciding: Deciding
    gains: Mapping[str, Gain]
    examples: int
    rule: str
    words: str = ""
    purpose: Purpose | None = None
    guessing: float | None = None


class Judge(Protocol):
    """Judges candidates by something else than their answers to the examples set aside."""

    @property
    def about(self) -> dict[str, Any]:
        """What determines its judgement beside the candidates, as plain data."""
        ...

    def __call__(self, folders: Mapping[str, Path]) -> Judgement:
        """Judges candidates, of which the first of equals is taken: name → folder."""
        ...
