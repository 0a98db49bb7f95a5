"""Successive halving: ever more fine-tunings of ever fewer starts, within a budget; and the rule at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from know_hf.choice.rule import LEVEL, Gain
from know_hf.laboratory.statistics import allowed, require_scipy

#: Seeds of the last comparison, none of which was seen before.
SEEDS = 8
#: Fewest seeds of which an interval is given: of two Student's is thirteen standard errors wide to either side.
LEAST_SEEDS = 4
#: Epochs of a fine-tuning where the budget leaves the choice, and the fewest and most there are.
EPOCHS, LEAST_EPOCHS, MOST_EPOCHS = 10, 5, 50
#: Fewest examples that a fine-tuning is given.
LEAST_EXAMPLES = 20
RULE = (
    "Every candidate is fine-tuned at each learning rate; the better half of them, each at its best rate, goes on with "
    "twice as many seeds, until one is left. That one is compared with Θ⁰ over "
    f"{SEEDS} seeds that were not seen before, each at its own learning rate, and taken only if so large a mean gain "
    f"would come about by chance in at most {100 * LEVEL:g} % of cases (paired t test, its variance corrected for "
    "draws that overlap); else Θ⁰."
)


@dataclass(frozen=True)
class Rung:
    """One round of halving.

    Args:
        challengers: Number of starts beside Θ⁰ that take part.
        kept: Number of those that go on.
        seeds: Those that are new; the scores of the seeds before count as well.
    """

    challengers: int
    kept: int
    seeds: range


def rungs_of(candidates: int) -> list[Rung]:
    """The rounds for so many candidates, Θ⁰ among them; the last leaves one challenger.

    Example:
        >>> from know_hf.laboratory.halving import rungs_of
        >>> [(rung.challengers, len(rung.seeds)) for rung in rungs_of(12)]
        [(11, 1), (5, 1), (2, 2)]
    """
    rungs: list[Rung] = []
    alive, seeds = candidates - 1, range(1)
    while alive > 1 or not rungs:
        kept = max(1, alive // 2)
        rungs.append(Rung(alive, kept, seeds))
        alive, seeds = kept, range(seeds.stop, 2 * seeds.stop)
    return rungs


def count_trainings(candidates: int, rates: int) -> int:
    """Number of fine-tunings among so many candidates with so many learning rates each."""
    halving = sum((rung.challengers + 1) * rates * len(rung.seeds) for rung in rungs_of(candidates))
    return halving + 2 * SEEDS


@dataclass(frozen=True)
class Schedule:
    """How a budget is spent.

    Args:
        rungs: The rounds of halving.
        last: Seeds of the comparison with Θ⁰.
        trainings: Number of all fine-tunings.
        examples: Those of each.
        epochs: Its epochs, those of the head alone included.
    """

    rungs: list[Rung]
    last: range
    trainings: int
    examples: int
    epochs: int

    @property
    def head_epochs(self) -> int:
        """Epochs of the head alone."""
        return max(1, self.epochs // 5)


def make_schedule(candidates: int, rates: int, budget: int, available: int) -> Schedule:
    """Spends a budget on few fine-tunings of many examples or many of few, alike for all.

    Args:
        candidates: Number of candidates, Θ⁰ among them.
        rates: Number of learning rates.
        budget: Most examples to train on in all, repeated ones counted each time.
        available: Examples that there are for one fine-tuning.

    Raises:
        ValueError: If the budget is too small.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (2016);
        that the seeds are what grows is ours: the noise between few-shot fine-tunings is that of their examples.
    """
    trainings, rungs = count_trainings(candidates, rates), rungs_of(candidates)
    each = budget // trainings
    if each < LEAST_EXAMPLES * LEAST_EPOCHS:
        raise ValueError(
            f"A choice among about {candidates} candidates takes {trainings} fine-tunings of at least {LEAST_EXAMPLES} "
            f"examples for {LEAST_EPOCHS} epochs, which is {trainings * LEAST_EXAMPLES * LEAST_EPOCHS:,} examples to "
            f"train on; the budget is {budget:,}: set a larger one (choose_budget) or fewer learning rates "
            "(choose_rates)."
        )
    examples = min(max(each // EPOCHS, LEAST_EXAMPLES), available)
    epochs = min(each // examples, MOST_EPOCHS)
    first = rungs[-1].seeds.stop
    return Schedule(rungs, range(first, first + SEEDS), trainings, examples, epochs)


def paired_gain(
    scores: Sequence[float],
    origin: Sequence[float],
    higher_is_better: bool,
    overlap: float,
    most: float | None = None,
) -> Gain:
    """Compares a start with Θ⁰ over the same seeds.

    Args:
        scores: Its score of each seed; not finite where a fine-tuning diverged.
        origin: Θ⁰'s.
        higher_is_better: Direction of the score.
        overlap: Number of the examples that score, over that of the others that they are drawn from beside: two draws
            share examples, so that their differences vary less than those of others would.
        most: Of a share, that of all, 1; the interval ends there.

    Returns:
        Its mean score and gain, the 95 % interval, NaN of fewer than [`LEAST_SEEDS`], and the probability of so large a
        gain by chance.

    Source: Nadeau and Bengio, "Inference for the generalization error" (2003); that a chance is never below that of all
        seeds having one sign is ours, for scores of few examples, which may differ by the same in all.
    """
    score = float(np.mean(scores))
    differences = np.subtract(scores, origin, dtype=float) * (1 if higher_is_better else -1)
    count, gain = len(differences), float(np.mean(differences))
    if not np.isfinite(differences).all():
        return Gain(score, math.nan, math.nan, math.nan, 1.0)
    if count < 2:
        return Gain(score, gain, math.nan, math.nan, 1.0)
    error = math.sqrt(float(differences.var(ddof=1)) * (1 / count + overlap))
    shown = count >= LEAST_SEEDS
    if error == 0:
        same = gain if shown else math.nan
        return Gain(score, gain, same, same, 0.5**count if gain > 0 else 1.0)
    student = require_scipy().t
    reach = float(student.ppf(0.975, count - 1)) * error
    chance = max(float(student.sf(gain / error, count - 1)), 0.5**count)
    if not shown:
        return Gain(score, gain, math.nan, math.nan, chance)
    sign = 1 if higher_is_better else -1
    low, high = sorted(sign * end for end in (gain - reach, gain + reach))
    low, high = sorted(sign * end for end in allowed((low, high), scores, origin, most))
    return Gain(score, gain, low, high, chance)
