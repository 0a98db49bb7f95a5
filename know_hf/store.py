"""Files on disk: whole under their final name or not there, flushed, never outside the folder that they belong to.

Everything that this package keeps is written through here: beside its target, flushed to the disk, renamed, and the
folder flushed as well, so that a killed process or a loss of power leaves the old or the new. What is written beside
has one name for one target: whoever writes it again replaces what a killed process left.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor

LOCK_NAME = ".know-hf.lock"
#: What an unfinished file or folder is called: ``.<final name>.partial``.
PARTIAL = ".partial"
# Levels of plain data that are read.
_DEEPEST = 100
_UMASK = os.umask(0)
os.umask(_UMASK)
#: What file systems answer that have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


def inside(root: str | Path, name: str | Path) -> Path:
    """The path that a record names in its own folder, fit to be written to or deleted.

    Args:
        root: The folder; it may itself be reached through a link.
        name: What the record says.

    Returns:
        ``root / name``.

    Raises:
        ValueError: If it is absolute, leads out of the folder or through a link, or is the folder itself.

    Example:
        >>> from know_hf.store import inside
        >>> inside("run", "stage-0").as_posix()
        'run/stage-0'
        >>> inside("run", "../precious")
        Traceback (most recent call last):
        ...
        ValueError: '../precious' leads out of run; only what lies in the folder itself is written to or deleted.
    """
    root, text = Path(root), str(name)
    windows = PureWindowsPath(text)
    parts = windows.parts  # which knows both separators
    out = windows.drive or windows.root or ".." in parts or not parts
    if out or "\0" in text or any(not part.strip(" .") for part in parts):
        raise ValueError(
            f"{text[:80]!r} leads out of {root}; only what lies in the folder itself is written to or deleted."
        )
    path = root / text
    for step in (path, *path.parents):
        if step == root:
            break
        if step.is_symlink():
            raise ValueError(f"{step} is a link, through which nothing is written or deleted; put the folder there.")
    return path


def partial_name(final: Path) -> Path:
    """Where a file or folder is made before it gets its final name."""
    return final.with_name(f".{final.name}{PARTIAL}")


@contextmanager
def writing(path: str | Path, shared: bool = False) -> Iterator[Path]:
    """Lets a file be made beside its target; at the end of the block it is flushed and gets its name.

    Args:
        path: The final file; its folder is made when missing.
        shared: Whether other machines may be writing the same file now: each then makes its own, and the last counts.

    Yields:
        Where to write.

    Raises:
        OSError: If it cannot be written.

    Example:
        >>> from know_hf.store import writing
        >>> with writing("weights.safetensors") as beside:  # doctest: +SKIP
        ...     save_file(tensors, beside)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = partial_name(path)
    if shared:
        beside = beside.with_name(f".{path.name}.{this_machine()}-{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    beside.unlink(missing_ok=True)  # of a killed process, or a link of someone else's
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and str(path) not in str(error):
            raise as_os_error(error, path) from error  # a full disk does not say of which file it speaks
        raise
    flush_folder(path.parent)


@cache
def this_machine() -> str:
    """A name for where process numbers count: the host and, on Linux, the container."""
    with suppress(OSError):
        return f"{socket.gethostname()}-{os.stat('/proc/self/ns/pid').st_ino:x}"
    return socket.gethostname()


def write_text(path: str | Path, text: str, shared: bool = False) -> None:
    """Writes a text file, whole or not at all; see [`writing`]."""
    with writing(path, shared) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any, indent: int | None = 1, shared: bool = False) -> None:
    """Writes plain data as JSON, whole or not at all; see [`writing`]."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n", shared)


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or is no JSON; the file is named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\ud" in text.lower():  # half of a character, which nothing could be written of again
            json.dumps(content, ensure_ascii=False).encode()
        if _deep(content):
            raise RecursionError
        return content
    except FileNotFoundError:
        raise
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _deep(content: Any) -> bool:
    """Whether plain data are nested deeper than what looks at them, level by level, can follow."""
    level: list[dict | list] = [[content]]
    depth = 0
    while level and depth <= _DEEPEST:
        inner = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        level, depth = [part for part in inner if isinstance(part, (dict, list))], depth + 1
    return bool(level)


def write_tensors(
    path: str | Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None, shared: bool = False
) -> None:
    """Writes tensors as safetensors, whole or not at all; see [`writing`].

    Raises:
        OSError: If it cannot be written, for example because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with writing(path, shared) as beside:
        # The library writes beside, too, under a name that nobody would find again: within a folder of one name.
        room = beside.with_name(f".tensors{beside.name}")
        remove(room)
        room.mkdir()
        try:
            made = room / "made"
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, made, metadata=metadata)
            os.chmod(made, 0o666 & ~_UMASK)  # it lets nobody else read what it writes
            os.replace(made, beside)
        except SafetensorError as error:
            raise as_os_error(error, Path(path)) from error
        finally:
            with suppress(OSError):
                remove(room)


