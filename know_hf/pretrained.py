"""The main job: a model and data in, enriched checkpoints out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from know_hf.enrichment.resolved import ResolvedPrediction, resolve
from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.self_check import check_retrodiction
from know_hf.enrichment.stream import Enrichment
from know_hf.enrichment.verdict import Deciding, deciding_score, verdict
from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.making import make_arguments, make_trainer
from know_hf.forgetting.stages import stage_subsets
from know_hf.forgetting.trainer import ForgettingTrainer, evaluate_all, quality_scores
from know_hf.forgetting.weights import load_weights
from know_hf.hub.push import ensure_repository
from know_hf.known import KnownPredictor
from know_hf.models.adapters import is_adapted
from know_hf.report import write_report
from know_hf.store import locked, write_json
from know_hf.training.batch_norm import estimate_batch_norm, has_batch_norm, write_batch_norm
from know_hf.trajectory import TrajectoryRecord, kinds_of, resolve_kinds

logger = logging.getLogger(__name__)


def forget_pretrained(model, train_dataset, output_dir: str | Path | None = None, **options) -> TrajectoryRecord:
    """Trains only: [`enrich_pretrained`] without prediction, or a control (``recipe="incremental"`` …).

    Args:
        model: As for [`enrich_pretrained`].
        train_dataset: As for [`enrich_pretrained`].
        output_dir: As for [`enrich_pretrained`].
        **options: Its options, other than those of the prediction.

    Returns:
        The finished run's record; ``Trajectory.load(output_dir)`` opens a forgetting run.

    Raises:
        OSError: As [`enrich_pretrained`].
        TypeError: As [`enrich_pretrained`].
        ValueError: As [`enrich_pretrained`].

    Source: paper section 3.
    """
    trainer = make_trainer(model, train_dataset, output_dir, **options)
    trainer.train()
    return TrajectoryRecord.load(trainer.args.output_dir)


def enrich_pretrained(
    model: str | Path | PreTrainedModel,
    train_dataset,
    output_dir: str | Path | None = None,
    *,
    eval_dataset=None,
    args: ForgettingArguments | None = None,
    steps: int = 3,
    retrodictor: str | Sequence[str] = "known",
    parameters: Mapping[str, Any] | None = None,
    iterate: bool = False,
    predictor: KnownPredictor | str | Path | None = None,
    norms: str = "copy",
    embeddings: str = "copy",
    kinds: Mapping[str, str] | None = None,
    update_batch_norm: bool = True,
    task: str | None = None,
    input_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    drop_incomplete: bool = False,
    from_scratch: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    data_collator: Callable | None = None,
    compute_metrics: Callable | None = None,
    processing_class: Any = None,
    callbacks: list | None = None,
    trainer_class: type = ForgettingTrainer,
    push_to_hub: str | None = None,
    **training_arguments,
) -> EnrichmentResult:
    """Fine-tunes a model so that it forgets step by step, and predicts the weights that more data would have given.

    Killed at any time and called again, it continues and gives the same result.

    Args:
        model: Hub id or folder (transformers or timm), or a live model.
        train_dataset: A ``Dataset``, the Hub id or folder of one, whose ``train`` split is used, or the path of a CSV,
            TSV, JSON, JSON Lines or Parquet file. With ``data_collator`` any sized torch data set.
        output_dir: Folder of the run; may be left to ``args``.
        eval_dataset: Data to score every stage and enriched checkpoint on; an id or folder means its ``test`` split.
            Classes are matched with those of the training data by name.
        args: Training and forgetting settings, or give them as keywords.
        steps: Number of prediction steps; step s stands for r^(-s) times the data.
        retrodictor: Name of the method, several of them, or ``"all"``; the self-check is of the first.
        parameters: The method's own parameters; with several methods as ``{"tsv.frac": 0.2}``.
        iterate: Take single steps and slide the window, whatever the method's own way to further steps.
        predictor: A [`KnownPredictor`], its folder or Hub id; the bundled one by default.
        norms: ``"copy"``, or ``"bias"`` to predict normalisation parameters.
        embeddings: ``"copy"``, or ``"fc"`` to predict embedding tables.
        kinds: Name patterns → kind or ``"copy"``, over everything else.
        update_batch_norm: Whether to re-estimate BatchNorm statistics of every enriched checkpoint.
        task: ``"image-classification"``, ``"text-classification"``, ``"image-segmentation"``, ``"image-to-text"``
            (captions) or ``"text-generation"``; inferred from the data by default.
        input_columns: Input columns; found by type by default.
        label_column: Column of classes, masks or captions; found by type by default.
        image_size: Side of the images in pixels, instead of the model's own.
        max_length: Longest text in tokens; of a language model the length of its examples.
        drop_incomplete: Leave out rows that lack a text, an image or a label, which are refused otherwise.
        from_scratch: Take only the architecture; ``model`` may be ``timm/<architecture>``.
        revision: Revision of the model on the Hub.
        trust_remote_code: Whether code of the model's repository may run.
        data_collator: When given, data sets and labels are taken as they are, as with ``Trainer``.
        compute_metrics: As with ``Trainer``; by default the task's own scores.
        processing_class: As with ``Trainer``; saved with every checkpoint, and the tokenizer of a live model.
        callbacks: As with ``Trainer``.
        trainer_class: A ``ForgettingTrainer`` or another Trainer with ``ForgettingMixin``.
        push_to_hub: Hub id of a repository to upload the steps to when all is done, as its revisions ``x2``, ``x4`` ….
            It is made, and the token tried, before anything expensive.
        **training_arguments: Fields of [`ForgettingArguments`], when ``args`` is not given.

    Returns:
        An [`EnrichmentResult`].

    Raises:
        ConnectionError: If the Hub cannot be reached to push; everything is in the folder then.
        FileNotFoundError: If model or data are neither local nor reachable.
        OSError: If the folder is in use or the disk full.
        PermissionError: If the token may not write to ``push_to_hub``.
        TrajectoryError: If the folder holds another run, or training diverged.
        TypeError: If the data have no length or are a dictionary of splits.
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
    args = make_arguments(output_dir, args, **training_arguments)
    # Everything that may not fit is looked at before the first training step, what needs no model before all else.
    prediction = resolve_for(
        args,
        steps,
        method=retrodictor,
        parameters=parameters,
        iterate=iterate,
        predictor=predictor,
        norms=norms,
        embeddings=embeddings,
        kinds=kinds,
    )
    trainer = make_trainer(
        model,
        train_dataset,
        eval_dataset=eval_dataset,
        args=args,
        task=task,
        input_columns=input_columns,
        label_column=label_column,
        image_size=image_size,
        max_length=max_length,
        drop_incomplete=drop_incomplete,
        from_scratch=from_scratch,
        revision=revision,
        trust_remote_code=trust_remote_code,
        data_collator=data_collator,
        compute_metrics=compute_metrics,
        processing_class=processing_class,
        callbacks=callbacks,
        trainer_class=trainer_class,
    )
    predicted, _ = resolve_kinds(kinds_of(trainer.model), **prediction.selection)
    if not predicted:
        raise ValueError(
            "There would be nothing to predict: no parameter that is trained has kind conv, fc or bias (a weight or "
            "bias of a convolution or linear layer). Train some of them, use an adapter that stores such (LoRA), or "
            "name others with norms=, embeddings= or kinds=."
        )
    prediction.check(steps, sorted(set(predicted.values())))
    if push_to_hub and trainer.is_world_process_zero():
        ensure_repository(push_to_hub)
    with locked(trainer.args.output_dir, trainer.is_world_process_zero()):
        trainer.train()
        result = enrich_trained(trainer, prediction, steps=steps, update_batch_norm=update_batch_norm)
        names = prediction.names
        if push_to_hub and (url := result.push_to_hub(push_to_hub, method=names[0] if len(names) > 1 else None)):
            logger.info("Pushed to %s.", url)
        return result


