"""Chooses a run's best checkpoint and writes it as a plain folder of its own."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from know_hf.choice.candidates import FOLDER, ORIGIN, Candidates
from know_hf.choice.controls import control_folder
from know_hf.choice.judging import Judge, Judgement, Purpose
from know_hf.choice.losses import LossParts
from know_hf.choice.options import Choosing
from know_hf.choice.places import made_here
from know_hf.choice.rule import LONGER, RULE, Gain, judge
from know_hf.choice.scoring import Answers, answer, deciding_of, guessing, judged_by, measure_of, pooled, predict
from know_hf.choice.words import RENEWED, chosen_words, origin_words
from know_hf.enrichment.companions import companions
from know_hf.enrichment.finishing import Finisher, evaluation_scores
from know_hf.enrichment.rescoring import stale
from know_hf.enrichment.stream import Enrichment
from know_hf.enrichment.verdict import Deciding, asked_metric
from know_hf.enrichment.writer import PartialFolder, check_targets, describe_again, say_full
from know_hf.fitting.options import Fitting
from know_hf.forgetting.evaluation import evaluated_on
from know_hf.forgetting.weights import load_weights
from know_hf.hub.cards import best_card
from know_hf.progress import progress_bar
from know_hf.reading import read_fields
from know_hf.records import BEST, ENRICHMENT_FILE
from know_hf.store import hash_file, inside, remove, write_json
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.functions import describe_loss, fingerprint
from know_hf.trajectory.identity import as_told, describe_dataset, versions
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.rounds import Rounds

_RECORD = "choice.json"
_FORM = {"of": dict, "candidate": str, "metric": str, "examples": int, "gains": dict[str, dict[str, float]],
         "words": str, "scores": dict[str, float], "folders": dict[str, str], "purpose": dict | None}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Args:
        candidate: Name of the chosen one; ``stage-0`` where nothing is better than Θ⁰.
        folder: Its plain folder, ``enriched/best``.
        deciding: The score that decided.
        gains: Every candidate's score and gain over Θ⁰ on the selection data.
        examples: Number of those examples.
        how: Where they came from; ``"downstream"`` if they are drawn from other data than the run's.
        scores: Scores of the chosen one on the evaluation data, on which nothing was chosen.
        words: What to take and how sure that is, and what not to use.
        candidates: Name → folder of the candidates that are still there.
        purpose: What it was chosen for, if not for the run's own task.
    """

    candidate: str
    folder: Path
    deciding: Deciding
    gains: dict[str, Gain]
    examples: int
    how: str
    scores: dict[str, float] = field(default_factory=dict)
    words: str = ""
    candidates: dict[str, Path] = field(default_factory=dict)
    purpose: Purpose | None = None


def choose(
    trainer: Any,
    run: Enrichment,
    enriched: Mapping[str, Path],
    scores: Mapping[str, Mapping[str, float]],
    finisher: Finisher,
    choosing: Choosing,
    fitting: Fitting,
    folds: Callable[[], list[dict[str, Answers]]] | None = None,
    by: Judge | None = None,
) -> Choice | None:
    """Chooses among a run's candidates on the examples that were set aside, and writes ``enriched/best``.

    Args:
        trainer: A trainer whose forgetting is finished; ``set_aside`` are the examples.
        run: The prediction of the run, applied.
        enriched: Name → folder of the predicted checkpoints.
        scores: Name → scores on the evaluation data, as far as they are known.
        finisher: Completes candidates that are made for the choice alone; needs not score them.
        choosing: Among what is chosen.
        fitting: How coefficients are fitted.
        folds: Instead of examples set aside: makes, for each part of the training data, name → answers of runs that
            left it out.
        by: Judges by something else than the answers to those examples.

    Returns:
        The choice; None if no score decides.

    Raises:
        FileExistsError: If the folder holds something else.
        TrajectoryError: If fitting went astray.
    """
    root = inside(trainer.args.output_dir, FOLDER)
    final = inside(trainer.args.output_dir, Path("enriched") / BEST)
    candidates = Candidates(trainer, run, enriched, finisher, choosing, fitting)
    about = _about(trainer, run, choosing, fitting, by)
    known, evaluated = _known(root / _RECORD, final, about), evaluated_on(trainer)
    if known is None:
        folders = candidates.make()
        if by is not None:
            found: Judgement | None = by(folders)
        else:
            found = _by_answers(trainer, folders, candidates.selection, folds)
        if found is None:
            return None
        name, size = found.candidate, found.examples
        load_weights(trainer.model, folders[name])
        own = dict(scores.get(name) or {}) or evaluation_scores(trainer)
        turns = folds is not None
        known = {
            "of": about, "candidate": name, "metric": found.deciding.metric, "rule": found.rule, "examples": size,
            "gains": {one: asdict(gain) for one, gain in found.gains.items()}, "scores": own,
            "folders": {one: os.path.relpath(place, root.parent) for one, place in folders.items()},
            "words": found.words
            or _words(trainer, run, name, found.gains, found.deciding, size, own, turns, found.guessing),
            "guessing": found.guessing, "purpose": found.purpose and asdict(found.purpose),
            "how": "folds" if turns else trainer.set_aside.how,
            # Without evaluation data they are those that the record holds.
            "evaluation": evaluated or (own and run.trajectory.record.dataset.get("evaluation")) or None,
        }  # fmt: skip
        if trainer.is_world_process_zero():
            _write(run, folders[name], final, known)
            write_json(root / _RECORD, known)
    elif stale({**known, "metrics": known["scores"]}, evaluated):
        known = _scored_again(trainer, run, final, known, folds is not None)
        if trainer.is_world_process_zero():
            write_json(root / _RECORD, known)
    if trainer.is_world_process_zero() and not choosing.keep_candidates:
        for place in (root.parent / own for own in known["folders"].values()):  # also what a kill left
            if place.parent == root and made_here(place):
                remove(place)
        for place in [] if choosing.also else [control_folder(root.parent, name) for name in choosing.beside]:
            if (place / FILE_NAME).exists():
                remove(place)
            with suppress(OSError):  # it holds others, or was never there
                place.parent.rmdir()
    trainer.accelerator.wait_for_everyone()
    return _as_choice(known, trainer, final, "folds" if folds else trainer.set_aside.how)


