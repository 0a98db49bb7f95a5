"""What a task is: which columns it reads, how they become a batch, and what a model is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch import Tensor, nn

from know_hf.settings import meant

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import EvalPrediction, PreTrainedModel

#: Folder or Hub id of a model; None for a live one.
Source = str | Path | None
Value = TypeVar("Value", float, np.ndarray)


@dataclass
class Columns:
    """The columns that a task reads.

    Args:
        task: A key of [`TASKS`](know_hf.tasks).
        inputs: Input columns.
        label: The column of the answers: classes, masks, captions; the text itself of language models.
        class_names: Names of the classes in the order of their labels; empty where answers are text.
    """

    task: str
    inputs: list[str]
    label: str
    class_names: list[str]


@dataclass
class Preprocessing:
    """How examples become a batch.

    Args:
        apply: From a data set to one whose rows hold what the model takes.
        collator: From a list of such rows to a batch.
        processing_class: What to save with the model: tokenizer or image processor, if any.

    Example:
        >>> from know_hf.tasks import Preprocessing
        >>> from know_hf.tasks.shared import stack
        >>> Preprocessing(lambda rows: rows, stack).collator([{"x": 1}, {"x": 2}])
        {'x': tensor([1, 2])}
    """

    apply: Callable[[Dataset], Dataset]
    collator: Callable[[list], dict[str, Tensor]]
    processing_class: Any = None


@dataclass(frozen=True)
class Score:
    """What a model is judged by.

    Args:
        name: Of the metric.
        percent: Whether it is a share, shown in percent.
        higher_is_better: Whether more of it is better.

    Example:
        >>> from know_hf.tasks import Score
        >>> Score("accuracy").shown(0.5), Score("perplexity", percent=False, higher_is_better=False).best(3.0, 2.0)
        (50.0, 2.0)
    """

    name: str
    percent: bool = True
    higher_is_better: bool = True

    def shown(self, value: Value) -> Value:
        """The number, or an array of them, that tables and plots show."""
        return 100 * value if self.percent else value

    @property
    def most(self) -> float | None:
        """What tables show of the best there can be; None where there is no such."""
        return self.shown(1.0) if self.percent else None

    @property
    def unit(self) -> str:
        """For headings: ``" in percent"`` or nothing."""
        return " in percent" if self.percent else ""

    def point(self, typical: float) -> float:
        """A small difference between scores as they are shown: a point of shares, of others 1 % of a typical one."""
        return 1.0 if self.percent else abs(typical) / 100 or 1.0

    @property
    def best(self) -> Callable:
        """``max`` or ``min``."""
        return max if self.higher_is_better else min


@dataclass(frozen=True)
class Candidates:
    """What the columns of a data set could be, by their types and names.

    Args:
        features: The columns.
        inputs: Inputs that the user named.
        label: Column of answers that the user named.
        images: Columns of pictures.
        texts: Columns of texts that are no identifiers.
        classes: Columns that could hold classes.
        numbers: Those of them, or of such a name, that hold fractions.
    """

    features: Features
    inputs: list[str] | None
    label: str | None
    images: list[str]
    texts: list[str]
    classes: list[str]
    numbers: Sequence[str] = ()

    @property
    def answers(self) -> list[str]:
        """The column that was named as the answers, else those that could hold classes."""
        return self.classes if self.label is None else [self.label]

    @property
    def from_images(self) -> bool:
        """Whether the inputs are pictures."""
        images = self.images
        return self.inputs[0] in images if self.inputs else any(name != self.label for name in images)

    @property
    def unlabelled(self) -> bool:
        """Whether nothing was named as the answers, and no column looks like classes."""
        return self.label is None and not self.classes

    def only(self, names: list[str], what: str, option: str) -> str:
        """The one column among names.

        Raises:
            ValueError: If there are none or several; the message asks to name it with the option.
        """
        if len(names) != 1:
            raise ValueError(
                f"{'Several columns could' if names else 'No column can'} be the {what} ({described(self.features)}): "
                f"name it with {option}."
            )
        return names[0]


@dataclass(frozen=True)
class Inputs:
    """What a task reads.

    Args:
        name: For messages: ``"images"``.
        fits: Whether a column's type is of this kind.
        cast: The type to cast a column to that is not, as it is written in Python.
        several: Whether all columns that fit are read; else there has to be one, unless the user names more.
        sets: Names of columns that are read together, in this order, where all of them are there.

    Example:
        >>> from datasets import Array2D
        >>> from know_hf.tasks import Inputs
        >>> Inputs("maps", lambda feature: isinstance(feature, Array2D), "Array2D((8, 8), 'float32')").several
        False
    """

    name: str
    fits: Callable[[Any], bool]
    cast: str
    several: bool = False
    sets: Sequence[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Labels:
    """What a task answers.

    Args:
        find: From the [`Candidates`] to the column of answers; None where the input itself is the answer.
        names: From a data set and that column to the names of the classes; None where there are none.
        check: Raises ``ValueError`` for answers that are missing or none of the classes, from a data set, its
            [`Columns`], the number of the model's classes, and whose data they are.
        for_model: From columns, the model's folder or Hub id and the caller's processing class to the columns with
            the classes as that model's preprocessing makes them.
        one_class: Whether an example has one class, so that subsets can be stratified by it.
        fewer_will_do: Whether data of such classes may have fewer than a trained head.
        matched: Whether the classes are matched by name with those of a trained head.
        problem: What transformers calls the loss of a classifier's head (``problem_type``); None for its own.
        written: Whether the answers are text that the model writes with its own vocabulary, which no new task renews.
        rows: Whether a row is an example.
    """

    find: Callable[[Candidates], str] | None
    names: Callable[[Dataset, str], list[str]] | None = None
    check: Callable[[Dataset, Columns, int, str], None] | None = None
    for_model: Callable[[Columns, Any, Any], Columns] | None = None
    one_class: bool = False
    fewer_will_do: Callable[[list[str]], bool] = lambda names: True
    matched: bool = False
    problem: str | None = None
    written: bool = False
    rows: bool = True


@dataclass(frozen=True)
class Task:
    """What is particular to a task; everything else is the same for all.

    Args:
        name: Its name, as a rule the Hub's for it.
        preprocessing: From model, source, columns and processing class to [`Preprocessing`]; its parameters that can
            only be named are the task's own settings.
        matches: Whether data with such [`Candidates`] are made for it; of several tasks the latest registered counts.
        inputs: What it reads.
        labels: What it answers.
        auto_class: The class of transformers that loads its models.
        score: The first of its scores.
        metrics: From the number of classes to a ``compute_metrics`` as Trainer takes it.
        keep: What of a batch's outputs the metrics need, from outputs and labels; None for all of it.
        head: From a model and the number of classes to the part that a new downstream task draws anew.
        hub_name: The Hub's name for it, where that is another.
    """

    name: str
    preprocessing: Callable[..., Preprocessing]
    matches: Callable[[Candidates], bool]
    inputs: Inputs
    labels: Labels
    auto_class: str
    score: Score
    metrics: Callable[[int], Callable[[EvalPrediction], dict[str, float]]]
    head: Callable[[PreTrainedModel, int], nn.Module]
    keep: Callable[[Any, Tensor], Tensor] | None = None
    hub_name: str | None = None

    @property
    def one_class(self) -> bool:
        """Whether an example has one class."""
        return self.labels.one_class

    @property
    def settings(self) -> list[str]:
        """Names of the task's own settings."""
        own = signature(self.preprocessing).parameters.values()
        return [parameter.name for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]

    def eval_batch_size(self, batch_size: int) -> int:
        """Examples in a batch of scoring, beside those in a batch of training.

        Scores of pixels and words take more room than those of classes.
        """
        return max(512, batch_size) if self.one_class else batch_size

    def columns_for(self, columns: Columns, source: Source, processing_class: Any = None) -> Columns:
        """The columns with the classes as a model's preprocessing makes them, as for [`Labels`].

        Raises:
            ValueError: If too few classes are left.
        """
        return columns if self.labels.for_model is None else self.labels.for_model(columns, source, processing_class)

    @property
    def renews_head(self) -> bool:
        """Whether a new downstream task gets a new head; a language model's is its vocabulary, which stays."""
        return not self.labels.written

    @property
    def rows_are_examples(self) -> bool:
        """Whether a row of the data is an example; of a language model blocks of many rows are."""
        return self.labels.rows


