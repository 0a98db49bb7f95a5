"""The report of a run: tables always, plots where matplotlib is installed."""

import logging
from collections.abc import Mapping
from pathlib import Path

from know_hf.enrichment.result import EnrichmentResult
from know_hf.trajectory import Trajectory
from know_hf.trajectory.record import write_atomically

logger = logging.getLogger(__name__)

_BLUE, _ORANGE, _GREY = "#2f6db3", "#e07b39", "#8a8f98"


def write_report(result: EnrichmentResult) -> Path:
    """Writes ``report/``: ``report.md`` and, with matplotlib, ``forgetting_curve.png``.

    Args:
        result: What [`enrich_pretrained`] made.

    Returns:
        The report's folder.

    Source: ours.
    """
    folder = result.output_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.md", report_markdown(result))
    plot_forgetting_curve(result.trajectory, folder / "forgetting_curve.png", result.metrics)
    return folder


def report_markdown(result: EnrichmentResult) -> str:
    """Renders the tables: forgetting curve and predictions, change per kind, self-check."""
    stages = result.trajectory.record.stages
    names = sorted({name for stage in stages for name in stage.metrics})
    rows = [
        ["stage", "examples", *names],
        *[[str(s.index), str(s.examples), *(_number(s.metrics.get(n)) for n in names)] for s in stages],
        *[
            [step, "", *(_number(result.metrics.get(step, {}).get(n)) for n in names)]
            for step in result.metrics
            if step != "stage-0"
        ],
    ]
    text = (
        f"# Report\n\n## Stages and predictions\n\n{table(rows)}\n\n## What changed\n\n{comparison(result.statistics)}"
    )
    if result.self_check:
        ratios = [
            ["kind", "‖Θ̂⁰−Θ⁰‖₁/‖Θ¹−Θ⁰‖₁"],
            *[[k, _number(v)] for k, v in result.self_check["ratios"].items()],
        ]
        text += "\n\n## Self-check (1 = no nearer to stage 0 than stage 1)\n\n" + table(ratios)
        scores = [["metric", "retrodicted", "stage 0", "stage 1"]] + [
            [metric, *(_number(v[key]) for key in ("retrodicted", "stage_0", "stage_1"))]
            for metric, v in result.self_check["scores"].items()
        ]
        text += "\n\n" + table(scores) if len(scores) > 1 else ""
    return text + "\n"


def comparison(statistics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Tabulates how far each prediction moved each kind, and which way.

    Args:
        statistics: Name of the checkpoint → kind → statistics, as in an [`EnrichmentResult`].

    Returns:
        A Markdown table: ‖Θ̂−Θ⁰‖/‖Θ⁰‖, ‖Θ̂‖/‖Θ⁰‖ and, where KNOWN was predicted too, the cosine to its change.

    Source: ours.
    """
    columns = {"relative_change": "‖Θ̂−Θ⁰‖/‖Θ⁰‖", "norm_ratio": "‖Θ̂‖/‖Θ⁰‖", "cosine_to_known": "cosine to KNOWN"}
    kinds = sorted({kind for by in statistics.values() for kind in by})
    shown = [c for c in columns if any(c in values for by in statistics.values() for values in by.values())]
    rows = [["prediction", *(f"{columns[c]} {kind}" for c in shown for kind in kinds)]] + [
        [name, *(_number(by.get(kind, {}).get(c)) for c in shown for kind in kinds)] for name, by in statistics.items()
    ]
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """Aligns rows, the first a heading, as a Markdown table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def plot_forgetting_curve(
    trajectory: Trajectory, path: Path, metrics: Mapping[str, Mapping[str, float]] | None = None
) -> Path | None:
    """Draws the score of every stage over its number of examples, predicted checkpoints beyond.

    Args:
        trajectory: The finished trajectory.
        path: PNG to write.
        metrics: Step name → scores of the predicted checkpoints.

    Returns:
        The path, or None without scores or matplotlib.

    Source: ours.
    """
    stages = [stage for stage in trajectory.record.stages if stage.metrics and stage.examples]
    if not stages:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.info('Plots need matplotlib: pip install "know-hf[plots]".')
        return None
    names = [n for n in stages[0].metrics if n != "eval_loss"] or ["eval_loss"]
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    examples = [stage.examples for stage in stages]
    axes.plot(examples, [s.metrics[names[0]] for s in stages], "o-", color=_BLUE, label="forgetting")
    for stage in stages:
        axes.annotate(
            f"Θ{'⁰¹²³⁴⁵⁶⁷⁸⁹'[stage.index % 10]}", (stage.examples, stage.metrics[names[0]]),
            textcoords="offset points", xytext=(6, -12), color=_GREY,
        )  # fmt: skip
    predicted = [
        (examples[0] * trajectory.scale(step), scores[names[0]], name)
        for step, (name, scores) in enumerate(
            ((n, s) for n, s in (metrics or {}).items() if n.startswith("x")), start=1
        )
        if names[0] in scores
    ]
    if predicted:
        x, y, labels = zip(*predicted, strict=True)
        axes.plot(x, y, "s--", color=_ORANGE, label="predicted (nominal size)")
        for point in predicted:
            axes.annotate(point[2], point[:2], textcoords="offset points", xytext=(6, -12), color=_ORANGE)
    axes.set_xscale("log", base=2)
    axes.set_xticks([*examples, *(p[0] for p in predicted)])
    axes.set_xticklabels([f"{x:.0f}" for x in [*examples, *(p[0] for p in predicted)]], rotation=45)
    axes.set_xlabel("training examples")
    axes.set_ylabel(names[0].removeprefix("eval_").replace("_", " "))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path
