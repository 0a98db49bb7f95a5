"""What an enrichment allows to say, in plain sentences: was anything forgotten, can it be undone, which to take."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from know_hf.enrichment.result import BASELINE, EnrichmentResult
from know_hf.tasks import TASKS, Score
from know_hf.trajectory.rounds import Rounds

if TYPE_CHECKING:
    from transformers import TrainingArguments

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
        examples: Number of evaluation examples that it is a share of, if it is one and their number is known.
        data: Which of several evaluation sets it is of; None where there is one.
        missing: The score that should have decided, ``metric_for_best_model``, where it is not there.
    """

    metric: str
    score: Score
    examples: int | None = None
    data: str | None = None
    missing: str | None = None

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return self.score.name if self.data is None else f"{self.score.name} of evaluation set {self.data!r}"

    def noise(self, value: float) -> float:
        """Size of a difference from this value that may be chance.

        One standard error of a share of so many examples (of a share of nothing or all of them it is taken as of one
        example more on either side); without their number, or of other scores, one percent of the value.
        """
        if self.score.percent and self.examples:
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
        if not math.isfinite(value):
            return f"{value}"
        return f"{self.score.shown(value):.1f} %" if self.score.percent else f"{value:.4g}"

    @property
    def rule(self) -> str:
        """What counts as a difference, in words."""
        if self.score.percent and self.examples:
            return f"one standard error with {self.examples:,} evaluation examples"
        return f"{100 * RELATIVE_NOISE:g} % of the score"


def asked_metric(args: "TrainingArguments") -> tuple[str | None, bool | None]:
    """``metric_for_best_model`` and its direction as far as somebody set them: Trainer fills in the loss, too."""
    fills_in = args.load_best_model_at_end or args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    if args.metric_for_best_model == "loss" and fills_in:
        return None, None
    return args.metric_for_best_model, args.greater_is_better


def deciding_score(
    task: str | None,
    scores: Mapping[str, float],
    examples: int | Mapping[str, int] | None = None,
    metric_for_best_model: str | None = None,
    greater_is_better: bool | None = None,
) -> Deciding | None:
    """Finds the score that decides among those that there are.

    Args:
        task: The task, if it is one of [`TASKS`](know_hf.tasks).
        scores: Scores of any stage, named as Trainer names them; of several evaluation sets the first that has the
            score decides.
        examples: Number of evaluation examples, of several sets by name.
        metric_for_best_model: As in ``TrainingArguments``; it goes first. See [`asked_metric`].
        greater_is_better: Its direction.

    Returns:
        That of the arguments, else the task's own, else the loss; None if none of them is there.
    """
    known = {one.score.name: one.score for one in TASKS.values()}
    known["loss"] = Score("loss", percent=False, higher_is_better=False)
    given = metric_for_best_model and metric_for_best_model.removeprefix("eval_")
    wanted = [given, TASKS[task].score.name if task in TASKS else None, "loss"]
    for name in filter(None, wanted):
        if (found := _find(name, scores)) is None:
            continue
        metric, data, name = found
        higher = not name.endswith("loss") if greater_is_better is None or name == "loss" else greater_is_better
        score = known.get(name, Score(name, higher and _are_shares([scores[metric]]), higher))
        if isinstance(examples, Mapping):
            number = None if data is None else examples.get(data)
        else:
            number = examples
        # Of the shares only this one is of examples; that of masked tokens or of areas is not.
        counts = name == "accuracy" and (task not in TASKS or TASKS[task].one_class)
        missing = given if given and _find(given, scores) is None else None
        return Deciding(metric, score, number if counts else None, data, missing)
    return None


def _find(name: str, scores: Mapping[str, float]) -> tuple[str, str | None, str] | None:
    """The score of that name: as Trainer names it, its evaluation set if there are several, its name within it."""
    # Trainer gives each of several sets a loss of its own, and then none to all of them.
    sets = [] if "eval_loss" in scores else [m[5:-5] for m in scores if m.startswith("eval_") and m.endswith("_loss")]
    metric = f"eval_{name}"
    if metric in scores:
        data = max((own for own in sets if name.startswith(f"{own}_")), key=len, default=None)
        return metric, data, name if data is None else name.removeprefix(f"{data}_")
    if not sets and "eval_loss" not in scores:  # a model that gives no loss
        sets = [m[5 : -len(name) - 1] for m in scores if m.startswith("eval_") and m.endswith(f"_{name}")]
    return next(((f"eval_{own}_{name}", own, name) for own in sets if f"eval_{own}_{name}" in scores), None)


def _are_shares(values: Iterable[float]) -> bool:
    return all(0 <= value <= 1 for value in values if math.isfinite(value))


