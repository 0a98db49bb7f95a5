"""One run a folder: an operating system lock that a killed process cannot leave behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".know-hf.lock"


@contextmanager
def locked(folder: str | Path, main_process: bool = True) -> Iterator[None]:
    """Holds a folder for this run; nested use within one process is fine.

    Args:
        folder: Made when missing.
        main_process: Only the main process of a distributed run takes the lock.

    Raises:
        OSError: If another run holds it, or it cannot be written to.
    """
    if not main_process:
        yield
        return
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; output_dir must be a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / LOCK_NAME, timeout=0, is_singleton=True).acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{folder} is in use by another run; wait for it or choose another output_dir."
        ) from error
    except OSError as error:
        raise PermissionError(
            f"{folder} cannot be written to ({error.strerror}); choose another output_dir."
        ) from error
    with lock:
        yield
