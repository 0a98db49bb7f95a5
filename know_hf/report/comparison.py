"""Tables and plots of a comparison of fine-tunings."""

from collections.abc import Sequence
from pathlib import Path

from know_hf.laboratory.result import SETTINGS_FILE, ComparisonResult
from know_hf.report.across import best_known
from know_hf.report.comparison_charts import curves_chart, differences_chart, methods_of, rates_chart, table_methods
from know_hf.report.figures import decimals, spread
from know_hf.report.page import Page
from know_hf.report.plots import plot_bars, plot_curves, plot_differences
from know_hf.store import inside, write_text

RECORD = SETTINGS_FILE
#: Learning curves of more arms than this could not be told apart.
MOST_CURVES = 9
#: What tables have in place of a score.
NO_SCORE = "no score"


def explanation(result: ComparisonResult) -> str:
    """How to read the table of verdicts."""
    score, count = result.score, len(result.arms) - 1
    points = " in points" if score.percent else ""
    lower = "" if score.higher_is_better else f" Less {score.name} is better."
    chosen = "".join(f" {arm} is {one}, the candidate that validation chose." for arm, one in result.chosen.items())
    return (
        f"{rates_searched(result)} {diverged_words(result)}"
        f"Differences{points} are paired over the {result.seeds} seeds, with 95 % intervals; "
        f"the verdict is against the best control, {result.best_control}. "
        + (f"Of {count} intervals one in twenty excludes zero by chance alone." if count > 1 else "")
        + f"{lower}{chosen}"
    )


def rates_searched(result: ComparisonResult) -> str:
    """Which arms have a learning rate of their own, what the others were run at, and whose lies at the grid's edge."""
    grid, reference = sorted(result.learning_rates), result.reference
    if len(grid) == 1:
        return f"Every arm at the one learning rate {grid[0]:g}: none was searched."
    listed = ", ".join(f"{rate:g}" for rate in grid)
    searched = [arm for arm in result.arms if len(result.run_at(arm)) == len(grid)]
    if len(searched) == len(result.arms):
        text = f"Each arm at its own learning rate, chosen on validation examples among {listed}."
    else:
        text = (
            f"A learning rate of their own, chosen on validation examples among {listed}, have only "
            f"{_together(result, searched)}; all others were run at that of {reference}, "
            f"{result.chosen_rates[reference]:g}."
        )
    return f"{text} {rates_at_the_edge(result)}".rstrip()


def diverged_words(result: ComparisonResult) -> str:
    """Where starts diverged, with a blank at the end; nothing where none did."""
    told = []
    for rate in result.learning_rates:
        run = [arm for arm in (*result.arms, *result.lost) if rate in result.run_at(arm)]
        counts = {arm: count for arm in run if (count := result.diverged(arm, rate))}
        if not counts:
            continue
        alike = "every start" if len(counts) == len(run) else _together(result, list(counts))
        seeds = sorted(set(counts.values()))
        of = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        told.append(f"at {rate:g} {alike} (with {of} of {result.seeds} seeds)")
    if not told:
        return ""
    return f"Without a score, as fine-tunings diverged or their metric has no value: {'; '.join(told)}. "


def lost_words(result: ComparisonResult) -> str:
    """Which starts cannot be compared at all, with a blank before it; nothing where there are none."""
    if not result.lost:
        return ""
    return f" Without a score at any learning rate, and compared with nothing: {_together(result, list(result.lost))}."


def rates_at_the_edge(result: ComparisonResult) -> str:
    """Whose learning rate is the first or last of those that were tried, so that a better one may lie beyond."""
    grid = sorted(result.learning_rates)
    searched = [arm for arm in result.arms if len(result.run_at(arm)) == len(grid) > 1]
    return " ".join(
        f"For {_together(result, arms)} the {which} rate of the grid was chosen: their best one may lie {beyond} it."
        for which, beyond, edge in (("smallest", "below", grid[0]), ("largest", "above", grid[-1]))
        if (arms := [arm for arm in searched if result.chosen_rates[arm] == edge])
    )


def _together(result: ComparisonResult, names: Sequence[str]) -> str:
    """Names of arms, all steps of one prediction together."""
    shown: list[str] = []
    arms = {**result.arms, **result.lost}
    for name in names:
        of = arms[name].prediction
        steps = [other for other, arm in arms.items() if of is not None and arm.prediction == of]
        whole = len(steps) > 1 and set(steps) <= set(names)
        shown.append(f"{of} ({', '.join(step.removeprefix(f'{of} ') for step in steps)})" if of and whole else name)
    return ", ".join(dict.fromkeys(shown))


def comparison_markdown(result: ComparisonResult) -> str:
    """Renders the comparison: every learning rate, each arm at its own, differences and verdicts.

    Args:
        result: What [`compare`](know_hf.laboratory.comparison) returned.

    Returns:
        Markdown; shares in percent, their differences in points.
    """
    page = Page("Transfer")
    if result.unfinished:
        page.text(result.unfinished)
    page.text(f"Test {result.metric}{result.score.unit}, mean ± standard deviation over {result.seeds} seeds.").table(
        rate_rows(result)
    ).text(explanation(result)).table(verdict_rows(result)).text(time_in_steps(result))
    return page.markdown()