def _scored_again(
    trainer: Any, run: Enrichment, final: Path, known: Mapping[str, Any], by_turns: bool
) -> dict[str, Any]:
    """The same choice with scores of the evaluation data at hand."""
    load_weights(trainer.model, final)
    own = evaluation_scores(trainer)
    known = {**known, "scores": own, "evaluation": evaluated_on(trainer)}
    if not known.get("purpose"):
        deciding = deciding_of(trainer, {known["metric"]: 0.0}, known["examples"])
        gains = {name: Gain(**gain) for name, gain in known["gains"].items()}
        if deciding is not None:
            known["words"] = _words(trainer, run, known["candidate"], gains, deciding, known["examples"], own, by_turns,
                                    known.get("guessing"))  # fmt: skip
    if trainer.is_world_process_zero():
        content = read_fields(final / ENRICHMENT_FILE, {}) | _said(known)
        describe_again(final, content, best_card(run.trajectory, content))
    return known


def _words(
    trainer: Any, run: Enrichment, name: str, gains: Mapping[str, Gain], deciding: Deciding, examples: int,
    scores: Mapping[str, float], by_turns: bool, share: float | None,
) -> str:  # fmt: skip
    """What to take, and what is to be said of the data and of Θ^0 beside it."""
    record, rounds = run.trajectory.record, Rounds.of(run.trajectory.record.recipe)
    words = chosen_words(
        name, gains, deciding, examples, scores, record.stages[0].metrics, by_turns,
        bool(trainer.args.load_best_model_at_end), rounds is not None and rounds.converged,
    )  # fmt: skip
    of_origin = origin_words(gains[ORIGIN].score, share, deciding, record.stages[0].steps is not None)
    return " ".join([sentence for sentence in (of_origin, words) if sentence] + [*trainer.remarks])


def _said(known: Mapping[str, Any]) -> dict[str, Any]:
    """What a choice adds to what its folder says about itself."""
    return {
        "metrics": known["scores"],
        "chosen": {name: value for name, value in known.items() if name not in ("of", "folders", "evaluation")},
    }


def _by_answers(
    trainer: Any, folders: Mapping[str, Path], selection: Any, folds: Callable[[], list[dict[str, Answers]]] | None
) -> Judgement | None:
    """Judges by the answers to examples that were set aside, or to all folds; None if no score decides."""
    measured = answers_of(trainer, folders, selection) if folds is None else _together(folds(), trainer)
    if measured is None:
        return None
    deciding, answers = measured
    shared = {name: own for name, own in answers.items() if name in folders}
    name, gains = judge(ORIGIN, shared, measure_of(trainer, deciding), RENEWED)
    size = next(iter(shared.values())).size if folds else len(selection)
    return Judgement(name, deciding, gains, size, RULE, guessing=guessing(deciding, shared[ORIGIN]))


