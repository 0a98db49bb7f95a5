"""From names to a trainer: model, data, preprocessing and head, checked and ready to forget."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import set_seed

from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.checks import lonely_stages
from know_hf.forgetting.options import TrainerOptions, training_options
from know_hf.forgetting.stages import check_train_dataset, stage_plan, stage_subsets
from know_hf.forgetting.subsets import subset_sizes
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.forgetting.weights import plain_model
from know_hf.models.adapters import is_live
from know_hf.models.loading import load_model
from know_hf.settings import takes
from know_hf.store import check_output
from know_hf.tasks import Columns, get_task
from know_hf.tasks.labels import check_answers, is_text
from know_hf.text import without_secrets
from know_hf.training.data import check_part, label_values, load_evaluation, load_split, make_preprocessing, open_parts
from know_hf.training.evaluation_part import lacking
from know_hf.training.options import DataOptions, ModelSource
from know_hf.training.overlap import check_apart, named_parts
from know_hf.training.set_aside import Fold, SetAside, check_enough, take_aside
from know_hf.trajectory import TrajectoryRecord
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.rounds import Rounds

logger = logging.getLogger(__name__)


@takes(training_options, trainer_options=TrainerOptions, data=DataOptions, source=ModelSource)
def make_trainer(
    model: Any,
    train_dataset: Any,
    output_dir: str | Path | None = None,
    *,
    trainer_options: TrainerOptions,
    data: DataOptions,
    source: ModelSource,
    **training_arguments: Any,
) -> ForgettingTrainer:
    """Builds the ForgettingTrainer of [`enrich_pretrained`], data prepared and head fitted.

    Args:
        model: As for [`enrich_pretrained`].
        train_dataset: As for [`enrich_pretrained`].
        output_dir: As for [`enrich_pretrained`].
        **training_arguments: As for [`enrich_pretrained`].

    Returns:
        The trainer, whose ``train()`` runs all stages.

    Raises:
        OSError: As [`enrich_pretrained`].
        TypeError: As [`enrich_pretrained`].
        ValueError: As [`enrich_pretrained`].
    """
    # A copy: what is found out about model and data is not to stand in arguments that are used again.
    args = copy.copy(make_arguments(output_dir, trainer_options.args, **training_arguments))
    eval_dataset, processing_class = trainer_options.eval_dataset, trainer_options.processing_class
    if isinstance(model, nn.Module):
        model = plain_model(model)
    live = isinstance(model, nn.Module)
    check_output_dir(args.output_dir, model, train_dataset, eval_dataset)
    dataset_id = train_dataset if isinstance(train_dataset, str) and not Path(train_dataset).exists() else None
    dataset_id = without_secrets(dataset_id)

    def trainer(
        model: nn.Module,
        train: Any,
        evaluation: Any,
        collator: Callable[..., Any],
        metrics: Callable[..., dict[str, float]] | None,
        processor: Any,
        aside: SetAside,
        remarks: Sequence[str],
        class_names: Sequence[str] = (),
        task: str | None = None,
        **further: Any,
    ) -> ForgettingTrainer:
        made = (trainer_options.trainer_class or ForgettingTrainer)(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evaluation,
            data_collator=collator,
            compute_metrics=metrics,
            processing_class=processor,
            callbacks=trainer_options.callbacks,
            **further,
        )
        made.dataset_id, made.class_names, made.set_aside = dataset_id, list(class_names), aside
        made.task, made.remarks = task, tuple(remarks)
        if not live:  # it is loaded again, or drawn from the seed
            made.keep_start = "never"
        return made

    split = trainer_options.selection_split
    apart: Any = split if split is None or isinstance(split, (int, float, str, Fold)) else SetAside(split, "given")
    if isinstance(apart, str) and apart != "auto":
        apart = _as_named(apart, train_dataset, data.dataset_config)

    if trainer_options.data_collator is not None:
        if not is_live(model):
            raise ValueError("With a data_collator of your own, pass a live model (AutoModelFor….from_pretrained).")
        check_train_dataset(train_dataset)
        given = apart.dataset if isinstance(apart, SetAside) else None
        check_enough(given)
        remarks = check_apart(train_dataset, given, named_parts(eval_dataset))
        if given is None:
            train_dataset, apart = take_aside(train_dataset, apart, args.seed)
        stage_subsets(train_dataset, args)
        return trainer(
            model,
            train_dataset,
            eval_dataset,
            trainer_options.data_collator,
            trainer_options.compute_metrics,
            processing_class,
            apart,
            remarks,
        )

    train = load_split(train_dataset, config=data.dataset_config)
    evaluations = _evaluations(eval_dataset)
    selection = load_split(apart.dataset) if isinstance(apart, SetAside) else None
    parts: dict[str, Any]  # those that are given are there
    parts, columns = open_parts(
        {"training data": train, **evaluations, "selection data": selection},
        task=data.task, inputs=data.input_columns, label=data.label_column, drop_incomplete=data.drop_incomplete,
    )  # fmt: skip
    train, selection = parts.pop("training data"), parts.pop("selection data")
    task, name = get_task(columns.task), None if is_live(model) else str(model)
    if task.rows_are_examples:  # of texts that are joined only their blocks can be counted
        check_enough(selection)
    remarks = check_apart(train, selection, parts, columns.inputs, not task.rows_are_examples)
    columns = task.columns_for(columns, name or model.config._name_or_path, processing_class)
    if task.one_class:
        _check_classes(train, columns, args)
    elif task.labels.matched or task.labels.problem:  # masks were all looked at when their classes were
        check_part(train, columns, len(columns.class_names), "training data")
    # The new head is drawn from the seed too, so that a run that starts again starts the same.
    set_seed(args.seed)
    loaded = load_model(
        model,
        columns.task,
        columns.class_names,
        ordered=not is_text(train.features[columns.label]),
        from_scratch=source.from_scratch,
        image_size=data.image_size,
        revision=source.revision,
        trust_remote_code=source.trust_remote_code,
    )
    if args.train_stage_zero is None and live:  # whose head was fitted by the first call, too
        args.train_stage_zero = _recorded(args.output_dir)
    if args.train_stage_zero is None:
        args.train_stage_zero = loaded.new_head
        found = "The head fits the data: stage 0 is the model as it is"
        if loaded.new_head:
            found = "Stage 0 is trained first, for the model was not trained for these data, or its head is new"
        logger.info("%s (train_stage_zero decides otherwise).", found)
    columns = replace(columns, class_names=loaded.class_names)
    classes = getattr(loaded.model.config, "num_labels", 0)
    for what, part in (*parts.items(), ("selection data", selection)):
        if part is not None:
            check_part(part, columns, classes, what)
    labels = label_values(train, columns) if task.one_class else None
    for what, part in parts.items() if task.one_class else ():
        if part is not None and (lacks := lacking(train, part, columns.label)) is not None:
            logger.warning(
                "The %s hold no example of %r, which are %.0f %% of the training data: are they a sample of the same?",
                what, lacks[0], 100 * lacks[1],
            )  # fmt: skip
    preprocessing = make_preprocessing(
        loaded.model, name, columns, image_size=data.image_size, max_length=data.max_length,
        processing_class=processing_class,
    )  # fmt: skip
    with args.main_process_first():
        train = preprocessing.apply(train)
        evaluation: Any = [preprocessing.apply(part) for part in parts.values()]
        selection = None if selection is None else preprocessing.apply(selection)
    check_enough(selection)
    if isinstance(eval_dataset, dict):
        evaluation = dict(zip(eval_dataset, evaluation, strict=True))
    else:
        evaluation = evaluation[0] if evaluation else None
    if isinstance(apart, SetAside):
        aside = SetAside(selection, "given")
    else:
        train, aside = take_aside(train, apart, args.seed, labels, lambda size: _trains(size, args, loaded.model))
    args.remove_unused_columns = False  # the preprocessing yields just what the model takes
    if args.stratify_by == columns.label and "labels" in (train.column_names or []):
        args.stratify_by = "labels"
    further, compute_metrics = {}, trainer_options.compute_metrics
    if compute_metrics is None:
        compute_metrics = task.metrics(classes)
        further = {} if task.keep is None else {"preprocess_logits_for_metrics": task.keep}
    return trainer(
        loaded.model, train, evaluation, preprocessing.collator, compute_metrics, preprocessing.processing_class,
        aside, remarks, columns.class_names if task.labels.matched else (), task.name, **further,
    )  # fmt: skip


def _recorded(root: str | Path) -> bool | None:
    """Whether the run in a folder was to train its stage 0; None if there is none."""
    if not (Path(root) / FILE_NAME).exists():
        return None
    recipe = TrajectoryRecord.load(root).recipe
    rounds = Rounds.of(recipe)
    return recipe.get("train_stage_zero") if rounds is None else rounds.trained


def _evaluations(given: Any) -> dict[str, Dataset]:
    """Evaluation data by what a message calls them, loaded."""
    if isinstance(given, DatasetDict):
        return {"evaluation data": load_evaluation(given)}
    return {what: load_evaluation(own) for what, own in named_parts(given).items()}


def _trains(examples: int, args: ForgettingArguments, model: nn.Module) -> bool:
    """Whether every stage of so many examples can be trained on."""
    try:
        sizes = subset_sizes(examples, args.sampling_ratio, args.num_stages + bool(args.self_check))
    except ValueError:  # which is said elsewhere
        return True
    return not lonely_stages(sizes, args, model)


def _as_named(split: str, dataset: Any, config: str | None) -> "float | SetAside":
    """The share or number that a command line gives as text, or the split of that name."""
    try:
        return float(split)
    except ValueError as error:
        if isinstance(dataset, (str, Path)):
            return SetAside(load_split(dataset, split, config=config), "given")
        raise ValueError(
            f"selection_split is {split!r}; it must be a share such as 0.1, a number of examples, or, where "
            "the data set is named, the name of a split."
        ) from error


def make_arguments(
    output_dir: str | Path | None = None, args: ForgettingArguments | None = None, **training_arguments: Any
) -> ForgettingArguments:
    """The settings of a run, given whole or as keywords.

    Raises:
        ValueError: If they are given both ways or do not say where the run goes, or a value is out of range.
    """
    if args is None:
        if output_dir is None:
            raise ValueError("Say where the run goes: output_dir=….")
        own = {"save_total_limit": 1, "dataloader_pin_memory": torch.accelerator.is_available()}
        return ForgettingArguments(str(output_dir), **{**own, **training_arguments})
    if training_arguments or (output_dir is not None and str(output_dir) != args.output_dir):
        raise ValueError("Give training settings either as args=ForgettingArguments(…) or as keywords, not both.")
    return args


def _check_classes(train: Dataset, columns: Columns, args: ForgettingArguments) -> None:
    check_answers(train, columns, "training data")
    labels = set(label_values(train, columns).tolist())
    if len(labels) < 2:
        raise ValueError(
            f"Label column {columns.label!r} of the training data holds one class only, {labels.pop()!r}; there is "
            "nothing to learn to tell apart."
        )
    smallest = min(stage_plan(train.select_columns([columns.label]), args)[0], key=len)
    if lost := len(labels) - len(set(label_values(smallest, columns).tolist())):
        logger.warning(
            "The smallest subset (%d examples) lacks %d of %d classes; stratify_by=%r keeps the shares.",
            len(smallest), lost, len(columns.class_names), columns.label,
        )  # fmt: skip


def check_output_dir(output_dir: str | Path, model: Any, *data: Any) -> None:
    """Raises if a run of this model on these data cannot go, or go on, in a folder.

    Raises:
        FileExistsError: If it is the model's own, a file, lies in an input, or holds something else.
        PermissionError: If it cannot be written to.
    """
    target = Path(output_dir)
    if isinstance(model, (str, Path)) and Path(model).is_dir() and Path(model).resolve() == target.resolve():
        raise FileExistsError(f"output_dir {target} is the model's own folder; choose another.")
    check_output(target, *(x for x in (model, *data) if isinstance(x, (str, Path))))
    if target.is_dir() and not (target / "trajectory.json").exists():
        foreign = [
            p.name
            for p in target.iterdir()
            if not p.name.startswith(".") and p.name not in ("run.yaml", "training", "rounds", "log.txt")
        ]
        if foreign:
            raise FileExistsError(
                f"output_dir {target} is not empty and holds no run to continue ({', '.join(sorted(foreign)[:3])}); "
                "choose another."
            )