def verdict(result: EnrichmentResult, deciding: Deciding | None) -> str:
    """Sums up an enrichment in plain sentences.

    Args:
        result: An [`EnrichmentResult`] with its scores and self-check.
        deciding: From [`deciding_score`]; None where there are no scores.

    Returns:
        Whether anything was forgotten, which kinds' retrodiction can be trusted, which checkpoint scored best on the
        evaluation data, and which are worse than Θ^0; and what was not looked at, with how to. A difference counts from
        one standard error of an accuracy over examples on, of other scores from one percent.
    """
    rounds = Rounds.of(result.trajectory.record.recipe)
    first = [own.words for own in (rounds, result.choice) if own is not None]
    every = [*(stage.metrics for stage in result.trajectory.record.stages), *result.metrics.values()]
    found = list(dict.fromkeys(name for scores in every for name in scores))
    if deciding is None and found:
        unknown = (
            f"Whether anything was forgotten, or is better than Θ⁰, was not judged: none of the scores that there are "
            f"({', '.join(found)}) is known to decide; --metric_for_best_model names the one that does."
        )
        return " ".join([*first, unknown, _trust(result)])
    values = [scores[deciding.metric] for scores in every if deciding and deciding.metric in scores]
    if deciding and not _are_shares(values):  # such as an accuracy that is in percent already
        deciding = replace(deciding, score=replace(deciding.score, percent=False))
    sentences = [_missing(deciding, found), _forgetting(result, deciding), _trust(result)]
    if result.choice is None:
        sentences.append(_best(result, deciding))
    return " ".join(sentence for sentence in [*first, *sentences] if sentence)


def _missing(deciding: Deciding | None, found: list[str]) -> str:
    if deciding is None or deciding.missing is None:
        return ""
    return (
        f"metric_for_best_model names {deciding.missing!r}, which is not among the scores ({', '.join(found)}): "
        f"{deciding.name} decides instead."
    )


def _forgetting(result: EnrichmentResult, deciding: Deciding | None) -> str:
    record = result.trajectory.record
    stages = [s for s in record.stages[: record.num_stages] if deciding and deciding.metric in s.metrics]
    if deciding is None or len(stages) < 2:
        return (
            "Whether anything was forgotten was not measured: the stages have no scores to compare (--eval_dataset, or "
            "a share of the training data by --eval_split 0.2 in a new folder)."
        )
    ends = stages[0], stages[-1]
    first, last = (stage.metrics[deciding.metric] for stage in ends)
    name = deciding.name
    unclear = [stage.index for stage in ends if math.isnan(stage.metrics[deciding.metric])]
    if unclear or not (math.isfinite(first) or math.isfinite(last)):
        what = "not a number" if unclear else "infinite"
        where = " and ".join(str(index) for index in unclear or [stage.index for stage in ends])
        return f"Whether anything was forgotten cannot be said: {name} is {what} at stage {where}."
    went = f"from {deciding.shown(first)} at stage {stages[0].index} to {deciding.shown(last)} at {stages[-1].index}"
    gain = deciding.gain(last, first)
    if gain < 0 and deciding.score.percent and deciding.examples and -gain < 2 * deciding.noise(first):
        return (
            f"Whether the stages forgot is not sure: {name} went {went}, less than two standard errors with "
            f"{deciding.examples:,} evaluation examples."
        )
    if gain < 0:
        return f"The stages forgot: {name} went {went}."
    if gain > 0 and record.stages[0].steps is None:
        return (
            f"Nothing was forgotten: {name} even got better, {went}, for stage 0 is the model as it was given, without "
            "training on these data; --train_stage_zero trains it on all of them first (train_stage_zero=True)."
        )
    if gain > 0:
        further = "--until_converged" if Rounds.of(record.recipe) is None else "--converge_rounds"
        return (
            f"Nothing was forgotten: {name} even got better, {went}, so stage 0 was not trained to its end and the "
            f"stages show training, not forgetting (more --num_train_epochs, or {further})."
        )
    return f"No forgetting shows: {name} went {went}, which is no difference; there is little to retrodict from."


def _trust(result: EnrichmentResult) -> str:
    if not result.self_check:
        return "Whether the retrodiction can be trusted was not checked; --self_check does (self_check=True)."
    ratios: Mapping[str, float] = result.self_check["ratios"]
    if not ratios:
        return "By the self-check nothing can be said of the retrodiction: no tensor moved, so that none was checked."
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


def _best(result: EnrichmentResult, deciding: Deciding | None) -> str:
    if result.reset:
        return (
            f"The checkpoints begin with {result.reset} normalisation layers of a new network (norms='reset'): they "
            "are starts for training, and their scores say nothing before it; know-hf compare trains them."
        )
    scored = {name: own[deciding.metric] for name, own in result.metrics.items() if deciding and deciding.metric in own}
    origins = {name: value for name, value in scored.items() if name in ("stage-0", BASELINE)}
    predicted = {name: value for name, value in scored.items() if name not in origins}
    if deciding is None or not origins or not predicted:
        return (
            "The checkpoints were not scored, so nothing says whether they are better than Θ⁰: give evaluation data "
            "(--eval_dataset or --eval_split)."
        )

    def goodness(name: str) -> float:
        value = scored[name] if math.isfinite(scored[name]) else -math.inf
        return value if deciding.score.higher_is_better or value == -math.inf else -value

    origin, best = max(origins, key=goodness), max(predicted, key=goodness)
    reference, metric = scored[origin], deciding.name
    theta = "Θ⁰" if origin == "stage-0" else "Θ⁰ with BatchNorm statistics re-estimated"
    if math.isnan(reference):
        return f"The {metric} of {theta} is not a number, so nothing says whether the checkpoints are better."
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
        which = ", ".join(f"{name} ({deciding.shown(scored[name])})" for name in worse)
        text += f" Do not use {which}: worse than {theta}."
    return text


def _several_methods(result: EnrichmentResult) -> bool:
    return any("/" in name for name in result.checkpoints)
