"""Commands that die or fail at any change of files that they make, and are then given again: the same files."""

import shutil
import sys
from pathlib import Path

import pytest
from conftest import FAST_TRIALS, run_cli, tiny_image_model
from faults import MODES, Campaign, campaign

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)
TRAINING = [
    "--num_stages", "2", "--train_stage_zero", "True", "--per_device_train_batch_size", "32", "--learning_rate", "1e-3",
    "--disable_tqdm", "True", "--output-dir", "{folder}",
]  # fmt: skip


def training(request) -> list:
    """Where a run takes its model and data from."""
    given = (request.getfixturevalue(f"image_{what}_folder") for what in ("model", "data"))
    return [x for pair in zip(("--model", "--dataset"), given, strict=True) for x in pair]


def enrich(request, tmp_path) -> Campaign:
    return Campaign(["enrich", *training(request), *TRAINING, "--num_train_epochs", "1", "--steps", "1"])


def forget(request, tmp_path) -> Campaign:
    saving = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]
    return Campaign(["forget", *training(request), *TRAINING, *saving])


def predict(request, tmp_path) -> Campaign:
    begun = tmp_path / "begun"
    run_cli(*[begun if argument == "{folder}" else argument for argument in forget(request, tmp_path).command])
    return Campaign(["predict", "{folder}", "--steps", "2", "--method", "known", "shrink"], begin=str(begun))


def collect(request, tmp_path) -> Campaign:
    # The README tells how long it took.
    return Campaign(
        ["collect", "--data", *request.getfixturevalue("data"), "--output-dir", "{folder}", "--trials", "1",
         "--examples", *FAST_TRIALS["examples"], "--epochs", "1", "1", "--branches", "1", "--architectures", "cnn"],
        ignored=["README.md"],
    )  # fmt: skip


def meta_train(request, tmp_path) -> Campaign:
    meta = request.getfixturevalue("collected").folder
    return Campaign(["meta-train", meta, "--output-dir", "{folder}", "--epochs", "2", "--rows", "2000",
                     "--held-out-data", "second"])  # fmt: skip


def transfer(request, tmp_path) -> Campaign:
    tiny_image_model(1).save_pretrained(tmp_path / "other")
    source = training(request)
    return Campaign(
        ["compare", "--arms", f"naive={source[1]}", f"other={tmp_path / 'other'}", *source[2:], "--output-dir",
         "{folder}", "--epochs", "1", "--head-epochs", "0", "--seeds", "2", "--learning-rates", "1e-3",
         "--validation-examples", "16", "--evaluations", "1"],
        ignored=["report/index.html", "report/transfer.md"],
    )  # fmt: skip


def check(plan: Campaign, scratch: Path, points: int | None, modes=MODES) -> None:
    plan.command, plan.points, plan.modes = [str(argument) for argument in plan.command], points, list(modes)
    outcome = campaign(plan, scratch)
    said = f"{outcome.operations} operations, tried {outcome.tried}, {outcome.seconds:.0f} s"
    print(f"{plan.command[0]}: {said}")
    assert sum(outcome.tried.values()) and not outcome.failures, "\n".join([said, *outcome.failures])


@pytest.mark.slow
def test_a_sample_of_faults(request, tmp_path):
    """A loss of power and a full disk, at places that the points' own random numbers choose."""
    check(predict(request, tmp_path), tmp_path, 1, ["power", "full"])


@pytest.mark.slow
@pytest.mark.parametrize("command", [enrich, forget, predict, collect, meta_train, transfer])
def test_every_fault(request, tmp_path, command):
    check(command(request, tmp_path), tmp_path, None)
