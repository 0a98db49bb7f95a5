"""Recipes of whole experiments: pre-training, forgetting, controls, retrodiction and comparison, in a YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from know_hf.enrichment.options import Extent
from know_hf.forgetting.controls import AVERAGES, Averaged, find_control
from know_hf.forgetting.options import training_options
from know_hf.laboratory.options import Decoder, Protocol, Repetition, Speed
from know_hf.reading import check_form
from know_hf.records import check_file_names
from know_hf.retrodiction import ALL, get_method
from know_hf.settings import (
    HUGE,
    TINY,
    Options,
    check_names,
    conform,
    documented,
    make,
    number,
    option,
    read_recipe,
    stated_by,
)
from know_hf.training.options import Augmentation, DataOptions
from know_hf.trajectory.noise import Noise


@documented
@dataclass(frozen=True)
class Pretraining(Options):
    """How Θ^0 comes about, forgets, and what the trained controls share with it.

    Source: paper section 5.
    """

    dataset: str = option(help="Folder or Hub id of the data of Θ^0.")
    train_split: str = option("train", help="Training split; slices such as train[:25%] are fractions of the data.")
    eval_split: str = option("test", help="Split for the scores of the stages.")
    label_column: str | None = stated_by(DataOptions, "label_column")
    task: str | None = stated_by(DataOptions, "task")
    model: str | None = option(None, help="Folder or Hub id of a model to start from.")
    architecture: dict[str, Any] | None = option(
        None,
        help="Instead of a model, a network to train from nothing: timm: name with model_args, or model_type: … with "
        "fields of its transformers configuration.",
    )
    image_size: int | None = stated_by(DataOptions, "image_size")
    max_length: int | None = stated_by(DataOptions, "max_length")
    image_mean: str | None = option(
        None,
        help="pixel: subtract from images, as the model reads them, the mean of the training images, pixel by pixel "
        "(the authors' code); downstream, that of the pool. Stages do not carry it along.",
        choices=("pixel",),
    )
    augmentation: dict[str, Any] | None = option(None, help="Fields of Augmentation; none by default.")
    training: dict[str, Any] = option(default_factory=dict, help="Fields of ForgettingArguments.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model is None) == (self.architecture is None):
            raise ValueError("pretraining: give either model or architecture.")
        if (known := training_options()) is not None:
            check_names(self.training, known, "pretraining.training")
            conform(self.training, known, "pretraining.training")
        make(Augmentation, self.augmentation or {}, "pretraining.augmentation")


@documented
@dataclass(frozen=True)
class Downstream(Options):
    """What the candidates are fine-tuned on, and how.

    Source: paper section 5.2.
    """

    dataset: str = option(help="Folder or Hub id.")
    train_split: str = option("train", help="Pool that each seed draws its examples from.")
    test_split: str = option("test", help="For the scores.")
    validation_split: str | None = option(None, help="To choose learning rates on; by default drawn from the pool.")
    label_column: str | None = stated_by(DataOptions, "label_column")
    task: str | None = stated_by(DataOptions, "task")
    protocol: dict[str, Any] = option(default_factory=dict, help="Fields of Protocol.")
    held_out: dict[str, Any] | None = option(
        None,
        help="A column and one of its values, such as domain: sketch: rows with it are the test data, those without it "
        "the training data (and those to choose rates on), whatever their split.",
    )
    decoder: dict[str, Any] | None = option(
        None, help="Of captions, fields of Decoder: what every start is joined to; by default it has its own."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_protocol()
        self.make_decoder()
        if self.held_out is not None and len(self.held_out) != 1:
            raise ValueError(f"transfer.held_out is {self.held_out}; it names one column and one of its values.")

    def make_decoder(self) -> Decoder | None:
        """The decoder that the fields describe, if any."""
        return None if self.decoder is None else make(Decoder, self.decoder, "transfer.decoder")

    def make_protocol(self) -> Protocol:
        """The protocol that the fields describe."""
        described = dict(self.protocol)
        check_form(described, {"training_arguments": dict[str, Any] | None}, "transfer.protocol")
        further = described.get("training_arguments") or {}
        if (known := training_options()) is not None:
            check_names(further, known, "protocol.training_arguments")
        described["training_arguments"] = tuple(sorted(further.items()))
        return make(Protocol, described, "transfer.protocol")


@documented
@dataclass(frozen=True)
class Setting(Options):
    """One column of a table: a pre-training, its retrodictions and controls, and a downstream task.

    Source: paper section 5; controls and grid are ours.
    """

    name: str = option(help="Shown in the tables.")
    pretraining: Pretraining = option(help="How Θ^0 comes about.")
    transfer: Downstream | None = option(
        None, help="The downstream task; without one, only costs and scores of the stages are reported."
    )
    methods: tuple[str, ...] = option(("known", "shrink"), help="Retrodiction methods; all for every one.")
    steps: int = stated_by(Extent, "steps")
    read_stages: int | None = option(
        None, help="Stages S that the methods read, the first of those trained; by default all of them."
    )
    controls: tuple[str, ...] = option(
        (),
        help="incremental, equal_compute, once_more; soup: the average of branches from Θ^0 on halves of the data; "
        "soup_stock: those merged by Model Stock's ratio; shrink F: Θ^0 times the factor F; shrink_perturb F: that and "
        "noise; ema, swa: averages of Θ^0 as it was trained; task_vector_chosen: a task vector, its λ chosen by "
        "validation.",
    )
    reset: tuple[str, ...] = option(
        (),
        help="What is compared with reset normalisation (norms=reset), too: naive, methods, predictors and predicted "
        "controls by name; known for every predictor. Their arms are called NAME reset.",
    )
    full_grid: tuple[str, ...] = option(
        ("all",),
        help="What gets the whole grid of learning rates: methods, predictors, controls or single arms by name, "
        "'NAME x' for the steps of one prediction alone, all for all arms. The others are run at the rate that naive "
        "chose.",
    )
    learning_rates: tuple[float, ...] = stated_by(Repetition, "learning_rates")
    seeds: int = stated_by(Repetition, "seeds")
    landscape: int = option(
        0,
        help="Points along each axis of the accuracy landscape over the plane of the trajectory; 0 for none.",
        limits=(0, 1000),
    )
    noise_copies: int = option(
        0,
        help="Noisy copies of every stage that span the landscape's plane with the stages, and are scored with it.",
        limits=(0, 1000),
    )
    noise_scale: float = option(
        0.05,
        help="Standard deviation of their noise, in each tensor's own root mean square in Θ^0.",
        limits=(TINY, HUGE),
    )
    own_scores: bool = option(False, help="Score every start as it is on the pre-training's own held-out data.")
    hypothesis: bool = option(
        False,
        help="Fine-tune the first step of every prediction on all the data of Θ^0, as a stage is, and measure how near "
        "to Θ^0 that leads.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ("all",):
            object.__setattr__(self, "methods", tuple(ALL))
        for name in self.methods:
            get_method(name)
        for control in self.controls:
            find_control(control)

    @property
    def noise(self) -> Noise | None:
        """What spans the landscape's plane beside the stages, if anything."""
        return Noise(self.noise_scale, self.noise_copies) if self.noise_copies else None


