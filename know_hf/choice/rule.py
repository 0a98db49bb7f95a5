"""The rule of a choice: when a checkpoint is better than Θ⁰ beyond chance, though the best of many is looked at."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from know_hf.choice.scoring import Answers, Measure, resampled

#: Most probability, of gains that are all chance, that the largest of them is as large.
LEVEL = 0.1
# Share of a score that is rounding, and likewise of a gain in standard errors.
_ROUNDING, _TIE = 1e-9, 1e-6
RULE = (
    "A candidate is taken only if so large a gain over Θ⁰ on the selection data, of the largest among all candidates, "
    f"would come about by chance in at most {100 * LEVEL:g} % of cases (paired bootstrap over examples, reality check "
    "over candidates); of those the one with the best score; else Θ⁰."
)


@dataclass(frozen=True)
class Gain:
    """A candidate's score on the selection data beside that of Θ⁰.

    Args:
        score: Its score.
        gain: Difference to Θ⁰'s, positive where it is better.
        low: Lower end of the paired bootstrap's 95 % interval of the gain.
        high: Upper end.
        chance: Probability that the best of so many candidates would gain as much by chance.
    """

    score: float
    gain: float
    low: float
    high: float
    chance: float


def judge(origin: str, answers: Mapping[str, Answers], measure: Measure) -> tuple[str, dict[str, Gain]]:
    """Chooses among candidates.

    Args:
        origin: The one that the others have to beat, Θ⁰.
        answers: Name → answers to the selection data, in the order in which the first of equals is taken.
        measure: The score that decides.

    Returns:
        Name of the chosen one, and every candidate's [`Gain`].

    Source: the probability is that of White, "A reality check for data snooping" (Econometrica 2000), with differences
        divided by their standard errors and without the plainly worse, as in Hansen, "A test for superior predictive
        ability" (2005).

    Example:
        >>> import numpy as np
        >>> from know_hf.choice.rule import judge
        >>> from know_hf.choice.scoring import Answers, Measure
        >>> answers = {name: Answers({"eval_accuracy": share}, np.arange(200) < 200 * share)
        ...            for name, share in (("stage-0", 0.5), ("mean", 0.8))}
        >>> judge("stage-0", answers, Measure("eval_accuracy", True))[0]
        'mean'
    """
    sign, drawn = measure.sign, {name: resampled(own, measure) for name, own in answers.items()}
    scores = {name: own.scores[measure.metric] for name, own in answers.items()}
    count = min(map(len, drawn.values()))
    start = drawn[origin][:count]
    defined, sizes = np.isfinite(start), answers[origin].size
    found: dict[str, Gain]
    gains: dict[str, float] = {}
    noise: dict[str, np.ndarray] = {}
    for name, own in drawn.items():
        differences = sign * (own[:count] - start)
        gains[name] = sign * (scores[name] - scores[origin])
        if not math.isfinite(gains[name]):
            gains[name] = math.nan
            continue
        noise[name] = differences - gains[name]
        defined &= np.isfinite(differences)
    if not math.isfinite(scores[origin]):  # whatever has a score is better than none
        finite = {name: sign * score for name, score in scores.items() if math.isfinite(score)}
        found = {name: Gain(scores[name], math.nan, math.nan, math.nan, float(name not in finite)) for name in scores}
        return (max(finite, key=lambda name: finite[name]) if finite else origin), found
    noise = {name: own[defined] for name, own in noise.items()}
    # Rounding alone makes no difference.
    least = {name: _ROUNDING * max(abs(scores[name]), abs(scores[origin])) for name in noise}
    errors = {name: float(own.std()) if own.size else 0.0 for name, own in noise.items()}
    compared = [name for name in noise if name != origin and errors[name] > least[name]]
    # What is plainly worse is no rival: it would only make the largest of the gains by chance look larger.
    bound = -math.sqrt(2 * math.log(math.log(max(sizes, 16))))
    rivals = [name for name in compared if gains[name] / errors[name] > bound]
    largest = np.max([noise[name] / errors[name] for name in rivals], axis=0) if rivals else np.zeros(0)
    found = {}
    for name, gain in gains.items():
        if name in compared:
            # Scores of few examples tie: what differs by rounding alone is as large.
            chance = float((largest >= gain / errors[name] - _TIE).mean()) if name in rivals else 1.0
            low, high = (gain + float(np.quantile(noise[name], q)) for q in (0.025, 0.975))
        else:  # the same difference on every example, mostly none, or no score
            certain = name in noise and name != origin and gain > least[name]
            chance, low, high = (0.0 if certain else 1.0), gain, gain
        found[name] = Gain(scores[name], gain, low, high, chance)
    better = [name for name, own in found.items() if name != origin and own.gain > 0 and own.chance <= LEVEL]
    return (max(better, key=lambda name: found[name].gain) if better else origin), found
