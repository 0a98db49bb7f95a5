"""Every example at a toy setting."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_benchmark_of_meta_training(collected):
    out = run("benchmark_meta_training.py", collected.folder, "--processes", 1, "--rows", 50_000)
    assert "| training loop " in out and "| folded form, resident batch " in out and "100%" in out


def test_benchmark(tmp_path):
    out = run("benchmark_retrodiction.py", "--work-dir", tmp_path, "--layers", 1, "--width", 16, "--methods", "tsv")
    assert "| tsv " in out and "peak MB beyond idle" in out
