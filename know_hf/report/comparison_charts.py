"""Drawings of a comparison: what was gained, at which learning rates, and how fast."""

from collections.abc import Mapping, Sequence

import numpy as np

from know_hf.laboratory.result import ComparisonResult
from know_hf.report.charts import curves_of
from know_hf.report.figures import spread
from know_hf.report.plots import difference_limits, score_limits, with_unit
from know_hf.report.svg import CHARACTER, Axis, Chart, Drawing, Key, lines, number, shaped, shortened

CONTROL, KNOWN, OTHER = Key("controls", "grey"), Key("KNOWN", "known"), Key("other starts", "blue")
#: Pixels of a row, and of one that has its name above it.
ROW, NARROW_ROW = 26, 40
TOP = 58


def methods_of(result: ComparisonResult) -> dict[str, str]:
    """Arm → the method whose steps are shown and hidden together."""
    return {name: arm.prediction or name for name, arm in result.arms.items()}


def kind_of(arm: str, result: ComparisonResult) -> Key:
    """What an arm is drawn as, in the colours of the plots: a control, KNOWN, or another start."""
    if arm in result.controls:
        return CONTROL
    return KNOWN if result.arms[arm].is_known else OTHER


class _Rows:
    """A drawing with a row an arm, names at its left or above it, and its axis on top, which rows may leave."""

    def __init__(
        self, width: int, arms: Sequence[str], limits: tuple[float, float], label: str, title: str, more: float = 0
    ):
        self.narrow = width < 500
        self.row = (NARROW_ROW if self.narrow else ROW) + more
        self.more = more
        self.drawing = Drawing(width, TOP + self.row * len(arms) + 8, label, "rows")
        left = 14 if self.narrow else min(14 + CHARACTER * max(map(len, arms)), 0.36 * width)
        self.left, self.letters = left, int(left / CHARACTER) if not self.narrow else int(width / CHARACTER)
        self.axis = Axis(*limits, left + 8, width - 16)
        drawing = self.drawing
        drawing.text(4, 16, title, "title")
        for value in self.axis.ticks(4 if self.narrow else 7):
            drawing.text(self.axis(value), 40, number(value), "soft", "middle")
            self.upright(value, "grid")

    def upright(self, value: float, css: str) -> None:
        """A line from top to bottom."""
        self.drawing.line(self.axis(value), TOP - 10, self.axis(value), self.drawing.height, css)

    def begin(self, place: int, arm: str, **own: str) -> float:
        """Begins an arm's row; returns the height of its middle within the row."""
        self.drawing.parts.append(f'<g transform="translate(0 {TOP + place * self.row})">')
        self.drawing.open("row", h=str(self.row), top=str(TOP), **own)
        if self.narrow:
            self.drawing.text(4, 12, shortened(arm, self.letters), "ink halo")
            return 27 + self.more / 2
        self.drawing.text(self.left - 4, self.row / 2 + 4, shortened(arm, self.letters), "ink halo", "end")
        return self.row / 2

    def end(self) -> None:
        """Ends it."""
        self.drawing.close()
        self.drawing.close()


