"""The main job: a model and data in, enriched checkpoints out."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from know_hf.checkpoints.patch import NotFiniteError
from know_hf.choice.best import choose
from know_hf.choice.candidates import check_fit, with_fits
from know_hf.choice.controls import check_controls
from know_hf.choice.folds import FOLDER as FOLDS_IN
from know_hf.choice.folds import clear_folds, cross_fitted
from know_hf.choice.options import NONE, Choosing
from know_hf.choice.rounds import train_converged
from know_hf.choice.scoring import Answers, check_metric
from know_hf.enrichment.finishing import Finisher, renews
from know_hf.enrichment.options import Finishing, Placement, Prediction
from know_hf.enrichment.rescoring import score_again
from know_hf.enrichment.resolved import ResolvedPrediction, resolve, resolve_early
from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.self_check import check_retrodiction
from know_hf.enrichment.stream import Enrichment
from know_hf.enrichment.verdict import verdict
from know_hf.fitting.options import Fitting
from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.making import make_arguments, make_trainer
from know_hf.forgetting.options import TrainerOptions, training_options
from know_hf.forgetting.stages import stage_subsets
from know_hf.forgetting.start import begin_as
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.forgetting.weights import load_weights
from know_hf.garbage import nothing_old
from know_hf.hub.options import Hub
from know_hf.hub.push import ensure_repository
from know_hf.laboratory.choosing import DownstreamChoice
from know_hf.models.adapters import is_live
from know_hf.notices import said_once
from know_hf.outcome import deciding, former_data, left_out, not_chosen
from know_hf.report import write_report
from know_hf.settings import takes
from know_hf.store import inside, locked, write_json
from know_hf.training.options import DataOptions, ModelSource
from know_hf.training.overlap import check_apart, named_parts
from know_hf.training.set_aside import Fold
from know_hf.training.tracking import one_run
from know_hf.trajectory import TrajectoryRecord, kinds_of, resolve_kinds
from know_hf.trajectory.record import FILE_NAME

logger = logging.getLogger(__name__)


@takes(training_options, trainer_options=TrainerOptions, data=DataOptions, source=ModelSource)
@said_once()
def forget_pretrained(
    model: Any, train_dataset: Any, output_dir: str | Path | None = None, **options: Any
) -> TrajectoryRecord:
    """Trains only: [`enrich_pretrained`] without prediction, or a control (``recipe="incremental"`` …).

    Args:
        model: As for [`enrich_pretrained`].
        train_dataset: As for [`enrich_pretrained`].
        output_dir: As for [`enrich_pretrained`].

    Returns:
        The finished run's record; ``Trajectory.load(output_dir)`` opens a forgetting run.

    Raises:
        OSError: As [`enrich_pretrained`].
        TypeError: As [`enrich_pretrained`].
        ValueError: As [`enrich_pretrained`].

    Source: paper section 3.

    Example:
        >>> from know_hf.pretrained import forget_pretrained
        >>> record = forget_pretrained("microsoft/resnet-18", "user/my-images", "runs/mine")  # doctest: +SKIP
        >>> [stage.examples for stage in record.stages]  # doctest: +SKIP
        [848, 424, 212, 106, 53]
    """
    trainer = make_trainer(model, train_dataset, output_dir, **options)
    trainer.train()
    return TrajectoryRecord.load(trainer.args.output_dir)


@takes(
    training_options,
    trainer_options=TrainerOptions,
    prediction=Prediction,
    finishing=Finishing,
    choosing=Choosing,
    fitting=Fitting,
    data=DataOptions,
    source=ModelSource,
    hub=Hub,
)
@said_once()
def enrich_pretrained(
    model: str | Path | PreTrainedModel,
    train_dataset: Any,
    output_dir: str | Path | None = None,
    *,
    trainer_options: TrainerOptions,
    prediction: Prediction | ResolvedPrediction,
    finishing: Finishing,
    choosing: Choosing,
    fitting: Fitting,
    data: DataOptions,
    source: ModelSource,
    hub: Hub,
    **training_arguments: Any,
) -> EnrichmentResult:
    """Fine-tunes a model so that it forgets step by step, predicts beyond its beginning, and chooses the best.

    A part of the data is set aside first, and on it the best is chosen among stage 0, the other stages, what was
    predicted and what was fitted: ``result.best``, which is Θ^0 itself where nothing is better. ``choose_on`` chooses
    the best start for other data instead; ``choose="none"`` is the paper's procedure, on all the data. Killed at any
    time and called again, it continues and gives the same result.

    Args:
        model: Hub id or folder (transformers or timm), or a live model.
        train_dataset: A ``Dataset``, the Hub id or folder of one, whose ``train`` split is used, or the path of a CSV,
            TSV, JSON, JSON Lines or Parquet file. With ``data_collator`` any sized torch data set.
        output_dir: Folder of the run; may be left to ``args``.
        **training_arguments: Fields of [`ForgettingArguments`], when ``args`` is not given.

    Returns:
        An [`EnrichmentResult`].

    Raises:
        ConnectionError: If the Hub cannot be reached to push; everything is in the folder then.
        FileNotFoundError: If model or data are neither local nor reachable.
        OSError: If the folder is in use or the disk full.
        PermissionError: If the token may not write to ``hub_model_id``.
        TrajectoryError: If the folder holds another run, or training diverged.
        TypeError: If the data have no length or are a dictionary of splits, or there is no such keyword.
        ValueError: If columns, head, predictor or settings do not fit.

    Source: paper sections 3 to 5.

    Example:
        >>> from know_hf import enrich_pretrained
        >>> result = enrich_pretrained(  # doctest: +SKIP
        ...     "microsoft/resnet-18", "user/my-images", "runs/mine", num_train_epochs=5
        ... )
        >>> result.checkpoints["x2"]  # doctest: +SKIP
        PosixPath('runs/mine/enriched/x2')
    """
    args = make_arguments(output_dir, trainer_options.args, **training_arguments)
    # Everything that may not fit is looked at before the first training step, what needs no model before all else.
    if isinstance(prediction, Prediction):
        prediction = resolve_enrichment(prediction, args)
    split = selection_split(trainer_options, choosing, args)
    trainer = make_trainer(
        model, train_dataset, trainer_options=replace(trainer_options, args=args, selection_split=split), data=data,
        source=source,
    )  # fmt: skip
    predicted, _ = resolve_kinds(kinds_of(trainer.model), **prediction.options.selection)
    if not predicted:
        raise ValueError(
            "There would be nothing to predict: no parameter that is trained has kind conv, fc or bias (a weight or "
            "bias of a convolution or linear layer). Train some of them, use an adapter that stores such (LoRA), or "
            "name others with norms=, embeddings= or kinds=."
        )
    prediction.check(sorted(set(predicted.values())), early=True)
    check_fit(choosing, trainer.set_aside)
    check_metric(trainer)
    by = None if choosing.choose_on is None else DownstreamChoice(trainer, choosing, data)
    if by is not None:
        by.check(prediction)
    if by is not None or trainer.set_aside.dataset is not None or trainer.set_aside.how == "folds":
        check_controls(trainer, choosing)
    if hub.repository and trainer.is_world_process_zero():
        ensure_repository(hub.repository)
    with locked(trainer.args.output_dir, trainer.is_world_process_zero()), nothing_old():
        by_turns = choosing.choose != NONE and by is None and trainer.set_aside.how == "folds"
        live = by_turns and is_live(model)
        before: Any = copy.deepcopy(model) if live else model
        if live:
            trainer.keep_start = "always"  # the others begin with it, whenever they are made

        def leaving_out(fold: Fold) -> ForgettingTrainer:
            own = copy.copy(args)
            own.output_dir, own.self_check = str(inside(args.output_dir, Path(FOLDS_IN) / str(fold.number))), False
            own.train_stage_zero = trainer.args.train_stage_zero
            own.report_to = []  # trackers are told of the run itself
            # Stages need no scores, unless training itself goes by them (early stopping, the best checkpoint).
            scored = trainer_options.eval_dataset if own.eval_strategy != "no" or own.eval_on_start else None
            options = replace(trainer_options, args=own, selection_split=fold, eval_dataset=scored)
            start = copy.deepcopy(before) if live else before
            made = make_trainer(start, train_dataset, trainer_options=options, data=data, source=source)
            if live:
                begin_as(made, args.output_dir)
            return made

        train_converged(trainer, choosing.converge_rounds) if choosing.until_converged else trainer.train()
        folds = partial(cross_fitted, leaving_out, prediction, finishing, choosing, fitting)
        result = _enrich(trainer, prediction, finishing, choosing, fitting, folds=folds if by_turns else None, by=by)
        method = prediction.names[0] if len(prediction.names) > 1 else None
        if hub.repository and (url := result.push_to_hub(hub.repository, method=method)):
            logger.info("Pushed to %s.", url)
        return result


def selection_split(options: TrainerOptions, choosing: Choosing, args: ForgettingArguments) -> Any:
    """What is set aside before anything is trained: as asked for, else by default, unless nothing is chosen.

    A run that was begun without is continued without.
    """
    if choosing.choose == NONE or options.selection_split is not None:
        return options.selection_split
    begun = Path(args.output_dir)
    if (begun / FILE_NAME).exists() and "set_aside" not in TrajectoryRecord.load(begun).dataset:
        return None
    if choosing.choose_on is not None and choosing.fit_on == "train" and not (begun / FILE_NAME).exists():
        return None  # what chooses is other data
    return "auto"


def resolve_enrichment(prediction: Prediction, args: ForgettingArguments) -> ResolvedPrediction:
    """Settles a prediction for a run that is yet to be made; raises what its settings alone tell.

    Args:
        prediction: What is asked for.
        args: Settings of the forgetting.

    Returns:
        What [`enrich_pretrained`] takes as ``prediction``, too.

    Raises:
        OSError: If a predictor cannot be loaded.
        ValueError: If the settings do not fit each other, or are those of a control.
    """
    if args.recipe != "forgetting":
        raise ValueError(f"recipe={args.recipe!r} gives nothing to predict from; use forget_pretrained for it.")
    return resolve_early(prediction, args.num_stages, args.sampling_ratio)


@takes(prediction=Prediction, finishing=Finishing, choosing=Choosing, fitting=Fitting)
@said_once()
def enrich_trained(
    trainer: Any,
    *,
    prediction: Prediction | ResolvedPrediction,
    finishing: Finishing,
    choosing: Choosing,
    fitting: Fitting,
    self_check: bool | None = None,
) -> EnrichmentResult:
    """Predicts from the finished trajectory of a ForgettingTrainer and finishes with its data.

    What [`enrich_pretrained`] does after training: self-check, prediction, BatchNorm statistics, scores, cards, report.

    Args:
        trainer: A Trainer with ``ForgettingMixin`` whose ``train()`` has returned. Its model ends with Θ^0.
        self_check: Whether to run the self-check; by default if the run made its extra stage.

    Returns:
        An [`EnrichmentResult`].

    Raises:
        TrajectoryError: As [`enrich`].
        ValueError: As [`enrich`].

    Source: paper Eq. 4; scores and checks are ours.

    Example:
        >>> from know_hf import enrich_trained
        >>> trainer.train()  # doctest: +SKIP
        >>> enrich_trained(trainer, steps=2).checkpoints  # doctest: +SKIP
    """
    if not trainer.remarks:  # of data that no function of ours prepared
        given = trainer.set_aside.dataset if trainer.set_aside.how == "given" else None
        trainer.remarks = check_apart(trainer.train_dataset, given, named_parts(trainer.eval_dataset))
    if choosing.choose_on is not None or trainer.set_aside.dataset is not None:
        check_controls(trainer, choosing)
    return _enrich(trainer, prediction, finishing, choosing, fitting, self_check)


def _enrich(trainer: Any, *args: Any, **kwargs: Any) -> EnrichmentResult:
    """[`_enriched`], and trackers told of what came out in the run that they were told of the stages in."""
    stages = trainer.trajectory.record.stages
    with one_run(trainer, trainer.args.output_dir) as tracking:
        tracking.at = sum(stage.steps or 0 for stage in stages)
        with tracking.silence():  # a score of predicted weights is none of the last stage's
            result = _enriched(trainer, *args, **kwargs)
        tracking.log(trainer, tracked_scores(result))
    return result


def tracked_scores(result: EnrichmentResult) -> dict[str, float]:
    """What trackers are told of an enrichment: scores of the predictions, and gains of all candidates in the choice."""
    scores = {
        f"eval_{name}/{metric.removeprefix('eval_')}": value
        for name, found in result.metrics.items()
        for metric, value in found.items()
    }
    if result.choice is not None:
        scores |= {f"eval_gain/{name}": float(gain.gain) for name, gain in result.choice.gains.items()}
    return scores


def _enriched(
    trainer: Any,
    prediction: Prediction | ResolvedPrediction,
    finishing: Finishing,
    choosing: Choosing,
    fitting: Fitting,
    self_check: bool | None = None,
    folds: Callable[[], list[dict[str, Answers]]] | None = None,
    by: DownstreamChoice | None = None,
) -> EnrichmentResult:
    trajectory, root = trainer.trajectory, Path(trainer.args.output_dir)
    if isinstance(prediction, Prediction):
        prediction = resolve(prediction, len(trajectory), trajectory.record.sampling_ratio)
    if by is None and choosing.choose_on is not None:
        by = DownstreamChoice(trainer, choosing, DataOptions())
        by.check(prediction)
    placement = Placement(device=trainer.args.device)
    renew, fresh = renews(trainer, finishing.update_batch_norm), prediction.options.norms == "reset"
    # The check's newest stage is Θ^1: its statistics come from the data of stage 1, as Θ^0's come from all of it.
    checked = None
    if trainer.args.self_check if self_check is None else self_check:
        finisher = Finisher(trainer, stage_subsets(trainer.train_dataset, trainer.args)[1], renew, fresh)
        try:
            checked = check_retrodiction(
                trajectory, finisher, finisher.notes, prediction=prediction, placement=placement
            )
        except NotFiniteError as error:  # of which nothing can be said but this
            logger.warning("The self-check is left out: %s.", str(error).partition(";")[0])
    finisher = Finisher(trainer, trainer.train_dataset, renew, fresh)
    prediction = with_fits(trainer, prediction, placement, fitting)
    run = Enrichment(trajectory, prediction, placement)
    run.self_check = checked
    if renew and trainer.eval_dataset is not None:
        # New statistics alone can change a score a lot: without this row the method would get the credit.
        run.baseline = finisher.baseline(trajectory.checkpoints[0].folder)
    unchosen, judged = "", by is not None or folds is not None or trainer.set_aside.dataset is not None
    chooses = choosing.choose != NONE and judged and not fresh
    try:  # where something else may be taken, what is not finite is only no candidate
        checkpoints = run.write_steps(
            run.folders(None), prediction.options.steps, finisher, finisher.notes, lenient=chooses
        )
    except NotFiniteError as error:
        raise NotFiniteError(
            f"{error} The stages lie too far apart to predict so far from them: train with a lower learning rate, in "
            "another folder, or predict fewer steps or by another method (--steps 1, --method mean)."
        ) from error
    score_again(run, checkpoints.values(), finisher)
    result = run.result(root, checkpoints)
    result.self_check = checked
    if chooses:
        unscored = replace(finisher, score=False)
        result.choice = choose(trainer, run, checkpoints, result.metrics, unscored, choosing, fitting, folds, by)
        result.best = None if result.choice is None else result.choice.folder
        if not choosing.keep_candidates and trainer.is_world_process_zero():
            clear_folds(root)
    elif choosing.choose != NONE:
        unchosen = not_chosen(trainer, fresh)
    unchosen += left_out(run.left_out)
    # What was chosen on the run's own data says it itself.
    said = trainer.remarks if result.choice is None or result.choice.purpose else []
    result.verdict = " ".join([f"{unchosen}{verdict(result, deciding(trainer, result))}", *said, *former_data(trainer)])
    load_weights(trainer.model, trajectory.checkpoints[0].folder)
    if trainer.is_world_process_zero():
        result.report = write_report(result)
        if checked:
            write_json(result.report / "self_check.json", checked)
    trainer.accelerator.wait_for_everyone()
    return result
