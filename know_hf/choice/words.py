"""A choice in plain words."""

import re
from collections.abc import Mapping

from know_hf.choice.rule import LEVEL, LONGER, Gain, start_of
from know_hf.enrichment.verdict import Deciding

#: Θ⁰ with BatchNorm statistics re-estimated like those of the predictions.
RENEWED = "stage-0-renewed"
_WORDS = {
    "stage-0": "Θ⁰ itself",
    RENEWED: "Θ⁰ with BatchNorm statistics re-estimated",
    "stage-0-ema": "the moving average of stage 0's training",
    "stage-0-swa": "the average over the end of stage 0's training",
    "mean": "the mean of the first stages",
    "fitted": "the point of the stages' own subspace that fits {data} best",
    "damped": "a step of a length fitted to {data}",
    "equal_compute": "Θ⁰ trained on for as long as the forgetting took",
    "once_more": "Θ⁰ trained once more",
    "soup": "the average of branches from Θ⁰ on halves of the data",
    "soup-greedy": "the average of those branches from Θ⁰ that raise it on the selection data",
    "soup-stock": "between Θ⁰ and the average of its branches, by Model Stock's ratio",
    "soup-fitted": "the point between Θ⁰ and its branches that fits {data} best",
}


def described(name: str) -> str:
    """What a candidate is, beside its name."""
    if stage := re.fullmatch(r"stage-(\d+)", name):
        known = _WORDS.get(name, f"Θ⁰ trained on, with stage {stage[1]}'s part of the data")
    elif name.startswith("soup-branch-"):
        known = "Θ⁰ trained on, with a half of the data"
    else:
        plain = name.removesuffix("-unscaled")
        known = _WORDS.get(plain.removesuffix("-held-out"), "")
        known = known.format(data="held-out data" if plain.endswith("-held-out") else "the training data")
        known += ", without a multiple of Θ⁰" if known and plain != name else ""
    return f"{name} ({known})" if known else name


def trained_on(name: str) -> bool:
    """Whether a candidate is Θ⁰ after more ordinary training."""
    return name in ("equal_compute", "once_more") or bool(re.fullmatch(r"(stage|soup-branch)-[1-9]\d*", name))


def chosen_words(
    candidate: str,
    gains: Mapping[str, Gain],
    deciding: Deciding,
    examples: int,
    scores: Mapping[str, float],
    origin: Mapping[str, float],
    by_turns: bool = False,
    epochs_chosen: bool = False,
    trained_out: bool = False,
) -> str:
    """Two sentences: what to take and how sure that is, and what not to use.

    Args:
        candidate: Name of the chosen one.
        gains: Every candidate's gain on the selection data.
        deciding: The score that decided.
        examples: Number of those examples.
        scores: Of the chosen one on the evaluation data.
        origin: Those of Θ⁰.
        by_turns: Whether each example was answered by a run that left it out.
        epochs_chosen: Whether the evaluation data had a part in the training (``load_best_model_at_end``).
        trained_out: Whether it is known already that Θ⁰ gains nothing by more training.
    """
    metric, first, theta = deciding.metric, "", gains["stage-0"].score
    start = start_of(gains, "stage-0", RENEWED)
    least = 0.0 if start == "stage-0" else gains[start].gain
    better = [
        name for name, gain in gains.items()
        if trained_on(name) and gain.chance <= LEVEL and (gain.gain > least or gain.by_loss)
    ]  # fmt: skip
    if better:
        first = f"Θ⁰ was not trained to its end: training on made it better ({', '.join(better)}). "
    where = f"on the {examples:,} examples that were set aside"
    if by_turns:
        where = f"on the {examples:,} examples, each answered by a run that left it out"
    if candidate == "stage-0":
        others = {name: gain for name, gain in gains.items() if name != candidate and gain.score == gain.score}
        text = f"Keep Θ⁰ (enriched/best is it): of {len(others)} candidates none is better beyond chance {where}"
        if others and not any(gain.gain for gain in others.values()):
            text += "; all of them are as good as Θ⁰ there, to the last example"
        elif others:
            top = max(others, key=lambda name: others[name].gain)
            text += f"; its {deciding.name} is {deciding.shown(theta)}, "
            if others[top].gain > 0:
                text += f"that of the best of them, {described(top)}, {deciding.shown(others[top].score)}"
            else:
                text += "and none of them has a better one"
    else:
        own, against = gains[candidate], f"{deciding.shown(theta)} of Θ⁰"
        if RENEWED in gains and candidate != RENEWED:
            alone = f"{deciding.shown(gains[RENEWED].score)}"
            if start == RENEWED:
                against = f"{alone} of Θ⁰ with BatchNorm statistics re-estimated ({deciding.shown(theta)} with its own)"
            else:
                against += f" ({alone} with BatchNorm statistics re-estimated)"
        sure = f"which would come about by chance in {percent(own.chance)} of cases ({100 * LEVEL:g} % are allowed)"
        if own.by_loss:
            sure = f"and a loss that is lower by {own.loss:.3g}, {sure}"
        text = (
            f"Take enriched/best, which is {described(candidate)}: {deciding.name} {deciding.shown(own.score)} against "
            f"{against} {where}, {sure}"
        )
        if metric in scores and metric in origin:
            text += (
                f"; on the evaluation data {deciding.shown(scores[metric])} against {deciding.shown(origin[metric])}"
            )
            if epochs_chosen:
                text += " (on which load_best_model_at_end chose every stage's epoch, so they flatter both)"
    worse = [name for name, gain in gains.items() if gain.high < 0]
    last = ""
    if worse:
        shown = ", ".join(f"{name} ({deciding.shown(gains[name].score)})" for name in worse)
        last = f" Do not use {shown}: worse than Θ⁰ there."
    if candidate == "stage-0" and not (trained_out or gains.keys() & set(LONGER)):
        last += f" Not tried is what helps most often, training on (--also {LONGER[0]})."
    return f"{first}{text}.{last}"


def origin_words(theta: float, guessing: float | None, deciding: Deciding, trained: bool) -> str:
    """That Θ⁰ only guesses, before anything is said of what is better; nothing where it does not.

    Args:
        theta: Its accuracy.
        guessing: That of always giving the most frequent class; None where the score is another one.
        deciding: The score.
        trained: Whether stage 0 was trained on the data; else it is the model as it was given.
    """
    if guessing is None or theta > guessing + deciding.noise(guessing):
        return ""
    why = (
        "train it longer, or at another rate (--num_train_epochs, --learning_rate)"
        if trained
        else "it is the model as it was given, so train it first (--train_stage_zero True, with --num_train_epochs and "
        "--learning_rate as for any fine-tuning)"
    )
    return (
        f"Θ⁰ only guesses: {deciding.name} {deciding.shown(theta)}, and always giving the most frequent class has "
        f"{deciding.shown(guessing)}; {why}."
    )


def percent(chance: float) -> str:
    """A probability as a reader wants it."""
    return "less than 0.1 %" if chance < 0.001 else f"{100 * chance:.1f} %"
