"""Every plot of a report; each is written as a PNG, or not at all where matplotlib is missing."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from know_hf.installing import missing
from know_hf.store import writing
from know_hf.tasks import Score
from know_hf.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from know_hf.laboratory.landscape import Landscape
    from know_hf.laboratory.result import ComparisonResult
    from know_hf.laboratory.statistics import Difference
    from know_hf.trajectory.plane import Plane

logger = logging.getLogger(__name__)

BLUE, ORANGE, GREY, INK = "#2f6db3", "#e07b39", "#8a8f98", "#30343b"
CYCLE = ("#2f6db3", "#e07b39", "#3a9e73", "#b8484f", "#7d62b5", "#8c6d46", "#c9609f", "#5b636e", "#a8a32f", "#3fa7bd")


#: Makes an empty figure: ``Figure`` with this package's resolution and layout.
NewFigure = Callable[..., "Figure"]


def plot(function: Callable[..., Any]) -> Callable[..., Path | None]:
    """Turns ``function(figure_class, …)`` → figure into ``function(path, …)`` → path, or None without a plot."""

    @functools.wraps(function)
    def write(path: Path, *args: Any, **kwargs: Any) -> Path | None:
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure
        except ImportError:
            logger.info("%s.", missing("Plots need", "matplotlib", "plots"))
            return None
        with rc_context({"text.parse_math": False}):  # names are no formulas, whatever signs they have
            figure = function(functools.partial(Figure, dpi=150, layout="constrained"), *args, **kwargs)
            if figure is None:
                return None
            with writing(path) as beside:
                figure.savefig(beside, format="png")
        return path

    return write


@plot
def plot_forgetting_curve(
    new_figure: NewFigure, trajectory: Trajectory, predicted: Sequence[tuple[int, str, Mapping[str, float]]] = ()
) -> "Figure | None":
    """The score of every stage over its number of examples, and of predictions (step, name, scores) beyond."""
    found = forgetting_points(trajectory, predicted)
    if found is None:
        return None
    metric, stages, points = found
    figure = new_figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for shown, style, color, label in (
        (stages, "o-", BLUE, "forgetting"),
        (points, "s--", ORANGE, "predicted (nominal size)"),
    ):
        if shown:
            axes.plot([x for x, _, _ in shown], [y for _, y, _ in shown], style, color=color, label=label)
        for x, y, name in shown:
            axes.annotate(
                name, (x, y), textcoords="offset points", xytext=(6, -12), color=GREY if shown is stages else ORANGE
            )
    examples = [x for x, _, _ in (*stages, *points)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(examples, [f"{x:.0f}" for x in examples], rotation=45)
    axes.set_xlabel("training examples")
    axes.set_ylabel(metric.removeprefix("eval_").replace("_", " "))
    _tidy(axes)
    axes.legend(frameon=False)
    return figure


#: A number of examples, a score, and a name.
Point = tuple[float, float, str]


def forgetting_points(
    trajectory: Trajectory, predicted: Sequence[tuple[int, str, Mapping[str, float]]] = ()
) -> tuple[str, list[Point], list[Point]] | None:
    """What a forgetting curve shows: a score that all stages have, where they lie, and where predictions do."""
    stages = [stage for stage in trajectory.record.stages if stage.metrics and (stage.examples or 0) > 0]
    common = [n for n in stages[0].metrics if all(n in stage.metrics for stage in stages)] if stages else []
    if not common:
        return None
    name = next((n for n in common if n != "eval_loss"), common[0])
    own = [(float(stage.examples or 0), stage.metrics[name], stage_symbol(stage.index)) for stage in stages]
    beyond = [(own[0][0] * trajectory.scale(step), m[name], label) for step, label, m in predicted if name in m]
    return name, own, beyond


def stage_symbol(index: int) -> str:
    """Θ⁰, Θ¹ …"""
    return f"Θ{'⁰¹²³⁴⁵⁶⁷⁸⁹'[index % 10]}"


def colour(name: str, result: "ComparisonResult") -> str:
    """Colour of an arm: controls grey, KNOWN orange, everything else blue."""
    if name in result.controls:
        return GREY
    return ORANGE if result.arms[name].is_known else BLUE


@plot
def plot_bars(new_figure: NewFigure, result: "ComparisonResult") -> "Figure | None":
    """Scores of every arm at every learning rate, with the seeds' standard deviations."""
    arms = [arm for arm in result.arms if len(result.run_at(arm)) == len(result.learning_rates)]
    if not arms:
        return None
    figure = new_figure(figsize=(max(6.0, 0.95 * len(arms)), 4.2))
    axes = figure.subplots()
    width, shades = 0.8 / len(result.learning_rates), np.linspace(0.35, 0.95, len(result.learning_rates))
    for i, rate in enumerate(result.learning_rates):
        sound = [(place, arm) for place, arm in enumerate(arms) if rate in result.rates(arm)]  # others diverged
        scores = [result.scores(arm, rate) for _, arm in sound]
        axes.bar(
            np.array([place for place, _ in sound]) + width * (i - (len(shades) - 1) / 2),
            [np.mean(s) for s in scores], 0.95 * width,
            yerr=[np.std(s, ddof=1) for s in scores], color=(0.18, 0.43, 0.7, shades[i]), ecolor="#555", capsize=2,
            label=f"learning rate {rate:g}",
        )  # fmt: skip
    axes.set_xticks(range(len(arms)), [arm.replace(" to ", "\nto ").replace("_", "\n") for arm in arms], fontsize=8)
    every = [score for arm in arms for rate in result.rates(arm) for score in result.scores(arm, rate)]
    axes.set_ylim(*score_limits(every, result.score))
    axes.set_ylabel(f"test {with_unit(result.score)}")
    _tidy(axes)
    _legend_above(axes)
    return figure


