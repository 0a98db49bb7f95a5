"""Downstream data that a start is chosen for: found, divided, and looked at before anything is trained."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import meta_device_safe_creation_ops

from know_hf.laboratory.comparison import check_data
from know_hf.laboratory.halving import LEAST_EXAMPLES
from know_hf.laboratory.options import Protocol
from know_hf.model_config import brief
from know_hf.models.adapters import is_adapted
from know_hf.models.building import auto_class_of, label_settings
from know_hf.tasks import Columns, get_task
from know_hf.text import without_secrets
from know_hf.training.data import label_values, load_evaluation, load_split, make_preprocessing
from know_hf.training.files import split_names
from know_hf.training.options import DataOptions
from know_hf.training.overlap import Overlap, overlap

logger = logging.getLogger(__name__)

#: Fewest examples to fine-tune and choose on, and to report on.
LEAST_POOL, LEAST_REPORTED = 4 * LEAST_EXAMPLES, 20
#: Most of either that are looked at: few-shot fine-tuning needs no more, and each is scored many times.
MOST_POOL, MOST_REPORTED = 10_000, 2_000
#: Of the pool, what is drawn for every seed to choose on: an eighth, but at least and at most so many.
LEAST_CHOOSING, MOST_CHOOSING = 20, 500
#: Where there are no test data, one example of so many is reported on.
_ONE_OF = 5
#: What else scores may be reported on, in this order.
_OTHERS = ("test", "validation")


@dataclass(frozen=True)
class Downstream:
    """Downstream data, divided.

    Args:
        name: What they are called.
        pool: Examples that every fine-tuning draws those from which it trains on, and others that it is chosen on.
        report: Examples that have no part in either.
        columns: What they hold.
        held_out: Whether the latter are test data of their own.
    """

    name: str
    pool: Dataset
    report: Dataset
    columns: Columns
    held_out: bool


def open_downstream(source: Any, about: DataOptions, seed: int) -> Downstream:
    """Loads and divides downstream data.

    Args:
        source: Hub id, folder or file, a ``Dataset``, or ``train`` and ``test`` → one.
        about: What is read of the run's own data; columns of the same names are taken here, too.
        seed: Of the division.

    Raises:
        FileNotFoundError: If they are neither local nor reachable.
        TypeError: If they are none.
        ValueError: If columns or classes do not fit, or there are too few.
    """
    name, train, others = _load(source)
    own = set(train.column_names)
    label = about.label_column if about.label_column in own else None
    inputs = list(about.input_columns) if about.input_columns and set(about.input_columns) <= own else None
    about = replace(about, task=None, label_column=label, input_columns=inputs)
    test = None
    for split, part in others.items():
        try:
            train, test, _, columns = check_data(train, part, protocol=Protocol(), about=about)
            break
        except ValueError as error:  # such as labels that are kept secret
            logger.info("Nothing is reported on the split %s of %s: %s", split, name, error)
    else:
        train, _, _, columns = check_data(train, train, protocol=Protocol(), about=about)
    order = _spread(train, columns, seed)
    if test is None:
        size = min(max(LEAST_REPORTED, len(order) // _ONE_OF), MOST_REPORTED)
        order, report = order[:-size], train.select(np.sort(order[-size:]))
    else:
        report = test.select(np.sort(_spread(test, columns, seed)[:MOST_REPORTED]))
        found = overlap(report, train, columns.inputs, not get_task(columns.task).rows_are_examples)
        if found.large:
            raise ValueError(
                f"choose_on: {found.told} test examples of {name} are among its training examples, so that nothing can "
                "be reported on them: give others as test, or the training examples alone, a fifth of which is kept."
            )
    pool = train.select(np.sort(order[:MOST_POOL]))
    return Downstream(name, pool, report, columns, test is not None)


def _load(source: Any) -> tuple[str, Dataset, dict[str, Dataset]]:
    """Name, training data, and what there is to report on."""
    if isinstance(source, Mapping):
        if "train" not in source:
            raise ValueError(f"choose_on has the splits {', '.join(source) or 'none'}; it needs train.")
        name, train = _name_of(source["train"]), source["train"]
        others = {split: source[split] for split in _OTHERS if split in source}
    elif isinstance(source, (str, Path)):
        there = split_names(str(source)) or []
        name = Path(source).name if Path(source).exists() else str(without_secrets(str(source)))
        train = load_evaluation(source, usual="train")
        others = {split: load_split(source, split) for split in _OTHERS if split in there and len(there) > 1}
    else:
        name, train, others = _name_of(source), load_split(source), {}
    for part in (train, *others.values()):
        if not isinstance(part, Dataset):
            raise TypeError(f"choose_on holds a {type(part).__name__}; it must be a datasets.Dataset.")
    return name, train, others


def _name_of(data: Any) -> str:
    return getattr(getattr(data, "info", None), "dataset_name", None) or "the downstream data"


def _spread(dataset: Dataset, columns: Columns, seed: int) -> np.ndarray:
    """All rows in an order by chance, every beginning of which has the classes' shares; a text stays as it is."""
    task = get_task(columns.task)
    if not task.rows_are_examples:
        return np.arange(len(dataset))
    generator = np.random.default_rng([seed, 7])
    classes = np.zeros(len(dataset), dtype=int)
    if task.one_class:
        classes = np.unique(label_values(dataset, columns), return_inverse=True)[1]
    places = np.empty(len(dataset))
    for number in range(classes.max(initial=0) + 1):
        rows = generator.permutation(np.flatnonzero(classes == number))
        places[rows] = (np.arange(len(rows)) + generator.random()) / max(len(rows), 1)
    return np.argsort(places, kind="stable")


