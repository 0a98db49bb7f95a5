"""The report of an experiment: the paper's table, what it cost, and every setting in detail."""

import re
from pathlib import Path

from know_hf.enrichment.layers import layer_statistics
from know_hf.enrichment.self_check import retrodiction_ratios
from know_hf.forgetting.controls import CONTROLS, FORGETTING
from know_hf.laboratory.average import average_of
from know_hf.laboratory.logs import read_logs
from know_hf.laboratory.outcome import ExperimentResult, SettingResult
from know_hf.laboratory.result import ComparisonResult
from know_hf.report.across import ACROSS_SHOWN, across_rows
from know_hf.report.cells import add_cells
from know_hf.report.charts import convergence_chart, forgetting_chart, layers_chart, plane_chart
from know_hf.report.comparison import NO_SCORE, add_comparison, verdict
from know_hf.report.comparison_charts import methods_of, table_methods
from know_hf.report.costs import SCORES_SHOWN, cost_rows
from know_hf.report.figures import spread
from know_hf.report.hypothesis import RETURNS_SHOWN, return_rows
from know_hf.report.page import Page
from know_hf.report.plots import plot_convergence, plot_forgetting_curve, plot_layers, plot_plane
from know_hf.store import inside
from know_hf.tables import duration, rounded
from know_hf.trajectory import TrajectoryRecord
from know_hf.trajectory.noise import Noise

RECORD = "recipe.json"
#: A pre-training whose last quarter gained no more than this many points ([`Score.point`]) is called converged.
STILL = 1.0


def write_experiment_report(result: ExperimentResult) -> Path:
    """Writes ``report/`` of an experiment: ``index.html``, ``results.md``, of cells CSVs, with matplotlib PNGs.

    Args:
        result: What [`run_experiment`](know_hf.laboratory.experiment) returned.

    Returns:
        The page's path.
    """
    folder = inside(result.output_dir, "report")
    page = Page(result.recipe.title)
    compared = comparisons(result)
    for name, comparison in compared:
        page.verdict(f"{name}: {verdict(comparison)}")
    for setting in result.settings:
        if setting.without:
            page.verdict(f"{setting.setting.name}: {setting.without}")
    if result.recipe.description:
        page.text(result.recipe.description)
    if compared:
        rows = score_rows(compared)
        named = {row: m for _, one in compared for row, m in table_methods(rows, one).items()}
        page.section("Results").text(
            f"Test {', '.join(dict.fromkeys(c.metric + c.score.unit for _, c in compared))}, "
            f"mean ± standard deviation over {_seeds(compared)}; in brackets the paired difference to naive with its "
            f"95 % interval. Controls are marked with *. {searched_in(result)}"
        ).methods(list(dict.fromkeys(m for _, one in compared for m in methods_of(one).values()))).table(rows, named)
        if rows := across_rows(result.settings):
            page.heading("Less data against more").text(ACROSS_SHOWN).table(rows)
    if result.tables:
        add_cells(page, result, folder)
    page.section("Pre-training")
    # Settings that share their pre-training share its curve.
    runs = {setting.runs[FORGETTING]: setting.setting.name for setting in result.settings[::-1]}
    curves = {name: read_logs(folder)[0]["curve"] for folder, name in reversed(runs.items())}
    curves = {name: curve for name, curve in curves.items() if curve}
    if curves:
        scored = [setting.score for setting in result.settings]
        if len(set(scored)) == 1:  # no axis serves several
            page.image(
                plot_convergence(folder / "convergence.png", curves, scored[0]),
                "Learning curve of Θ⁰ on held-out data.",
                convergence_chart(curves, scored[0]),
            )
    page.text(
        f"Θ⁰ counts as converged when the last quarter of its training gained at most {STILL:g} points (of a score "
        "that is no share: percent of it) and training on for as long as the forgetting takes (equal compute) gained "
        "no more than that on its own task."
    ).table(convergence_rows(result.settings))
    checked = [setting for setting in result.settings if setting.retrodicted]
    if checked:
        page.section("Retrodiction of a known stage").text(
            "‖Θ̂⁰−Θ⁰‖₁/‖Θ¹−Θ⁰‖₁ of Θ⁰ retrodicted from the stages after it: below 1, the prediction is nearer to the "
            "true Θ⁰ than Θ¹ is."
        ).table(ratio_rows(checked))
    returned = [setting for setting in result.settings if setting.returns]
    if returned:
        page.section("The hypothesis").text(RETURNS_SHOWN)
        for setting in returned:
            page.heading(setting.setting.name).table(return_rows(setting))
    for setting in result.settings:
        _add_setting(page, setting, folder)
    page.section("Costs").text(
        "Seconds of the forgetting and the trained controls in one of the laboratory's processes; predictions read all "
        "stages and write all steps." + (f" {SCORES_SHOWN}" if any(one.own_scores for one in result.settings) else "")
    ).table(cost_rows(result.settings)).text(
        f"In all {duration(result.wall)} with {result.recipe.processes} processes, of whose time "
        f"{100 * result.share_in_steps:.0f} % was spent inside training steps."
    )
    return page.write(folder, "results")


