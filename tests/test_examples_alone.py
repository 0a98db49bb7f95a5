"""Every example and benchmark as it is: without arguments, without a network, in an empty folder."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES, BENCHMARKS = ROOT / "examples", ROOT / "benchmarks"
#: Script → what it prints in the end, among others.
PRINTED = {
    "make_data": "train-00000-of-00001.parquet: 800 examples",
    "run_recipe": "| table3.yaml ",
    "meta_training": "| training loop ",
    "prediction": "| folded ",
    "retrodiction": "| known ",
    "trainer": "median ratio",
    "domain_generalisation": "| naive ",
    "enrich_captioning": "| x3 ",
    "enrich_language_model": "| x4 ",
    "enrich_pvtv2": "| x3 ",
    "enrich_segmentation": "| x3 ",
    "enrich_text_classifier": "| x4 ",
    "fit_checkpoints": "| fitted ",
    "weights_worth_taking": "# Weights worth taking",
}
#: Those that take seconds; the others are left to the slow run.
QUICK = ("make_data",)


def script(name):
    return next(path for folder in (EXAMPLES, BENCHMARKS) if (path := folder / f"{name}.py").exists())


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_it_says_how_long_it_takes_and_how_else_to_run_it(name):
    text = ast.get_docstring(ast.parse(script(name).read_text(encoding="utf-8")))
    assert re.search(r"\b(seconds|minutes?|hours)\b", text), "no time"
    assert re.search(rf"^    \S.*{name}\.py", text, re.M), "no command"


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PRINTED]
)
def test_it_runs_as_it_is(name, tmp_path):
    done = subprocess.run(
        [sys.executable, script(name)], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert PRINTED[name] in done.stdout
