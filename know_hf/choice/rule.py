"""The rule of a choice: when a checkpoint is better than Θ⁰ beyond chance, though the best of many is looked at."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from know_hf.choice.resampling import RESAMPLES, interval, swap_error, swapped
from know_hf.choice.scoring import Answers, Measure, in_units

#: Most probability, of gains that are all chance, that any is as large as one that is taken.
LEVEL = 0.1
#: What is most often better than Θ⁰, and known to be before anything is scored: tested apart, by a part of `LEVEL`, so
#: that the many others, whose largest gain by chance is large, do not hide it.
LIKELY = ("equal_compute", "soup")
#: Θ⁰ trained on: whether it had come to its end shows sooner in the loss than in a score of few examples.
LONGER = ("equal_compute", "once_more")
# Share of a score that is rounding, and what is that of a gain in standard errors.
_ROUNDING, _TIE = 1e-9, 1e-6
RULE = (
    "A candidate is taken only if so large a gain over Θ⁰ on the selection data, of the largest among all candidates, "
    f"would come about by chance in at most {100 * LEVEL:g} % of cases (paired randomisation test over examples, of "
    "scores that are no mean over examples over what parts of the data add to them, of losses as Trainer reports them; "
    f"largest gain of all candidates; {' and '.join(LIKELY)}, the likeliest, apart from the others), or, of "
    f"{LONGER[0]}, if its score is no lower and so much lower a loss would come about by chance as seldom; the "
    f"{100 * LEVEL:g} % are shared evenly among those tests. Of several the one with the best score; else Θ⁰. Where "
    "re-estimated BatchNorm statistics alone make Θ⁰ better, the others have to beat Θ⁰ with these."
)


@dataclass(frozen=True)
class Gain:
    """A candidate's score on the selection data beside that of Θ⁰.

    Args:
        score: Its score.
        gain: Difference to Θ⁰'s, positive where it is better.
        low: Lower end of the paired bootstrap's 95 % interval of the gain.
        high: Upper end.
        chance: At most with this probability would any of so many candidates gain as much by chance, over Θ⁰ or, where
            that is better, over Θ⁰ with re-estimated BatchNorm statistics; of Θ⁰ trained on, where that is less, the
            probability that its loss would be so much lower.
        loss: By how much the loss is lower than Θ⁰'s, where that counts; else 0.
        loss_chance: Probability that it would be by chance; 1 where it does not count.
    """

    score: float
    gain: float
    low: float
    high: float
    chance: float
    loss: float = 0.0
    loss_chance: float = 1.0

    @property
    def by_loss(self) -> bool:
        """Whether it is the loss that shows the gain."""
        return self.loss_chance <= LEVEL and self.loss_chance <= self.chance


def judge(
    origin: str,
    answers: Mapping[str, Answers],
    measure: Measure,
    renewed: str | None = None,
    longer: Collection[str] = LONGER,
) -> tuple[str, dict[str, Gain]]:
    """Chooses among candidates.

    Args:
        origin: The one that the others have to beat, Θ⁰.
        answers: Name → answers to the selection data, in the order in which the first of equals is taken.
        measure: The score that decides.
        renewed: The one that takes Θ⁰'s place if it is better: Θ⁰ itself but for statistics of BatchNorm layers.
        longer: Those that are Θ⁰ trained on, whose losses count, too, where the answers have some.

    Returns:
        Name of the chosen one, and every candidate's [`Gain`].

    Source: swapping which of two models gave which answers is Fisher's randomisation test, exact for any number of
        examples; the largest gain of all candidates, in standard errors, is compared as in Westfall and Young,
        "Resampling-based multiple testing" (1993), without the plainly worse as in Hansen, "A test for superior
        predictive ability" (2005). The groups of tests, each with its part of the probability, are Bonferroni's
        inequality.

    Example:
        >>> import numpy as np
        >>> from know_hf.choice.rule import judge
        >>> from know_hf.choice.scoring import Answers, Measure
        >>> answers = {name: Answers({"eval_accuracy": share}, np.arange(200) < 200 * share)
        ...            for name, share in (("stage-0", 0.5), ("mean", 0.8))}
        >>> judge("stage-0", answers, Measure("eval_accuracy", True))[0]
        'mean'
    """
    answers = in_units(answers, measure)
    scores = {name: own.scores[measure.metric] for name, own in answers.items()}
    if not math.isfinite(scores[origin]):  # whatever has a score is better than none
        finite = {name: measure.sign * score for name, score in scores.items() if math.isfinite(score)}
        found = {name: Gain(scores[name], math.nan, math.nan, math.nan, float(name not in finite)) for name in scores}
        return (max(finite, key=lambda name: finite[name]) if finite else origin), found
    # Whatever the score, more is better from here on; a part of the examples may have none.
    units = {name: measure.sign * own.units for name, own in answers.items() if own.units is not None}
    known = np.all([np.isfinite(units[name]) for name in units if math.isfinite(scores[name])], axis=0)
    units = {name: own[known] for name, own in units.items()} if known.any() else {}
    gains = {name: measure.sign * (score - scores[origin]) + 0.0 for name, score in scores.items()}  # of no sign
    losses = {name: own.losses for name, own in answers.items() if own.losses is not None}
    known_losses = {name: losses[name] for name in longer if name in losses and math.isfinite(scores[name])}
    chances, lower = _chances(origin, units, scores, losses.get(origin), known_losses)
    found = {}
    for name, gain in gains.items():
        bounds = interval(units[origin], units[name]) if units and math.isfinite(gain) else (math.nan, math.nan)
        gain = gain if math.isfinite(gain) else math.nan
        found[name] = Gain(scores[name], gain, *bounds, chances.get(name, 1.0), *lower.get(name, ()))
    start = start_of(found, origin, renewed)
    if start != origin:
        others = {name: own for name, own in units.items() if name != origin}
        chances, lower = _chances(start, others, scores, losses.get(start), known_losses)
        chances[start] = found[start].chance
        found = {
            name: replace(own, chance=chances.get(name, 1.0), loss=loss, loss_chance=loss_chance)
            for name, own in found.items()
            for loss, loss_chance in (lower.get(name, (0.0, 1.0)),)
        }
    found = {name: _with_loss(own, gains[start]) for name, own in found.items()}
    better = [
        name for name, own in found.items()
        if own.chance <= LEVEL and (own.gain > gains[start] or (own.by_loss and own.gain == gains[start]))
    ]  # fmt: skip
    return max(better, key=lambda name: found[name].gain) if better else start, found


def _with_loss(gain: Gain, least: float) -> Gain:
    """The gain with the chance of its lower loss, where that is less and its score is no lower than the start's."""
    if gain.loss_chance >= gain.chance or not gain.gain >= least:
        return replace(gain, loss=0.0, loss_chance=1.0)
    return replace(gain, chance=gain.loss_chance)


