"""Jobs on several processes: what waits for what, and a process that dies."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from know_hf.training.workers import Workers


@pytest.mark.slow
def test_a_dead_worker_ends_the_run_in_words():
    with pytest.raises(ChildProcessError, match="run the same command again"), Workers(2) as workers:
        workers.run([Dying(1.0), Dying(2.0)], "Dying")


@dataclass(frozen=True)
class Dying:
    cost: float
    done: bool = False
    ready: bool = True

    def run(self):
        os._exit(1)


@dataclass(frozen=True)
class Step:
    """Writes a file, once the file that it builds on is there."""

    path: Path
    after: Path | None = None
    cost: float = 1.0

    @property
    def done(self):
        return self.path.exists()

    @property
    def ready(self):
        return self.after is None or self.after.exists()

    def run(self):
        assert self.ready
        self.path.write_text(str(time.time()))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.further_slow
def test_jobs_wait_for_what_they_build_on(tmp_path, processes):
    paths = [tmp_path / name for name in "abcd"]
    jobs = [Step(paths[3], paths[2], 9), Step(paths[0]), Step(paths[1], paths[0], 5), Step(paths[2], paths[1], 7)]
    with Workers(processes) as workers:
        workers.run(jobs, "Steps")
        times = [float(path.read_text()) for path in paths]
        assert times == sorted(times)
        workers.run(jobs, "Steps")  # nothing is done twice
        assert [float(path.read_text()) for path in paths] == times
        with pytest.raises(ValueError, match="1 jobs wait for results that no other job makes"):
            workers.run([Step(tmp_path / "x", tmp_path / "never")], "Steps")


@dataclass(frozen=True)
class Process(Step):
    """Writes down what process it runs in."""

    def run(self):
        self.path.write_text(str(os.getpid()))


@pytest.mark.slow
def test_processes_that_were_started_ahead_run_the_jobs(tmp_path):
    with Workers(2) as workers:
        workers.start(__name__)
        started = {process.pid for process in workers._started.made}
        workers.start(__name__)
        workers.run([Process(tmp_path / name) for name in "abc"], "Steps")
        assert len(started) == 2 == len(workers._started.made)
        assert {int(path.read_text()) for path in tmp_path.iterdir()} <= started
    with Workers(2) as workers:
        workers.start(__name__)  # and may have nothing to do
        [one, other] = workers._started.made
    assert not one.is_alive() and not other.is_alive()
    with Workers() as workers:
        workers.start(__name__)
        assert not workers._started.made
