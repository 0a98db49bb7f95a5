"""Every benchmark at a toy setting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from know_hf.known import native

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")


def run(name: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_benchmark_of_meta_training(collected):
    out = run("meta_training.py", collected.folder, "--processes", 1, "--rows", 50_000)
    assert "| training loop " in out and "| folded form, resident batch " in out and "100%" in out


@pytest.mark.slow
def test_benchmark(tmp_path):
    out = run("retrodiction.py", "--work-dir", tmp_path, "--layers", 1, "--width", 16, "--methods", "tsv")
    assert "| tsv " in out and "peak MB beyond idle" in out


@pytest.mark.slow
@needs_compiler
def test_benchmark_of_prediction(tmp_path):
    sizes = ("--layers", 1, "--width", 16, "--weights", 8192)
    out = run("prediction.py", "--work-dir", tmp_path, *sizes)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    by_name = {row[0]: row[1:] for row in rows}
    assert float(by_name["folded"][2]) < 1e-6 and float(by_name["kernel, float32"][2]) < 1e-6
    assert "above an idle import" in by_name["peak memory"][0]


@pytest.mark.slow
def test_benchmark_of_the_trainer(tmp_path):
    out = run("trainer.py", "--work-dir", tmp_path, "--steps", 10, "--pairs", 1)
    assert "median ratio" in out and (tmp_path / "forget" / "stage-4" / "model.safetensors").exists()


@pytest.mark.slow
@needs_compiler
def test_benchmark_of_instruction_sets():
    out = run("kernel.py", "--weights", 4096, "--rounds", 1)
    assert "of the limit" in out and "%" in out.splitlines()[-1]


@pytest.mark.slow
def test_benchmark_of_streaming(tmp_path):
    out = run("streaming.py", "--work-dir", tmp_path, "--layers", 1, "--width", 16, "--vocabulary", 50,
              "--methods", "mean")  # fmt: skip
    assert "| cp of the five" in out and "| mean " in out


@pytest.mark.slow
def test_benchmark_of_waiting(tmp_path):
    out = run("startup.py", "--work-dir", tmp_path, "--repeat", 1)
    assert "| enrich, 352 pictures, until training begins |" in out and "| predict RUN " in out


@pytest.mark.slow
def test_signs(trajectory):
    out = run("signs.py", trajectory.root)
    assert "at most, were every block certain" in out
