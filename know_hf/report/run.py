"""The report of a run: tables always, plots where matplotlib is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from know_hf.enrichment.result import EnrichmentResult
from know_hf.reading import read_fields
from know_hf.report.page import LONGEST_PARAGRAPH
from know_hf.report.plots import plot_forgetting_curve
from know_hf.store import inside, write_text
from know_hf.tables import number, table
from know_hf.text import as_markdown

_VERDICT = "\n\n## Verdict\n\n"


def write_report(result: EnrichmentResult) -> Path:
    """Writes ``report/``: ``report.md`` and, with matplotlib, ``forgetting_curve.png``.

    Args:
        result: What [`enrich_pretrained`] made.

    Returns:
        The report's folder.

    Source: ours.
    """
    folder = inside(result.output_dir, "report")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.md", report_markdown(result))
    plot_forgetting_curve(result.trajectory, folder / "forgetting_curve.png", result.metrics)
    return folder


def report_markdown(result: EnrichmentResult) -> str:
    """Renders the tables: forgetting curve and predictions, change per kind, self-check."""
    stages = result.trajectory.record.stages
    names = sorted({name for stage in stages for name in stage.metrics})
    rows = [
        ["stage", "examples", *names],
        *[[str(s.index), str(s.examples), *(number(s.metrics.get(n)) for n in names)] for s in stages],
        *[
            [step, "", *(number(result.metrics.get(step, {}).get(n)) for n in names)]
            for step in result.metrics
            if step != "stage-0"
        ],
    ]
    text = f"# Report\n\n## Stages and predictions\n\n{table(rows)}"
    changed = [part for part in [comparison(result.statistics)] if part] + [
        f"{count} tensors that could have been predicted were {reason} and are copied."
        for reason, count in result.unmoved.items()
    ]
    if changed:
        text += "\n\n" + "\n\n".join(["## What changed", *changed])
    if result.self_check and result.self_check["ratios"]:
        ratios = [
            ["kind", "‖Θ̂⁰−Θ⁰‖₁/‖Θ¹−Θ⁰‖₁"],
            *[[k, number(v)] for k, v in result.self_check["ratios"].items()],
        ]
        text += "\n\n## Self-check (1 = no nearer to stage 0 than stage 1)\n\n" + table(ratios)
        scores = [["metric", "retrodicted", "stage 0", "stage 1"]] + [
            [metric, *(number(v[key]) for key in ("retrodicted", "stage_0", "stage_1"))]
            for metric, v in result.self_check["scores"].items()
        ]
        text += "\n\n" + table(scores) if len(scores) > 1 else ""
    if result.verdict:
        text += _VERDICT + as_markdown(result.verdict, LONGEST_PARAGRAPH)
    return text + "\n"


def read_self_check(folder: Path) -> dict[str, Any]:
    """What the self-check came to, of a run's report.

    Raises:
        ValueError: If its file is damaged.
    """
    return read_fields(folder / "self_check.json", {"ratios": dict[str, float]})


def last_verdict(folder: Path) -> str:
    """The verdict at the end of a run's ``report.md``, empty where there is none."""
    path = folder / "report.md"
    try:
        return path.read_text(encoding="utf-8").partition(_VERDICT)[2].strip() if path.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def comparison(statistics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Tabulates how far each prediction moved each kind, and which way.

    Args:
        statistics: Name of the checkpoint → kind → statistics, as in an [`EnrichmentResult`].

    Returns:
        A Markdown table: ‖Θ̂−Θ⁰‖/‖Θ⁰‖, ‖Θ̂‖/‖Θ⁰‖ and, where KNOWN was predicted too, the cosine to its change; nothing if
        no kind was predicted.

    Source: ours.
    """
    columns = {"relative_change": "‖Θ̂−Θ⁰‖/‖Θ⁰‖", "norm_ratio": "‖Θ̂‖/‖Θ⁰‖", "cosine_to_known": "cosine to KNOWN"}
    kinds = sorted({kind for by in statistics.values() for kind in by})
    shown = [c for c in columns if any(c in values for by in statistics.values() for values in by.values())]
    if not shown:
        return ""
    rows = [["prediction", *(f"{columns[c]} {kind}" for c in shown for kind in kinds)]] + [
        [name, *(number(by.get(kind, {}).get(c)) for c in shown for kind in kinds)] for name, by in statistics.items()
    ]
    return table(rows)