def answers_of(trainer: Any, folders: Mapping[str, Path], selection: Any) -> tuple[Deciding, dict[str, Answers]] | None:
    """Lets every candidate answer the selection data; None if no score decides."""
    load_weights(trainer.model, folders[ORIGIN])
    scores, kept = predict(trainer, selection)
    judged = judged_by(trainer, scores, len(selection))
    if judged is None:
        return None
    (deciding, measure), answers = judged, {}
    hidden = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    longer = [name for name in LONGER if name in folders]
    counting = {*longer, ORIGIN, RENEWED} if longer else set()  # whose losses count
    losses = LossParts(trainer, selection)
    for name, folder in progress_bar(folders.items(), desc="Scoring candidates", leave=False, disable=hidden):
        if name == ORIGIN and measure.compute is not None and not counting:
            answers[name] = Answers(scores, kept=kept)
            continue
        load_weights(trainer.model, folder)
        by_loss = measure.compute is None or name in counting
        answers[name] = answer(trainer, selection, measure, losses if by_loss else None)
    for name in [name for name, own in answers.items() if own.way not in (None, losses.way)]:
        load_weights(trainer.model, folders[name])  # a later one showed that the loss is to be taken apart otherwise
        answers[name] = answer(trainer, selection, measure, losses)
    return deciding, answers


def _together(folds: list[dict[str, Answers]], trainer: Any) -> tuple[Deciding, dict[str, Answers]] | None:
    """The answers to all folds as one, of candidates that every fold has."""
    if not folds:
        return None
    size = sum(next(iter(fold.values())).size for fold in folds)
    judged = judged_by(trainer, next(iter(folds[0].values())).scores, size)
    if judged is None:
        return None
    deciding, measure = judged
    names = [name for name in folds[0] if all(name in fold for fold in folds)]
    return deciding, {name: pooled([fold[name] for fold in folds], measure) for name in names}


def _about(trainer: Any, run: Enrichment, choosing: Choosing, fitting: Fitting, by: Judge | None) -> dict[str, Any]:
    """What determines a choice, as plain data."""
    aside = trainer.set_aside
    content = {
        "stages": [[hash_file(path) for path in checkpoint.files] for checkpoint in run.trajectory.checkpoints],
        "prediction": [run.provenance(one, run.prediction.options.steps) for one in run.prediction.methods],
        # What is chosen on is a name or data, of which the judge tells.
        "choosing": {**asdict(replace(choosing, choose_on=None)), "beside": choosing.beside},
        "fitting": asdict(fitting),
        "train": describe_dataset(trainer.train_dataset),
        "metric": fingerprint(trainer.compute_metrics),
        **({} if (asked := asked_metric(trainer.args)) == (None, None) else {"asked": asked}),
        # Which examples are in one batch may matter to a loss.
        "loss": {**describe_loss(trainer), "batch_size": trainer.args.per_device_eval_batch_size},
        "selection": aside.how if aside.dataset is None else describe_dataset(aside.dataset),
        **({"rule": RULE} if by is None else {"by": by.about}),
    }
    return json.loads(json.dumps(content, default=str))


def _known(record: Path, final: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was chosen before, if it is the same choice and its folder is whole."""
    with suppress(OSError, ValueError):
        found = read_fields(record, _FORM)
        described = read_fields(final / ENRICHMENT_FILE, {"sha256": dict[str, str]})
        whole = all((final / name).is_file() for name in described["sha256"])
        if found["of"] == as_told(found["of"], about) and whole:
            return found
    return None


def _write(run: Enrichment, source: Path, final: Path, known: Mapping[str, Any]) -> None:
    """Writes the chosen checkpoint as a plain folder."""
    checkpoint = Checkpoint(source)
    check_targets(run.trajectory.checkpoints, [final])
    if final.exists() and not (final / ENRICHMENT_FILE).exists():
        raise FileExistsError(f"{final} exists and was not written by know-hf; move it away.")
    partial = PartialFolder(final)
    try:
        partial.begin(source, companions(checkpoint).files)
        content: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            content = read_fields(source / ENRICHMENT_FILE, {})
        content = {
            "method": content.get("method", BEST), "step": content.get("step", 0), "statistics": {},
            "predicted": None, "baseline": None, **content, **_said(known),
            "sha256": {path.name: hash_file(partial.path / path.relative_to(source)) for path in checkpoint.files},
            "versions": versions(),
        }  # fmt: skip
        partial.describe(content, best_card(run.trajectory, content))
        partial.commit()
    except BaseException as error:
        partial.discard()
        say_full(error)
        raise


def _as_choice(known: Mapping[str, Any], trainer: Any, final: Path, how: str) -> Choice:
    gains = {name: Gain(**own) for name, own in known["gains"].items()}
    purpose = Purpose(**known["purpose"]) if known.get("purpose") else None
    deciding = purpose.deciding if purpose else deciding_of(trainer, {known["metric"]: 0.0}, known["examples"])
    if deciding is None:
        raise ValueError(f"{known['metric']!r} decides nothing.")
    places = {name: Path(trainer.args.output_dir) / place for name, place in known["folders"].items()}
    return Choice(
        known["candidate"], final, deciding, gains, known["examples"], "downstream" if purpose else how,
        known["scores"], known["words"], {name: place for name, place in places.items() if place.is_dir()}, purpose,
    )  # fmt: skip
