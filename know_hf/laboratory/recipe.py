"""Recipes of whole experiments: pre-training, forgetting, controls, retrodiction and comparison, in a YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from know_hf.forgetting.controls import AVERAGES, Averaged, find_control
from know_hf.laboratory.cells import planned, repeated
from know_hf.laboratory.options import Speed
from know_hf.laboratory.setting import Pretraining, Setting
from know_hf.reading import check_form
from know_hf.records import check_file_names
from know_hf.settings import Options, check_names, documented, make, meant, number, option, read_recipe, stated_by


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
        check_file_names([setting.name for setting in self.runs], "The settings")
        check_form({"data_sets": self.data_sets}, {"data_sets": dict[str, dict[str, int]]}, "recipe")
        if self.average and (
            any(setting.transfer is None for setting in self.settings) or len({s.seeds for s in self.settings}) > 1
        ):
            raise ValueError("An average needs a downstream task and the same number of seeds in every setting.")
        self._check_choices()

    def _check_choices(self) -> None:
        """Raises ``ValueError`` if two settings would choose differently among the stages that they share."""
        seen: list[Setting] = []
        for one in (run for run in self.runs if run.chosen_starts):
            for other in seen:
                same = replace(one.pretraining, selection_split=None) == replace(
                    other.pretraining, selection_split=None
                )
                how = ((s.pretraining.selection_split, s.steps, s.read_stages) for s in (one, other))
                if same and len(set(how)) > 1:
                    raise ValueError(
                        f"{one.name} and {other.name} share a pre-training and choose its best in two ways: give both "
                        "the same selection_split, steps and read_stages."
                    )
            seen.append(one)

    @property
    def runs(self) -> tuple[Setting, ...]:
        """The settings as they are run: one for each seed of pre-training."""
        return tuple(run for setting in self.settings for run in repeated(setting))

    def averages(self, pretraining: Pretraining) -> str | None:
        """The averages of stage 0 that a pre-training records: its own, and those that controls of settings ask for."""
        found = set(AVERAGES.get(pretraining.training.get("average_stage_zero", ""), ()))
        for setting in self.runs:
            controls = planned(setting).controls if setting.pretraining == pretraining else ()
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
        raise ValueError(f"{path} has no size {size!r}{meant(size, sizes, 'it has')}")
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
