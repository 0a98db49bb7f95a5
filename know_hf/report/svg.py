"""Drawings of the page: SVG with marks that a pointer or the keyboard asks about, in colours that the page decides."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

#: Pixels: a drawing is made once for screens and paper, and once for what is held in a hand.
WIDE, NARROW = 760, 340
#: Pixels that a character takes at most, about, in the size of labels.
CHARACTER = 6.4


@dataclass(frozen=True)
class Key:
    """What one colour of a drawing stands for.

    Args:
        name: As the key shows it; marks of that name are hidden by its button.
        colour: A class of the page's style: ``ink``, ``grey``, ``blue``, ``known``, or ``c0`` to ``c9``.
        dashed: Whether its lines are.
    """

    name: str
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing for any width.

    Args:
        draw: Width in pixels → SVG.
        keys: What its colours stand for; one alone is not shown.

    Example:
        >>> from know_hf.report.svg import Chart, Drawing
        >>> chart = Chart(lambda width: Drawing(width, 100, "nothing").svg())
        >>> chart.draw(340).startswith("<svg")
        True
    """

    draw: Callable[[int], str]
    keys: Sequence[Key] = ()


class Axis:
    """From values to pixels.

    Args:
        low: Value at the beginning.
        high: Value at the end.
        start: Pixel at the beginning.
        end: Pixel at the end.
        log: Whether equal ratios are equally long; both values are positive then.
    """

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False):
        if not high > low:
            high = low * 2 if log else low + (abs(low) or 1.0)
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values between the ends, at equal distances; about so many."""
        rough = (self.high - self.low) / max(most, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Drawing:
    """Collects the parts of an SVG in order.

    Args:
        width: In pixels.
        height: In pixels.
        label: What it shows, for those who do not see it.
        kind: A class for the page's script, such as ``rows``.
    """

    def __init__(self, width: float, height: float, label: str, kind: str = ""):
        self.width, self.height, self.label, self.kind = width, height, label, kind
        self.parts: list[str] = []

    def line(self, x: float, y: float, to_x: float, to_y: float, css: str = "grid", **own: str) -> None:
        """A straight line."""
        self.parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{css}"{_own(own)}/>')

    def curve(self, points: Sequence[tuple[float, float]], css: str, **own: str) -> None:
        """A line through points; it breaks where one is not finite."""
        steps, joined = [], False
        for x, y in points:
            if not math.isfinite(y):
                joined = False
                continue
            steps.append(f"{'L' if joined else 'M'}{x:.1f} {y:.1f}")
            joined = True
        self.parts.append(f'<path d="{"".join(steps)}" class="curve {css}"{_own(own)}/>')

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start", **own: str) -> None:
        """A line of text; ``anchor`` is ``start``, ``middle`` or ``end``."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}"{_own(own)}>{escape(text)}</text>'
        )

    def dot(self, x: float, y: float, tip: str, css: str, size: float = 4.5, shape: str = "dot", **own: str) -> None:
        """A mark that says ``tip`` when it is asked; around it lies a larger invisible one, which is easier to hit."""
        self.mark(
            shaped(shape, x, y, size) + f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" class="hit"/>', tip, css, **own
        )

    def mark(self, inner: str, tip: str, css: str, **own: str) -> None:
        """Anything that says ``tip`` when it is asked."""
        self.parts.append(f'<g class="mark {css}"{_own(own)}><title>{escape(tip)}</title>{inner}</g>')

    def open(self, css: str, **own: str) -> None:
        """Begins a group."""
        self.parts.append(f'<g class="{css}"{_own(own)}>')

    def close(self) -> None:
        """Ends it."""
        self.parts.append("</g>")

    def scale_left(self, axis: Axis, left: float, right: float, title: str, most: int = 6) -> None:
        """Lines and numbers of a vertical axis, its title above them."""
        for value in axis.ticks(most):
            self.line(left, axis(value), right, axis(value))
            self.text(left - 8, axis(value) + 4, number(value), "soft", "end")
        self.text(4, axis.end - 14, title, "title")

    def scale_below(self, axis: Axis, y: float, title: str, values: Sequence[float] | None = None) -> None:
        """Marks and numbers of a horizontal axis, as many as there is room for, its title below them."""
        most = max(2, round((axis.end - axis.start) / 90))
        last = -math.inf
        for value in axis.ticks(most) if values is None else values:
            x, half = axis(value), len(number(value)) * CHARACTER / 2
            self.line(x, y, x, y + 4, "axis")
            if x - half > last + 6:
                self.text(x, y + 18, number(value), "soft", "middle")
                last = x + half
        self.line(axis.start, y, axis.end, y, "axis")
        self.text((axis.start + axis.end) / 2, y + 38, title, "title", "middle")

    def svg(self) -> str:
        """The whole."""
        return (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'style="max-width:{self.width:.0f}px" class="{self.kind}" role="group" aria-label="{escape(self.label)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def shaped(shape: str, x: float, y: float, size: float) -> str:
    """A ``dot``, ``square``, ``star``, or triangle to the ``left`` or ``right``, around a place."""
    if shape == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" class="shape"/>'
    if shape == "square":
        return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:g}" height="{2 * size:g}" class="shape"/>'
    if shape == "star":
        corners = [
            (x + r * math.sin(math.pi * i / 5), y - r * math.cos(math.pi * i / 5))
            for i in range(10)
            for r in [size * (1.7 if i % 2 == 0 else 0.75)]
        ]
    else:
        side = -size if shape == "left" else size
        corners = [(x + side, y), (x - side * 0.6, y - size), (x - side * 0.6, y + size)]
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" class="shape"/>'


def number(value: float) -> str:
    """A number of an axis: no more digits than it needs, and a minus that is one."""
    return f"{value:.6g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def shortened(text: str, most: int) -> str:
    """A label of so many characters, its end kept."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def lines(*parts: str) -> str:
    """What a mark says, a line each."""
    return "\n".join(part for part in parts if part)


def _own(values: dict[str, str]) -> str:
    return "".join(f' data-{name}="{escape(value)}"' for name, value in values.items())
