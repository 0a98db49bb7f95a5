"""The report and the page of a run: tables always, plots where matplotlib is installed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from know_hf.enrichment.layers import layer_statistics
from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.writer import read_enrichment
from know_hf.reading import read_fields
from know_hf.records import ENRICHMENT_FILE
from know_hf.report.charts import forgetting_chart, layers_chart, plane_chart
from know_hf.report.page import Page
from know_hf.report.plots import plot_forgetting_curve, plot_layers, plot_plane
from know_hf.retrodiction import DEFAULT
from know_hf.store import inside, write_text
from know_hf.tables import rounded
from know_hf.trajectory import Checkpoint, Trajectory
from know_hf.trajectory.plane import all_stages, principal_plane
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.rounds import Rounds
from know_hf.trajectory.sources import check_alike

RECORD = FILE_NAME


def write_report(result: EnrichmentResult) -> Path:
    """Writes ``report/``: ``report.md`` and, with matplotlib, ``forgetting_curve.png``.

    Args:
        result: What [`enrich_pretrained`] made.

    Returns:
        The report's folder.
    """
    folder = inside(result.output_dir, "report")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.md", report_markdown(result))
    alone = len({path.parent for path in result.checkpoints.values()}) == 1  # steps of several methods make no one line
    steps = enumerate(result.checkpoints if alone else (), start=1)
    predicted = [(step, name, result.metrics.get(name, {})) for step, name in steps]
    plot_forgetting_curve(folder / "forgetting_curve.png", result.trajectory, predicted)
    return folder


def report_markdown(result: EnrichmentResult) -> str:
    """Renders the tables: forgetting curve and predictions, change per kind, self-check.

    Args:
        result: What [`enrich_pretrained`] made.

    Returns:
        Markdown.
    """
    stages = result.trajectory.record.stages
    names = sorted({name for stage in stages for name in stage.metrics})
    rows = [
        ["stage", "examples", *names],
        *[[str(s.index), str(s.examples), *(rounded(s.metrics.get(n)) for n in names)] for s in stages],
        *[
            [step, "", *(rounded(result.metrics.get(step, {}).get(n)) for n in names)]
            for step in result.metrics
            if step != "stage-0"
        ],
    ]
    page = Page("Report").section("Stages and predictions").table(rows)
    changes = change_rows(result.statistics)
    if changes or result.unmoved:
        page.section("What changed").table(changes)
        for reason, count in result.unmoved.items():
            page.text(f"{count} tensors that could have been predicted were {reason} and are copied.")
    checked = result.self_check
    if checked and checked["ratios"]:
        page.section("Self-check (1 = no nearer to stage 0 than stage 1)").table(ratio_rows(checked["ratios"]))
        parts = ("retrodicted", "stage_0", "stage_1")
        scores = [[metric, *(rounded(values[p]) for p in parts)] for metric, values in checked["scores"].items()]
        if scores:
            page.table([["metric", "retrodicted", "stage 0", "stage 1"], *scores])
    if result.choice is not None:
        gains = {name: vars(gain) for name, gain in result.choice.gains.items()}
        where = f"on {result.choice.examples:,} examples set aside"
        if result.choice.how == "folds":
            where = f"on {result.choice.examples:,} examples left out by turns"
        if result.choice.purpose is not None:
            where = f"as starts for {result.choice.purpose.data}"
        page.section(f"Candidates {where}").table(choice_rows(gains, result.choice.purpose is None))
    if (rounds := Rounds.of(result.trajectory.record.recipe)) is not None:
        page.section("Rounds of stage 0 before anything was forgotten").text(rounds.words).table(round_rows(rounds))
    if result.verdict:
        page.section("Verdict").text(result.verdict)
    return page.markdown()


def ratio_rows(ratios: Mapping[str, float]) -> list[list[str]]:
    """The self-check's ratio of each kind."""
    return [["kind", "‖Θ̂⁰−Θ⁰‖₁/‖Θ¹−Θ⁰‖₁"], *([kind, rounded(ratio)] for kind, ratio in ratios.items())]


def choice_rows(gains: Mapping[str, Mapping[str, float]], scored: bool = True) -> list[list[str]]:
    """The candidates of a choice; ``scored`` if all their scores are of the same examples."""
    rows = [["candidate", "score", "gain over Θ⁰", "95 % interval", "by chance"]]
    for name, own in gains.items():
        bounds = own["low"], own["high"]
        shown = f"{rounded(bounds[0])} … {rounded(bounds[1])}" if all(map(math.isfinite, bounds)) else rounded(None)
        by_loss = " (loss)" if own.get("loss_chance", 1.0) < 1.0 else ""
        rows.append([name, rounded(own["score"]), rounded(own["gain"]), shown, f"{own['chance']:.3f}{by_loss}"])
    return rows if scored else [row[:1] + row[2:] for row in rows]


def round_rows(rounds: Rounds) -> list[list[str]]:
    """The rounds that stage 0 was trained in."""
    rows = zip(rounds.names, rounds.steps, rounds.scores, rounds.chances, rounds.by_loss, strict=True)
    return [["", "steps", rounds.metric, "gain by chance"]] + [
        [name, str(steps or 0), rounded(score), "" if chance is None else f"{chance:.3f}{' (loss)' * by_loss}"]
        for name, steps, score, chance, by_loss in rows
    ]