@documented
@dataclass(frozen=True)
class Recipe(Options):
    """An experiment: settings that share a report.

    Example:
        >>> from know_hf.laboratory.recipe import load_recipe
        >>> load_recipe("examples/recipes/table1.yaml", "cpu").settings[0].steps  # doctest: +SKIP
        3
    """

    name: str = option(help="The file's name.")
    size: str = option(help="Which of its sizes.")
    title: str = option(help="Heading of the report.")
    settings: tuple[Setting, ...] = option(help="The columns of the table.")
    description: str = option("", help="A paragraph for the report.")
    average: bool = option(
        False, help="Show every start's average over the settings, too, which have the same starts and seeds."
    )
    processes: int = option(1, help="Number of processes.", limits=(1, 4096))
    fast: bool | None = stated_by(Speed, "fast")
    data_sets: dict[str, Any] = option(
        default_factory=dict,
        help="What a dry run reckons with where data are not at hand: name of a data set → examples of each split by "
        "its name (of a value that is held out, by that value), classes, and image_size in pixels.",
    )
    data_folder: str | None = option(
        None, help="Folder that may hold copies of the data sets, by the last part of their names."
    )

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "Recipe":
        """Makes a recipe of what ``dataclasses.asdict`` made of one, by way of JSON perhaps."""
        settings = tuple(make(Setting, setting, str(setting["name"])) for setting in described["settings"])
        return make(cls, {**described, "settings": settings}, "recipe")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_file_names([setting.name for setting in self.settings], "The settings")
        check_form({"data_sets": self.data_sets}, {"data_sets": dict[str, dict[str, int]]}, "recipe")
        if self.average and (
            any(setting.transfer is None for setting in self.settings) or len({s.seeds for s in self.settings}) > 1
        ):
            raise ValueError("An average needs a downstream task and the same number of seeds in every setting.")

    def averages(self, pretraining: Pretraining) -> str | None:
        """The averages of stage 0 that a pre-training records: its own, and those that controls of settings ask for."""
        found = set(AVERAGES.get(pretraining.training.get("average_stage_zero", ""), ()))
        for setting in self.settings:
            controls = setting.controls if setting.pretraining == pretraining else ()
            results = [find_control(control)[0].result for control in controls]
            found |= {result.average for result in results if isinstance(result, Averaged)}
        return next((name for name, both in AVERAGES.items() if set(both) == found), None)

    def data(self, dataset: str) -> str:
        """The copy of a data set in the data folder, if there is one, else its own name."""
        copy = Path(self.data_folder or ".") / dataset.split("/")[-1]
        return str(copy) if self.data_folder and copy.is_dir() else dataset


