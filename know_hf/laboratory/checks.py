"""What a setting of a recipe would raise after hours of training, raised before the first step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import resolve_early
from know_hf.forgetting.controls import FORGETTING, Chosen, Matched, Predicted, find_control
from know_hf.laboratory.cells import places, planned, runnable
from know_hf.laboratory.hypothesis import AGAIN, ANEW, OTHER_SEED
from know_hf.laboratory.options import Cell
from know_hf.laboratory.pretraining import ForgettingRun
from know_hf.laboratory.recipe import Recipe
from know_hf.laboratory.setting import Setting
from know_hf.laboratory.sources import sources_of
from know_hf.laboratory.statistics import require_scipy
from know_hf.models.architecture import check_architecture
from know_hf.models.building import check_timm
from know_hf.records import check_file_names
from know_hf.retrodiction import DEFAULT, METHODS
from know_hf.retrodiction.predictors import load_predictor
from know_hf.settings import meant
from know_hf.tasks import TASKS, Columns
from know_hf.training.checks import check_model, check_splits
from know_hf.trajectory import kinds_of
from know_hf.trajectory.kinds import fresh_norms

# A task, where its columns are not known yet and none of its own settings matters.
_ANY = next(iter(TASKS))


def check_names(recipe: Recipe, setting: Setting, predictors: Mapping[str, str | Path]) -> None:
    """Raises what a setting would raise after hours of training, as far as names and numbers alone can tell.

    Raises:
        FileNotFoundError: If a predictor cannot be found.
        ValueError: If methods, steps, predictors and stages do not fit each other.
    """
    cells, source, setting = runnable(setting, predictors), setting.pretraining, planned(setting, predictors)
    fields = ForgettingRun(Path("checked"), FORGETTING, source, Columns(_ANY, [], "", []), {}).arguments()
    stages = setting.read_stages or fields.num_stages
    if stages > fields.num_stages:
        raise ValueError(f"{setting.name}: read_stages is {stages}, the run has {fields.num_stages} stages.")
    for method in setting.methods:
        asked = Prediction(method=method, steps=setting.steps)
        resolve_early(asked, stages, fields.sampling_ratio)
    for further in predictors.values():
        load_predictor(further, stages)
    results = {control: find_control(control)[0].result for control in setting.controls}
    predicted = [name for name, result in results.items() if isinstance(result, (Predicted, Matched))]
    for name, result in results.items():
        if isinstance(result, Matched) and result.of not in (*predictors, *METHODS):
            raise ValueError(
                f"{setting.name}: {name!r} takes on the norms of {result.of!r}, which is no method and no "
                f"predictor that is given{meant(result.of, [*predictors, *METHODS])}"
            )
    for name in setting.reset:
        if name not in ("naive", *predictors, *setting.methods, *predicted):
            raise ValueError(
                f"{setting.name}: reset names {name!r}; it may name naive, methods, predictors and predicted controls: "
                f"{', '.join(dict.fromkeys(['naive', *predictors, *setting.methods, *predicted]))}."
            )
    sources = sources_of(setting, predictors)
    arms = [source.name for source in sources if source.candidate_of is None]
    arms += dict.fromkeys(source.candidate_of for source in sources if source.candidate_of is not None)
    _check_cells(setting.name, cells, [arm.name for one in sources for arm in one.arms(fields.sampling_ratio)])
    beside = (AGAIN, OTHER_SEED, ANEW) if setting.hypothesis else ()
    if twice := [name for name in predictors if arms.count(name) > 1 or name in beside]:
        raise ValueError(f"{setting.name}: predictor {twice[0]!r} has the name of a method; choose another.")
    check_file_names([*arms, *beside], f"{setting.name}: the methods, controls and predictors")
    if fields.train_stage_zero is False and recipe.averages(source):
        raise ValueError(f"{setting.name}: ema and swa average the training of Θ^0: train_stage_zero cannot be off.")
    methods = {
        *(result.method for result in results.values() if isinstance(result, (Predicted, Chosen))),
        *([DEFAULT] if predictors else []),
        *(["shrink"] if any(isinstance(result, Matched) for result in results.values()) else []),
    }
    for name in setting.full_grid:
        # Steps are called as their prediction, and how much data they stand for.
        if not {name, name.partition(" x")[0]} & {"all", *arms, *methods}:
            raise ValueError(
                f"{setting.name}: full_grid names {name!r}, which no method, predictor, control or arm is called"
                f"{meant(name, [*arms, *sorted(methods)])}"
            )


def _check_cells(name: str, cells: Sequence[Cell], arms: Sequence[str]) -> None:
    if unknown := [arm for arm, _ in places(cells) if arm not in arms]:
        raise ValueError(f"{name}: cells name {unknown[0]!r}, which nothing makes{meant(unknown[0], arms)}")


def check_reset(setting: Setting, model: nn.Module) -> None:
    """Raises ``ValueError`` if a network has no normalisation that a setting could make new."""
    try:
        fresh_norms(kinds_of(model))
    except ValueError as error:
        raise ValueError(f"{setting.name}: reset: {error}") from error


def check_inputs(recipe: Recipe, setting: Setting) -> None:
    """Raises if models or data of a setting are not to be had.

    Raises:
        FileNotFoundError: If a model or data cannot be found.
        ImportError: If something is to be compared, and scipy is not installed.
        ValueError: If there is no such split.
    """
    source, target = setting.pretraining, setting.transfer
    if source.model is not None:
        check_model(source.model)
    elif source.architecture is not None:
        check_architecture(source.architecture, f"{setting.name}: architecture")
        if "timm" in source.architecture:
            check_timm(source.architecture["timm"])
    decoder = None if target is None else target.make_decoder()
    if decoder is not None:
        check_architecture(decoder.architecture, f"{setting.name}: decoder.architecture", further=())
    splits = (source.train_split, source.eval_split, source.selection_split)
    check_splits(recipe.data(source.dataset), *(split for split in splits if split is not None))
    if target is not None:
        require_scipy()
        splits = (target.train_split, target.test_split, target.validation_split)
        check_splits(recipe.data(target.dataset), *(split for split in splits if split is not None))
