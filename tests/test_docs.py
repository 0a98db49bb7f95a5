"""The documentation stays true: its code runs as it stands, its links lead somewhere, and the site builds.

On the pages of ``RUN`` every block of `bash` and `python` is run, in order, in a folder that holds what they speak of;
what cannot run without a network or a second machine is a block of `text`, with real commands.
"""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import slow

from know_hf.cli.main import build_parser, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "results" not in p.parts)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(block: str) -> list[list[str]]:
    """The commands of a block, flags and all; continued lines joined, comments dropped."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def workplace(with_turns, tmp_path, monkeypatch, images, image_model_folder, text_model_folder) -> Path:
    """A folder with a model and data of each kind, under the names that the pages use."""
    names = images.features["label"].names
    for data in ("my-images", "downstream"):
        for i, row in enumerate(images):
            folder = tmp_path / data / ("test" if i % 5 == 0 else "train") / names[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i:03}.png")
    shutil.copytree(image_model_folder, tmp_path / "my-model")
    shutil.copytree(text_model_folder, tmp_path / "my-text-model")
    for file, count in (("reviews.csv", 80), ("held-out.csv", 40)):
        words = ["good" if i % 2 else "bad" for i in range(count)]
        lines = [f"a {'very ' * (i % 3)}{word} film,{word}" for i, word in enumerate(words)]
        (tmp_path / file).write_text("\n".join(["text,label", *lines]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page(name: str) -> Path:
    return DOCS / name


RUN = [
    "how-to/trainer.md",
    *slow("tour.md", "how-to/images.md", "how-to/texts.md", "how-to/adapters.md", "how-to/compare.md", "how-to/hub.md"),
]


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page_runs(workplace, name):
    found: dict = {}
    ran = 0
    for kind, code in blocks(page(name)):
        if kind == "python":
            exec(compile(code, name, "exec"), found)
        elif kind == "bash":
            for program, *arguments in commands(code):
                assert program == "know-hf"
                main(arguments)
        else:
            assert kind == "text", f"{name}: a block says what it is: bash, python or text"
            continue
        ran += 1
    assert ran


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_names_and_flags_are_real(path):
    parser = build_parser()
    for kind, code in blocks(path):
        if kind == "python":
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("know_hf"):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names), (path, node.module)
            continue
        for words in commands(code) if kind in ("bash", "text") and "know-hf " in code else []:
            if words[0] == "know-hf":
                assert words[1] in parser.commands, (path, words)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in PAGES:
        assert f": {path.relative_to(DOCS).as_posix()}\n" in navigation, f"{path} is not in mkdocs.yml"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason='the site needs pip install ".[docs]"')
    pytest.importorskip("material")
    done = subprocess.run(  # quiet, it would count no warnings
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "results" / "index.html").is_file()
