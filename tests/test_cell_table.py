"""What tables of cells say, from numbers that are made up; and the recipe that comes with the package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from know_hf.laboratory.arms import Arm
from know_hf.laboratory.cell_table import CellRuns, CellTable, between
from know_hf.laboratory.cells import places, runnable
from know_hf.laboratory.recipe import load_recipe
from know_hf.report.answer import answer
from know_hf.report.cells import across_lines, cell_rows
from know_hf.tasks import Score

REGIME = Path(__file__).parents[1] / "examples" / "recipes" / "regime.yaml"
RATES = [4e-4, 9e-4]


def made_up(scores: dict[tuple[str, float], list[list[float]]], setting) -> CellTable:
    """A table with given test scores, in percent, of each pre-training and seed; validation scores are the same."""
    runs = []
    for row in range(len(next(iter(scores.values())))):
        tuned = {
            (*place, seed): {"test": value / 100, "validation": value / 100}
            for place, found in scores.items()
            for seed, value in enumerate(found[row])
        }
        runs.append(CellRuns(Score("accuracy"), tuned, {}))
    arms = {arm: Arm(arm) for arm, _ in scores}
    return CellTable(
        replace(setting, seeds=len(next(iter(scores.values()))[0])), arms, runs, 100, ["stage-0"] * len(runs)
    )


@pytest.fixture
def setting():
    return load_recipe(REGIME, "toy").settings[0]


def around(mean: float) -> list[list[float]]:
    """Three pre-trainings, two seeds each, of that mean but for little."""
    return [[mean - 0.3, mean + 0.3], [mean + 0.1, mean - 0.1], [mean, mean + 0.1]]


def test_the_answer_follows_from_the_numbers(setting):
    shift = np.array([[0.01, -0.02], [0.0, 0.02], [-0.02, 0.01]])

    def moved(gain: float) -> list[list[float]]:
        return (np.array(around(60.0)) + gain + shift).tolist()

    cells = {
        ("naive", 4e-4): around(60.0), ("naive", 9e-4): moved(1.0), ("naive reset", 4e-4): moved(0.5),
        ("official x8", 4e-4): moved(1.0), ("official x8", 9e-4): moved(-1.0), ("official reset x8", 4e-4): moved(1.4),
        ("shrink to official x8", 4e-4): moved(0.6), ("equal_compute", 4e-4): moved(0.0), ("best", 9e-4): moved(1.0),
        ("best", 4e-4): around(60.0),
    }  # fmt: skip
    text = answer(made_up(cells, setting))
    for words in (
        "Gain: official x8 at 4e-4 is better than naive at 4e-4 (+1.00 [", "naive at 9e-4 has that gain, too.",
        "official x8 at 4e-4 shows no difference to naive at 9e-4", "official x8 at 9e-4 is worse than naive at 9e-4",
        "Norms: Θ⁰ with the norms of official x8 (shrink to official x8) is better than naive at 4e-4 (+0.6",
        "naive reset at 4e-4 is better than naive at 4e-4", "reset x8 at 4e-4 is better than official x8 at 4e-4 (+0.4",
        "At best rates, against naive at 9e-4:", "worse are equal_compute at 4e-4 (-1.0",
        "no difference is shown of best at 9e-4", "Best was Θ⁰ in 3 of 3 pre-trainings.",
    ):  # fmt: skip
        assert words in text, (words, text)
    cells["naive", 9e-4] = moved(0.4)
    assert "naive at 9e-4 has that gain, too, but not all of it." in answer(made_up(cells, setting))
    cells["naive", 9e-4] = moved(0.0)
    assert "naive at 9e-4 is not shown to have that gain." in answer(made_up(cells, setting))
    cells["official x8", 4e-4] = moved(0.0)
    text = answer(made_up(cells, setting))
    assert (
        "Gain: official x8 at 4e-4 shows no difference to naive at 4e-4" in text and "no gain is shown at the" in text
    )
    # What one pre-training shows, another may not: then no difference is shown.
    cells["official x8", 4e-4] = (np.array(around(60.0)) + np.array([[2.0], [0.4], [1.0]]) + shift).tolist()
    found = made_up(cells, setting).against(("official x8", 4e-4))
    assert found.within.verdict == "better" and found.verdict == "no difference shown"
    one = made_up({place: rows[:1] for place, rows in cells.items()}, setting)
    assert one.against(("official x8", 4e-4)).between is None and "of this one alone" in answer(one)


def test_rows_are_adjusted_over_the_table(setting):
    rng = np.random.default_rng(1)
    cells = {("naive", 4e-4): around(60.0)}
    for place in (("naive", 9e-4), ("official x8", 4e-4), ("known x2", 4e-4)):
        cells[place] = (np.array(around(60.5)) + rng.normal(0, 0.4, (3, 2))).tolist()
    table = made_up(cells, setting)
    plain = [table.against(place).within.chance for place in table.cells[1:]]
    adjusted = [chances[0] for _, _, chances in table.compared(table.cells)]
    assert min(adjusted) == pytest.approx(min(1.0, 3 * min(plain))) and max(adjusted) >= max(plain)
    assert [row[0] for row in cell_rows(table, table.cells)[1:]] == ["naive", "naive", "official x8", "known x2"]


def test_columns_are_compared_in_pairs():
    whole, half = load_recipe(REGIME, "toy").settings
    less = replace(made_up({("naive", 4e-4): around(50.0), ("official x8", 4e-4): around(61.0)}, half), examples=50)
    more = made_up({("naive", 4e-4): around(60.0), ("official x8", 4e-4): around(62.0)}, whole)
    more = replace(more, setting=replace(more.setting, pretraining_seeds=2))
    less = replace(less, setting=replace(less.setting, pretraining_seeds=2))
    assert between(less, ("official x8", 4e-4), more, ("naive", 4e-4)).mean == pytest.approx(1.0)
    lines = across_lines([less, more])
    assert len(lines) == 1 and "official x8 at 4e-4 of 50 % − naive at 4e-4 of 100 %: +1.00 [" in lines[0]
    assert lines[0].endswith("better.")


@pytest.mark.parametrize("size", ["cpu", "half", "evening", "gpu-10min", "toy"])
def test_the_regime_s_sizes(size):
    """Each has the eight cells, and all but the one for ten minutes three pre-trainings and the chosen starts."""
    recipe = load_recipe(REGIME, size)
    setting = recipe.settings[0]
    found = places(runnable(setting, ["official"]))
    eight = [("naive", 4e-4), ("naive", 9e-4), ("naive reset", 4e-4), ("official x8", 4e-4), ("official x8", 9e-4),
             ("official reset x8", 4e-4), ("shrink to official x8", 4e-4), ("equal_compute", 4e-4)]  # fmt: skip
    assert found[:8] == eight
    further = [(f"known {step}", rate) for step in ("x2", "x8") for rate in RATES]
    further += [(start, rate) for start in ("fitted", "best") for rate in RATES]
    assert found[8:] == ([] if size == "gpu-10min" else further)
    training, protocol = setting.pretraining.training, setting.transfer.make_protocol()
    expected = {
        "cpu": (3, 60, 5, 10_000, 2, 20), "half": (3, 60, 5, 10_000, 2, 20), "evening": (3, 12, 3, 2_500, 1, 9),
        "gpu-10min": (1, 40, 5, 25_000, 1, 9), "toy": (2, 1, 2, 32, 1, 1),
    }[size]  # fmt: skip
    assert expected == (
        max(1, len(setting.seeds_of_pretraining)), training["num_train_epochs"], setting.seeds, protocol.examples,
        protocol.head_epochs, protocol.epochs,
    )  # fmt: skip
    assert setting.pretraining.train_split == ("train[:640]" if size == "toy" else "train")
