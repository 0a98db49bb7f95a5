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


@pytest.fixture(scope="session")
def commands(tmp_path_factory, image_model_folder, image_data_folder, data, collected) -> dict[str, Campaign]:
    """The smallest job of every command that writes."""
    begun = tmp_path_factory.mktemp("faults") / "run"
    source = ["--model", image_model_folder, "--dataset", image_data_folder]
    forget = ["forget", *source, *TRAINING, "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]
    run_cli(*[begun if argument == "{folder}" else argument for argument in forget])
    other = tmp_path_factory.mktemp("models") / "other"
    tiny_image_model(1).save_pretrained(other)
    low, high = FAST_TRIALS["examples"]
    jobs = {
        "enrich": ["enrich", *source, *TRAINING, "--num_train_epochs", "1", "--steps", "1"],
        "forget": forget,
        "predict": ["predict", "{folder}", "--steps", "2", "--method", "known", "shrink"],
        "collect": [
            "collect", "--data", *data, "--output-dir", "{folder}", "--trials", "1", "--examples", low, high,
            "--epochs", "1", "1", "--branches", "1", "--architectures", "cnn",
        ],
        "meta-train": ["meta-train", collected.folder, "--output-dir", "{folder}", "--epochs", "2", "--rows", "2000",
                       "--held-out-data", "second"],
        "transfer": [
            "transfer", "--arms", f"naive={image_model_folder}", f"other={other}", "--dataset", image_data_folder,
            "--output-dir", "{folder}", "--epochs", "1", "--head-epochs", "0", "--seeds", "2", "--learning-rates",
            "1e-3", "--validation-examples", "16", "--evaluations", "1",
        ],
    }  # fmt: skip
    plans = {name: Campaign([str(argument) for argument in command]) for name, command in jobs.items()}
    plans["predict"].begin = str(begun)
    # They tell how long it took.
    plans["collect"].ignored = ["README.md"]
    plans["transfer"].ignored = ["report/index.html", "report/transfer.md"]
    return plans


def check(plan: Campaign, scratch: Path, points: int | None, modes=MODES) -> None:
    plan.points, plan.modes = points, list(modes)
    outcome = campaign(plan, scratch)
    said = f"{outcome.operations} operations, tried {outcome.tried}, {outcome.seconds:.0f} s"
    print(f"{plan.command[0]}: {said}")
    assert sum(outcome.tried.values()) and not outcome.failures, "\n".join([said, *outcome.failures])


def test_a_sample_of_faults(commands, tmp_path):
    """One death of each kind and a full disk, at places that the points' own random numbers choose."""
    check(commands["predict"], tmp_path, 2, ["kill", "torn", "power", "full"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["enrich", "forget", "predict", "collect", "meta-train", "transfer"])
def test_every_fault(commands, tmp_path, name):
    check(commands[name], tmp_path, None)