@plot
def plot_differences(new_figure: NewFigure, result: "ComparisonResult") -> "Figure | None":
    """Paired difference of every arm to the reference with its 95 % interval, beside that of the best control."""
    reference = result.reference
    arms = [arm for arm in result.arms if arm != reference][::-1]
    if not arms:
        return None
    found = [result.against(arm, reference) for arm in arms]
    figure = new_figure(figsize=(6.8, 1.4 + 0.24 * len(arms)))
    axes = figure.subplots()
    axes.axvline(0, color=INK, lw=1)
    if result.best_control != reference:
        best = result.against(result.best_control, reference).mean
        axes.axvline(best, color=GREY, lw=1, ls="--", label=f"best control ({result.best_control})")
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for place, (arm, difference) in enumerate(zip(arms, found, strict=True)):
        shade = colour(arm, result)
        axes.plot([difference.low, difference.high], [place, place], color=shade, lw=2.2, solid_capstyle="round")
        axes.plot(difference.mean, place, "o", color=shade, ms=5)
    axes.set_yticks(range(len(arms)), arms, fontsize=8)
    axes.set_ylim(-0.7, len(arms) - 0.3)
    left, right = difference_limits(result, found)
    axes.set_xlim(left, right)
    for place, (arm, difference) in enumerate(zip(arms, found, strict=True)):  # what goes on beyond the axis
        for end, marker, beyond in ((left, "<", difference.low < left), (right, ">", difference.high > right)):
            if beyond:
                axes.plot(end, place, marker, color=colour(arm, result), ms=6, clip_on=False)
    words = "points, " if result.score.percent else "" if result.score.higher_is_better else "less is better, "
    axes.set_xlabel(f"test {result.metric} − {reference} ({words}95 % interval)")
    _tidy(axes, "x")
    return figure


@plot
def plot_curves(new_figure: NewFigure, result: "ComparisonResult", arms: Sequence[str]) -> "Figure":
    """Mean learning curves on the validation examples, each arm at its own learning rate."""
    figure = new_figure(figsize=(6.8, 4.2))
    axes = figure.subplots()
    for i, arm in enumerate(arms):
        points = result.curve(arm)
        style = "o--" if arm in result.controls else "o-"
        axes.plot(*zip(*points, strict=True), style, ms=3, color=CYCLE[i % len(CYCLE)], label=arm)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {with_unit(result.score)}")
    _tidy(axes)
    _legend_above(axes)
    return figure


