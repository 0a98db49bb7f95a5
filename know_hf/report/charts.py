"""Drawings of a run: what was forgotten, and where the weights went."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from know_hf.report.plots import forgetting_points, short, stage_symbol, with_unit
from know_hf.report.svg import CHARACTER, Axis, Chart, Drawing, Key, lines, number
from know_hf.tables import rounded
from know_hf.tasks import Score
from know_hf.trajectory import Trajectory
from know_hf.trajectory.plane import Plane

FORGETTING, PREDICTED = Key("stages", "blue"), Key("predicted (nominal size)", "known", dashed=True)


def forgetting_chart(
    trajectory: Trajectory, predicted: Sequence[tuple[int, str, Mapping[str, float]]] = ()
) -> Chart | None:
    """The score of every stage over its number of examples, and of predictions (step, name, scores) beyond."""
    found = forgetting_points(trajectory, predicted)
    if found is None:
        return None
    metric, stages, beyond = found
    if not any(math.isfinite(score) for _, score, _ in (*stages, *beyond)):
        return None
    title = metric.removeprefix("eval_").replace("_", " ")

    def draw(width: int) -> str:
        height, left, right = 300 if width > 500 else 250, 56, width - 22
        drawing = Drawing(width, height, f"{title} of every stage over its number of training examples")
        sizes = [size for size, _, _ in (*stages, *beyond)]
        x = Axis(min(sizes), max(sizes), left + 10, right - 10, log=True)
        scores = [score for _, score, _ in (*stages, *beyond) if math.isfinite(score)]
        margin = 0.08 * ((max(scores) - min(scores)) or abs(max(scores)) or 1.0)
        y = Axis(min(scores) - margin, max(scores) + margin, height - 52, 34)
        drawing.scale_left(y, left, right, title)
        drawing.scale_below(x, height - 52, "training examples, each step twice as many", sorted(set(sizes)))
        groups = ((stages, FORGETTING, "dot", "trained on"), (beyond, PREDICTED, "square", "predicted, nominally of"))
        for points, key, shape, how in groups:
            if not points:
                continue
            places = [(x(size), y(score)) for size, score, _ in points]
            drawing.curve(places, key.colour + " dashed" * key.dashed, s=key.name)
            for (size, score, name), place in zip(points, places, strict=True):
                if not math.isfinite(score):
                    continue
                tip = lines(name, f"{title} {rounded(score)}", f"{how} {size:,.0f} examples")
                drawing.dot(*place, tip, key.colour, shape=shape, s=key.name)
                below = place[1] < 60
                drawing.text(place[0], place[1] + (22 if below else -12), name, f"halo {key.colour}", "middle",
                             s=key.name)  # fmt: skip
        return drawing.svg()

    return Chart(draw, (FORGETTING, PREDICTED) if beyond else (FORGETTING,))


def plane_chart(plane: Plane) -> Chart:
    """The trajectory and its predictions on their plane."""
    stages = plane.stages
    names = [f"stage {i} ({stage_symbol(i)})" for i in range(stages)] + plane.names[stages:]
    first, second = (f"{100 * share:.0f} %" for share in plane.explained)

    def draw(width: int) -> str:
        low, high = plane.coordinates.min(axis=0), plane.coordinates.max(axis=0)
        span = max(float(high[0] - low[0]), 1e-12)
        left, right, top = 16, width - 16, 40
        scale = (right - left - 2 * 44) / span
        tall = float(np.clip(scale * (high[1] - low[1]), 60, 420 if width > 500 else 300))
        scale = min(scale, tall / max(float(high[1] - low[1]), 1e-12))
        height = top + tall + 76
        middle = (low + high) / 2
        drawing = Drawing(width, height, "stages and predictions on the plane of two principal components")
        drawing.text(4, 16, f"↑ second principal component, {second} of the variance", "title")
        drawing.line(left, height - 34, right, height - 34, "axis")
        drawing.line(left, top - 12, left, height - 34, "axis")
        drawing.text(width / 2, height - 14, f"first principal component, {first} of the variance →", "title", "middle")
        places = [
            (width / 2 + scale * (a - middle[0]), top + 12 + tall / 2 - scale * (b - middle[1]))
            for a, b in plane.coordinates
        ]
        drawing.curve(places[:stages], "ink", s="stages")
        taken: list[tuple[float, float, float]] = []
        for i, (name, place) in enumerate(zip(names, places, strict=True)):
            far = f"{plane.distances[i, 0]:.3g} from stage 0 in the space of all weights" if i else ""
            series = "stages" if i < stages else "predictions"
            drawing.dot(*place, lines(name, far), "ink hollow" if i < stages else "known",
                        shape="dot" if i < stages else "star", s=series)  # fmt: skip
            label = stage_symbol(i) if i < stages else name
            at = _free_place(place, len(label) * CHARACTER, taken, width)
            drawing.text(*at, label, "halo ink" if i < stages else "halo known", s=series)
        return drawing.svg()

    keys = [Key("stages", "ink")] + [Key("predictions", "known")] * (len(names) > stages)
    return Chart(draw, keys)


def _free_place(
    place: tuple[float, float], length: float, taken: list[tuple[float, float, float]], width: float
) -> tuple[float, float]:
    """Where a label near a mark covers none before it, if there is such a place."""
    x, y = place
    offsets = [(9.0, -9.0), (9, 17), (-9 - length, -9), (-9 - length, 17), (-length / 2, -24), (-length / 2, 32)]
    offsets += [(-length / 2, -38), (-length / 2, 46)]
    places = [(x + a, y + b) for a, b in offsets if 2 <= x + a <= width - length - 2] or [(x, y - 9)]
    free = [
        at for at in places
        if all(abs(at[1] - b) > 13 or at[0] > a + long + 3 or at[0] + length + 3 < a for a, b, long in taken)
    ]  # fmt: skip
    chosen = (free or places)[0]
    taken.append((*chosen, length))
    return chosen


def layers_chart(layers: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]) -> Chart | None:
    """Per-layer quantities, one panel each, one line a prediction, layers from input to output."""
    predictions = list(next(iter(layers.values()), {}))
    if not names or not predictions:
        return None
    keys = [Key(name, f"c{i % 10}") for i, name in enumerate(predictions)]

    def draw(width: int) -> str:
        left, right, panel = 56, width - 14, 150
        drawing = Drawing(width, len(layers) * panel + 44, "norms, residuals and directions of every tensor")
        x = Axis(0, max(len(names) - 1, 1), left + 8, right - 8)
        half = (x(1) - x(0)) / 2
        for place, (quantity, by_prediction) in enumerate(layers.items()):
            top, bottom = place * panel + 34, (place + 1) * panel - 4
            finite = [value for values in by_prediction.values() for value in values if math.isfinite(value)] or [0.0]
            margin = 0.06 * ((max(finite) - min(finite)) or abs(max(finite)) or 1.0)
            y = Axis(min(finite) - margin, max(finite) + margin, bottom, top)
            drawing.scale_left(y, left, right, quantity, 3)
            for key in keys:
                drawing.curve([(x(i), y(v)) for i, v in enumerate(by_prediction[key.name])], key.colour, s=key.name)
            for i, tensor in enumerate(names):
                said = [f"{key.name}: {_told(by_prediction[key.name][i])}" for key in keys]
                column = (
                    f'<rect x="{x(i) - half:.1f}" y="{top}" width="{2 * half:.1f}" height="{bottom - top}" '
                    f'class="hit"/>'
                    f'<line x1="{x(i):.1f}" x2="{x(i):.1f}" y1="{top}" y2="{bottom}" class="cross"/>'
                )
                drawing.mark(column, lines(short(tensor), *said), "ink")
        drawing.text((left + right) / 2, drawing.height - 18, f"{len(names)} tensors, from input to output", "title",
                     "middle")  # fmt: skip
        return drawing.svg()

    return Chart(draw, keys)


def _told(value: float) -> str:
    return rounded(value) if math.isfinite(value) else "did not move"


def convergence_chart(curves: Mapping[str, Sequence[tuple[float, float]]], score: Score) -> Chart:
    """Learning curve of stage 0, one line for each pre-training: whether it had stopped improving."""
    return curves_of(
        {name: [(epoch, score.shown(value)) for epoch, value in curve] for name, curve in curves.items()},
        [Key(name, f"c{i % 10}") for i, name in enumerate(curves)], "epoch of Θ⁰", f"{with_unit(score)}, held-out data",
    )  # fmt: skip


def curves_of(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    keys: Sequence[Key],
    below: str,
    title: str,
    methods: Mapping[str, str] | None = None,
) -> Chart:
    """Lines over epochs, each with the marks that it was measured at; ``methods`` names what hides it on the page."""

    def draw(width: int) -> str:
        height, left, right = 320 if width > 500 else 260, 56, width - 16
        drawing = Drawing(width, height, f"{title} over the {below}")
        points = [point for curve in curves.values() for point in curve if math.isfinite(point[1])] or [(0.0, 0.0)]
        epochs, scores = zip(*points, strict=True)
        margin = 0.05 * ((max(scores) - min(scores)) or abs(max(scores)) or 1.0)
        x = Axis(min(epochs), max(epochs), left + 8, right - 8)
        y = Axis(min(scores) - margin, max(scores) + margin, height - 52, 34)
        drawing.scale_left(y, left, right, title)
        drawing.scale_below(x, height - 52, below)
        for key in keys:
            own: dict[str, Any] = {"s": key.name} | ({"m": methods[key.name]} if methods else {})
            places = [(x(epoch), y(value)) for epoch, value in curves[key.name]]
            drawing.curve(places, key.colour + " dashed" * key.dashed, **own)
            for (epoch, value), place in zip(curves[key.name], places, strict=True):
                if math.isfinite(value):
                    tip = lines(key.name, f"{number(round(value, 3))} after {number(epoch)} epochs")
                    drawing.dot(place[0], place[1], tip, key.colour, 3, "dot", **own)
        return drawing.svg()

    return Chart(draw, keys)
