"""Processes that run independent jobs, each on its share of the processors, with an honest remaining time."""

import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any
from typing import Protocol as Interface

import torch

from know_hf.garbage import nothing_old
from know_hf.progress import progress_bar

#: What makes a process part of a distributed run.
_LAUNCHED = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
             "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


#: Seconds between two looks at how far the jobs of other processes have come.
_POLL = 0.5

_report: Callable[[float], None] | None = None
_places: Any = None


def advance(cost: float) -> None:
    """Says, within a job, that so much more of its cost was done; elsewhere it does nothing.

    Whatever a job does not say counts when it is done, so it may leave things out.
    """
    if _report is not None:
        _report(cost)


class Job(Interface):
    """Something to run once: it writes its result when it is complete, and then says that it is done."""

    @property
    def cost(self) -> float:
        """Relative duration, such as the number of examples to train on."""
        ...

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        ...

    @property
    def ready(self) -> bool:
        """Whether what it builds on is there; a job before it makes it."""
        ...

    def run(self) -> None:
        """Makes the result."""
        ...


class Workers:
    """A pool of processes, or this one process where one is asked for.

    The long jobs go first. Started processes are kept until the end of the ``with`` block, since importing takes them
    seconds.

    Args:
        processes: Number of processes; each computes on its share of the processors.
        launched: This process's number among several that were launched as one distributed run, and theirs. The jobs
            are not distributed trainings: they run in one process of their own, on this one's share of the machine.

    Example:
        >>> from know_hf.training.workers import Workers
        >>> with Workers(2) as workers:  # doctest: +SKIP
        ...     workers.run(jobs, "Fine-tuning")
    """

    def __init__(self, processes: int = 1, launched: tuple[int, int] | None = None):
        if processes < 1:
            raise ValueError(f"processes is {processes}; it must be at least 1.")
        self.processes, self.launched = 1 if launched else processes, launched
        self._pool: ProcessPoolExecutor | None = None
        self._started = _Spawn()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if error is not None:  # whatever still runs would be waited for, minutes perhaps
                self._started.terminate()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def start(self, *homes: str) -> None:
        """Starts the processes ahead of the first jobs, while this one does something else.

        Args:
            homes: Names of the modules that the jobs are of, which the processes import meanwhile.
        """
        if self._pool is None and (self.processes > 1 or self.launched is not None):
            pool = self._open(homes)
            for _ in range(self.processes):
                pool.submit(os.getpid)

    def run(self, jobs: Sequence[Job], description: str, in_order: bool = False) -> None:
        """Runs what is not done yet; an exception in a job ends the run with it.

        Args:
            jobs: What is to be done.
            description: What that is, for the progress bar.
            in_order: Whether the jobs go as they come, instead of the long ones first.

        Raises:
            ChildProcessError: If a process died.
        """
        todo = [job for job in jobs if not job.done]
        if not in_order:
            todo.sort(key=lambda job: -job.cost)
        if not todo:
            return
        # Counted in cost, averaged from the start: the remaining time then holds for jobs of unequal length too.
        total, left = sum(job.cost for job in jobs), sum(job.cost for job in todo)
        bar = progress_bar(
            desc=f"{description} ({len(jobs)} runs)", total=total, initial=total - left, smoothing=0,
            bar_format="{l_bar}{bar}| {elapsed} passed, {remaining} left",
        )  # fmt: skip
        with bar:
            if self.processes == 1 and self.launched is None:
                _run_here(todo, bar.update)
            else:
                for cost in self._run_elsewhere(todo):
                    bar.update(cost)

    def _run_elsewhere(self, todo: list[Job]) -> Iterator[float]:
        """Runs jobs, each as soon as it is ready, and yields now and then by how much of their costs they went on."""
        pool = self._pool or self._open(sorted({type(job).__module__ for job in todo}))
        running: dict[Future, _Running] = {}
        try:
            while todo or running:
                # No more than there are processes: what becomes ready meanwhile may be longer than what waits.
                while todo and len(running) < self.processes and (not running or any(job.ready for job in todo)):
                    job, free = (
                        _next_ready(todo),
                        set(range(self.processes)) - {progress.place for progress in running.values()},
                    )
                    progress = _Running(min(free), job.cost)
                    self._places[progress.place] = 0.0
                    running[pool.submit(_run, job, progress.place)] = progress
                finished, _ = wait(running, _POLL, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    progress = running.pop(future)
                    yield progress.cost - progress.seen
                for progress in running.values():
                    yield progress.look(self._places[progress.place])
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process died, perhaps for want of memory; run the same command again to continue, with "
                "fewer processes if need be"
            ) from error

    def _open(self, homes: Sequence[str]) -> ProcessPoolExecutor:
        place, shares = self.launched or (None, self.processes)
        threads = max(1, (os.cpu_count() or 1) // shares)
        # One number a running job, how far it has come; plain memory, which no dying process can leave locked.
        self._places = self._started.RawArray("d", self.processes)
        self._pool = ProcessPoolExecutor(self.processes, self._started, _set_up, (threads, place, self._places, homes))
        return self._pool


class _Process(SpawnProcess):
    """A process whose start is never interrupted half-way, when it would run and nobody knew of it."""

    def start(self) -> None:
        """Starts it; Ctrl-C counts afterwards."""
        before = signal.getsignal(signal.SIGINT)
        # Only the main thread is interrupted; what was not set in Python cannot be put back.
        if threading.current_thread() is not threading.main_thread() or before is None:
            return super().start()
        pressed = []
        signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
        try:
            super().start()
        finally:
            signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


class _Spawn(SpawnContext):
    """Spawns a pool's processes and keeps them: the host's other children are not ours to end."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[_Process] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]  # a class there
        """What the pool makes its processes with; one is kept before it starts, so that none is forgotten."""
        self.made.append(_Process(*args, **kwargs))
        return self.made[-1]

    def terminate(self) -> None:
        """Ends what was started."""
        for process in self.made:
            if process.pid is not None:
                process.terminate()


def _next_ready(todo: list[Job]) -> Job:
    """Takes the first job that is ready out of the list."""
    position = next((i for i, job in enumerate(todo) if job.ready), None)
    if position is None:
        raise ValueError(f"{len(todo)} jobs wait for results that no other job makes.")
    return todo.pop(position)


@dataclass
class _Running:
    """A job that another process runs: its place, its cost, and how much of that was counted."""

    place: int
    cost: float
    seen: float = 0.0

    def look(self, done: float) -> float:
        """How much more than before is done; what a job says beyond its cost is not believed."""
        before, self.seen = self.seen, max(self.seen, min(done, self.cost))
        return self.seen - before


@contextlib.contextmanager
def _reporting(report: Callable[[float], None]) -> Iterator[None]:
    global _report
    before, _report = _report, report
    try:
        yield
    finally:
        _report = before


def _run_here(todo: list[Job], update: Callable[[float], None]) -> None:
    with nothing_old():
        while todo:
            job = _next_ready(todo)
            progress, done = _Running(0, job.cost), 0.0

            def report(cost: float, progress: _Running = progress) -> None:
                nonlocal done
                done += cost
                update(progress.look(done))

            with _reporting(report):
                job.run()
            update(progress.cost - progress.seen)


def _run(job: Job, place: int) -> None:
    def report(cost: float) -> None:
        _places[place] += cost

    with _reporting(report):
        job.run()


def _set_up(threads: int, place: int | None, places: Any, homes: Sequence[str]) -> None:
    global _places
    _places = places
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends these, in its own words
    if place is not None:
        for name in [n for n in os.environ if n in _LAUNCHED or n.startswith("TORCHELASTIC_")]:
            del os.environ[name]
        if torch.cuda.is_available():
            torch.cuda.set_device(place % torch.cuda.device_count())
    from transformers.utils import logging as transformers_logging

    for home in homes:  # so that what the jobs need is frozen too
        importlib.import_module(home)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _end_with_parent() -> None:
    """A killed parent must not leave processes behind that go on writing."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