def as_os_error(error: Exception, path: Path) -> OSError:
    """What went wrong with a file, as the operating system's error that a library wrapped in one of its own."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG):
        if f"os error {number}" in str(error) or os.strerror(number) in str(error):
            return OSError(number, f"{path} cannot be written: {os.strerror(number)}")
    return OSError(errno.EIO, f"{path} cannot be written: {error}")


@contextmanager
def making(final: Path) -> Iterator[Path]:
    """Lets a folder be made beside its place, which is free or an empty folder; at the end of the block it moves there.

    Raises:
        OSError: If it cannot be written.
    """
    beside = partial_name(final)
    remove(beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        publish(beside, final)
    except BaseException:
        with suppress(OSError):
            remove(beside)
        raise


def publish(folder: Path, final: Path) -> None:
    """Gives a finished folder its final name, once everything in it is on the disk.

    Raises:
        OSError: If there is something else under that name.
    """
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place) / name
            if not path.is_symlink():
                flush_file(path)
        flush_folder(Path(place))
    os.replace(folder, final)
    flush_folder(final.parent)


def flush_file(path: Path) -> None:
    """Has a file's content written to the disk; takes no time where it is there."""
    _flush(path, os.O_RDWR)


def flush_folder(folder: Path) -> None:
    """Has a folder's list of names written to the disk, where the system can do that."""
    with suppress(OSError):
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file or folder of ours; of a link, which is nobody's folder, the link alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def check_space(folder: Path, count: int, size: int) -> None:
    """Looks whether so many checkpoints of so many bytes fit where the folder is.

    Raises:
        OSError: If they do not.
    """
    free = shutil.disk_usage(folder).free
    if free < count * size:
        raise OSError(
            errno.ENOSPC,
            f"the disk is too full: {count} checkpoints need {count * size / 1e6:,.1f} MB, "
            f"{free / 1e6:,.1f} MB are free",
        )


#: Path, size and time of a file → its hash.
_HASHES: dict[tuple[Path, int, int], str] = {}


def hash_file(path: Path) -> str:
    """SHA-256 of a file; read once as long as it does not change."""
    status = path.stat()
    if (known := known_hash(path)) is not None:
        return known
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return remember_hash(path, status, digest.hexdigest())


def known_hash(path: Path) -> str | None:
    """SHA-256 of a file that was hashed before and has not changed since."""
    status = path.stat()
    return _HASHES.get((path, status.st_size, status.st_mtime_ns))


def remember_hash(path: Path, status: os.stat_result, digest: str) -> str:
    """Keeps, and returns, the hash of a file that was as ``status`` says when it was read."""
    return _HASHES.setdefault((path, status.st_size, status.st_mtime_ns), digest)


@contextmanager
def locked(folder: str | Path, main_process: bool = True) -> Iterator[None]:
    """Holds a folder for this run, by a lock that dies with its process; nested use within one process is fine.

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
    _refuse_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(folder.resolve() / LOCK_NAME)
    except Timeout as error:
        raise BlockingIOError(
            f"{folder} is in use by another run; wait for it or choose another output_dir."
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    with lock:
        yield


def acquire(path: Path) -> AcquireReturnProxy:
    """Takes a lock file, or raises filelock's ``Timeout`` at once; to be held in a ``with`` statement.

    Raises:
        ValueError: If it is a link: opening it would empty what it leads to.
    """
    inside(path.parent, path.name)
    try:
        return FileLock(path, timeout=0, is_singleton=True).acquire()
    except OSError as error:  # a time that is up is one, too, of no number
        if error.errno not in _NO_LOCKS:
            raise
    # Some network file systems have no locks: a file that names its owner stands for one.
    return SoftFileLock(path.with_name(f"{path.name}.owner"), timeout=0, is_singleton=True).acquire()


def check_output(output_dir: str | Path, *inputs: str | Path) -> None:
    """Refuses a folder to write to before anything is made for it.

    Inputs are never written to. Whether a place can be written to, only writing tells: permissions are not all that
    there is, and some folders take none whoever asks.

    Raises:
        FileExistsError: If it is a file, or is or lies in a folder that is read from.
        PermissionError: If nothing can be written there.
    """
    _refuse_file(Path(output_dir))
    place = Path(output_dir).resolve()
    for source in inputs:
        folder = Path(source)
        if folder.is_dir() and (folder.resolve() == place or folder.resolve() in place.parents):
            raise FileExistsError(f"{output_dir} is, or lies in, the input {source}; choose another output_dir.")
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    before = nearest.stat()
    try:
        with tempfile.TemporaryDirectory(prefix=".know-hf-", dir=nearest):
            pass
    except OSError as error:
        raise _unwritable(output_dir, error) from error
    with suppress(OSError):  # it may be refused yet, and then somebody's folder is as it was
        os.utime(nearest, ns=(before.st_atime_ns, before.st_mtime_ns))


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; output_dir must be a folder.")


def _unwritable(folder: str | Path, error: OSError) -> PermissionError:
    return PermissionError(f"{folder} cannot be written to ({error.strerror}); choose another output_dir.")
