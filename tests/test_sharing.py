"""Several machines and processes at once: on one folder, and beside other processes of their host."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from conftest import FAST_TRIALS
from deaths import Death, dying, tree
from test_meta import content

from know_hf import sharing
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.images import prepare_images
from know_hf.meta.options import CollectionOptions
from know_hf.meta.trials import TrialRun, draw_trial
from know_hf.sharing import done_with, sweep, turn
from know_hf.store import this_machine, writing
from know_hf.training.prepared import open_examples
from know_hf.training.workers import Workers, _Process

COLLECT = """
import sys, torch
from know_hf.meta.collection import collect
torch.set_num_threads(1)
folder, first, *data = sys.argv[1:]
collect(folder, data, trials=2, first_seed=int(first), examples=(300, 400), epochs=(1, 1))
"""


def litter(folder) -> list[str]:
    """What no finished collection has."""
    return [p.name for p in folder.rglob("*") if p.suffix in (".partial", ".lock")] + os.listdir(folder / "work")


@pytest.mark.slow
def test_two_processes_fill_one_folder(collected, data, tmp_path):
    """Trials 0 and 1, and 1 and 2, at the same time: each is made once, the README counts all of them."""
    command = [sys.executable, "-c", COLLECT, str(tmp_path)]
    both = [subprocess.Popen([*command, first, *data], stderr=subprocess.PIPE, text=True) for first in ("0", "1")]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert content(tmp_path) == content(collected.folder) and not litter(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| trials | 3 |" in card and card == MetaDataSet(tmp_path).card()


def test_a_trial_in_other_hands_is_waited_for(collected, data, tmp_path, monkeypatch):
    """And not made again, nor is its work folder touched; another trial of that seed is refused."""
    images = prepare_images(data, tmp_path / "cache", 400)
    trial = draw_trial(0, list(images), CollectionOptions(**FAST_TRIALS))
    run, theirs = TrialRun(trial, tmp_path, *images[trial.data_set]), tmp_path / "work" / "trial-000000" / "theirs"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, fcntl; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
         "print(1, flush=True); sys.stdin.read()", str(tmp_path / "work" / "trial-000000.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()

    def wait(seconds):
        for part in ("data", "trials"):
            shutil.copytree(
                collected.folder / part, tmp_path / part, ignore=lambda _, n: {x for x in n if "-000000" not in x}
            )
        holder.communicate()

    monkeypatch.setattr(sharing.time, "sleep", wait)
    monkeypatch.setattr(TrialRun, "make", lambda self, work: pytest.fail("made twice"))
    run.run()
    assert run.done and not theirs.exists()
    run.shard.unlink()
    assert not run.done  # what was lost is made again
    note = json.loads(run.note.read_text())
    note["settings"]["width"] += 1
    run.note.write_text(json.dumps(note))
    with pytest.raises(ValueError, match="another trial-000000 \\(different width\\)"):
        run.run()


def test_litter_is_swept_when_no_one_writes_it_any_more(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a.json", shared=True) as beside:
        mine = beside.name
        raise KeyboardInterrupt
    dead = mine.replace(f"-{os.getpid()}-", "-4194400-")
    theirs = mine.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    other = mine.replace(this_machine(), "elsewhere.example")
    for name in (mine, dead, theirs, other, ".a.json.partial", "a-1-0123abcd.partial", "-1-0123abcd.partial"):
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {theirs, other, ".a.json.partial", "a-1-0123abcd.partial", "-1-0123abcd.partial"}
    old = time.time() - sharing.FORGOTTEN - 60
    os.utime(tmp_path / other, (old, old))
    sweep(tmp_path)
    assert not (tmp_path / other).exists() and (tmp_path / theirs).exists()
    with turn(tmp_path / "x.lock"), turn(tmp_path / "x.lock"):  # within one process it is one turn
        done_with(tmp_path / "x.lock")
    assert not (tmp_path / "x.lock").exists()


def test_damaged_images_are_prepared_again(data, tmp_path):
    def whole() -> list[bytes]:
        return [path.read_bytes() for path in sorted((tmp_path / "cache").iterdir())]

    paths = prepare_images(data[:1], tmp_path / "cache", 300)["first"]
    before, size = whole(), paths[0].stat().st_size
    for damage in (lambda p: os.truncate(p, size // 2), lambda p: os.truncate(p, 0), lambda p: p.write_bytes(b"x" * 99),
                   lambda p: os.truncate(p, size - 1)):  # fmt: skip
        damage(paths[0])
        with pytest.raises(ValueError, match="is missing or damaged .* run again, which makes it anew"):
            open_examples(paths[0])
        assert prepare_images(data[:1], tmp_path / "cache", 300)["first"] == paths and whole() == before


@dataclass(frozen=True)
class Failing:
    """Fails once another job has begun, which would go on for a long time."""

    begun: str
    error: str | None = None
    cost: float = 1.0
    done: bool = False
    ready: bool = True

    def run(self):
        if self.error is None:
            open(self.begun, "w").close()
            time.sleep(300)
        while not os.path.exists(self.begun):
            time.sleep(0.05)
        raise RuntimeError(self.error)


@pytest.fixture
def other():
    """A process that the host started for something else."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))
    process.start()
    yield process
    process.kill()
    process.join()


def gone(workers) -> bool:
    """Whether all processes of a pool have ended."""
    for process in workers._started.made:
        process.join(30)
    return len(workers._started.made) == 2 and not any(process.is_alive() for process in workers._started.made)


@pytest.mark.slow
def test_an_error_ends_only_own_processes(tmp_path, other):
    begun = str(tmp_path / "begun")
    with pytest.raises(RuntimeError, match="failed"), Workers(2) as workers:
        workers.run([Failing(begun), Failing(begun, "failed")], "Failing")
    assert gone(workers) and other.is_alive()


def test_an_interruption_ends_processes_that_are_just_starting(tmp_path, other, monkeypatch):
    popen, started = _Process._Popen, []

    def interrupted(process):
        started.append(popen(process))
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGINT)  # it runs, and its number is not yet known to anyone
        return started[-1]

    monkeypatch.setattr(_Process, "_Popen", staticmethod(interrupted))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
    try:
        with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
            workers.run([Failing(str(tmp_path / "begun"))] * 2, "Sleeping")
        assert gone(workers) and other.is_alive() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_collection_that_dies_anywhere_is_the_same_afterwards(collected, data, tmp_path, monkeypatch):
    """Killed between any two things done to files; nothing unfinished stays."""

    def go(folder):
        collect(folder, data, trials=1, **FAST_TRIALS)

    with dying(monkeypatch, tmp_path) as deaths:
        go(tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    every = range(1, deaths.count + 1)
    for at in (*every[9 :: deaths.count // 3], deaths.count - 3, deaths.count):
        with pytest.raises(Death), dying(monkeypatch, tmp_path / str(at), at):
            go(tmp_path / str(at))
        go(tmp_path / str(at))
        again = tree(tmp_path / str(at))
        timed = ("times/trial-000000.json", "README.md")  # which say how long it took
        assert {name: again[name] for name in again if name not in timed} == {
            name: whole[name] for name in whole if name not in timed
        }, at
    assert whole["data/trial-000000.parquet"] == (collected.folder / "data" / "trial-000000.parquet").read_bytes()
