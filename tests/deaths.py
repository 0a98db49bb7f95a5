"""Deaths at the k-th thing that is done to files, as of a killed process: nothing is done to files after it."""

import builtins
import os
from contextlib import contextmanager
from pathlib import Path

#: What changes files, by where it is looked up.
OPERATIONS = ("replace", "rename", "fsync", "unlink", "remove", "rmdir", "mkdir")


class Death(BaseException):
    """Nobody catches it."""


class Deaths:
    """Counts what is done to files below a folder, and dies at the ``at``-th of them; at none by default."""

    def __init__(self, folder: Path, at: int | None = None):
        self.folder, self.at, self.count = str(folder), at, 0

    def before(self, path) -> None:
        """Called before a file is changed."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if str(path).startswith(self.folder) or not os.path.isabs(path):
            self.count += 1
            if self.at is not None and self.count >= self.at:
                raise Death(f"{self.count}: {path}")


@contextmanager
def dying(monkeypatch, folder: Path, at: int | None = None):
    """Within the block everything that changes files below the folder is counted; from the ``at``-th on it fails."""
    deaths = Deaths(folder, at)

    def counted(real):
        def run(path, *args, **kwargs):
            deaths.before(path)
            return real(path, *args, **kwargs)

        return run

    def opened(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            deaths.before(path)
        return real_open(path, mode, *args, **kwargs)

    real_open = builtins.open
    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(builtins, "open", opened)
        yield deaths


def tree(folder: Path) -> dict[str, bytes]:
    """All files and folders below a folder, locks left out: path → content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(".know-hf.lock"):
            found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else b""
    return found


def stamps(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything in folders, to see that nothing was written to them."""
    paths = [path for folder in folders for path in [Path(folder), *sorted(Path(folder).rglob("*"))]]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}