#: Name → task.
TASKS: dict[str, Task] = {}


def task(name: str, **declared: Any) -> Callable[[Callable[..., Preprocessing]], Callable[..., Preprocessing]]:
    """Registers a task: the function is its preprocessing.

    Args:
        name: The Hub's name for it.
        **declared: The other fields of [`Task`].

    Returns:
        A decorator, which returns the function as it is.

    Raises:
        TypeError: If the function takes something else, or a field is missing.
        ValueError: If the name is taken.

    Example:
        >>> from know_hf.tasks import TASKS
        >>> TASKS["image-classification"].settings
        ['image_size']
    """

    def register(preprocessing: Callable[..., Preprocessing]) -> Callable[..., Preprocessing]:
        made = Task(name, preprocessing, **declared)
        parameters = list(signature(preprocessing).parameters.values())
        first = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
        if first != _FIRST:
            raise TypeError(f"The preprocessing of {name!r} takes ({', '.join(first)}), not ({', '.join(_FIRST)}).")
        taken = TASKS.get(name)
        if taken and _origin(taken) != _origin(made):
            raise ValueError(f"There is a task {name!r} already, of {_origin(taken)[0]}: give yours another name.")
        TASKS[name] = made
        return preprocessing

    return register


_FIRST = ["model", "source", "columns", "processing_class"]


def _origin(registered: Task) -> tuple[str, str]:
    return registered.preprocessing.__module__, registered.preprocessing.__qualname__


def get_task(name: str) -> Task:
    """Finds a task.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}{meant(name, TASKS)}")
    return TASKS[name]


def described(features: Features) -> str:
    """Columns and their types, for messages."""
    return ", ".join(f"{name} ({getattr(f, 'dtype', None) or type(f).__name__})" for name, f in features.items())
