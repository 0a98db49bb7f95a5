"""The rule of a choice: when a checkpoint is better than Θ⁰ beyond chance, though the best of many is looked at."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from know_hf.choice.scoring import FEWER_RESAMPLES, Answers, Measure, by_example, resampled, swapped

#: Most probability, of gains that are all chance, that the largest of them is as large.
LEVEL = 0.1
# Share of a score that is rounding, and what is that of a gain in standard errors.
_ROUNDING, _TIE = 1e-9, 1e-6
# Share of a gain in standard errors that comes from how these were drawn, where they are drawn.
_DRAWN_TIE = 1 / math.sqrt(2 * FEWER_RESAMPLES)
RULE = (
    "A candidate is taken only if so large a gain over Θ⁰ on the selection data, of the largest among all candidates, "
    f"would come about by chance in at most {100 * LEVEL:g} % of cases (paired randomisation test over examples, "
    "largest gain of all candidates); of those the one with the best score; else Θ⁰. Where re-estimated BatchNorm "
    "statistics alone make Θ⁰ better, the others have to beat Θ⁰ with these."
)


@dataclass(frozen=True)
class Gain:
    """A candidate's score on the selection data beside that of Θ⁰.

    Args:
        score: Its score.
        gain: Difference to Θ⁰'s, positive where it is better.
        low: Lower end of the paired bootstrap's 95 % interval of the gain.
        high: Upper end.
        chance: Probability that the best of so many candidates would gain as much by chance, over Θ⁰ or, where that is
            better, over Θ⁰ with re-estimated BatchNorm statistics.
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
        predictive ability" (2005).

    Example:
        >>> import numpy as np
        >>> from know_hf.choice.rule import judge
        >>> from know_hf.choice.scoring import Answers, Measure
        >>> answers = {name: Answers({"eval_accuracy": share}, np.arange(200) < 200 * share)
        ...            for name, share in (("stage-0", 0.5), ("mean", 0.8))}
        >>> judge("stage-0", answers, Measure("eval_accuracy", True))[0]
        'mean'
    """
    answers = by_example(answers, measure)
    scores = {name: own.scores[measure.metric] for name, own in answers.items()}
    if not math.isfinite(scores[origin]):  # whatever has a score is better than none
        finite = {name: measure.sign * score for name, score in scores.items() if math.isfinite(score)}
        found = {name: Gain(scores[name], math.nan, math.nan, math.nan, float(name not in finite)) for name in scores}
        return (max(finite, key=lambda name: finite[name]) if finite else origin), found
    chances, start = _chances(origin, answers, measure), origin
    gains = {name: measure.sign * (score - scores[origin]) for name, score in scores.items()}
    if renewed is not None and gains.get(renewed, 0) > 0 and chances[renewed] <= LEVEL:
        others = {name: own for name, own in answers.items() if name != origin}
        chances, start = {**chances, **_chances(renewed, others, measure), renewed: chances[renewed]}, renewed
    found = {}
    for name, gain in gains.items():
        low, high = _interval(answers[name], answers[origin], measure) if math.isfinite(gain) else (math.nan, math.nan)
        found[name] = Gain(scores[name], gain if math.isfinite(gain) else math.nan, low, high, chances[name])
    better = [name for name, own in found.items() if own.gain > gains[start] and own.chance <= LEVEL]
    return max(better, key=lambda name: found[name].gain) if better else start, found


def _chances(start: str, answers: Mapping[str, Answers], measure: Measure) -> dict[str, float]:
    """Name → probability that the largest gain over ``start``, of all, is as large by chance; 1 for those without."""
    scores = {name: own.scores[measure.metric] for name, own in answers.items()}
    chances, ratios = dict.fromkeys(answers, 1.0), {}
    # What is plainly worse is no rival: it would only make the largest of the gains by chance look larger.
    bound = -math.sqrt(2 * math.log(math.log(max(answers[start].size, 16))))
    noise: dict[str, np.ndarray] = {}
    for name, own in answers.items():
        gain = measure.sign * (scores[name] - scores[start])
        if name == start or not math.isfinite(gain):
            continue
        drawn = measure.sign * swapped(answers[start], own, measure)
        error = _error(answers[start], own, drawn)
        # Rounding alone makes no difference.
        if error > _ROUNDING * max(abs(scores[name]), abs(scores[start])) and gain / error > bound:
            ratios[name], noise[name] = gain / error, drawn / error
    if not noise:
        return chances
    largest = np.max(list(noise.values()), axis=0)
    largest = largest[np.isfinite(largest)]
    for name, ratio in ratios.items():
        # Scores of few examples tie, and a tie is as large. What was seen is one of the draws.
        tie = _TIE if answers[name].units is not None else abs(ratio) * _DRAWN_TIE
        chances[name] = float((1 + (largest >= ratio - tie).sum()) / (1 + largest.size))
    return chances


def _error(start: Answers, own: Answers, drawn: np.ndarray) -> float:
    """Standard error of a difference, if neither of both is better."""
    if start.units is not None and own.units is not None:  # exactly, so that what ties is seen to tie
        return float(np.sqrt(((own.units - start.units) ** 2).sum())) / start.size
    drawn = drawn[np.isfinite(drawn)]
    return float(np.sqrt((drawn**2).mean())) if drawn.size else 0.0


def _interval(own: Answers, start: Answers, measure: Measure) -> tuple[float, float]:
    """Ends of the paired bootstrap's 95 % interval of a gain."""
    drawn = measure.sign * (resampled(own, measure) - resampled(start, measure))
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return math.nan, math.nan
    gain = measure.sign * (own.scores[measure.metric] - start.scores[measure.metric])
    # About the gain: scores of resampled examples that are no means may lie elsewhere.
    low, high = (gain + float(np.quantile(drawn - drawn.mean(), q)) for q in (0.025, 0.975))
    return low, high
