"""What an enrichment allows to say, in plain sentences: was anything forgotten, can it be undone, which to take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from know_hf.enrichment.stream import BASELINE
from know_hf.tasks import TASKS, Score

#: Kinds whose self-check is below this are retrodicted nearer to the truth than the stage before, noticeably.
NEAR = 0.95
#: Differences of scores that are no shares count from this share of the score on.
RELATIVE_NOISE = 0.01


@dataclass(frozen=True)
class Deciding:
    """The score that decides.

    Args:
        metric: Its name among the scores, such as ``eval_accuracy``.
        score: What it is.
        examples: Number of evaluation examples, if it is known.

    Source: ours.
    """

    metric: str
    score: Score
    examples: int | None = None

    def noise(self, value: float) -> float:
        """Size of a difference from this value that may be chance.

        One standard error of a share of so many examples (of a share of nothing or all of them it is taken as of one
        example more on either side); without their number, or of other scores, one percent of the value.
        """
        if self.score.percent and self.examples and 0 <= value <= 1:
            share = (value * self.examples + 1) / (self.examples + 2)
            return math.sqrt(share * (1 - share) / self.examples)
        return RELATIVE_NOISE * abs(value)

    def gain(self, value: float, reference: float) -> float:
        """By how much a value is better than another, 0 within the noise; a score that is not finite is worst."""
        if not math.isfinite(value):
            return -math.inf if math.isfinite(reference) else 0.0
        if not math.isfinite(reference):
            return math.inf
        difference = (value - reference) * (1 if self.score.higher_is_better else -1)
        # Differences that only rounding makes are none, whatever the noise.
        return difference if abs(difference) > max(self.noise(reference), 1e-9 * abs(reference)) else 0.0

    def shown(self, value: float) -> str:
        """The value as a reader wants it."""
        return f"{self.score.shown(value):.1f} %" if self.score.percent else f"{value:.4g}"

    @property
    def rule(self) -> str:
        """What counts as a difference, in words."""
        if self.score.percent and self.examples:
            return f"one standard error with {self.examples:,} evaluation examples"
        return f"{100 * RELATIVE_NOISE:g} % of the score"


def deciding_score(
    task: str | None,
    scores: Mapping[str, float],
    examples: int | None = None,
    metric_for_best_model: str | None = None,
    greater_is_better: bool | None = None,
) -> Deciding | None:
    """Finds the score that decides among those that there are.

    Args:
        task: The task, if it is one of [`TASKS`](know_hf.tasks).
        scores: Scores of any stage, named as Trainer names them.
        examples: Number of evaluation examples.
        metric_for_best_model: As in ``TrainingArguments``; it goes first, unless it is the loss, which Trainer fills
            in.
        greater_is_better: Its direction.

    Returns:
        That of the arguments, else the task's own, else the loss; None if none of them is there.

    Source: ours.
    """
    own = {f"eval_{known.score.name}": known.score for known in TASKS.values()}
    named = f"eval_{(metric_for_best_model or 'loss').removeprefix('eval_')}"
    if named != "eval_loss" and named in scores:
        higher = True if greater_is_better is None else greater_is_better
        bounded = all(0 <= value <= 1 for name, value in scores.items() if name == named)
        return Deciding(named, own.get(named, Score(named.removeprefix("eval_"), higher and bounded, higher)), examples)
    if task in TASKS and (name := f"eval_{TASKS[task].score.name}") in scores:
        return Deciding(name, TASKS[task].score, examples)
    if "eval_loss" in scores:
        return Deciding("eval_loss", Score("loss", percent=False, higher_is_better=False), examples)
    return None


def verdict(result, deciding: Deciding | None) -> str:
    """Sums up an enrichment in plain sentences.

    Args:
        result: An [`EnrichmentResult`] with its scores and self-check.
        deciding: From [`deciding_score`]; None where there are no scores.

    Returns:
        Whether anything was forgotten, which kinds' retrodiction can be trusted, which checkpoint scored best on the
        evaluation data, and which are worse than Θ^0; and what was not looked at, with how to. A difference counts from
        one standard error of a share on, of other scores from one percent.

    Source: ours.
    """
    sentences = [_forgetting(result, deciding), _trust(result), _best(result, deciding)]
    return " ".join(sentence for sentence in sentences if sentence)


def _forgetting(result, deciding: Deciding | None) -> str:
    record = result.trajectory.record
    stages = [s for s in record.stages[: record.num_stages] if deciding and deciding.metric in s.metrics]
    if len(stages) < 2:
        return "Whether anything was forgotten was not measured: the stages have no scores to compare."
    first, last = (stage.metrics[deciding.metric] for stage in (stages[0], stages[-1]))
    name = deciding.score.name
    went = f"from {deciding.shown(first)} at stage {stages[0].index} to {deciding.shown(last)} at {stages[-1].index}"
    gain = deciding.gain(last, first)
    if gain < 0:
        return f"The stages forgot: {name} went {went}."
    if gain > 0:
        return (
            f"Nothing was forgotten: {name} even got better, {went}, so stage 0 was not trained to its end and the "
            "stages show training, not forgetting (more --num_train_epochs)."
        )
    return f"No forgetting shows: {name} went {went}, which is no difference; there is little to retrodict from."


def _trust(result) -> str:
    if not result.self_check:
        return "Whether the retrodiction can be trusted was not checked; --self_check does (self_check=True)."
    ratios: Mapping[str, float] = result.self_check["ratios"]
    method = result.self_check.get("method")
    which = f" of {method}" if method and _several_methods(result) else ""
    groups = {
        "comes nearer to the known Θ⁰ than Θ¹ is": [k for k, r in ratios.items() if r < NEAR],
        "comes hardly nearer, do not trust it": [k for k, r in ratios.items() if NEAR <= r < 1],
        "comes no nearer, do not trust it": [k for k, r in ratios.items() if r >= 1],
        "did not move, so that nothing was checked": [k for k, r in ratios.items() if math.isnan(r)],
    }
    shown = {kind: "" if math.isnan(ratio) else f" ({ratio:.2f} of the distance)" for kind, ratio in ratios.items()}
    parts = [f"{words} for {', '.join(kind + shown[kind] for kind in own)}" for words, own in groups.items() if own]
    return f"By the self-check the retrodiction{which} {'; it '.join(parts)}."


def _best(result, deciding: Deciding | None) -> str:
    scored = {name: own[deciding.metric] for name, own in result.metrics.items() if deciding and deciding.metric in own}
    origins = {name: value for name, value in scored.items() if name in ("stage-0", BASELINE)}
    predicted = {name: value for name, value in scored.items() if name not in origins}
    if not origins or not predicted:
        return (
            "The checkpoints were not scored, so nothing says whether they are better than Θ⁰: give evaluation data "
            "(--eval_dataset or --eval_split)."
        )

    def goodness(name: str) -> float:
        value = scored[name] if math.isfinite(scored[name]) else -math.inf
        return value if deciding.score.higher_is_better or value == -math.inf else -value

    origin, best = max(origins, key=goodness), max(predicted, key=goodness)
    reference, metric = scored[origin], deciding.score.name
    theta = "Θ⁰" if origin == "stage-0" else "Θ⁰ with BatchNorm statistics re-estimated"
    at = f"{theta} ({deciding.shown(reference)})"
    gains = {name: deciding.gain(value, reference) for name, value in predicted.items()}
    if gains[best] > 0:
        text = f"On the evaluation data {best} has the best {metric} ({deciding.shown(scored[best])}), better than {at}"
    elif gains[best] == 0:
        same = f"{best} ({deciding.shown(scored[best])}) is no different"
        text = f"On the evaluation data no prediction has a better {metric} than {at}: {same}"
    else:
        text = f"On the evaluation data {theta} itself has the best {metric} ({deciding.shown(reference)})"
    text += f"; differences below {deciding.rule} count as none."
    if worse := [name for name, gain in gains.items() if gain < 0]:
        text += f" Do not use {', '.join(f'{name} ({deciding.shown(scored[name])})' for name in worse)}: worse than Θ⁰."
    return text


def _several_methods(result) -> bool:
    return any("/" in name for name in result.checkpoints)
