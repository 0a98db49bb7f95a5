"""From a folder to its page, whatever command made it."""

from pathlib import Path

from know_hf.enrichment.layers import layer_statistics
from know_hf.enrichment.writer import read_enrichment
from know_hf.records import ENRICHMENT_FILE
from know_hf.report.page import Page
from know_hf.report.plots import plot_forgetting_curve, plot_layers, plot_plane
from know_hf.report.run import last_verdict, read_self_check
from know_hf.store import inside, write_text
from know_hf.tables import number
from know_hf.trajectory import Checkpoint, Trajectory, TrajectoryError
from know_hf.trajectory.plane import all_stages, principal_plane
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.trajectory import check_alike


def write_page(folder: str | Path) -> Path:
    """Writes ``report/index.html`` of a forgetting or enrichment run, a comparison or an experiment.

    Args:
        folder: Its folder.

    Returns:
        The page's path; PNGs lie beside it.

    Raises:
        TrajectoryError: If the folder is none of these, or not finished.

    Source: ours.

    Example:
        >>> from know_hf.report.write import write_page
        >>> write_page("runs/mine")  # doctest: +SKIP
        PosixPath('runs/mine/report/index.html')
    """
    folder = Path(folder)
    if (folder / "recipe.json").exists():
        from know_hf.laboratory.outcome import LaboratoryResult
        from know_hf.report.laboratory import write_laboratory_report

        return write_laboratory_report(LaboratoryResult.load(folder))
    if (folder / "transfer.json").exists():
        from know_hf.laboratory.result import TransferResult
        from know_hf.report.transfer import write_transfer_report

        return write_transfer_report(TransferResult.load(folder)) / "index.html"
    if (folder / FILE_NAME).exists():
        return write_run_page(Trajectory.load(folder))
    raise TrajectoryError(
        f"{folder} holds no {FILE_NAME}, transfer.json or recipe.json: it is no folder of enrich, forget or transfer."
    )


def write_run_page(trajectory: Trajectory) -> Path:
    """Writes the page of a forgetting run: stages, predictions, their plane, and layer by layer.

    Args:
        trajectory: The finished trajectory, in its run's folder.

    Returns:
        The page's path.

    Source: ours.
    """
    folder = inside(trajectory.root, "report")
    found = [path.parent for path in trajectory.root.glob(f"enriched*/[!.]*/{ENRICHMENT_FILE}")]
    described = {path: read_enrichment(path) for path in found}
    predicted = sorted(found, key=lambda path: (path.parent.name, described[path]["step"]))
    for checkpoint in (*all_stages(trajectory), *map(Checkpoint, predicted)):
        check_alike(trajectory.checkpoints[0], checkpoint)
    several = len({path.parent for path in predicted}) > 1
    names = {path: f"{described[path]['method']} {path.name}" if several else path.name for path in predicted}
    record = trajectory.record
    metrics = sorted({name for stage in record.stages for name in stage.metrics})
    title = record.model.get("id") or record.model.get("class") or trajectory.root.name
    page = Page(f"Forgetting of {title}").section("Stages and predictions")
    known = {path.name: content["metrics"] for path, content in described.items() if content["method"] == "known"}
    page.image(
        plot_forgetting_curve(trajectory, folder / "forgetting_curve.png", known),
        "Score of every stage over the number of its training examples; predictions at their nominal size.",
    )
    rows = [["checkpoint", "examples", *metrics]]
    rows += [[f"stage-{s.index}", str(s.examples), *(number(s.metrics.get(m)) for m in metrics)] for s in record.stages]
    rows += [[names[path], "", *(number(described[path]["metrics"].get(m)) for m in metrics)] for path in predicted]
    page.table(rows)
    checked = folder / "self_check.json"
    if checked.exists() and (ratios := read_self_check(folder)["ratios"]):
        page.heading("Self-check").text(
            "Θ⁰ retrodicted from the stages after it: its distance to the true Θ⁰ as a share of Θ¹'s. Near or above 1, "
            "do not trust the step beyond Θ⁰."
        ).table([["kind", "‖Θ̂⁰−Θ⁰‖₁/‖Θ¹−Θ⁰‖₁"], *([kind, number(ratio)] for kind, ratio in ratios.items())])
    if said := last_verdict(folder):
        page.heading("Verdict of the last enrichment").text(said)
    page.section("Trajectory")
    plane = principal_plane(trajectory, {names[path]: path for path in predicted})
    page.image(
        plot_plane(folder / "plane.png", plane),
        "Stages and predictions on the plane of the stages' first two principal components.",
    )
    if predicted:
        page.section("Layer by layer")
        tensors, layers = layer_statistics(trajectory, {names[path]: path for path in predicted})
        page.image(
            plot_layers(folder / "layers.png", layers, tensors),
            "Norms, residuals and directions of the predictions in every tensor, from input to output.",
        )
    write_text(folder / "index.html", page.html())
    return folder / "index.html"
