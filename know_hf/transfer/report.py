"""Tables and plots of a comparison."""

import logging
from pathlib import Path

import numpy as np

from know_hf.report import table
from know_hf.trajectory.record import write_atomically
from know_hf.transfer.run import TransferResult

logger = logging.getLogger(__name__)


def transfer_markdown(result: TransferResult) -> str:
    """Renders the comparison: every learning rate, each arm at its own, differences and verdicts.

    Args:
        result: What [`transfer`] returned.

    Returns:
        Markdown; scores in percent, differences in points.

    Source: ours.
    """
    naive, control = result.arms[0], result.best_control
    target = float(np.mean(result.best(naive)))
    grid = [["start", *(f"lr {rate:g}" for rate in result.learning_rates)]] + [
        [arm, *(_spread(result.scores(arm, rate)) for rate in result.learning_rates)] for arm in result.arms
    ]
    heading = ["start", "own lr", "score", f"− {naive}", f"− {control}", "area", f"epochs to {target:.1f}", "verdict"]
    rows = [heading]
    for arm in result.arms:
        reached = result.epochs_to(arm, target)
        same = arm == control
        rows.append(
            [
                arm,
                f"{result.chosen_rates[arm]:g}",
                _spread(result.best(arm)),
                "" if arm == naive else str(result.against(arm, naive)),
                "" if same else str(result.against(arm, control)),
                f"{result.area(arm):.1f}",
                "never" if reached is None else f"{reached:g}",
                "best control" if same else result.against(arm, control).verdict,
            ]
        )
    return (
        f"# Transfer\n\nTest accuracy in percent, mean ± standard deviation over {result.seeds} seeds.\n\n"
        f"{table(grid)}\n\n"
        "Each arm at its own learning rate, chosen on validation examples. Differences in points are paired over "
        f"seeds, with 95 % intervals; the verdict is against the best control, {control}.\n\n{table(rows)}\n\n"
        f"{100 * result.share_in_steps:.0f} % of the time was spent inside training steps.\n"
    )


def write_transfer_report(result: TransferResult) -> Path:
    """Writes ``report/transfer.md`` and, with matplotlib, ``bars.png`` and ``curves.png``; returns the folder."""
    folder = result.output_dir / "report"
    write_atomically(folder / "transfer.md", transfer_markdown(result))
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.info('Plots need matplotlib: pip install "know-hf[plots]".')
        return folder
    figure = Figure(figsize=(max(6.0, 1.1 * len(result.arms)), 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    width, shades = 0.8 / len(result.learning_rates), np.linspace(0.35, 0.95, len(result.learning_rates))
    for i, rate in enumerate(result.learning_rates):
        scores = [result.scores(arm, rate) for arm in result.arms]
        axes.bar(
            np.arange(len(result.arms)) + width * (i - (len(shades) - 1) / 2),
            [np.mean(s) for s in scores],
            0.95 * width,
            yerr=[np.std(s, ddof=1) for s in scores],
            color=(0.18, 0.43, 0.7, shades[i]),
            ecolor="#555",
            capsize=2,
            label=f"learning rate {rate:g}",
        )
    axes.set_xticks(range(len(result.arms)), [arm.replace(" to ", "\nto ") for arm in result.arms], fontsize=8)
    every = [score for arm in result.arms for rate in result.learning_rates for score in result.scores(arm, rate)]
    axes.set_ylim(max(0.0, min(every) - 3), min(100.0, max(every) + 3))
    axes.set_ylabel("test accuracy (%)")
    _finish(figure, axes, folder / "bars.png")

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for arm in result.arms:
        curves = [result.runs[arm, result.chosen_rates[arm], seed]["curve"] for seed in range(result.seeds)]
        epochs = [epoch for epoch, _ in curves[0]]
        means = np.mean([[score for _, score in curve] for curve in curves], axis=0)
        axes.plot(epochs, 100 * means, "o-", ms=3, label=arm)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy (%)")
    _finish(figure, axes, folder / "curves.png")
    return folder


def _finish(figure, axes, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path)


def _spread(scores: list[float]) -> str:
    return f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}"
