"""The archives that a release consists of: built, looked at, and installed where nothing else is."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import know_hf

ROOT = Path(__file__).parents[1]
#: What a build reads.
SOURCES = ("know_hf", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
PROGRAM = """
import sys
from pathlib import Path
from importlib import metadata, resources
import torch
from safetensors.torch import save_file
import know_hf
from know_hf import Trajectory, enrich, retrodict

assert Path(know_hf.__file__).is_relative_to(sys.prefix), know_hf.__file__
assert metadata.version("know-hf") == know_hf.__version__
assert (resources.files("know_hf") / "py.typed").is_file()
folders = []
for stage in range(5):
    folders.append(Path(f"stage-{stage}"))
    folders[-1].mkdir()
    save_file({"w": torch.linspace(-1, 1, 64) / (1 + stage)}, folders[-1] / "model.safetensors")
trajectory = Trajectory.from_checkpoints(folders, kinds={"w": "fc"}, sampling_ratio=0.5)
made = enrich(trajectory, "enriched", steps=1).checkpoints["x2"]  # by the bundled predictor
assert "KNOW" in (made / "README.md").read_text(encoding="utf-8")  # from a template
"""


def run(*command, **options) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the source archive, built of a copy."""
    pytest.importorskip("build")
    copy, out = tmp_path_factory.mktemp("copy") / "know-hf", tmp_path_factory.mktemp("dist")
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    # The wheel is made of the source archive, as an installer without a wheel would.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_archives_hold_the_package_and_nothing_else(archives):
    wheel, source = archives
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "know_hf").rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {"know_hf/py.typed", "know_hf/known/kernel.cpp", "know_hf/report/templates/page.html"} <= files
    assert wheel.name == f"know_hf-{know_hf.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        rest = [name for name in archive.namelist() if name not in found]
    assert found == files
    assert any(name.endswith("licenses/LICENSE") for name in rest)
    with tarfile.open(source) as archive:
        found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert files < found and {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} < found
    assert {name for name in found - files if "/" in name} == {n for n in found if n.startswith("know_hf.egg-info/")}
    assert wheel.stat().st_size < 2_000_000 and source.stat().st_size < 2_000_000


@pytest.mark.slow
def test_an_index_would_take_them(archives):
    pytest.importorskip("twine")
    assert run(sys.executable, "-m", "twine", "check", "--strict", *archives).count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_of_the_project_is(archives, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", archives[0])
    # Only what it depends on comes from here; a path in such a file brings no other installation of the package.
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "work").mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    place = {"cwd": tmp_path / "work", "env": clean}
    assert run(scripts / "know-hf", "--version", **place).strip() == f"know-hf {know_hf.__version__}"
    assert f"know-hf {know_hf.__version__}" in run(scripts / "know-hf", "env", **place)
    assert "complete -c know-hf" in run(scripts / "know-hf", "completion", "fish", **place)
    run(python, "-c", PROGRAM, **place)