def check_start(trainer: Any, data: Downstream, about: DataOptions) -> tuple[int, Overlap]:
    """Looks whether the model of a run can be fine-tuned on downstream data, before anything is trained.

    Args:
        trainer: The run's.
        data: The data.
        about: As for [`open_downstream`].

    Returns:
        Number of examples in the pool, and which of those that are reported on the run itself trains on.

    Raises:
        ValueError: If the model cannot be given the head that they need, or cannot read them, or there are too few.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    _check_head(model, data)
    task, columns = get_task(data.columns.task), data.columns
    columns = task.columns_for(columns, None, trainer.processing_class)
    live = copy.copy(model)
    live.config = copy.deepcopy(model.config)  # which is told the size of its images
    try:
        reads = make_preprocessing(
            live, None, columns, image_size=about.image_size, max_length=about.max_length,
            processing_class=trainer.processing_class,
        )  # fmt: skip
        rows, reported = reads.apply(data.pool), reads.apply(data.report)
        reads.collator([rows[i] for i in range(min(2, len(rows)))])
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"choose_on: the model cannot read {data.name}: {brief(error)}") from error
    if len(rows) < LEAST_POOL or len(reported) < LEAST_REPORTED:
        blocks = len(rows) != len(data.pool)  # texts that are joined
        kind = "examples, blocks of max_length tokens of its texts" if blocks else "examples"
        total = f"{len(rows) + len(reported)} {kind}" + (f", {len(reported)} of them of a test" * data.held_out)
        raise ValueError(
            f"choose_on: {data.name} has too few examples ({total}): {LEAST_POOL} are needed to fine-tune and choose "
            f"on, and {LEAST_REPORTED} others to report on."
        )
    read = [column for column in reported.column_names if column not in ("label", "labels")]
    return len(rows), overlap(reported, trainer.train_dataset, read)


def _check_head(model: nn.Module, data: Downstream) -> None:
    task, classes = get_task(data.columns.task), data.columns.class_names
    config = getattr(model, "config", None)
    if not isinstance(model, PreTrainedModel) and not is_adapted(model):
        raise ValueError(
            f"choose_on: a {type(model).__name__} is no model of transformers, whose head could be replaced for "
            f"{task.name}."
        )
    if is_adapted(model) and task.renews_head and getattr(config, "num_labels", None) != len(classes):
        raise ValueError(
            f"choose_on: the adapter brings a head of {getattr(config, 'num_labels', None)} outputs along, which is "
            f"not replaced, and {data.name} has {len(classes)} classes: give data of as many classes."
        )
    config = copy.deepcopy(config)
    for name, value in label_settings(classes, task.name).items():
        setattr(config, name, value)
    try:
        with torch.device("meta"), meta_device_safe_creation_ops():
            task.head(auto_class_of(task.name).from_config(config), len(classes))
    except ImportError:
        raise
    except Exception as error:  # every model's own code may raise here
        raise ValueError(
            f"choose_on: {data.name} is data for {task.name}, for which the head of a {type(model).__name__} cannot be "
            f"replaced: {brief(error)}"
        ) from error
