"""Recipes of whole experiments: pre-training, forgetting, controls, retrodiction and transfer, in a YAML file."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from know_hf.forgetting.controls import find_control
from know_hf.laboratory.protocol import Protocol
from know_hf.limits import check_limits
from know_hf.reading import check_form
from know_hf.records import check_file_names
from know_hf.retrodiction import ALL, get_method
from know_hf.settings import check_names, conform, number, read_recipe, training_fields
from know_hf.training.examples import Augmentation


@dataclass(frozen=True)
class Pretraining:
    """How Θ^0 comes about, forgets, and what the trained controls share with it.

    Args:
        dataset: Folder or Hub id of the data of Θ^0.
        train_split: Training split; slices such as ``train[:25%]`` are fractions of the data.
        eval_split: Split for the scores of the stages.
        label_column: Found by type by default.
        task: A key of [`TASKS`](know_hf.tasks); found by the columns' types by default.
        model: Folder or Hub id of a model to start from.
        architecture: Instead of ``model``, a network to train from nothing: ``timm: name`` with ``model_args``, or
            ``model_type: …`` with fields of its transformers configuration.
        image_size: Side of the images in pixels.
        max_length: Longest text in tokens.
        augmentation: Fields of [`Augmentation`]; none by default.
        training: Fields of [`ForgettingArguments`].

    Source: paper section 5.
    """

    dataset: str
    train_split: str = "train"
    eval_split: str = "test"
    label_column: str | None = None
    task: str | None = None
    model: str | None = None
    architecture: dict[str, Any] | None = None
    image_size: int | None = None
    max_length: int | None = None
    augmentation: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if (self.model is None) == (self.architecture is None):
            raise ValueError("pretraining: give either model or architecture.")
        if (known := training_fields()) is not None:
            check_names(self.training, known, "pretraining.training")
            conform(self.training, known, "pretraining.training")
        _make(Augmentation, self.augmentation or {}, "pretraining.augmentation")


@dataclass(frozen=True)
class Downstream:
    """What the candidates are fine-tuned on, and how.

    Args:
        dataset: Folder or Hub id.
        train_split: Pool that each seed draws its examples from.
        test_split: For the scores.
        validation_split: To choose learning rates on; by default drawn from the pool.
        label_column: Found by type by default.
        task: A key of [`TASKS`](know_hf.tasks); found by the columns' types by default.
        protocol: Fields of [`Protocol`].

    Source: paper section 5.2.
    """

    dataset: str
    train_split: str = "train"
    test_split: str = "test"
    validation_split: str | None = None
    label_column: str | None = None
    task: str | None = None
    protocol: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.make_protocol()

    def make_protocol(self) -> Protocol:
        """The protocol that the fields describe."""
        given = dict(self.protocol)
        if given.get("augmentation") is not None:
            given["augmentation"] = _make(Augmentation, given["augmentation"], "protocol.augmentation")
        check_form(given, {"training_arguments": dict[str, Any] | None}, "transfer.protocol")
        if (known := training_fields()) is not None:
            check_names(given.get("training_arguments") or {}, known, "protocol.training_arguments")
        given["training_arguments"] = tuple(sorted((given.get("training_arguments") or {}).items()))
        return _make(Protocol, given, "transfer.protocol")


@dataclass(frozen=True)
class Setting:
    """One column of a table: a pre-training, its retrodictions and controls, and a downstream task.

    Args:
        name: Shown in the tables.
        pretraining: How Θ^0 comes about.
        transfer: The downstream task; without one, only costs and scores of the stages are reported.
        methods: Retrodiction methods; ``all`` for every one.
        steps: Prediction steps.
        read_stages: Stages S that the methods read, the first of those trained; by default all of them.
        controls: ``incremental``, ``equal_compute``, or ``shrink F``: Θ^0 times the factor F.
        full_grid: What gets the whole grid of learning rates: methods, predictors, controls or single arms by name,
            ``NAME x`` for the steps of one prediction alone, ``all`` for all arms. The others are run at the rate that
            naive chose.
        learning_rates: The grid.
        seeds: Repetitions of the fine-tuning.
        landscape: Points along each axis of the accuracy landscape over the plane of the trajectory; 0 for none.

    Source: paper section 5; controls and grid are ours.
    """

    name: str
    pretraining: Pretraining
    transfer: Downstream | None = None
    methods: tuple[str, ...] = ("known", "shrink")
    steps: int = 3
    read_stages: int | None = None
    controls: tuple[str, ...] = ()
    full_grid: tuple[str, ...] = ("all",)
    learning_rates: tuple[float, ...] = (4e-4, 1e-3, 2.5e-3)
    seeds: int = 5
    landscape: int = 0

    def __post_init__(self):
        for name in self.methods:
            get_method(name)
        for control in self.controls:
            find_control(control)


@dataclass(frozen=True)
class Recipe:
    """An experiment: settings that share a report.

    Args:
        name: The file's name.
        size: Which of its sizes.
        title: Heading of the report.
        settings: The columns of the table.
        description: A paragraph for the report.
        processes: Number of processes.
        data_folder: Folder that may hold copies of the data sets, by the last part of their names.

    Example:
        >>> from know_hf.laboratory.recipe import load_recipe
        >>> load_recipe("examples/recipes/table1.yaml", "cpu").settings[0].steps  # doctest: +SKIP
        3
    """

    name: str
    size: str
    title: str
    settings: tuple[Setting, ...]
    description: str = ""
    processes: int = 1
    data_folder: str | None = None

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "Recipe":
        """Makes a recipe of what ``dataclasses.asdict`` made of one, by way of JSON perhaps."""
        settings = tuple(
            _setting(s["name"], {k: v for k, v in s.items() if k != "name"}) for s in described["settings"]
        )
        return _make(cls, {**described, "settings": settings}, "recipe")

    def __post_init__(self):
        check_file_names([setting.name for setting in self.settings], "The settings")

    def data(self, dataset: str) -> str:
        """The copy of a data set in the data folder, if there is one, else its own name."""
        copy = Path(self.data_folder or ".") / dataset.split("/")[-1]
        return str(copy) if self.data_folder and copy.is_dir() else dataset


def load_recipe(path: str | Path, size: str | None = None) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: YAML file with ``title``, ``sizes`` (name → settings and options) and, if it likes, ``description`` and
            ``data_folder``. Keys that begin with a dot are for YAML anchors and not read.
        size: Which size; the first by default.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is unknown, missing or has a wrong value; the message says where.
    """
    path = Path(path)
    content = {name: value for name, value in _numbers(read_recipe(path)).items() if not name.startswith(".")}
    sizes = content.pop("sizes", None)
    if not isinstance(sizes, dict) or not sizes:
        raise ValueError(f"{path}: a recipe needs sizes, such as sizes: {{cpu: {{settings: …}}}}.")
    size = size or next(iter(sizes))
    if size not in sizes:
        raise ValueError(f"{path} has no size {size!r}; it has {', '.join(sizes)}.")
    if not isinstance(sizes[size], dict):
        raise ValueError(f"{path}: size {size!r} must hold name: value pairs, found {sizes[size]!r}.")
    options = dict(sizes[size])
    settings = options.pop("settings", None)
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{path}: size {size!r} needs settings: a name for each, and what it is.")
    try:
        made = tuple(_setting(name, values) for name, values in settings.items())
        return _make(Recipe, {**content, **options, "name": path.stem, "size": size, "settings": made}, str(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, size {size}: {error}") from error


def _setting(name: str, values: Mapping[str, Any]) -> Setting:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must hold name: value pairs, found {values!r}.")
    values = dict(values)
    values["pretraining"] = _make(Pretraining, values.get("pretraining") or {}, f"{name}.pretraining")
    if values.get("transfer"):
        values["transfer"] = _make(Downstream, values["transfer"], f"{name}.transfer")
    for several in ("methods", "controls", "full_grid", "learning_rates"):
        if several in values:
            given = values[several] if isinstance(values[several], list) else [values[several]]
            values[several] = tuple(ALL if several == "methods" and given == ["all"] else given)
            form = float if several == "learning_rates" else str
            check_form({several: list(values[several])}, {several: list[form]}, name)
    return _make(Setting, {"name": name, **values}, name)


def _make(kind, values: Mapping[str, Any], where: str):
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold name: value pairs, found {values!r}.")
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where}: unknown {', '.join(map(repr, unknown))}; there are {', '.join(known)}.")
    missing = [
        name
        for name, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and name not in values
    ]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}.")
    for name, value in values.items():
        made = is_dataclass(value) or (isinstance(value, (tuple, list)) and any(map(is_dataclass, value)))
        whole = known[name].type in (int, int | None) and isinstance(value, float) and value.is_integer()  # 3.0
        if not made and not whole:
            check_form({name: value}, {name: known[name].type}, where)
    check_limits(values, f"{where}: ")
    return kind(**values)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(inner) for name, inner in value.items()}
    return [_numbers(inner) for inner in value] if isinstance(value, list) else number(value)
