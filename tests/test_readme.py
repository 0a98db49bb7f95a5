"""The README stays true: its commands, its names, its layout."""

import ast
import re
from pathlib import Path

import know_hf
from know_hf.cli.main import build_parser

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def first_block(heading: str) -> str:
    section = TEXT.split(f"\n{heading}\n")[1].split("\n## ")[0]
    return re.search(r"```\w*\n(.*?)\n```", section, re.S)[1]


def test_the_two_commands():
    assert first_block("## Install and run") == 'python -m pip install ".[quickstart]" && python -m know_hf quickstart'
    steps = ('pip install -e ".[dev]"', "ruff check .", "ruff format --check .", "mypy", "pytest -n 2")
    # One list of commands: whichever fails, what comes after it does not run, and the whole fails.
    assert first_block("## Test").replace("&&\n", "&& ") == " && ".join(f"python -m {step}" for step in steps)


def test_python_blocks_parse_and_import_real_names():
    blocks = re.findall(r"```python\n(.*?)\n```", TEXT, re.S)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module != "transformers":
                assert node.module == "know_hf" and {alias.name for alias in node.names} <= set(know_hf.__all__)


def test_every_command_is_listed():
    commands = build_parser().commands
    former = {"transfer"}  # still answers
    assert set(re.findall(r"^\| `know-hf ([a-z-]+)", TEXT, re.M)) == set(commands) - former


def test_every_example_is_listed():
    scripts = {path.name for path in (ROOT / "examples").glob("*") if path.suffix in (".py", ".ipynb")}
    listed = re.findall(r"^\| \[([\w.]+)\]", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.M)
    assert scripts <= set(listed) and "](examples/README.md)" in TEXT


def test_layout_is_the_real_one(image_run, trajectory):
    made = {p.name for p in trajectory.root.iterdir() if not p.name.startswith(".")}
    described = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    for name in {"trajectory.json", "stage-0"}:
        assert name in made and name in described


def test_links_lead_to_files():
    for page in (ROOT / "README.md", ROOT / "RESULTS.md", ROOT / "examples" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), target


def test_citation_and_extras():
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == know_hf.__version__
    for extra in re.findall(r'\.\[(\w+)\]"', TEXT):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
