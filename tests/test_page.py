"""The report's page: what stands in it, and what a pointer and the keyboard do with it in a real browser."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from test_progress import compared

from know_hf.laboratory.arms import Arm
from know_hf.laboratory.result import ComparisonResult
from know_hf.report.charts import forgetting_chart, layers_chart, plane_chart
from know_hf.report.comparison import add_comparison, verdict
from know_hf.report.page import Page
from know_hf.report.svg import Axis, number
from know_hf.tasks import Score
from know_hf.trajectory.plane import Plane

VALUES = {"naive": 0.80, "known x2": 0.83, "known x4": 0.71, "mean": 0.81, "shrink x2": 0.5}
ROLES = {"naive": ("naive", None, None), "known x2": ("method", "known", "known"),
         "known x4": ("method", "known", "known"), "mean": ("control", "mean", "mean"),
         "shrink x2": ("control", "shrink", "shrink")}  # fmt: skip


def result() -> ComparisonResult:
    found = compared(Score("accuracy"), dict.fromkeys(("naive",), 0.8))
    runs = {
        (arm, rate, seed): {
            "test": value + 0.01 * seed * (1 + rate), "validation": value - rate,
            "curve": [(1.0, value / 2), (2.0, value)],
        }
        for arm, value in VALUES.items() for rate in (1e-3, 1e-2) for seed in range(3)
    }  # fmt: skip
    arms = {name: Arm(name, None, *ROLES[name]) for name in VALUES}
    return ComparisonResult(found.output_dir, arms, [1e-3, 1e-2], 3, runs, found.score)


def stages(*scores: float) -> SimpleNamespace:
    made = [SimpleNamespace(index=i, examples=800 >> i, metrics={"eval_accuracy": s}) for i, s in enumerate(scores)]
    return SimpleNamespace(record=SimpleNamespace(stages=made), scale=lambda step: 2.0**step)


def plane(points: int = 6) -> Plane:
    draw = np.random.default_rng(0)
    names = [f"stage-{i}" for i in range(4)] + ["x2", "x4"]
    return Plane(names, draw.normal(size=(points, 2)), np.zeros((2, 4)), np.ones((6, 6)), (0.7, 0.2))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page with every kind of drawing."""
    folder = tmp_path_factory.mktemp("page")
    page = Page("A page & its <parts>").verdict("Keep Θ⁰: nothing is better. So it is.").section("Run")
    page.image(
        None, "What was forgotten.", forgetting_chart(stages(0.9, 0.8, 0.7), [(1, "x2", {"eval_accuracy": 0.95})])
    )
    page.image(None, "Where it went.", plane_chart(plane()))
    values = {"x2": [0.1, math.nan, 0.3], "x4": [0.2, math.nan, 0.4]}
    page.image(None, "Layers.", layers_chart({"norm": values, "cosine": values}, ["a.weight", "a.bias", "b.weight"]))
    page.section("Comparison")
    add_comparison(page, result(), folder)
    page.heading("Costs").table([["part", "time"], ["a", "1.2 min"], ["b", "30 s"], ["c", "–"], ["d", "1.5 h"]])
    return page.write(folder)