def differences_chart(result: ComparisonResult) -> Chart | None:
    """Paired difference of every arm to the reference with its 95 % interval, beside that of the best control."""
    reference, control = result.reference, result.best_control
    arms = [arm for arm in result.arms if arm != reference]
    if not arms:
        return None
    found = {arm: result.against(arm, reference) for arm in arms}
    low, high = limits = difference_limits(result, list(found.values()))
    methods = methods_of(result)
    unit = "points" if result.score.percent else result.metric
    better = "" if result.score.higher_is_better else ", less is better"

    def draw(width: int) -> str:
        label = f"difference to {reference} of every start, with its 95 % interval"
        rows = _Rows(width, arms, limits, label, f"test {result.metric} − {reference} ({unit}{better})")
        drawing, axis = rows.drawing, rows.axis
        rows.upright(0, "zero")
        if control != reference and low < found[control].mean < high:
            rows.upright(found[control].mean, "grey dashed curve")
        for place, arm in enumerate(arms):
            difference, key = found[arm], kind_of(arm, result)
            y = rows.begin(place, arm, m=methods[arm], s=key.name)
            ends = [float(np.clip(end, low, high)) for end in (difference.low, difference.high)]
            inner = f'<path d="M{axis(ends[0]):.1f} {y}L{axis(ends[1]):.1f} {y}" class="curve thick"/>'
            if low <= difference.mean <= high:
                inner += shaped("dot", axis(difference.mean), y, 5)
            if difference.low < low:
                inner += shaped("left", axis(low), y, 5)
            if difference.high > high:
                inner += shaped("right", axis(high), y, 5)
            inner += f'<rect x="0" y="0" width="{width}" height="{rows.row}" class="hit"/>'
            tip = lines(
                arm,
                f"{number(round(difference.mean, 3))} {unit} to {reference}",
                f"95 % interval {number(round(difference.low, 3))} … {number(round(difference.high, 3))}",
                f"learning rate {result.chosen_rates[arm]:g}",
                "the best control" if arm == control
                else f"against the best control, {control}: {result.against(arm, control).verdict}",
            )  # fmt: skip
            drawing.mark(inner, tip, key.colour)
            rows.end()
        return drawing.svg()

    used = [kind_of(arm, result) for arm in arms]
    return Chart(draw, [key for key in (KNOWN, CONTROL, OTHER) if key in used])


def rates_chart(result: ComparisonResult) -> Chart | None:
    """Scores of every arm at every learning rate that it was run at, with the seeds' standard deviations."""
    rates, methods = result.learning_rates, methods_of(result)
    keys = [Key(f"learning rate {rate:g}", f"c{i % 10}") for i, rate in enumerate(rates)]
    arms = [arm for arm in result.arms if len(result.run_at(arm)) == len(rates)]
    if not arms:
        return None
    every = [score for arm in arms for rate in result.rates(arm) for score in result.scores(arm, rate)]

    def draw(width: int) -> str:
        title = f"test {with_unit(result.score)}, mean ± standard deviation"
        more = 4.5 * (len(rates) - 1)
        rows = _Rows(width, arms, score_limits(every, result.score), "scores at every learning rate", title, more)
        drawing, axis = rows.drawing, rows.axis
        for place, arm in enumerate(arms):
            y = rows.begin(place, arm, m=methods[arm])
            for i, (rate, key) in enumerate(zip(rates, keys, strict=True)):
                if rate not in result.rates(arm):  # it diverged there
                    continue
                scores = result.scores(arm, rate)
                mean, sd = float(np.mean(scores)), float(np.std(scores, ddof=1))
                at = y + 4.5 * (i - (len(rates) - 1) / 2)
                ends = [axis(float(np.clip(end, axis.low, axis.high))) for end in (mean - sd, mean + sd)]
                own = rate == result.chosen_rates[arm]
                inner = f'<path d="M{ends[0]:.1f} {at}L{ends[1]:.1f} {at}" class="curve"/>'
                inner += shaped("dot", axis(mean), at, 4.5 if own else 3)
                tip = lines(
                    arm, f"learning rate {rate:g}{', its own: chosen on validation examples' * own}",
                    f"{spread(scores, result.score)} over {result.seeds} seeds",
                )  # fmt: skip
                drawing.mark(inner, tip, key.colour + " hollow" * (not own), s=key.name)
            rows.end()
        return drawing.svg()

    return Chart(draw, keys)


def curves_chart(result: ComparisonResult, arms: Sequence[str]) -> Chart:
    """Mean learning curves on the validation examples, each arm at its own learning rate; controls dashed."""
    keys = [Key(arm, f"c{i % 10}", arm in result.controls) for i, arm in enumerate(arms)]
    curves = {arm: result.curve(arm) for arm in arms}
    return curves_of(curves, keys, "epoch", f"validation {with_unit(result.score)}", methods_of(result))


def table_methods(rows: Sequence[Sequence[str]], result: ComparisonResult) -> Mapping[str, str]:
    """Name in the first column → method, for the rows of a table that are arms, marked as controls or not."""
    methods = methods_of(result)
    return {row[0]: methods[name] for row in rows for name in (row[0], row[0].removesuffix("*")) if name in methods}