def resolve_for(args: ForgettingArguments, steps: int, **options: Any) -> ResolvedPrediction:
    """Resolves the prediction from a run that is still to be trained, and raises what its settings alone can tell.

    Args:
        args: Settings of the forgetting.
        steps: Number of prediction steps.
        **options: As for [`resolve`](know_hf.enrichment.resolved).

    Raises:
        OSError: If a predictor cannot be loaded.
        ValueError: If the settings do not fit each other, or are those of a control.
    """
    if args.recipe != "forgetting":
        raise ValueError(f"recipe={args.recipe!r} gives nothing to predict from; use forget_pretrained for it.")
    prediction = resolve(args.num_stages, args.sampling_ratio, **options)
    prediction.check(steps)
    return prediction


def enrich_trained(
    trainer,
    prediction: ResolvedPrediction | None = None,
    *,
    steps: int = 3,
    update_batch_norm: bool = True,
    self_check: bool | None = None,
    **options,
) -> EnrichmentResult:
    """Predicts from the finished trajectory of a ForgettingTrainer and finishes with its data.

    What [`enrich_pretrained`] does after training: self-check, prediction, BatchNorm statistics, scores, cards, report.

    Args:
        trainer: A Trainer with ``ForgettingMixin`` whose ``train()`` has returned. Its model ends with Θ^0.
        prediction: What is predicted and by which methods; by default resolved from the options.
        steps: Number of prediction steps.
        update_batch_norm: Whether to re-estimate BatchNorm statistics of every predicted checkpoint.
        self_check: Whether to run the self-check; by default if the run made its extra stage.
        **options: The method and its options, as for [`resolve`](know_hf.enrichment.resolved).

    Returns:
        An [`EnrichmentResult`].

    Raises:
        TrajectoryError: As [`enrich`].
        ValueError: As [`enrich`].

    Source: paper Eq. 4; scores and checks are ours.

    Example:
        >>> trainer.train()  # doctest: +SKIP
        >>> enrich_trained(trainer, steps=2).checkpoints  # doctest: +SKIP
    """
    trajectory, root = trainer.trajectory, Path(trainer.args.output_dir)
    if prediction is None:
        if "retrodictor" in options:
            options["method"] = options.pop("retrodictor")
        prediction = resolve(len(trajectory), trajectory.record.sampling_ratio, **options)
    # An adapter's file holds no statistics of the base model.
    renew = update_batch_norm and has_batch_norm(trainer.model) and not is_adapted(trainer.model)
    # The check's newest stage is Θ^1: its statistics come from the data of stage 1, as Θ^0's come from all of it.
    checked = None
    if trainer.args.self_check if self_check is None else self_check:
        subset = stage_subsets(trainer.train_dataset, trainer.args)[1]
        checked = check_retrodiction(
            trajectory, prediction, *_finishing(trainer, subset, renew), device=trainer.args.device
        )
    run = Enrichment(trajectory, prediction, device=trainer.args.device)
    run.self_check = checked
    if renew and trainer.eval_dataset is not None:
        # New statistics alone can change a score a lot: without this row the method would get the credit.
        run.baseline = _score(trainer, trajectory.checkpoints[0].folder, trainer.train_dataset)
    checkpoints = run.write_steps(run.folders(None), steps, *_finishing(trainer, trainer.train_dataset, renew))
    result = run.result(root, checkpoints)
    result.self_check = checked
    result.verdict = verdict(result, _deciding(trainer, result))
    load_weights(trainer.model, trajectory.checkpoints[0].folder)
    if trainer.is_world_process_zero():
        result.report = write_report(result)
        if checked:
            write_json(result.report / "self_check.json", checked)
    trainer.accelerator.wait_for_everyone()
    return result


