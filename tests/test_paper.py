"""The page that sets paper, code and recipes beside one another says what the recipes have."""

import runpy
from pathlib import Path

from know_hf.laboratory.recipe import load_recipe

ROOT = Path(__file__).parents[1]
MADE = runpy.run_path(str(ROOT / "examples" / "recipes" / "page.py"))


def cells(what: str) -> list[str]:
    """The row of that name in the page as it is written."""
    lines = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return next(row for row in rows if row[0] == what)


def test_the_page_is_not_stale():
    said = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert said == MADE["page"](), "run: python examples/recipes/page.py docs/paper.md"


def test_the_large_sizes_are_the_papers_and_its_codes():
    """Against what paper and code say, by number; what deviates on purpose has its reason in the page."""
    assert cells("epochs")[1:5] == ["200", "1", "200", "200"]
    for what in ("sampling ratio r", "stages S", "batch", "repetitions", "images of the stages"):
        text, code, paper, released = cells(what)[1:5]
        assert paper == (code if text == "not said" or what.startswith("images") else text) or "," in paper, what
        assert released in code or "," in released, what
    assert cells("schedule")[3] == "cosine" and "×0.1 after 81 epochs" in cells("schedule")[4]
    assert cells("gradient clipping")[3:5] == ["none", "none"]
    assert cells("head phase")[3] == "10 epochs, head and norms, constant 0.001"
    assert cells("learning rates")[4] == "0.0004" and cells("data")[4].endswith("50,000 images")
    for name in ("table1", "table2", "table6", "table7", "predictors"):
        for setting in load_recipe(ROOT / "examples" / "recipes" / f"{name}.yaml", "paper").settings:
            training, transfer = setting.pretraining.training, setting.transfer
            assert training["lr_scheduler_type"] == "cosine" and training["max_grad_norm"] == 0
            assert transfer is None or dict(transfer.make_protocol().training_arguments)["max_grad_norm"] == 0
