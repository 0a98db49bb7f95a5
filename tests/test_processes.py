"""Real processes: two at once, and one that is killed."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import run_cli
from transformers import AutoModelForImageClassification

from know_hf import Trajectory
from know_hf.cli.main import main
from know_hf.enrichment.ranges import share_of
from know_hf.store import LOCK_NAME
from know_hf.trajectory import Checkpoint, resolve_kinds

SETTINGS = [
    "--num_train_epochs", 2, "--per_device_train_batch_size", 8, "--learning_rate", 1e-3, "--disable_tqdm", "True",
    "--save_strategy", "steps", "--save_steps", 1, "--train_stage_zero", "True", "--also", "none",
]  # fmt: skip


def files(folder):
    """Every weight file of a run, and its record."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))} | {
        "trajectory.json": (folder / "trajectory.json").read_bytes()
    }


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "know_hf", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill_when(process: subprocess.Popen, condition, seconds: float = 90) -> None:
    """Sends SIGKILL as soon as the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_twice_equals_uninterrupted(tmp_path, image_model_folder, image_data_folder):
    command = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, *SETTINGS, "--choose", "none",
               "--output-dir"]  # fmt: skip
    main([str(argument) for argument in (*command, tmp_path / "whole")])

    run = tmp_path / "killed"
    process = start(*command, run)
    # Any checkpoint but the first and the last: they come and go as training moves on.
    work = run / "training" / "stage-2"
    kill_when(process, lambda: any(work.glob("checkpoint-[2-6]/trainer_state.json")))
    assert not (run / "stage-2").exists() and (run / "stage-1").is_dir()

    process = start(*command, run)
    kill_when(process, lambda: (run / "enriched" / ".x2.partial" / "model.safetensors").exists())
    assert not (run / "enriched" / "x2").exists()

    run_cli(*command, run)
    assert files(run) == files(tmp_path / "whole")
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_a_terminated_run_saves_and_continues(tmp_path, image_model_folder, image_data_folder):
    """As on a machine that is taken away: no checkpoint was due, one is there, and nothing shows in the end."""
    settings = [
        "--max_steps",
        200,
        "--per_device_train_batch_size",
        8,
        "--disable_tqdm",
        "True",
        "--save_strategy",
        "no",
    ]
    command = ["forget", "--model", image_model_folder, "--dataset", image_data_folder, *settings, "--output-dir"]
    run = tmp_path / "terminated"
    process = subprocess.Popen(
        [sys.executable, "-m", "know_hf", *map(str, command), run], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )  # fmt: skip
    while not (run / "stage-1").exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(0.15)  # into the steps of stage 2
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "know-hf: error: interrupted; run the same command again to continue." in stderr.splitlines()
    saved = list(run.glob("training/stage-2/checkpoint-*/model.safetensors"))
    assert len(saved) == 1 and not (run / "stage-2").exists()
    for folder in (run, tmp_path / "whole"):
        main([str(argument) for argument in (*command, folder)])
    assert files(run) == files(tmp_path / "whole")


def test_two_processes(tmp_path, image_model_folder, image_data_folder):
    loopback = {"GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    settings = [*SETTINGS[: SETTINGS.index("--save_strategy")], "--train_stage_zero", "True", "--also", "none"]
    run_cli(
        "enrich", "--model", image_model_folder, "--dataset", image_data_folder, *settings,
        "--output-dir", tmp_path / "two", launcher=launcher, env=loopback,
    )  # fmt: skip
    # The same global batch in one process: the same subsets and settings, and nearly the same weights.
    one = [x if x != 8 else 16 for x in settings]
    command = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, *one, "--output-dir"]
    main([str(argument) for argument in (*command, tmp_path / "one")])
    records = [Trajectory.load(tmp_path / name).record for name in ("one", "two")]
    assert records[0].recipe == records[1].recipe
    assert [s.examples for s in records[0].stages] == [s.examples for s in records[1].stages]
    for name in ("x2", "x4", "x8"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "two" / "enriched" / name)
    # One and two processes predict the same from the same trajectory.
    main(["predict", str(tmp_path / "two"), "--output-dir", str(tmp_path / "single")])
    run_cli("predict", tmp_path / "two", "--output-dir", tmp_path / "shared", launcher=launcher, env=loopback)
    for name in ("x2", "x4", "x8"):
        alone, shared = ((tmp_path / run / name / "model.safetensors").read_bytes() for run in ("single", "shared"))
        assert alone == shared
    trajectory = records[1]
    for name in ("x2", "x4", "x8"):
        pair = Checkpoint(tmp_path / "two" / "enriched" / name)
        single = Checkpoint(tmp_path / "single" / name)
        for tensor in pair.tensors:
            if trajectory.parameters[tensor].kind != "buffer":
                assert torch.allclose(pair.read(tensor), single.read(tensor), rtol=0, atol=1e-6), tensor
    assert not list((tmp_path / "two").rglob("*.partial"))


def rank(number: int, run: Path) -> int:
    """Process id of one rank of a launched run."""
    for status in Path("/proc").glob("[0-9]*"):
        try:
            environment = (status / "environ").read_bytes().split(b"\0")
            mine = str(run).encode() in (status / "cmdline").read_bytes()
        except OSError:
            continue
        if mine and f"RANK={number}".encode() in environment:
            return int(status.name)
    raise AssertionError(f"no rank {number} of {run}")


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_which_then_continues(tmp_path, image_model_folder, image_data_folder):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, *SETTINGS, "--output-dir"]
    environment = {"GLOO_SOCKET_IFNAME": "lo"}
    run_cli(*command, tmp_path / "whole", launcher=launcher, env=environment)
    run = tmp_path / "killed"
    phases = (
        lambda: any((run / "training" / "stage-2").glob("checkpoint-[2-6]/trainer_state.json")),
        lambda: (run / "enriched" / ".x2.partial" / "model.safetensors").exists(),
    )
    for reached in phases:
        process = subprocess.Popen(
            [*launcher, "-m", "know_hf", *map(str, command), run], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, **environment},
        )  # fmt: skip
        while not reached():
            assert process.poll() is None, "the moment to kill never came"
            time.sleep(0.001)
        os.kill(rank(1, run), signal.SIGKILL)
        assert process.wait(timeout=90)
        assert not (run / "enriched" / "x2").exists()
    run_cli(*command, run, launcher=launcher, env=environment)
    assert files(run) == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("clock", [("--num_train_epochs", 8), ("--num_train_epochs", 1), ("--max_steps", 30)])
def test_one_terminated_rank_stops_all_at_the_same_step(tmp_path, image_model_folder, image_data_folder, clock):
    """Within a stage that is long enough for all to agree, else at its end."""
    settings = [
        *clock,
        "--train_stage_zero",
        "True",
        "--per_device_train_batch_size",
        8,
        "--disable_tqdm",
        "True",
        "--save_strategy",
        "no",
    ]
    command = ["forget", "--model", image_model_folder, "--dataset", image_data_folder, *settings, "--output-dir"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run, environment = tmp_path / "terminated", {"GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        [*launcher, "-m", "know_hf", *map(str, command), run], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={**os.environ, **environment},
    )  # fmt: skip
    while not (run / "training" / "stage-1").exists() and not (run / "stage-1").exists():
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(rank(1, run), signal.SIGTERM)
    stderr = process.communicate(timeout=90)[1]
    assert process.returncode and "interrupted; run the same command again to continue." in stderr
    assert not (run / "stage-4").exists()
    run_cli(*command, run, launcher=launcher, env=environment)
    run_cli(*command, tmp_path / "whole", launcher=launcher, env=environment)
    assert files(run) == files(tmp_path / "whole")


@pytest.mark.slow
def test_a_sharded_model_is_saved_and_loaded_whole(tmp_path):
    script = Path(__file__).with_name("sharded_model.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, script, tmp_path], capture_output=True, text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("embeddings.word_embeddings.weight") == 2


@pytest.mark.slow
def test_one_failing_process_ends_them_all_in_words(tmp_path, trajectory):
    """A value that only the second of two processes reads is not finite; mended, the same command succeeds."""
    run = tmp_path / "run"
    shutil.copytree(trajectory.root, run, ignore=shutil.ignore_patterns("training", "enriched*"))
    copied = Trajectory.load(run)
    last = share_of(copied.tensors, resolve_kinds(copied.parameters)[0], 1, 2, 1 << 20)[-1]
    spec = copied.checkpoints[2].tensors[last.tensor]
    intact = spec.file.read_bytes()
    with open(spec.file, "r+b") as file:
        file.seek(spec.offset + 4 * (last.stop - 1))
        file.write(struct.pack("<f", float("nan")))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = {"launcher": launcher, "env": {"GLOO_SOCKET_IFNAME": "lo"}, "check": False, "timeout": 120}
    failed = run_cli("predict", run, **command)
    message = f"know-hf: error: Tensor '{last.tensor}' holds NaN or infinite values in stage 2"
    assert failed.returncode and failed.stderr.count(message) == 2
    assert not list((run / "enriched").glob("*x[248]*"))
    spec.file.write_bytes(intact)
    main(["predict", str(run)])
    assert sorted(p.name for p in (run / "enriched").glob("x*")) == ["x2", "x4", "x8"]


def test_second_run_on_a_busy_folder_is_refused(tmp_path, image_model_folder, image_data_folder, capsys):
    run = tmp_path / "run"
    run.mkdir()
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, run / LOCK_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        command = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, *SETTINGS, "--output-dir"]
        with pytest.raises(SystemExit):
            main([str(argument) for argument in (*command, run)])
        assert "in use by another run" in capsys.readouterr().err
        other.stdin.close()
    assert os.listdir(run) == [LOCK_NAME]
