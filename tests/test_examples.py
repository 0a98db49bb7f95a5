"""Every example at a toy setting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from know_hf import Trajectory
from know_hf.known import native

EXAMPLES = Path(__file__).parents[1] / "examples"


needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")


def run(name: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def test_benchmark_of_meta_training(collected):
    out = run("benchmark_meta_training.py", collected.folder, "--processes", 1, "--rows", 50_000)
    assert "| training loop " in out and "| folded form, resident batch " in out and "100%" in out


def test_benchmark(tmp_path):
    out = run("benchmark_retrodiction.py", "--work-dir", tmp_path, "--layers", 1, "--width", 16, "--methods", "tsv")
    assert "| tsv " in out and "peak MB beyond idle" in out


@needs_compiler
def test_benchmark_of_prediction(tmp_path):
    sizes = ("--layers", 1, "--width", 16, "--weights", 8192)
    out = run("benchmark_prediction.py", "--work-dir", tmp_path, *sizes)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    by_name = {row[0]: row[1:] for row in rows}
    assert float(by_name["folded"][2]) < 1e-6 and float(by_name["kernel, float32"][2]) < 1e-6
    assert "above an idle import" in by_name["peak memory"][0]


@pytest.mark.slow
def test_benchmark_of_the_trainer(tmp_path):
    out = run("benchmark_trainer.py", "--work-dir", tmp_path, "--steps", 10, "--pairs", 1)
    assert "median ratio" in out and (tmp_path / "forget" / "stage-4" / "model.safetensors").exists()


def test_pvtv2_on_two_processes(tmp_path, image_data_folder):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    tiny = {
        "model": "timm/pvt_v2_b0", "image_size": 32, "dataset": image_data_folder, "output_dir": tmp_path,
        "num_stages": 4, "num_train_epochs": 1, "per_device_train_batch_size": 16, "disable_tqdm": True,
    }  # fmt: skip
    flags = [str(part) for name, value in tiny.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [*launch, EXAMPLES / "enrich_pvtv2.py", *flags, "--from_scratch"], capture_output=True, text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    record = Trajectory.load(tmp_path).record
    assert [stage.examples for stage in record.stages] == [128, 42, 13, 4, 1] and record.sampling_ratio == 0.33
    assert record.recipe["batch_size"] == 32, "it ran as one process"
    for name in ("x3", "x9"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "enriched" / name)
    assert done.stdout.count("x9: AutoModelForImageClassification") == 1
