"""Values that cannot be meant, and words that mean a value, before anything runs."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import QUICK

from know_hf import ForgettingArguments, enrich
from know_hf.cli.commands import COMMANDS
from know_hf.cli.flags import with_truths
from know_hf.cli.main import main
from know_hf.forgetting.options import training_options
from know_hf.laboratory.protocol import Protocol
from know_hf.settings import conform, pairs, read_recipe


@pytest.mark.parametrize(
    "given",
    [
        {"num_train_epochs": 0}, {"num_train_epochs": -1}, {"num_train_epochs": float("nan")}, {"max_steps": 0},
        {"max_steps": -7}, {"per_device_train_batch_size": 0}, {"per_device_eval_batch_size": -4},
        {"gradient_accumulation_steps": 0}, {"weight_decay": -1}, {"learning_rate": float("inf")},
    ],
)  # fmt: skip
def test_settings_out_of_range(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} is|max_steps {next(iter(given.values()))}"):
        ForgettingArguments("run", **given)


@pytest.mark.parametrize(
    "given",
    [{"epochs": -1}, {"epochs": 0}, {"head_epochs": -1}, {"evaluations": 0}, {"batch_size": 0}, {"examples": 0}],
)
def test_protocols_out_of_range(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} is"):
        Protocol(**given)


def test_what_yaml_means():
    options = {**training_options(), **COMMANDS["enrich"].options, **COMMANDS["compare"].options}
    given = {
        "steps": 2.0, "num_stages": "3e0", "learning_rate": "1e-3", "eval_strategy": False, "report_to": False,
        "eval_split": False, "bf16": False, "learning_rates": ["1e-3", 1],
    }  # fmt: skip
    assert conform(given, options, "run.yaml") == {
        "steps": 2, "num_stages": 3, "learning_rate": 1e-3, "eval_strategy": "no", "report_to": "none",
        "eval_split": "none", "bf16": False, "learning_rates": [1e-3, 1],
    }  # fmt: skip
    for wrong in ({"steps": float("inf")}, {"seed": 1.5}, {"bf16": "yes"}, {"label_names": "labels"}):
        with pytest.raises(ValueError, match=f"run.yaml: {next(iter(wrong))} must be"):
            conform(wrong, options, "run.yaml")


def test_names_that_are_there_twice(tmp_path):
    with pytest.raises(ValueError, match="arms: 'b' is there twice"):
        pairs(["naive=a", "b=c", "b=d"], "arms", "NAME=FOLDER")
    (tmp_path / "twice.yaml").write_text("seed: 1\nsteps: 2\nseed: 3\n")
    with pytest.raises(ValueError, match="'seed' is there twice"):
        read_recipe(tmp_path / "twice.yaml")
    (tmp_path / "merged.yaml").write_text("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_recipe(tmp_path / "merged.yaml")["c"] == {"x": 3}


def test_truths_in_every_spelling():
    fields = {"self_check": "bool", "disable_tqdm": "bool", "seed": "int"}
    given = ["--no-self-check", "--disable_tqdm", "--seed", "3"]
    assert with_truths(given, fields) == ["--self_check", "false", "--disable_tqdm", "true", "--seed", "3"]
    assert with_truths(["--disable_tqdm", "false"], fields) == ["--disable_tqdm", "false"]


def test_numbers_below_one_are_said_at_once(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "run", "--steps", "0"])
    assert stopped.value.code == 2 and "--steps is 0; it must be at least 1" in capsys.readouterr().err


def test_another_models_folder_is_no_place_for_steps(image_run, image_model_folder):
    before = sorted(image_model_folder.rglob("*"))
    with pytest.raises(FileExistsError, match="is a model's folder; choose another"):
        enrich(image_run.trajectory, image_model_folder, steps=1)
    assert [path for path in sorted(image_model_folder.rglob("*")) if path.name != ".know-hf.lock"] == before


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from conftest import QUICK, tiny_image_model
from know_hf import ForgettingArguments
from know_hf.forgetting.making import make_trainer
from know_hf.quickstart import digits
from transformers import TrainerCallback

class Say(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        print("step", state.global_step, flush=True)

args = ForgettingArguments({out!r}, **{{**QUICK, "num_train_epochs": 5000, "num_stages": 2, "use_cpu": True}})
make_trainer(tiny_image_model(), digits((0, 1, 2)), args=args, callbacks=[Say()]).train()
"""


@pytest.mark.slow
def test_ctrl_c_saves_the_stage(tmp_path):
    from pathlib import Path

    assert QUICK["save_strategy"] == "no"
    program = PROGRAM.format(tests=str(Path(__file__).parent), out=str(tmp_path / "run"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes)
    assert any(line.startswith("step 5") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert "KeyboardInterrupt: terminated; stage 1 is saved at" in error and time.monotonic() - begun < 60
    assert list((tmp_path / "run" / "training" / "stage-1").glob("checkpoint-*/optimizer.pt"))
