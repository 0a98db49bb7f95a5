"""The README stays true: its commands, its names, its layout."""

import ast
import re
import shlex
import shutil
from pathlib import Path

import know_hf
from know_hf.cli.main import build_parser, main

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
    assert len(blocks) == 4
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module != "transformers":
                assert node.module == "know_hf" and {alias.name for alias in node.names} <= set(know_hf.__all__)


def test_every_command_is_listed():
    commands = build_parser().commands
    assert set(re.findall(r"^\| `know-hf ([a-z-]+)", TEXT, re.M)) == set(commands)


def test_the_path_of_a_new_user(tmp_path, monkeypatch, images, image_model_folder, capsys):
    """From a folder of images and a model of one's own to loadable weights, by the commands as they are written."""
    section = TEXT.split("### Your own images, your own model\n")[1].split("\n### ")[0]
    commands = [line.split("#")[0] for line in re.search(r"```bash\n(.*?)```", section, re.S)[1].splitlines()]
    assert len(commands) == 4
    names = images.features["label"].names
    for i, row in enumerate(images):
        folder = tmp_path / "my-images" / ("test" if i % 5 == 0 else "train") / names[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{i:03}.png")
    shutil.copytree(image_model_folder, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "know-hf"
        main(arguments)
    shown = capsys.readouterr().out
    assert "predict (conv)" in shown and "→ revision x4" in shown
    assert (tmp_path / "runs/mine/report/index.html").is_file()
    code = re.search(r"```python\n(.*?)```", section, re.S)[1]
    found: dict = {}
    exec(code, found)
    assert found["model"].num_parameters() > 1000


def test_every_example_is_listed():
    scripts = {path.name for path in (ROOT / "examples").glob("*") if path.suffix in (".py", ".ipynb")}
    listed = set(re.findall(r"examples/([\w.]+)", TEXT + (ROOT / "RESULTS.md").read_text(encoding="utf-8")))
    listed |= set(re.findall(r"examples/([\w.]+)", (ROOT / "know_hf/retrodiction/RETRODICTION.md").read_text()))
    assert scripts <= listed


def test_layout_is_the_real_one(image_run, trajectory):
    made = {p.name for p in trajectory.root.iterdir() if not p.name.startswith(".")}
    for name in {"trajectory.json", "stage-0"}:
        assert name in made and name in TEXT


def test_citation_and_extras():
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == know_hf.__version__
    for extra in re.findall(r'\.\[(\w+)\]"', TEXT):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