@plot
def plot_convergence(
    new_figure: NewFigure, curves: Mapping[str, Sequence[tuple[float, float]]], score: Score
) -> "Figure":
    """Learning curve of stage 0, one line for each pre-training: whether it had stopped improving."""
    figure = new_figure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        epochs, scores = zip(*curve, strict=True)
        axes.plot(epochs, [score.shown(value) for value in scores], "o-", ms=3, color=CYCLE[i % len(CYCLE)], label=name)
    axes.set_xlabel("epoch of Θ⁰")
    axes.set_ylabel(f"{with_unit(score)} on held-out data")
    _tidy(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


@plot
def plot_plane(
    new_figure: NewFigure, plane: "Plane", landscape: "Landscape | None" = None, score: Score | None = None
) -> "Figure":
    """The trajectory and its predictions on their plane, over the landscape of a score if there is one."""
    wide, high = np.ptp(np.concatenate([plane.coordinates, plane.noisy]), axis=0)
    ratio = (high + 0.25 * wide) / (1.25 * wide) if wide else 0.0  # no width: all points are one
    figure = new_figure(figsize=(6.8, float(np.clip(5.2 * ratio + 0.9, 3.0, 6.6))))
    axes = figure.subplots()
    if landscape is not None and score is not None:
        scores = np.ma.masked_invalid(score.shown(landscape.scores))
        better_is_lighter = "YlGnBu_r" if score.higher_is_better else "YlGnBu"
        shown = axes.contourf(landscape.x, landscape.y, scores, levels=16, cmap=better_is_lighter)
        figure.colorbar(shown, ax=axes, label=f"test {with_unit(score)}")
        if len(landscape.noisy):
            inks = shown.cmap(shown.norm(score.shown(landscape.noisy)))
            axes.scatter(plane.noisy[:, 0], plane.noisy[:, 1], 9, inks, edgecolors=INK, linewidths=0.3)
    stages = plane.stages
    path, others = plane.coordinates[:stages], plane.coordinates[stages:]
    halo = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    axes.plot(*path.T, "o-", color=INK, markerfacecolor="white", markeredgecolor=INK, lw=1.3, ms=6)
    for i, point in enumerate(path):
        axes.annotate(
            stage_symbol(i), point, textcoords="offset points", xytext=(7, 7), color=INK, fontsize=9, bbox=halo
        )
    for name, point in zip(plane.names[stages:], others, strict=True):
        axes.plot(*point, "*", color=ORANGE, markeredgecolor=INK, ms=13)
        axes.annotate(name, point, textcoords="offset points", xytext=(8, -12), color=INK, fontsize=9, bbox=halo)
    axes.set_xlabel(f"first principal component ({100 * plane.explained[0]:.0f} % of the variance)")
    axes.set_ylabel(f"second ({100 * plane.explained[1]:.0f} %)")
    axes.set_aspect("equal", adjustable="datalim" if landscape is None else "box")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@plot
def plot_layers(
    new_figure: NewFigure, layers: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]
) -> "Figure":
    """Per-layer quantities, one panel each, one line a prediction, layers from input to output."""
    figure = new_figure(figsize=(max(6.4, 2.2 + 0.16 * len(names)), 2.2 * len(layers) + 1.2))
    for axes, (title, lines) in zip(
        np.atleast_1d(figure.subplots(len(layers), 1, sharex=True)), layers.items(), strict=True
    ):
        for i, (name, values) in enumerate(lines.items()):
            axes.plot(range(len(names)), values, "o-", ms=3, lw=1, color=CYCLE[i % len(CYCLE)], label=name)
        axes.set_ylabel(title, fontsize=8)
        _tidy(axes)
    step = max(1, len(names) // 60)
    axes.set_xticks(range(0, len(names), step), [short(names[i]) for i in range(0, len(names), step)], fontsize=5.5,
                    rotation=90)  # fmt: skip
    figure.axes[0].legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def difference_limits(result: "ComparisonResult", found: Sequence["Difference"]) -> tuple[float, float]:
    """Ends of an axis of differences: arms that are far worse would squeeze everything else into a line.

    Wide intervals are cut as near to what is worth seeing on the side of a gain as on that of a loss.
    """
    sign = 1 if result.score.higher_is_better else -1
    ends = [sorted((sign * d.low, sign * d.high)) for d in found]
    near = sorted(sign * d.mean for d in found)[len(found) // 4]
    unit = result.score.point(float(np.mean(result.best(result.reference))))
    low = max(min(end[0] for end in ends), min(near, 0) - 6 * unit)
    far = max(*(sign * d.mean for d in found), 0.0) + 6 * unit
    high = max(0.5 * unit, min(max(end[1] for end in ends), far))
    left, right = sorted((sign * (low - 0.3 * unit), sign * (high + 0.3 * unit)))
    return left, right


def score_limits(scores: Sequence[float], score: Score) -> tuple[float, float]:
    """Ends of an axis for scores as they are shown, whatever their size: near them, and no further than they can go."""
    low, high = min(scores), max(scores)
    margin = 3.0 if score.percent else 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    ends = low - margin, high + margin
    return max(0.0, ends[0]) if low >= 0 else ends[0], min(100.0, ends[1]) if score.percent and high < 100 else ends[1]


def with_unit(score: Score) -> str:
    """Name of a score as axes show it."""
    marks = ["%"] * score.percent + ["less is better"] * (not score.higher_is_better)
    return f"{score.name} ({', '.join(marks)})" if marks else score.name


def short(name: str) -> str:
    """Name of a tensor, its end kept."""
    return name if len(name) <= 34 else "…" + name[-33:]


def _tidy(axes: "Axes", grid: Literal["x", "y"] = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)


def _legend_above(axes: "Axes") -> None:
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
