"""Cells of a table: what has to be trained and predicted for them, and what is left out."""

from collections.abc import Collection
from dataclasses import replace
from itertools import groupby

from know_hf.forgetting.controls import Matched, find_control
from know_hf.laboratory.options import Cell
from know_hf.laboratory.setting import CHOSEN, USUAL_SEED, Setting
from know_hf.retrodiction import METHODS

#: An arm at a learning rate.
Place = tuple[str, float]


def repeated(setting: Setting) -> list[Setting]:
    """A setting as often as it is pre-trained, each with its own seed and name.

    Example:
        >>> from know_hf.laboratory.cells import repeated
        >>> from know_hf.laboratory.setting import Pretraining, Setting
        >>> source = Pretraining(dataset="user/data", model="user/model", training={"seed": 7})
        >>> [one.name for one in repeated(Setting("small", source, pretraining_seeds=2))]
        ['small, seed 7', 'small, seed 107']
    """
    source = setting.pretraining
    return [
        replace(
            setting, name=f"{setting.name}, seed {seed}", pretraining_seeds=(),
            pretraining=replace(source, training={**source.training, "seed": seed}),
        )
        for seed in setting.seeds_of_pretraining
    ] or [setting]  # fmt: skip


def seed_of(setting: Setting) -> int:
    """Seed of its pre-training."""
    return int(setting.pretraining.training.get("seed", USUAL_SEED))


def runnable(setting: Setting, predictors: Collection[str] = ()) -> tuple[Cell, ...]:
    """The cells of a setting whose predictors are there."""
    missing = set(setting.predictors) - set(predictors)
    return tuple(cell for cell in setting.cells if _needs(cell.parts[0]) not in missing)


def left_out(setting: Setting, predictors: Collection[str] = ()) -> list[str]:
    """Names of the arms of which cells are left out, for want of a predictor."""
    run = runnable(setting, predictors)
    return list(dict.fromkeys(cell.arm for cell in setting.cells if cell not in run))


def places(cells: Collection[Cell]) -> list[Place]:
    """Arm and learning rate of every cell, the reference first."""
    return [(cell.arm, rate) for cell in cells for rate in cell.learning_rates]


def planned(setting: Setting, predictors: Collection[str] = ()) -> Setting:
    """A setting with the methods, controls and rates that its cells need in their place.

    Args:
        setting: The setting; one without cells is returned as it is.
        predictors: Names of those that are given.

    Raises:
        ValueError: If a predictor is given that no cell may name.
    """
    if not setting.cells:
        return setting
    if stray := [name for name in predictors if name not in setting.predictors]:
        raise ValueError(
            f"{setting.name}: no cell may name the predictor {stray[0]!r}; its predictors are "
            f"{', '.join(setting.predictors) or 'none'}."
        )
    cells = runnable(setting, predictors)
    names = [name for name, _ in groupby(cell.parts[0] for cell in cells)]
    methods = [name for name in names if name in METHODS and name not in ("naive", *CHOSEN)]
    others = {"naive", *CHOSEN, *setting.predictors, *methods}
    return replace(
        setting,
        cells=(),
        predictors=(),
        methods=tuple(dict.fromkeys(methods)),
        controls=tuple(dict.fromkeys(name for name in names if name not in others)),
        reset=tuple(dict.fromkeys(cell.parts[0] for cell in cells if cell.reset)),
        chosen=setting.chosen_starts,
        learning_rates=tuple(sorted({rate for cell in cells for rate in cell.learning_rates})),
        full_grid=("all",),
    )


def _needs(name: str) -> str:
    """What a cell's start is predicted by, if by anything: the predictor or method whose norms it takes on, too."""
    if name in ("naive", *CHOSEN, *METHODS):
        return name
    try:
        result = find_control(name)[0].result
    except ValueError:  # a predictor's
        return name
    return result.of if isinstance(result, Matched) else name
