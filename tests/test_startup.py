"""What each command imports: a library that it has no use for costs a person seconds, every time."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.version import Version

RUN = """
import atexit, os, sys
from pathlib import Path
atexit.register(lambda: Path(os.environ["IMPORTED"]).write_text(" ".join(sys.modules)))
from know_hf.cli.main import main
main(sys.argv[1:])
"""
#: What training and models need, and what no data, checkpoint or page does.
TRAINING = {
    "transformers", "datasets", "accelerate.accelerator", "peft", "timm", "pandas", "sklearn", "scipy", "sympy",
    "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "triton",
}  # fmt: skip
if Version(version("torch")) < Version("2.8"):
    TRAINING.discard("sympy")  # modules of its own that everything needs import it
HEAVY = {*TRAINING, "torch", "numpy", "huggingface_hub", "safetensors", "matplotlib", "pyarrow", "jinja2"}


def imported(tmp_path, *arguments) -> set[str]:
    """The modules that a command has imported when it ends."""
    file = tmp_path / "imported"
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "IMPORTED": str(file)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
    return set(file.read_text().split())


def test_help_imports_no_library(tmp_path):
    assert not imported(tmp_path, "--help") & HEAVY
    assert not imported(tmp_path, "enrich", "--help") & HEAVY


def test_a_trajectory_is_looked_at_without_models_and_data(trajectory, tmp_path):
    assert not imported(tmp_path, "plan", trajectory.root) & (TRAINING | {"matplotlib", "pyarrow"})


@pytest.mark.slow
def test_prediction_report_and_push_need_neither_models_nor_data(trajectory, tmp_path):
    """Of accelerate prediction takes what tells processes apart, and the page of a run draws."""
    for stage in trajectory.root.glob("stage-*"):
        (tmp_path / "run" / stage.name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / stage.name).symlink_to(stage)
    (tmp_path / "run" / "trajectory.json").write_bytes((trajectory.root / "trajectory.json").read_bytes())
    made = imported(tmp_path, "predict", tmp_path / "run", "--steps", "2")
    assert not made & (TRAINING - {"accelerate.accelerator"} | {"matplotlib", "pyarrow"})
    predicted = tmp_path / "run" / "enriched"
    assert not imported(tmp_path, "report", tmp_path / "run") & (TRAINING - {"accelerate.accelerator"} | {"pyarrow"})
    assert not imported(tmp_path, "push", predicted, "me/mine", "--dry-run") & (TRAINING | {"matplotlib"})


@pytest.mark.slow
def test_a_model_is_looked_at_without_data_and_trainer(image_model_folder, tmp_path):
    """Its kinds are read from the module itself, which transformers builds."""
    found = imported(tmp_path, "plan", image_model_folder)
    assert "transformers.modeling_utils" in found
    assert not found & {"datasets", "pandas", "peft", "sklearn", "transformers.trainer", "matplotlib"}


@pytest.mark.parametrize("name", ["KnownPredictor", "KnownConfig"])
@pytest.mark.slow
def test_a_predictor_is_registered_as_its_class_is_taken(name):
    code = f"from know_hf.known import {name}; from transformers import AutoConfig; AutoConfig.for_model('known')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