def start_of(gains: Mapping[str, Gain], origin: str, renewed: str | None) -> str:
    """Which form of Θ⁰ the candidates have to beat: as it is, or with BatchNorm statistics that make it better."""
    own = None if renewed is None else gains.get(renewed)
    return origin if renewed is None or own is None or not (own.gain > 0 and own.chance <= LEVEL) else renewed


def _chances(
    start: str,
    units: Mapping[str, np.ndarray],
    scores: Mapping[str, float],
    start_losses: np.ndarray | None,
    losses: Mapping[str, np.ndarray],
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """How likely gains over ``start`` are by chance.

    Returns:
        Name → probability that any gain in score is as large by chance, 1 for those without one; name → by how much a
        loss is lower, and the probability of that.
    """
    compared = {name: _compared(units[start], own, scores[name]) for name, own in units.items() if name != start}
    tests = [{name: own for name, own in compared.items() if (name in LIKELY) == likely} for likely in (True, False)]
    if start_losses is not None and np.isfinite(start_losses).all():
        rivals = {name: own for name, own in losses.items() if np.isfinite(own).all()}
        tests.append({name: _compared(-start_losses, -own, float(own.mean())) for name, own in rivals.items()})
    else:
        tests.append({})
    kept = [{name: own for name, own in group.items() if own is not None} for group in tests]
    groups, found = sum(map(bool, kept)), []
    for group in kept:
        largest = np.max([own.by_chance for own in group.values()], axis=0) if group else np.zeros(0)
        # Scores of few examples tie, and a tie is as large. What was seen is one of the draws.
        by_chance = {name: (1 + (largest >= own.ratio - _TIE).sum()) / (1 + RESAMPLES) for name, own in group.items()}
        found.append({name: float(min(1.0, groups * share)) for name, share in by_chance.items()})
    chances = {**dict.fromkeys(units, 1.0), **found[0], **found[1]}
    return chances, {name: (kept[2][name].gain, share) for name, share in found[2].items()}


@dataclass(frozen=True)
class _Compared:
    """A gain, in standard errors, too, and such gains by chance."""

    gain: float
    ratio: float
    by_chance: np.ndarray


def _compared(start: np.ndarray, own: np.ndarray, score: float) -> _Compared | None:
    """None for what has no score, is the same, or is plainly worse: that would only make chance look larger."""
    bound = -math.sqrt(2 * math.log(math.log(max(len(start), 16))))
    if not math.isfinite(score):
        return None
    gain, error = float((own - start).mean()), swap_error(start, own)
    # Rounding alone makes no difference.
    if error <= _ROUNDING * max(abs(float(own.mean())), abs(float(start.mean()))) or gain / error <= bound:
        return None
    return _Compared(gain, gain / error, swapped(start, own) / error)
