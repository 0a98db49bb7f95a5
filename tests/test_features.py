"""The page of features stays true: its counts are those of its rows, its tests are there, its links lead somewhere."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "features.md"
TEXT = PAGE.read_text(encoding="utf-8")
ANSWERS = ("yes", "in part", "no")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
TEST = re.compile(r"`tests/(\w+\.py)::(\w+)`( \(slow\))?")


def rows() -> list[list[str]]:
    """The cells of all rows: feature, answer, how or why not, evidence."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = (["feature", "here", "how, or why not", "evidence"], ["---"] * 4)
    return [row for row in cells if row not in heads]


ROWS = rows()


@cache
def slowness(file: str) -> dict[str, bool]:
    """Test → whether all its cases are left to the slow run; of a file that is not there, nothing."""
    path = ROOT / "tests" / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    return {
        node.name: any(ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@cache
def anchors_of(page: Path) -> set[str]:
    """What a link into a page may end with: its headings as the site names them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def test_the_counts_are_those_of_the_rows():
    said = re.search(r"^\*\*(\d+) features: (\d+) yes, (\d+) in part, (\d+) no\.\*\*$", TEXT, re.M)
    counts = Counter(row[1] for row in ROWS)
    assert counts.keys() <= set(ANSWERS)
    assert [int(number) for number in said.groups()] == [len(ROWS), *(counts[answer] for answer in ANSWERS)]


def test_the_page_says_who_made_it():
    assert "made by the project itself" in TEXT and "nobody else has checked it" in TEXT


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", row[0])[:40])
def test_a_row_is_borne_out(row):
    assert len(row) == 4 and all(row), "four cells, none of them empty"
    _, answer, how, evidence = row
    links, tests = LINK.findall(how + evidence), TEST.findall(evidence)
    assert links, "a row names the page that tells more"
    assert tests or answer != "yes", "what is here is done by a test"
    assert evidence.count("tests/") == len(tests), "a test is named by its file and its function"
    for file, name, slow in tests:
        assert name in slowness(file), f"tests/{file} has no {name}"
        assert bool(slow) == slowness(file)[name], f"whether {name} is left to the slow run"


def test_names_are_there_once():
    assert not [name for name, count in Counter(row[0] for row in ROWS).items() if count > 1]


@pytest.mark.parametrize("target", sorted(set(LINK.findall(TEXT))))
def test_links_lead_somewhere(target):
    path, _, anchor = target.partition("#")
    page = (PAGE.parent / path).resolve()
    # The page of results and the like are pages of the site as well; docs/hooks.py turns links into theirs.
    assert page.is_file() and page.is_relative_to(ROOT)
    assert not anchor or anchor in anchors_of(page)


def test_the_page_is_found():
    assert ": features.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "(features.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "(docs/features.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
