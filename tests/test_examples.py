"""Every example at a toy setting."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from know_hf import KnownPredictor
from know_hf.quickstart import digits

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_default_predictor(tmp_path):
    for name in ("cifar10", "mnist", "fashion_mnist"):
        (tmp_path / "data" / name / "data").mkdir(parents=True)
        digits(tuple(range(10))).select(range(500)).to_parquet(
            tmp_path / "data" / name / "data" / "train-00000-of-00001.parquet"
        )
    arguments = [
        "--data-root", tmp_path / "data", "--work-dir", tmp_path / "work", "--output-dir", tmp_path / "out",
        "--trials", 6, "--epochs", 1, "--per-tensor", 16, "--processes", 2,
    ]  # fmt: skip
    out = run("train_default_predictor.py", *arguments)
    assert "trial 5:" in out and KnownPredictor.from_pretrained(tmp_path / "out").config.history_length == 5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "6 trials of progressive forgetting (0 more" in card and "cnn, mlp, resnet, resnet_bias, separable" in card
    with safe_open(tmp_path / "work" / "trial-00000.safetensors", "pt") as file:
        assert all(file.get_slice(name).get_shape()[0] == 7 for name in file.keys())
    again = run("train_default_predictor.py", *arguments)  # continues: nothing is collected twice
    assert "trial" not in again


def test_benchmark(tmp_path):
    out = run(
        "benchmark_retrodiction.py", "--work-dir", tmp_path, "--layers", 1, "--width", 16, "--methods", "known", "tsv"
    )
    assert "| known " in out and "| tsv " in out and "peak MB beyond idle" in out