def verdict(result: ComparisonResult) -> str:
    """What a comparison allows to say about KNOWN, in words that follow from the intervals."""
    best = best_known(result)
    left = f"{result.unfinished} So far: " if result.unfinished else ""  # first: whoever reads one line reads that
    if best is None:
        return f"{left}the best control is {result.best_control}.{lost_words(result)}"
    unit, reference = " points" if result.score.percent else f" {result.metric}", result.reference
    over, control = result.against(best, reference), result.against(best, result.best_control)
    words = {"better": "is better than", "worse": "is worse than", "no difference shown": "shows no difference to"}
    text = f"{left}{best} (the step that validation chose) {words[over.verdict]} {reference} ({over}{unit})"
    if result.best_control != reference:
        text += f" and {words[control.verdict]} the best control, {result.best_control} ({control}{unit})"
    return f"{text}.{lost_words(result)}"


def capital(words: str) -> str:
    """Words as they begin a sentence; names keep their letters."""
    return words[:1].upper() + words[1:] if words.startswith(("the ", "no ")) else words


def time_in_steps(result: ComparisonResult) -> str:
    """How much of the fine-tunings' time was training, in words."""
    return f"{100 * result.share_in_steps:.0f} % of the time was spent inside training steps."


def rate_rows(result: ComparisonResult) -> list[list[str]]:
    """Scores at every learning rate that an arm was run at."""
    rows = [["start", *(f"lr {rate:g}" for rate in result.learning_rates)]]
    for arm in (*result.arms, *result.lost):
        rows.append([arm, *(_at_rate(result, arm, rate) for rate in result.learning_rates)])
    return rows


def _at_rate(result: ComparisonResult, arm: str, rate: float) -> str:
    if rate not in result.run_at(arm):
        return ""
    if count := result.diverged(arm, rate):
        return f"{NO_SCORE} ({count} of {result.seeds})"
    return spread(result.scores(arm, rate), result.score)


def verdict_rows(result: ComparisonResult) -> list[list[str]]:
    """Each arm at the learning rate that it has: score, differences, curve, verdict."""
    reference, control = result.reference, result.best_control
    target = result.curve(reference)[-1][1]
    others = list(dict.fromkeys((reference, control)))
    differences = [f"− {other}" for other in others]
    rows = [
        [
            "start",
            "lr",
            "score",
            *differences,
            "area",
            f"epochs to {target:.{decimals([target], result.score)}f}",
            "verdict",
        ]
    ]
    for arm in result.arms:
        reached = result.epochs_to(arm, target)
        same, area = arm == control, result.area(arm)
        rows.append(
            [
                arm,
                f"{result.chosen_rates[arm]:g}",
                spread(result.best(arm), result.score),
                *("" if arm == other else str(result.against(arm, other)) for other in others),
                f"{area:.{decimals([area], result.score)}f}",
                "never" if reached is None else f"{reached:g}",
                "best control" if same else result.against(arm, control).verdict,
            ]
        )
    return rows + [[arm, *[""] * (len(rows[0]) - 2), NO_SCORE] for arm in result.lost]


def add_comparison(page: Page, result: ComparisonResult, folder: Path, prefix: str = "") -> None:
    """Adds a comparison's plots and tables to a page; the plots are PNGs in ``folder`` too."""
    if result.unfinished:
        page.text(result.unfinished)
    page.text(explanation(result)).methods(list(dict.fromkeys(methods_of(result).values())))
    page.image(
        plot_differences(folder / f"{prefix}differences.png", result),
        f"Difference to {result.reference}, each arm at the learning rate of the table: mean and 95 % interval over "
        f"{result.seeds} seeds; controls grey, KNOWN orange.",
        differences_chart(result),
    )
    rows = verdict_rows(result)
    page.table(rows, table_methods(rows, result))
    page.heading("Learning rates")
    page.image(
        plot_bars(folder / f"{prefix}bars.png", result),
        f"Test {result.metric} at every learning rate of the arms that were run at all of them; bars show the "
        f"standard deviation over {result.seeds} seeds.",
        rates_chart(result),
    )
    rows = rate_rows(result)
    page.table(rows, table_methods(rows, result))
    page.heading("Learning curves")
    page.image(
        plot_curves(folder / f"{prefix}curves.png", result, curve_arms(result)),
        "Mean validation score during fine-tuning, each arm at the learning rate of the table; controls dashed.",
        curves_chart(result, curve_arms(result)),
    )


def curve_arms(result: ComparisonResult) -> list[str]:
    """The arms whose learning curves are drawn: reference, best control, KNOWN, then whoever there is room for."""
    known = [name for name, arm in result.arms.items() if arm.is_known]
    return list(dict.fromkeys([result.reference, result.best_control, *known, *result.arms]))[:MOST_CURVES]


def write_comparison_report(result: ComparisonResult) -> Path:
    """Writes ``report/`` of a comparison: ``transfer.md``, ``index.html`` and, with matplotlib, PNGs.

    Args:
        result: What [`compare`](know_hf.laboratory.comparison) returned.

    Returns:
        The folder.
    """
    folder = inside(result.output_dir, "report")
    write_text(folder / "transfer.md", comparison_markdown(result))
    page = Page("Transfer").verdict(capital(verdict(result))).section("Comparison")
    add_comparison(page, result, folder)
    page.text(time_in_steps(result)).write(folder)
    return folder


def write_page(folder: Path) -> Path:
    """Writes the report of a comparison's folder; returns its page."""
    return write_comparison_report(ComparisonResult.load(folder)) / "index.html"