#: What may be declared of any data set; further splits where the recipe reads them.
_DECLARED = ("train", "test", "validation", "classes", "image_size")


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
    content = {name: value for name, value in number(read_recipe(path)).items() if not name.startswith(".")}
    sizes = content.pop("sizes", None)
    if not isinstance(sizes, dict) or not sizes:
        raise ValueError(f"{path}: a recipe needs sizes, such as sizes: {{cpu: {{settings: …}}}}.")
    size = size or next(iter(sizes))
    if size not in sizes:
        raise ValueError(f"{path} has no size {size!r}; it has {', '.join(sizes)}.")
    if not isinstance(sizes[size], dict):
        raise ValueError(f"{path}: size {size!r} must hold name: value pairs, found {sizes[size]!r}.")
    _check_declared(content.get("data_sets"), sizes, path)
    options = dict(sizes[size])
    settings = options.pop("settings", None)
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{path}: size {size!r} needs settings: a name for each, and what it is.")
    try:
        made = tuple(_setting(name, values) for name, values in settings.items())
        return make(Recipe, {**content, **options, "name": path.stem, "size": size, "settings": made}, str(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, size {size}: {error}") from error


def _check_declared(declared: Any, sizes: Mapping[str, Any], path: Path) -> None:
    """Raises if what is declared of data sets means nothing: no split that any size reads, or no number of anything."""
    known = [*_DECLARED, *_split_names(sizes)]
    for name, values in declared.items() if isinstance(declared, Mapping) else ():
        if not isinstance(values, Mapping):
            continue  # refused with the other forms
        where = f"{path}: data_sets: {name}"
        check_names(map(str, values), known, where)
        for key, value in values.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{where}: {key} is {value!r}; it counts something, from 1.")


def _split_names(content: Any) -> list[str]:
    """Names of the splits, and of the values that are held out, anywhere in what a recipe holds."""
    found: list[str] = []
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if str(key).endswith("_split") and isinstance(value, str):
            found += [part.partition("[")[0].strip() for part in value.split("+")]
        elif key == "held_out" and isinstance(value, Mapping):
            found += map(str, value.values())
        else:
            found += _split_names(value)
    return found


def _setting(name: str, values: Any) -> Setting:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must hold name: value pairs, found {values!r}.")
    return make(Setting, {"pretraining": {}, **values, "name": name}, name)