def comparisons(result: ExperimentResult) -> list[tuple[str, ComparisonResult]]:
    """What the tables compare: name of the setting → its fine-tunings, with their average at the end if asked for."""
    compared = [(one.setting.name, one.comparison) for one in result.settings if one.comparison is not None]
    if result.recipe.average and compared:
        compared.append(("average", average_of([comparison for _, comparison in compared])))
    return compared


def _seeds(compared: list[tuple[str, ComparisonResult]]) -> str:
    """Over how many seeds the columns of the table are."""
    counts: dict[int, list[str]] = {}
    for name, comparison in compared:
        counts.setdefault(comparison.seeds, []).append(name)
    if len(counts) == 1:
        return f"{next(iter(counts))} seeds"
    return ", ".join(f"{count} seeds ({'; '.join(names)})" for count, names in counts.items())


def searched_in(result: ExperimentResult) -> str:
    """Which learning rates stand behind the columns, in words: whose are searched, and where that of naive lies."""
    compared = [(s.setting.name, s.comparison) for s in result.settings if s.comparison is not None]
    partly = [name for name, c in compared if any(len(c.run_at(arm)) < len(c.learning_rates) for arm in c.arms)]
    if partly:
        where = "its column" if len(partly) == len(compared) else f"its column ({'; '.join(partly)})"
        text = (
            "Only some starts have a learning rate of their own, chosen on validation examples; the section of "
            f"{where} names them, and the others were run at the rate that naive chose there."
        )
    else:
        text = "Each start is at its own learning rate, chosen on validation examples."
    for which, edge in (("smallest", min), ("largest", max)):
        names = [
            name
            for name, one in compared
            if len(one.learning_rates) > 1 and one.chosen_rates[one.reference] == edge(one.learning_rates)
        ]
        if names:
            where = "every column" if len(names) == len(compared) else "; ".join(names)
            text += f" The rate that naive chose is the {which} of the grid in {where}: the best may lie beyond it."
    return text


def write_page(folder: Path) -> Path:
    """Writes the report of an experiment's folder; returns its page."""
    return write_experiment_report(ExperimentResult.load(folder))


def score_rows(compared: list[tuple[str, ComparisonResult]]) -> list[list[str]]:
    """Arms by settings, each with its name: score and difference to naive."""
    arms = list(dict.fromkeys(arm for _, result in compared for arm in (*result.arms, *result.lost)))
    rows = [["start", *(name for name, _ in compared)]]
    for arm in arms:
        cells = []
        for _, result in compared:
            if arm not in result.arms:
                cells.append(NO_SCORE if arm in result.lost else "")
                continue
            text = spread(result.best(arm), result.score)
            cells.append(text if arm == result.reference else f"{text} ({result.against(arm, result.reference)})")
        marked = any(arm in result.controls for _, result in compared)
        rows.append([arm + ("*" if marked else ""), *cells])
    return rows


