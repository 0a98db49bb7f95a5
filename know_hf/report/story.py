"""One page that tells a whole job in three pictures: what was forgotten, where the weights went, what was gained."""

from pathlib import Path

from know_hf.enrichment.result import EnrichmentResult
from know_hf.laboratory.result import ComparisonResult
from know_hf.report.charts import forgetting_chart, plane_chart
from know_hf.report.comparison import capital, rates_at_the_edge, verdict, verdict_rows, write_comparison_report
from know_hf.report.comparison_charts import differences_chart
from know_hf.report.page import Page
from know_hf.report.run import write_run_page
from know_hf.trajectory.plane import Plane, principal_plane

FORGOTTEN = (
    "Read the blue line from right to left: each stage is the one before it, trained on with half the data, and where "
    "its score falls the network forgets. The orange squares are predictions, drawn at the amount of data that each "
    "stands for; only where they lie above Θ⁰ has a prediction gained on this task."
)
WENT = (
    "Every mark is a whole network, and marks that lie near each other have similar weights: the line follows the "
    "forgetting from Θ⁰, which saw all the data, to the stage that saw the least. The stars are the predictions, which "
    "should go on beyond Θ⁰ where the line came from, and not back along it."
)
GAINED = (
    "Every row is a start that was fine-tuned on the new task: its dot is how many points better than Θ⁰ it ended, its "
    "line the 95 % interval, so that a line which crosses 0 shows no difference. KNOWN has gained something only if "
    "its line lies right of the grey controls, too, which change the weights without predicting anything."
)


def write_story(folder: Path, title: str, result: EnrichmentResult, compared: ComparisonResult, purpose: str) -> Path:
    """Writes ``index.html`` of three pictures, with a guide to each, and the pages with all the details.

    Args:
        folder: Where to; that of the run.
        title: Heading.
        result: What was predicted.
        compared: What its predictions gave as starts.
        purpose: What they were starts for, as in ``As starts for …``.

    Returns:
        The page's path.
    """
    page = Page(title)
    for words in verdicts(result, compared, purpose):
        page.verdict(words)
    steps = [(i, name, result.metrics.get(name, {})) for i, name in enumerate(result.checkpoints, start=1)]
    plane = principal_plane(result.trajectory, dict(result.checkpoints))
    first, last = result.trajectory.record.stages[0], result.trajectory.record.stages[-1]
    page.section("1. What was forgotten").text(FORGOTTEN).image(
        None, f"Stages of {first.examples:,} to {last.examples:,} examples, and what was predicted from them.",
        forgetting_chart(result.trajectory, steps),
    )  # fmt: skip
    page.section("2. Where the weights went").text(WENT).image(None, _distances(plane), plane_chart(plane))
    page.section("3. What was gained").text(GAINED).image(
        None, f"{capital(verdict(compared))} {rates_at_the_edge(compared)}".strip(), differences_chart(compared)
    ).table(verdict_rows(compared))
    more = {write_run_page(result.trajectory): "Every stage, prediction and layer"}
    more[write_comparison_report(compared) / "index.html"] = "Every fine-tuning: learning rates and curves"
    page.section("All the numbers")
    for path, words in more.items():
        page.link(path.relative_to(folder).as_posix(), words)
    return page.write(folder)


def verdicts(result: EnrichmentResult, compared: ComparisonResult, purpose: str) -> list[str]:
    """What came out, in words: of the run, of its predictions as starts, and what that is worth."""
    words = [result.verdict] if result.verdict else []
    return [
        *words, f"As starts for {purpose}: {verdict(compared)} {rates_at_the_edge(compared)}".strip(),
        "One small task: a demonstration, not evidence.",
    ]  # fmt: skip


def _distances(plane: Plane) -> str:
    """How far the predictions went, in units of the last step of training on more data."""
    step = float(plane.distances[0, 1]) or float("nan")
    far = [
        f"{name} lies {plane.distances[i, 0] / step:.2f} times"
        for i, name in enumerate(plane.names)
        if i >= plane.stages
    ]
    if not far:
        return "The stages alone."
    return f"In the space of all weights, {', '.join(far)} as far from Θ⁰ as Θ¹ does; the plane shows part of that."
