"""From names to a trainer: model, data, preprocessing and head, checked and ready to forget."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.stages import stage_plan, stage_subsets
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.forgetting.weights import plain_model
from know_hf.models.adapters import is_live
from know_hf.models.loading import load_model
from know_hf.store import check_output
from know_hf.tasks import Columns, get_task
from know_hf.tasks.labels import check_answers, is_text
from know_hf.tasks.segmentation import without_background
from know_hf.text import without_secrets
from know_hf.training.data import (
    check_part,
    label_values,
    load_evaluation,
    load_split,
    make_preprocessing,
    open_parts,
)

logger = logging.getLogger(__name__)


def make_trainer(
    model,
    train_dataset,
    output_dir: str | Path | None = None,
    *,
    eval_dataset=None,
    args: ForgettingArguments | None = None,
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
    **training_arguments,
):
    """Builds the ForgettingTrainer of [`enrich_pretrained`], data prepared and head fitted.

    Args, Raises: as for [`enrich_pretrained`].

    Source: ours.
    """
    args = make_arguments(output_dir, args, **training_arguments)
    for name, value in (("image_size", image_size), ("max_length", max_length)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if isinstance(model, nn.Module):
        model = plain_model(model)
    check_output_dir(args.output_dir, model)
    check_output(args.output_dir, *(x for x in (model, train_dataset, eval_dataset) if isinstance(x, (str, Path))))
    dataset_id = train_dataset if isinstance(train_dataset, str) and not Path(train_dataset).exists() else None
    dataset_id = without_secrets(dataset_id)

    def trainer(model, train, evaluation, collator, metrics, processor, class_names=(), **further):
        made = trainer_class(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evaluation,
            data_collator=collator,
            compute_metrics=metrics,
            processing_class=processor,
            callbacks=callbacks,
            **further,
        )
        made.dataset_id, made.class_names = dataset_id, list(class_names)
        return made

    if data_collator is not None:
        if not is_live(model):
            raise ValueError("With a data_collator of your own, pass a live model (AutoModelFor….from_pretrained).")
        stage_subsets(train_dataset, args)
        return trainer(model, train_dataset, eval_dataset, data_collator, compute_metrics, processing_class)

    train = load_split(train_dataset)
    evaluation = None if eval_dataset is None else load_evaluation(eval_dataset)
    parts, columns = open_parts(
        {"training data": train, "evaluation data": evaluation},
        task=task, inputs=input_columns, label=label_column, drop_incomplete=drop_incomplete,
    )  # fmt: skip
    train, evaluation = parts.values()
    the_task, source = get_task(columns.task), None if is_live(model) else str(model)
    if the_task.answers == "mask":
        columns = without_background(columns, source or model.config._name_or_path, processing_class)
    if the_task.one_class:
        _check_classes(train, columns, args)
    # The new head is drawn from the seed too, so that a run that starts again starts the same.
    set_seed(args.seed)
    loaded = load_model(
        model,
        columns.task,
        columns.class_names,
        ordered=not is_text(train.features[columns.label]),
        from_scratch=from_scratch,
        image_size=image_size,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if args.train_stage_zero is None:
        args.train_stage_zero = loaded.new_head
        found = "is new: stage 0 is trained" if loaded.new_head else "fits the data: stage 0 is the model as it is"
        logger.info("The head %s (train_stage_zero decides otherwise).", found)
    columns = replace(columns, class_names=loaded.class_names)
    classes = getattr(loaded.model.config, "num_labels", 0)
    if evaluation is not None:
        check_part(evaluation, columns, classes, "evaluation data")
    preprocessing = make_preprocessing(
        loaded.model, source, columns, image_size=image_size, max_length=max_length, processing_class=processing_class
    )
    with args.main_process_first():
        train = preprocessing.apply(train)
        evaluation = None if evaluation is None else preprocessing.apply(evaluation)
    args.remove_unused_columns = False  # the preprocessing yields just what the model takes
    if args.stratify_by == columns.label and "labels" in (train.column_names or []):
        args.stratify_by = "labels"
    further = {}
    if compute_metrics is None:
        compute_metrics = the_task.metrics(classes)
        further = {} if the_task.keep is None else {"preprocess_logits_for_metrics": the_task.keep}
    return trainer(
        loaded.model, train, evaluation, preprocessing.collator, compute_metrics, preprocessing.processing_class,
        columns.class_names if the_task.one_class else (), **further,
    )  # fmt: skip


def make_arguments(
    output_dir: str | Path | None = None, args: ForgettingArguments | None = None, **training_arguments
) -> ForgettingArguments:
    """The settings of a run, given whole or as keywords.

    Raises:
        ValueError: If they are given both ways or do not say where the run goes, or a value is out of range.

    Source: ours.
    """
    if args is None:
        if output_dir is None:
            raise ValueError("Say where the run goes: output_dir=….")
        own = {"save_total_limit": 1, "dataloader_pin_memory": torch.accelerator.is_available()}
        return ForgettingArguments(str(output_dir), **{**own, **training_arguments})
    if training_arguments or (output_dir is not None and str(output_dir) != args.output_dir):
        raise ValueError("Give training settings either as args=ForgettingArguments(…) or as keywords, not both.")
    return args


def _check_classes(train, columns: Columns, args: ForgettingArguments) -> None:
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


def check_output_dir(output_dir: str | Path, model) -> None:
    """Raises if a run of this model cannot go, or go on, in a folder.

    Raises:
        FileExistsError: If it is the model's own, a file, or holds something else.
        PermissionError: If it cannot be written to.

    Source: ours.
    """
    target = Path(output_dir)
    if isinstance(model, (str, Path)) and Path(model).is_dir() and Path(model).resolve() == target.resolve():
        raise FileExistsError(f"output_dir {target} is the model's own folder; choose another.")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"output_dir {target} is a file.")
    nearest = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise PermissionError(f"output_dir {target} cannot be written to; choose another.")
    if target.is_dir() and not (target / "trajectory.json").exists():
        foreign = [
            p.name
            for p in target.iterdir()
            if not p.name.startswith(".") and p.name not in ("run.yaml", "training", "log.txt")
        ]
        if foreign:
            raise FileExistsError(
                f"output_dir {target} is not empty and holds no run to continue ({', '.join(sorted(foreign)[:3])}); "
                "choose another."
            )
