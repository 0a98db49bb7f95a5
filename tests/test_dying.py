"""Real processes, killed (SIGKILL) at every stage, one after the other: the same bytes in the end, and nothing over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_stage_end import tree

CLOCKS = {
    "epochs": '{"num_train_epochs": 2}',
    "part of an epoch": '{"num_train_epochs": 1.4, "lr_scheduler_type": "constant"}',
    "steps": '{"max_steps": 10}',
}
#: A stage, and where in it: at a step (most are within an epoch), after the last, before it gets its name.
POINTS = [("0", "3"), ("0", "end"), ("1", "3"), ("1", "publish"), ("1", "end"), ("2", "end"), ("2", "publish")]


def run(folder: Path, processes: int, *arguments: str, drawn: int = 0) -> int:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), Path(__file__).with_name("dying_run.py"), folder]
    done = subprocess.run(
        [*map(str, command), *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "DRAWN": str(drawn)},
    )  # fmt: skip
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_every_stage_equals_uninterrupted(tmp_path, processes, clock):
    assert run(tmp_path / "whole", processes, CLOCKS[clock]) == 0
    for stage, where in POINTS:
        assert run(tmp_path / "killed", processes, CLOCKS[clock], stage, where) != 0, f"was not killed at {where}"
        assert not (tmp_path / "killed" / f"stage-{stage}").exists()
    assert run(tmp_path / "killed", processes, CLOCKS[clock]) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_processes_whose_models_are_drawn_anew_go_on_with_the_first(tmp_path):
    settings = '{"save_steps": 1000}'
    assert run(tmp_path / "whole", 2, settings, drawn=1) == 0
    assert run(tmp_path / "killed", 2, settings, "start", "publish", drawn=5) != 0  # none has begun by then
    assert not (tmp_path / "killed/trajectory.json").exists()
    assert run(tmp_path / "killed", 2, settings, "0", "3", drawn=1) != 0
    assert run(tmp_path / "killed", 2, settings, "0", "end", drawn=7) != 0
    assert run(tmp_path / "killed", 2, settings, drawn=9) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
