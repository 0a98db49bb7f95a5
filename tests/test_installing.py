"""What is said about installing holds: for the package, which is on no index, and for packages that are missing."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from know_hf.installing import how_to_install, missing
from know_hf.model_config import read_config
from know_hf.models.building import build_network, check_timm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: Where it is decided, and where it is looked for.
HOMES = {"know_hf/installing.py", "tests/test_installing.py", "pyproject.toml"}
TEXTS = {".py", ".md", ".ipynb", ".yml", ".yaml", ".html", ".cff", ".toml", ".txt", ""}
BY_NAME = re.compile(r"(pip3?|uv|pipx)\W+(add|install)\b[^\n&|]*know[-_]hf|know[-_]hf\[\w|pypi\.org/project/know")


def texts() -> list[Path]:
    """Every text of the project that people may read, messages of the code among them."""
    tops = [ROOT / name for name in ("know_hf", "docs", "examples", "hub_cards", "tests", ".github", ".ci")]
    found = [path for top in tops for path in top.rglob("*") if "__pycache__" not in path.parts]
    return [path for path in [*found, *ROOT.glob("*.*")] if path.is_file() and path.suffix in TEXTS]


def test_no_text_installs_it_by_its_name():
    looked_at = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in texts()}
    assert len(looked_at) > 300 and set(looked_at) >= HOMES | {"README.md", "examples/first_steps.ipynb"}
    found = [
        f"{name}: {line.strip()[:120]}"
        for name, text in looked_at.items()
        for line in text.splitlines()
        if name not in HOMES and BY_NAME.search(line)
    ]
    assert not found, "it is on no package index"


def packages_of(extra: str) -> set[str]:
    """The packages of an extra, by name."""
    found = set()
    for line in EXTRAS[extra]:
        name, inner = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", line).groups()
        found |= {p for own in inner.split(",") for p in packages_of(own)} if inner else {name}
    return found


def test_each_message_names_an_extra_that_brings_the_package():
    calls = [
        node
        for path in (ROOT / "know_hf").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing"
    ]
    asked = {(call.args[1].value, call.args[2].value) for call in calls}
    assert len(asked) >= 6
    for package, extra in asked:
        assert package in packages_of(extra)


def test_what_is_said_is_what_is_installed(tmp_path, monkeypatch):
    def installed(*lines: str) -> None:
        info = tmp_path / "know_hf-9.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", "Name: know-hf", "Version: 9", *lines]))

    monkeypatch.syspath_prepend(tmp_path)
    installed('Requires-Dist: scipy>=7.5; extra == "transfer"', "Project-URL: Paper, https://example.org/paper")
    assert how_to_install("scipy", "transfer") == (
        """pip install "scipy>=7.5" (or ".[transfer]" in a copy of know-hf's source)"""
    )
    assert how_to_install("sci", "transfer").startswith('pip install "sci" ')
    installed("Project-URL: Repository, https://example.org/know-hf")
    assert str(missing("Comparisons need", "scipy", "transfer")) == (
        'Comparisons need scipy: pip install "scipy" (or "know-hf[transfer] @ git+https://example.org/know-hf")'
    )


def test_only_models_of_timm_need_it(monkeypatch, image_model_folder):
    assert not any(line.startswith("timm") for line in PROJECT["dependencies"])
    assert "timm" in packages_of("quickstart")
    monkeypatch.setitem(sys.modules, "timm", None)
    for asked in (
        lambda: check_timm("resnet10t"),
        lambda: build_network({"timm": "resnet10t"}, "image-classification", ["cat", "dog"]),
        lambda: read_config(image_model_folder),
    ):
        with pytest.raises(ImportError, match=r'^Models of timm need timm: pip install "timm.*\.\[timm\]"'):
            asked()
    layers = {"model_type": "resnet", "hidden_sizes": [4], "depths": [1], "embedding_size": 4}
    assert build_network(layers, "image-classification", ["cat", "dog"]).num_labels == 2


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT and "version" in PROJECT["dynamic"]
    assert PROJECT["urls"].keys() <= {"Paper", "Repository", "Documentation", "Changelog", "Issues"}


def test_workflows_try_what_is_claimed():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    tried = {*matrix["python"], *(case["python"] for case in matrix["include"])}
    lowest = PROJECT["requires-python"].removeprefix(">=")
    setup = {step["with"]["python-version"] for step in jobs["lowest"]["steps"] if "with" in step}
    assert setup == {lowest}
    claimed = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert claimed <= tried | {lowest} and lowest in claimed
    commands = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert "--resolution lowest-direct" in commands and ".ci/run" in commands
    for name in re.findall(r"tests/\w+\.py", commands):
        assert (ROOT / name).is_file()


def test_a_release_needs_no_token():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    assert release[True]["push"] == {"tags": ["v*"]}  # YAML reads the word on as true
    assert release["permissions"] == {"contents": "read"}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "build"
    assert "secrets." not in str(release) and "password" not in str(release)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_forms_are_such(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert content.keys() >= {"name", "description", "body"}
    ids = [part["id"] for part in content["body"]]
    assert len(ids) == len(set(ids)) and all(part["attributes"]["label"] for part in content["body"])


def test_hooks_are_the_tools_of_the_tests():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = {hook["entry"].split()[2] for hook in local["hooks"]}
    assert local["repo"] == "local" and entries == {"ruff", "mypy"}
    assert all(any(line.startswith(tool) for line in EXTRAS["dev"]) for tool in entries)