@pytest.fixture(scope="module")
def browser(written, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def opened(browser, written):
    browser.look(1200)
    browser.open(written)
    return browser


def column(browser, table: int, place: int) -> list[str]:
    return browser.run(
        f"Array.from(document.querySelectorAll('table')[{table}].tBodies[0].rows,"
        f" row => row.cells[{place}].textContent)"
    )


def test_everything_is_in_one_file(written):
    html = written.read_text()
    assert "://" not in html and not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert html.count("<script") == 1 and "default-src 'none'" in html and "<parts>" not in html
    assert html.index("nothing is better") < html.index("<nav") < html.index("<main")
    assert html.count('<div class="wide"><svg') == html.count('<div class="narrow"><svg') == 6
    assert not list(written.parent.glob("convergence.png")) and "data:image/png" not in html


def test_marks_tell_arm_interval_and_rate(written):
    tips = re.findall(r"<title>(.*?)</title>", written.read_text(), re.DOTALL)
    found = result()
    difference = found.against("known x2", "naive")
    assert difference.low <= 3.0 <= difference.high and found.chosen_rates["known x2"] == 1e-3
    (tip,) = {tip for tip in tips if tip.startswith("known x2\n") and "interval" in tip}
    shown = f"{number(round(difference.low, 3))} … {number(round(difference.high, 3))}"
    assert f"95 % interval {shown}" in tip and "learning rate 0.001" in tip and "best control, mean: better" in tip
    assert any(tip.startswith("a.bias\nx2: did not move") for tip in tips)
    assert any(tip == "x2\naccuracy 0.9500\npredicted, nominally of 1,600 examples" for tip in tips)
    assert verdict(found).startswith("known x2 (the step that validation chose) is better than naive")


def test_axes():
    assert Axis(0.87, 0.99, 0, 1).ticks(6) == pytest.approx([0.88, 0.9, 0.92, 0.94, 0.96, 0.98])
    assert Axis(100, 1600, 0, 4, log=True)(400) == pytest.approx(2)
    assert Axis(5, 5, 0, 10)(5) == 0 and Axis(-1, 1, 0, 10).ticks(2) == [-1, 0, 1]
    assert number(-0.5) == "−0.5" and number(1e-17) == "0"
    same = plane()
    for flat in (np.zeros((6, 2)), np.ones((6, 2)) * [[1.0, 0.0]]):
        assert "nan" not in plane_chart(Plane(same.names, flat, same.directions, same.distances, (0, 0))).draw(340)
    assert forgetting_chart(stages()) is None and layers_chart({"norm": {}}, ["a"]) is None
    assert "nan" not in forgetting_chart(stages(0.5, math.nan)).draw(760)


def test_headings_sort_tables(opened):
    last = opened.run("document.querySelectorAll('table').length") - 1
    head = f"document.querySelectorAll('table')[{last}].querySelectorAll('th')[1]"
    before = column(opened, last, 0)
    orders = []
    for _ in range(3):
        opened.run(f"{head}.querySelector('button').click()")
        orders.append((opened.run(f"{head}.getAttribute('aria-sort')"), column(opened, last, 0)))
    assert orders == [("descending", list("dabc")), ("ascending", list("badc")), ("none", before)]
    opened.run(f"{head}.querySelector('button').focus()")
    opened.press("Enter", 13)
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "descending"
    opened.run("document.querySelectorAll('table')[0].querySelectorAll('th button')[3].click()")  # − naive, with signs
    assert column(opened, 0, 0) == ["known x2", "mean", "known x4", "shrink x2", "naive"]


def test_switches_hide_methods_and_keys_hide_lines(opened):
    shown = (
        "getComputedStyle(document.querySelector('section:last-of-type .wide [data-m=\"known\"]')).display != 'none'"
    )
    height = "document.querySelector('section:last-of-type .wide svg').viewBox.baseVal.height"
    rows = "document.querySelectorAll('tbody tr:not(.gone)').length"
    switch = "Array.from(document.querySelectorAll('.methods button')).find(b => b.textContent == 'known')"
    before = opened.run(shown), opened.run(height), opened.run(rows)
    assert before[0] and opened.run(f"{switch}.getAttribute('aria-pressed')") == "true"
    opened.run(f"{switch}.click()")
    assert opened.run(f"{switch}.getAttribute('aria-pressed')") == "false"
    assert not opened.run(shown) and opened.run(height) == before[1] - 2 * 26 and opened.run(rows) == before[2] - 4
    opened.run(f"{switch}.click()")
    assert (opened.run(shown), opened.run(height), opened.run(rows)) == before
    opened.run("document.querySelector('.keys button').click()")
    dots = (
        "Array.from(document.querySelectorAll('figure')[0].querySelectorAll('.wide .mark'),"
        " mark => getComputedStyle(mark).display)"
    )
    assert opened.run(dots) == ["none"] * 3 + ["inline"]
    other = "document.querySelectorAll('figure')[1].querySelectorAll('.off').length"
    assert opened.run(other) == 0  # a key is its own drawing's


def test_pointer_and_keyboard_ask_marks(opened):
    tip = "document.getElementById('tip').hidden ? null : document.getElementById('tip').textContent"
    place = opened.run(
        "(() => { const m = document.querySelectorAll('.wide .mark .shape')[3]; m.scrollIntoView({block: 'center'});"
        " const r = m.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    opened.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
    opened.point(*place)
    assert opened.run(tip).startswith("x2\naccuracy 0.9500")
    opened.press("Escape", 27)
    assert opened.run(tip) is None
    stops = opened.run(
        "Array.from(document.querySelectorAll('svg'), s => s.querySelectorAll('[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}  # the tab key enters each drawing once
    opened.run("document.querySelector('.wide .mark').focus()")
    opened.press("ArrowRight", 39)
    assert "accuracy 0.8000" in opened.run(tip)
    assert opened.run("document.activeElement.getAttribute('aria-label')").startswith("Θ¹, accuracy 0.8")
    opened.press("End", 35)
    assert opened.run(tip).startswith("x2")
    ring = "getComputedStyle(document.activeElement.querySelector('.hit')).stroke"
    assert opened.run("document.activeElement.matches('.mark')") and opened.run(ring).startswith("rgb")
    opened.press("Tab", 9)
    assert opened.run("document.activeElement.closest('figure') != document.querySelector('figure')")
    opened.run("document.querySelector('th button').focus({focusVisible: true})")
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_nothing_is_wider_than_a_narrow_screen(opened):
    for width in (320, 360, 768, 1200):
        opened.look(width)
        assert opened.run("document.documentElement.scrollWidth") == width
        narrow = opened.run("getComputedStyle(document.querySelector('.narrow')).display != 'none'")
        assert narrow == (width < 640)
        # Letters of drawings are not made smaller than they are drawn.
        scales = opened.run(
            "Array.from(document.querySelectorAll('svg')).filter(s => s.clientWidth)"
            ".map(s => s.clientWidth / s.viewBox.baseVal.width)"
        )
        assert len(scales) == 6 and all(0.82 <= scale <= 1.001 for scale in scales), (width, scales)


def contrast(first: str, second: str) -> float:
    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_by_day_and_night(opened):
    grounds = []
    for dark in (False, True):
        opened.look(1200, dark=dark)
        ground = opened.run("getComputedStyle(document.body).backgroundColor")
        grounds.append(ground)
        for what, property, least in (
            ("body", "color", 7), ("svg text.soft", "fill", 4.5), ("figcaption", "color", 4.5), ("nav a", "color", 4.5),
            (".c0 .shape", "fill", 3), (".c1", "stroke", 3), (".known .shape", "fill", 3), (".grey .shape", "fill", 3),
        ):  # fmt: skip
            found = opened.run(
                f"getComputedStyle(document.querySelector('main {what}, header {what}, {what}')).{property}"
            )
            if found != "none":
                assert contrast(found, ground) >= least, (dark, what, found, ground)
    assert contrast(*grounds) > 12
    opened.look(1200, dark=True, media="print")  # paper is white
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.run("getComputedStyle(document.querySelector('.methods')).display") == "none"


def test_it_reads_without_its_script(browser, written):
    browser.script(False)
    try:
        browser.open(written)
        assert browser.run("document.querySelectorAll('button').length") == 0
        assert browser.run("getComputedStyle(document.querySelector('.methods')).display") == "none"
        assert browser.run("document.querySelectorAll('.mark title').length") > 30  # browsers show these by themselves
        assert "nothing is better" in browser.run("document.querySelector('.verdict').innerText")
    finally:
        browser.script(True)


def test_nothing_is_asked_of_the_network(opened, written):
    assert opened.events
    asked = {e["params"]["request"]["url"] for e in opened.events if e.get("method") == "Network.requestWillBeSent"}
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"} and written.resolve().as_uri() in asked
    assert not [e for e in opened.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