def _deciding(trainer, result: EnrichmentResult) -> Deciding | None:
    args, data = trainer.args, trainer.eval_dataset
    if isinstance(data, dict):
        examples = {name: len(part) for name, part in data.items() if hasattr(part, "__len__")}
    else:
        examples = len(data) if hasattr(data, "__len__") else None
    record = result.trajectory.record
    return deciding_score(
        record.model.get("task"), record.stages[0].metrics, examples, args.metric_for_best_model, args.greater_is_better
    )


def _score(trainer, folder: Path, batch_norm_data=None, write: bool = False) -> dict[str, float]:
    """Loads a folder into the trainer's model, renews BatchNorm statistics if data are given, and evaluates."""
    load_weights(trainer.model, folder)
    if batch_norm_data is not None:
        estimate_batch_norm(trainer, batch_norm_data)
        if write and trainer.is_world_process_zero():
            write_batch_norm(trainer.model, folder)
    return {} if trainer.eval_dataset is None else quality_scores(evaluate_all(trainer))


def _finishing(trainer, dataset, renew_batch_norm: bool) -> tuple[Callable[[Path], dict[str, float]], dict[str, Any]]:
    """What completes a predicted folder (BatchNorm statistics, scores), and the note about it for its provenance."""

    def finish(folder: Path) -> dict[str, float]:
        return _score(trainer, folder, dataset if renew_batch_norm else None, write=True)

    note = f"re-estimated on {len(dataset)} training examples" if renew_batch_norm else "those of stage 0"
    return finish, {"batch_norm": note}
