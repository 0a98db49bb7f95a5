"""One folder, several machines: taking turns at what two of them want to make, and sweeping up after killed ones."""

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import Timeout

from know_hf.store import PARTIAL, acquire, remove, this_machine

logger = logging.getLogger(__name__)
#: Seconds between two looks at whether another process is done.
WAIT = 1.0
#: Seconds after which an unfinished file of another machine, of which one cannot ask, is no longer being written.
FORGOTTEN = 24 * 3600.0

_SHARED = re.compile(rf"(?P<machine>\..+-)(?P<process>\d+)-[0-9a-f]{{8}}{re.escape(PARTIAL)}")


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Waits until no other process, on this or another machine, makes the thing that a lock file stands for.

    Whoever had to wait has to look whether it is made by now. The file goes with [`done_with`], or stays for the next.

    Args:
        path: The lock file; its folder is made when missing.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        try:
            lock = acquire(path)
            break
        except Timeout:
            if not waited:
                logger.warning("Another process works on %s; waiting until it is through.", path.stem)
            waited = True
            time.sleep(WAIT)
    with lock:
        yield


def done_with(path: Path) -> None:
    """Deletes the lock file of something that is made for good, by who holds it."""
    with suppress(OSError):  # where open files cannot be deleted it stays
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Deletes unfinished files that several machines may write (``writing(…, shared=True)``), if no one does any more.

    That is those of ended processes of this machine and of this process, which has to call it before it writes there,
    and of other machines those untouched for a day.

    Args:
        folder: Where they lie; those in folders below it stay.
    """
    for path in folder.glob(f".*{PARTIAL}"):
        match = _SHARED.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):  # someone else swept it, or it is not ours to delete
            here = match["machine"].endswith(f".{this_machine()}-")
            old = time.time() - path.stat().st_mtime > FORGOTTEN
            process = int(match["process"])
            if old or (here and (process == os.getpid() or not psutil.pid_exists(process))):
                remove(path)
