"""The quickstart at toy size, and at full size when asked for slow tests."""

import html
import re
from dataclasses import replace

import pytest
from conftest import ink
from transformers import AutoModelForImageClassification

from know_hf import quickstart as module
from know_hf.quickstart import digits, quickstart
from know_hf.report.plots import BLUE, ORANGE
from know_hf.report.story import FORGOTTEN, GAINED, WENT

NAMES = ["naive", "shrink to x8's norms", *(f"KNOWN x{s}" for s in (2, 4, 8))]


def check(folder, result, out):
    arms = list(result.arms)
    assert arms in (NAMES, [*NAMES, "best"])  # where best is none of the others
    assert len(result.fine_tunings) == len(arms) * len(result.learning_rates) * result.seeds
    assert "best control" in out and "±" in out and "Self-check" in out
    assert min(ink(folder / "report" / "forgetting_curve.png", color) for color in (BLUE, ORANGE)) > 1e-4
    # Bars and lines, in whatever colours, cover some of the white.
    assert max(ink(folder / "transfer" / "report" / name, "#ffffff") for name in ("bars.png", "curves.png")) < 0.99
    page = (folder / "index.html").read_text()
    assert page.count('<div class="wide"><svg') == 3 and "Verdict" in page
    assert all(guide in html.unescape(page) for guide in (FORGOTTEN, WENT, GAINED))
    for address in re.findall(r'<a href="([^#"]+)"', page):
        assert (folder / address).is_file()
    assert out.rstrip().endswith((folder / "index.html").resolve().as_uri())
    edges = [
        rate for rate in result.chosen_rates.values() if rate in (result.learning_rates[0], result.learning_rates[-1])
    ]
    said = "rate of the grid was chosen" in out[out.index("As starts for") :]
    assert said == bool(edges and len(result.learning_rates) > 1)
    for step in ("x2", "x4", "x8"):
        AutoModelForImageClassification.from_pretrained(folder / "enriched" / step)


@pytest.mark.slow
def test_small_quickstart_and_its_continuation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "EPOCHS", 1)
    monkeypatch.setattr(module, "PROTOCOL", replace(module.PROTOCOL, head_epochs=1, epochs=2, evaluations=1))
    monkeypatch.setattr(module, "LEARNING_RATES", (1e-3,))
    result = quickstart(tmp_path, seeds=2)
    check(tmp_path, result, capsys.readouterr().out)
    assert quickstart(tmp_path, seeds=2).fine_tunings == result.fine_tunings


def test_digits_are_real_and_relabelled():
    data = digits((7, 8, 9))
    assert sorted(set(data["label"])) == [0, 1, 2] and data.features["label"].names == ["7", "8", "9"]
    assert 500 < len(data) < 560 and data[0]["image"].size == (8, 8)


@pytest.mark.slow
def test_full_quickstart(tmp_path, capsys):
    check(tmp_path, quickstart(tmp_path), capsys.readouterr().out)
