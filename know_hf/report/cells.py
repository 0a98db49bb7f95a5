"""Tables of cells: every start at every rate that it was run at, each at its best, and columns against columns."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from know_hf.laboratory.cell_table import CellRuns, CellTable, between
from know_hf.laboratory.cells import Place, seed_of
from know_hf.laboratory.outcome import ExperimentResult
from know_hf.laboratory.setting import Setting
from know_hf.laboratory.statistics import Nested
from know_hf.report.across import less_data
from know_hf.report.answer import answers, called, furthest, rate_name
from know_hf.report.figures import decimals
from know_hf.report.page import Page
from know_hf.store import write_text

#: How to read the tables.
_SHOWN = (
    "Differences are paired: the same pre-training, downstream examples, head and order. The first interval is over "
    "all paired fine-tunings, as if all were of one pre-training; the second takes the means of the pre-trainings for "
    "its units, and says what another pre-training may be expected to give. Intervals are 95 %, plain; a verdict "
    "needs all that there are without zero. Beside them are the p-values of the same t tests, adjusted by Holm over "
    "the rows of the table."
)
_ONE = (
    "There is one pre-training only: of how much another would differ, nothing is known, and no interval over "
    "pre-trainings is given."
)


def add_cells(page: Page, result: ExperimentResult, folder: Path) -> None:
    """Adds the tables of all settings with cells to a page, and writes ``cells.csv`` and ``fine-tunings.csv``."""
    for table in result.tables:
        page.section(f"Cells: {table.setting.name}")
        if len(table.cells) < 2:
            page.text(_nothing(table))
            continue
        for sentence in answers(table):
            page.text(sentence)
        page.text(_head(table))
        page.table(cell_rows(table, table.cells))
        page.heading("Each start at its best rate").text(_best_head(table))
        page.table(cell_rows(table, table.best_cells))
    if lines := across_lines(result.tables):
        page.section("Less data against more").text(
            "A prediction from less data minus the naive start from more, paired by the order of the pre-trainings and "
            "by seed: positive, and without zero in the interval, less data with the prediction are worth more."
        )
        for line in lines:
            page.text(line)
    write_text(folder / "cells.csv", _csv(summary_rows(result.tables)))
    write_text(folder / "fine-tunings.csv", _csv(run_rows(result.tables)))


def _nothing(table: CellTable) -> str:
    """Why a table has nothing to compare, in words."""
    if table.diverged(table.reference):
        return f"{_lost(table)} All others are compared with the first of these: give it a lower rate, in a new folder."
    return f"Nothing can be compared yet: run the recipe again, which continues. {_lost(table)}".rstrip()


def _lost(table: CellTable) -> str:
    """Which cells diverged, in words; nothing where none did."""
    if not table.lost:
        return ""
    told = ", ".join(f"{called(place)} ({count})" for place, count in table.lost.items())
    return f"Compared with nothing, as fine-tunings of it have no score (in brackets how many): {told}."


def _head(table: CellTable) -> str:
    score, setting = table.score, table.setting
    count = len(table.runs)
    text = (
        f"Test {score.name}{score.unit}, mean ± standard deviation over the fine-tunings ({count} pre-training"
        f"{'s' if count > 1 else ''}, {setting.seeds} seeds of fine-tuning each). {_SHOWN}"
    )
    text += "" if count > 1 else f" {_ONE}"
    text += "" if score.higher_is_better else f" Less {score.name} is better."
    if table.left_out:
        missing = ", ".join(table.left_out)
        text += f" Left out, as their predictor was not given (--predictors NAME=FOLDER): {missing}."
    if table.missing:
        total = len(table.planned) * count * setting.seeds
        text += (
            f" Of {total} scores {table.missing} are not there yet; what there is, is in pairs. The same command "
            "continues."
        )
    text += f" {_lost(table)}" if table.lost else ""
    return text + "".join(
        f" {arm} is {same} itself, weight for weight, in {len(runs)} of {count} pre-trainings: computed once."
        for (arm, same), runs in _twins(table).items()
    )


def _twins(table: CellTable) -> dict[tuple[str, str], list[CellRuns]]:
    """Two arms with the same weights → the pre-trainings where they have."""
    found: dict[tuple[str, str], list[CellRuns]] = {}
    for run in table.runs:
        for pair in run.same.items():
            found.setdefault(pair, []).append(run)
    return found


def _best_head(table: CellTable) -> str:
    planned = [arm for arm, _ in table.planned]
    one = [arm for arm, _ in table.best_cells if planned.count(arm) == 1]
    text = "The rate of each is chosen by its mean validation score and scored on the test examples."
    return text + (f" Only one rate was run of {', '.join(one)}: their best may be another." if one else "")


def cell_rows(table: CellTable, cells: Sequence[Place]) -> list[list[str]]:
    """Cells against the first of them: score, difference with both intervals, adjusted p-values, verdict."""
    first = called(cells[0])
    rows = [
        ["start", "rate", "score", f"− {first}", "over pre-trainings", "p (Holm)", "p over pre-trainings", "verdict"]
    ]
    rows.append([cells[0][0], rate_name(cells[0][1]), _spread(table, cells[0]), "", "", "", "", ""])
    for place, found, chances in table.compared(cells):
        rows.append(
            [
                place[0], rate_name(place[1]), _spread(table, place), found.over_pairs, _interval(found),
                *map(_chance, chances), found.verdict,
            ]
        )  # fmt: skip
    return rows


def _interval(found: Nested) -> str:
    return "–" if found.between is None else found.between.interval


def _chance(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _spread(table: CellTable, place: Place) -> str:
    scores = table.scores(place)
    scores = scores[np.isfinite(scores)]
    places = decimals(scores.tolist(), table.score) + 1
    return f"{scores.mean():.{places}f}" + (f" ± {scores.std(ddof=1):.{places}f}" if len(scores) > 1 else "")


def across_lines(tables: Sequence[CellTable]) -> list[str]:
    """For every two settings that differ in their amount of data alone, what the predictions of less are worth."""
    lines = []
    for less in tables:
        for more in tables:
            fewer = less_data(less.setting, less.examples, more.setting, more.examples)
            if not fewer or min(len(less.cells), len(more.cells)) < 2:
                continue
            for arm in furthest(less):
                at_first = [place for place in less.cells if place == (arm, less.reference[1])]
                pairs = [(place, more.reference) for place in at_first]
                pairs.append((less.best(arm), more.best(more.reference[0])))
                for place, other in dict.fromkeys(pairs):
                    found = between(less, place, more, other)
                    over = f"; over pre-trainings {_interval(found)}" if found.between else ""
                    lines.append(
                        f"{called(place)} of {less.setting.name} − {called(other)} of {more.setting.name}: "
                        f"{found.over_pairs}{over}: {found.verdict}."
                    )
    return lines


def summary_rows(tables: Sequence[CellTable]) -> list[list[str]]:
    """One row a cell, and one for each start at its best rate, with all numbers of the tables."""
    fields = ["mean", "low", "high", "p", "p_holm"]
    head = ["setting", "table", "start", "learning_rate", "score", "fine_tunings", "difference"]
    rows = [[*head, *(f"{level}_{name}" for level in ("within", "between") for name in fields), "verdict"]]
    for table in tables:
        for name, cells in (("cells", table.cells), ("best", table.best_cells)):
            if not cells:
                continue
            compared = {place: (found, chances) for place, found, chances in table.compared(cells)}
            for place in cells:
                scores = table.scores(place)
                scores = scores[np.isfinite(scores)]
                row = [table.setting.name, name, place[0], repr(place[1]), repr(float(scores.mean())), str(len(scores))]
                if place in compared:
                    found, chances = compared[place]
                    row.append(repr(found.mean))
                    for one, chance in zip((found.within, found.between), chances, strict=True):
                        values = [] if one is None else [one.mean, one.low, one.high, one.chance, chance]
                        row += [repr(float(value)) for value in values] or [""] * len(fields)
                    row.append(found.verdict)
                rows.append(row + [""] * (len(rows[0]) - len(row)))
    return rows


def run_rows(tables: Sequence[CellTable]) -> list[list[str]]:
    """One row a fine-tuning: its cell, seeds and scores, shares in percent; ``nan`` where it diverged."""
    rows = [["setting", "pretraining_seed", "start", "learning_rate", "seed", "validation", "test"]]
    for table in tables:
        seeds = _seeds(table.setting)
        for place in table.planned:
            parts = [table.scores(place, part) for part in ("validation", "test")]
            rows += [
                [table.setting.name, str(seeds[row]), place[0], repr(place[1]), str(seed)]
                + [repr(float(part[row, seed])) for part in parts]
                for row, found in enumerate(table.fine_tunings(place))
                for seed, one in enumerate(found)
                if one is not None
            ]
    return rows


def _seeds(setting: Setting) -> Sequence[int]:
    return setting.seeds_of_pretraining or (seed_of(setting),)


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
