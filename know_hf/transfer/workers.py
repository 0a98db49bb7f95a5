"""Processes that run independent jobs, each on its share of the processors, with an honest remaining time."""

import contextlib
import gc
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol as Interface

import torch
from tqdm.auto import tqdm


class Job(Interface):
    """Something to run once: it writes its result when it is complete, and then says that it is done."""

    #: Relative duration, such as the number of examples to train on.
    cost: float

    @property
    def done(self) -> bool:
        """Whether the result is there."""
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

    Source: ours.

    Example:
        >>> from know_hf.transfer.workers import Workers
        >>> with Workers(2) as workers:  # doctest: +SKIP
        ...     workers.run(jobs, "Fine-tuning")
    """

    def __init__(self, processes: int = 1):
        if processes < 1:
            raise ValueError(f"processes is {processes}; it must be at least 1.")
        self.processes, self._pool = processes, None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, jobs: Sequence[Job], description: str) -> None:
        """Runs what is not done yet; an exception in a job ends the run with it.

        Raises:
            ChildProcessError: If a process died.
        """
        todo = sorted((job for job in jobs if not job.done), key=lambda job: -job.cost)
        if not todo:
            return
        # Counted in cost, averaged from the start: the remaining time then holds for jobs of unequal length too.
        total, left = sum(job.cost for job in jobs), sum(job.cost for job in todo)
        progress = tqdm(
            desc=f"{description} ({len(jobs)} runs)", total=total, initial=total - left, smoothing=0,
            bar_format="{l_bar}{bar}| {elapsed} passed, {remaining} left",
        )  # fmt: skip
        with progress as bar:
            if self.processes == 1:
                with _frozen():
                    for job in todo:
                        job.run()
                        bar.update(job.cost)
                return
            if self._pool is None:
                threads = max(1, (os.cpu_count() or 1) // self.processes)
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.processes, spawn, _set_up, (threads,))
            try:
                for finished in as_completed([self._pool.submit(_run, job) for job in todo]):
                    bar.update(finished.result())
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a worker process died, perhaps for want of memory; run the same command again to continue, with "
                    "fewer processes if need be"
                ) from error


def _run(job: Job) -> float:
    job.run()
    return job.cost


@contextlib.contextmanager
def _frozen():
    gc.freeze()  # Trainer collects garbage after every run; what is imported need not be looked at each time
    try:
        yield
    finally:
        gc.unfreeze()


def _set_up(threads: int) -> None:
    from transformers.utils import logging as transformers_logging

    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _end_with_parent() -> None:
    """A killed parent must not leave processes behind that go on writing."""
    multiprocessing.parent_process().join()
    os._exit(1)