def convergence_rows(settings: list[SettingResult]) -> list[list[str]]:
    """Whether Θ^0 had converged: its curve's last quarter, and what training on gave on its own task."""
    rows = [["setting", "parameters", "examples", "Θ⁰", "gain in its last quarter", "equal compute", "converged"]]
    for setting in settings:
        record = setting.trajectory.record
        curve = read_logs(setting.runs[FORGETTING])[0]["curve"]
        score = setting.score
        sign = 1 if score.higher_is_better else -1
        gain = sign * score.shown(curve[-1][1] - curve[-(len(curve) // 4) - 1][1]) if curve else None
        scores = _own_scores(setting)
        more = sign * (scores["equal_compute"] - scores["stage-0"]) if "equal_compute" in scores else None
        still = STILL * score.point(scores["stage-0"])
        converged = "not shown" if gain is None or more is None else "yes" if max(gain, more) <= still else "no"
        rows.append(
            [
                setting.setting.name, f"{record.model['parameters']:,}", str(record.stages[0].examples),
                rounded(scores["stage-0"], 1), rounded(gain, 1), rounded(scores.get("equal_compute"), 1), converged,
            ]
        )  # fmt: skip
    return rows


def _own_scores(setting: SettingResult) -> dict[str, float]:
    """Scores on the pre-training's own held-out data, of Θ^0 and of the controls that a training leaves."""
    scores = {}
    for name, folder in setting.runs.items():
        stages = TrajectoryRecord.load(folder).stages
        kept = CONTROLS[name].result
        if not isinstance(kept, int):  # what a control is merged of, is not the control
            continue
        for stage in stages if name == FORGETTING else [stages[kept]]:
            score = stage.metrics.get("eval_score")
            if score is not None:
                scores[f"stage-{stage.index}" if name == FORGETTING else name] = setting.score.shown(score)
    return scores


def ratio_rows(settings: list[SettingResult]) -> list[list[str]]:
    """Methods by settings and kinds: retrodiction error of a known stage; bold is best."""
    columns: list[tuple[str, dict[str, float]]] = []
    for setting in settings:
        tensors = [n for n, p in setting.trajectory.parameters.items() if p.kind in ("conv", "fc", "bias")]
        by_method = {
            method: retrodiction_ratios(setting.trajectory, folder, tensors)
            for method, folder in setting.retrodicted.items()
        }
        kinds = sorted({kind for ratios in by_method.values() for kind in ratios})
        columns += [(f"{setting.setting.name}: {k}", {m: r[k] for m, r in by_method.items() if k in r}) for k in kinds]
    methods = list(dict.fromkeys(method for _, ratios in columns for method in ratios))
    rows = [["method", *(name for name, _ in columns)]]
    for method in methods:
        cells = []
        for _, ratios in columns:
            text = rounded(ratios.get(method), 3)
            cells.append(f"**{text}**" if method in ratios and ratios[method] == min(ratios.values()) else text)
        rows.append([method, *cells])
    return rows


def _add_setting(page: Page, setting: SettingResult, folder: Path) -> None:
    name = setting.setting.name
    prefix = re.sub(r"[^\w.-]+", "_", name) + "-"
    page.section(name)
    page.image(
        plot_forgetting_curve(folder / f"{prefix}forgetting.png", setting.trajectory),
        "Score of every stage on the pre-training's own held-out data.",
        forgetting_chart(setting.trajectory),
    )
    if setting.comparison is not None:
        add_comparison(page, setting.comparison, folder, prefix)
    plane = setting.plane
    page.heading("Trajectory and predictions")
    page.image(
        plot_plane(folder / f"{prefix}plane.png", plane, setting.landscape, setting.score),
        "Stages and predictions of KNOWN on the plane of the first two principal components of the stages"
        + (" and their noisy copies" if setting.setting.noise else "")
        + (f", over the {setting.score.name} of the networks that lie on it." if setting.landscape else "."),
        None if setting.landscape else plane_chart(plane),  # colours of a landscape are a picture's
    )
    if setting.setting.noise is not None:
        page.text(_noise_words(setting.setting.noise, drawn=setting.landscape is not None))
    if "Θ̂⁰" in plane.names:
        guess = plane.names.index("Θ̂⁰")
        near, far = plane.distances[guess, 0], plane.distances[1, 0]
        page.text(
            f"In the space of all weights Θ̂⁰ lies {near:.3g} from Θ⁰, Θ¹ lies {far:.3g} from it: Θ̂⁰ is "
            f"{'nearer' if near < far else 'not nearer'} ({near / far:.3f} of the distance)."
        )
    # All steps of KNOWN, of two simple methods the first.
    shown = [arm for arm in setting.arms.values() if arm.is_known]
    shown += [arm for method in ("linear_fit", "mean") for arm in setting.steps(method)[:1]]
    names, layers = layer_statistics(setting.trajectory, {arm.name: arm.checkpoint for arm in shown})
    page.heading("Layer by layer")
    page.image(
        plot_layers(folder / f"{prefix}layers.png", layers, names),
        "Norms, residuals and directions of the predictions in every tensor, from input to output.",
        layers_chart(layers, names),
    )


def _noise_words(noise: Noise, drawn: bool) -> str:
    """What else spans the plane."""
    where = " (small circles in the colour of their own score)" if drawn else ""
    return (
        f"There are {noise.copies} noisy copies of every stage{where}: normal noise, its standard deviation "
        f"{noise.scale:g} of each tensor's root mean square in Θ⁰."
    )
