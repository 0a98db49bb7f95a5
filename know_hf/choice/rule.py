"""The rule of a choice: when a checkpoint is better than Θ⁰ beyond chance, though the best of many is looked at."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from know_hf.choice.resampling import RESAMPLES, interval, swap_error, swapped
from know_hf.choice.scoring import Answers, Measure, in_units

#: Most probability, of gains that are all chance, that any is as large as one that is taken.
LEVEL = 0.1
#: What is most often better than Θ⁰, and known to be before anything is scored: tested apart, with half of `LEVEL`, so
#: that the many others, whose largest gain by chance is large, do not hide it.
LIKELY = ("equal_compute", "soup")
# Share of a score that is rounding, and what is that of a gain in standard errors.
_ROUNDING, _TIE = 1e-9, 1e-6
RULE = (
    "A candidate is taken only if so large a gain over Θ⁰ on the selection data, of the largest among all candidates, "
    f"would come about by chance in at most {100 * LEVEL:g} % of cases (paired randomisation test over examples, "
    f"largest gain of all candidates; {' and '.join(LIKELY)}, the likeliest, apart from the others, half of the "
    f"{100 * LEVEL:g} % each); of those the one with the best score; else Θ⁰. Where re-estimated BatchNorm statistics "
    "alone make Θ⁰ better, the others have to beat Θ⁰ with these."
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
            that is better, over Θ⁰ with re-estimated BatchNorm statistics.
    """

    score: float
    gain: float
    low: float
    high: float
    chance: float


def judge(
    origin: str, answers: Mapping[str, Answers], measure: Measure, renewed: str | None = None
) -> tuple[str, dict[str, Gain]]:
    """Chooses among candidates.

    Args:
        origin: The one that the others have to beat, Θ⁰.
        answers: Name → answers to the selection data, in the order in which the first of equals is taken.
        measure: The score that decides.
        renewed: The one that takes Θ⁰'s place if it is better: Θ⁰ itself but for statistics of BatchNorm layers.

    Returns:
        Name of the chosen one, and every candidate's [`Gain`].

    Source: swapping which of two models gave which answers is Fisher's randomisation test, exact for any number of
        examples; the largest gain of all candidates, in standard errors, is compared as in Westfall and Young,
        "Resampling-based multiple testing" (1993), without the plainly worse as in Hansen, "A test for superior
        predictive ability" (2005). Two groups, each with half of the probability, are Bonferroni's inequality.

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
    chances, found = _chances(origin, units, scores), {}
    for name, gain in gains.items():
        bounds = interval(units[origin], units[name]) if units and math.isfinite(gain) else (math.nan, math.nan)
        gain = gain if math.isfinite(gain) else math.nan
        found[name] = Gain(scores[name], gain, *bounds, chances.get(name, 1.0))
    start = start_of(found, origin, renewed)
    if start != origin:
        others = {name: own for name, own in units.items() if name != origin}
        chances = {**_chances(start, others, scores), start: found[start].chance}
        found = {name: replace(own, chance=chances.get(name, 1.0)) for name, own in found.items()}
    better = [name for name, own in found.items() if own.gain > gains[start] and own.chance <= LEVEL]
    return max(better, key=lambda name: found[name].gain) if better else start, found


def start_of(gains: Mapping[str, Gain], origin: str, renewed: str | None) -> str:
    """Which form of Θ⁰ the candidates have to beat: as it is, or with BatchNorm statistics that make it better."""
    own = None if renewed is None else gains.get(renewed)
    return origin if renewed is None or own is None or not (own.gain > 0 and own.chance <= LEVEL) else renewed


def _chances(start: str, units: Mapping[str, np.ndarray], scores: Mapping[str, float]) -> dict[str, float]:
    """Name → probability that any gain over ``start`` is as large by chance; 1 for those without one."""
    ratios, differences = {}, {}
    # What is plainly worse is no rival: it would only make the largest of the gains by chance look larger.
    bound = -math.sqrt(2 * math.log(math.log(max(len(next(iter(units.values()), ())), 16))))
    for name, own in units.items():
        if name == start or not math.isfinite(scores[name]):
            continue
        gain, error = float((own - units[start]).mean()), swap_error(units[start], own)
        # Rounding alone makes no difference.
        if error > _ROUNDING * max(abs(scores[name]), abs(scores[start])) and gain / error > bound:
            ratios[name], differences[name] = gain / error, swapped(units[start], own) / error
    groups = [
        group for group in ([one for one in ratios if (one in LIKELY) == likely] for likely in (True, False)) if group
    ]
    chances = dict.fromkeys(units, 1.0)
    for group in groups:
        largest = np.max([differences[name] for name in group], axis=0)
        for name in group:
            # Scores of few examples tie, and a tie is as large. What was seen is one of the draws.
            by_chance = float((1 + (largest >= ratios[name] - _TIE).sum()) / (1 + RESAMPLES))
            chances[name] = min(1.0, len(groups) * by_chance)
    return chances