def read_self_check(folder: Path) -> dict[str, Any]:
    """What the self-check came to, of a run's report.

    Raises:
        ValueError: If its file is damaged.
    """
    return read_fields(folder / "self_check.json", {"ratios": dict[str, float]})


def last_verdict(folder: Path) -> str:
    """The verdict at the end of a run's ``report.md``, empty where there is none.

    Raises:
        ValueError: If the file is no text.
    """
    path = folder / "report.md"
    try:
        return path.read_text(encoding="utf-8").partition("\n\n## Verdict\n\n")[2].strip() if path.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def change_rows(statistics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """Tabulates how far each prediction moved each kind, and which way.

    Args:
        statistics: Name of the checkpoint → kind → statistics, as in an [`EnrichmentResult`].

    Returns:
        ‖Θ̂−Θ⁰‖/‖Θ⁰‖, ‖Θ̂‖/‖Θ⁰‖ and, where KNOWN was predicted too, the cosine to its change, below a heading; nothing if
        no kind was predicted.
    """
    columns = {"relative_change": "‖Θ̂−Θ⁰‖/‖Θ⁰‖", "norm_ratio": "‖Θ̂‖/‖Θ⁰‖", "cosine_to_known": "cosine to KNOWN"}
    kinds = sorted({kind for by in statistics.values() for kind in by})
    shown = [c for c in columns if any(c in values for by in statistics.values() for values in by.values())]
    if not shown:
        return []
    return [["prediction", *(f"{columns[c]} {kind}" for c in shown for kind in kinds)]] + [
        [name, *(rounded(by.get(kind, {}).get(c)) for c in shown for kind in kinds)] for name, by in statistics.items()
    ]


def write_page(folder: Path) -> Path:
    """Writes the page of a run's folder; returns it."""
    return write_run_page(Trajectory.load(folder))


def write_run_page(trajectory: Trajectory) -> Path:
    """Writes the page of a forgetting run: stages, predictions, their plane, and layer by layer.

    Args:
        trajectory: The finished trajectory, in its run's folder.

    Returns:
        The page's path.
    """
    folder = inside(trajectory.root, "report")
    found = [path.parent for path in trajectory.root.glob(f"enriched*/[!.]*/{ENRICHMENT_FILE}")]
    described = {path: read_enrichment(path) for path in found}
    chosen = [path for path in found if "chosen" in described[path]]
    predicted = [path for path in found if path not in chosen]
    predicted.sort(key=lambda path: (path.parent.name, described[path]["step"]))
    for checkpoint in (*all_stages(trajectory), *map(Checkpoint, predicted)):
        check_alike(trajectory.checkpoints[0], checkpoint)
    several = len({path.parent for path in predicted}) > 1
    names = {path: f"{described[path]['method']} {path.name}" if several else path.name for path in predicted}
    record = trajectory.record
    metrics = sorted({name for stage in record.stages for name in stage.metrics})
    title = record.model.get("id") or record.model.get("class") or trajectory.root.name
    page = Page(f"Forgetting of {title}")
    said = last_verdict(folder)
    for words in dict.fromkeys([said] if said else [described[path]["chosen"]["words"] for path in chosen]):
        page.verdict(words)
    for path in chosen:
        about = described[path]["chosen"]
        page.section("What to take")
        if said and not said.startswith(about["words"]):
            page.text(about["words"])
        page.table(choice_rows(about["gains"]))
    page.section("Stages and predictions")
    known = {path.name: described[path] for path in predicted if described[path]["method"] == DEFAULT}
    points = [(content["step"], name, content["metrics"]) for name, content in known.items()]
    page.image(
        plot_forgetting_curve(folder / "forgetting_curve.png", trajectory, points),
        "Score of every stage over the number of its training examples; predictions at their nominal size.",
        forgetting_chart(trajectory, points),
    )
    rows = [["checkpoint", "examples", *metrics]]
    rows += [
        [f"stage-{s.index}", str(s.examples), *(rounded(s.metrics.get(m)) for m in metrics)] for s in record.stages
    ]
    rows += [[names[path], "", *(rounded(described[path]["metrics"].get(m)) for m in metrics)] for path in predicted]
    page.table(rows)
    checked = folder / "self_check.json"
    if checked.exists() and (ratios := read_self_check(folder)["ratios"]):
        page.heading("Self-check").text(
            "Θ⁰ retrodicted from the stages after it: its distance to the true Θ⁰ as a share of Θ¹'s. Near or above 1, "
            "do not trust the step beyond Θ⁰."
        ).table(ratio_rows(ratios))
    page.section("Trajectory")
    plane = principal_plane(trajectory, {names[path]: path for path in predicted})
    page.image(
        plot_plane(folder / "plane.png", plane),
        "Stages and predictions on the plane of the stages' first two principal components.",
        plane_chart(plane),
    )
    if predicted:
        page.section("Layer by layer")
        tensors, layers = layer_statistics(trajectory, {names[path]: path for path in predicted})
        page.image(
            plot_layers(folder / "layers.png", layers, tensors),
            "Norms, residuals and directions of the predictions in every tensor, from input to output.",
            layers_chart(layers, tensors),
        )
    return page.write(folder)
