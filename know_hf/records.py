"""Records on disk, read with their types looked at: what is damaged or of someone else's ends in words."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from know_hf.reading import check_form
from know_hf.store import read_json

#: Bytes of a name that files are called by, with something added: file systems take 255.
LONGEST_NAME = 150
#: What an enriched folder says about itself.
ENRICHMENT_FILE = "enrichment.json"
#: The folder, beside the predicted steps, of the checkpoint that a run chose.
BEST = "best"


class TrajectoryError(ValueError):
    """A trajectory or one of its checkpoints is missing, damaged or does not fit the others."""


def read_record(path: Path, fields: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        fields: Those that it must have → their kind, as for [`check_form`](know_hf.reading); others may be there too.
        remedy: What to do if it cannot be used, for the message.

    Returns:
        The object.

    Raises:
        TrajectoryError: If it is missing, no JSON object, or lacks a field or has one of another kind.

    Example:
        >>> from pathlib import Path
        >>> from know_hf.records import read_record
        >>> read_record(Path("wall.json"), {"seconds": float}, "delete it")  # doctest: +SKIP
    """
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise TrajectoryError(f"{path} is missing; {remedy}.") from error
    except ValueError as error:
        raise TrajectoryError(f"{error}; {remedy}.") from error
    return check_fields(path, content, fields, remedy)


def check_fields(path: Path, content: Any, fields: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Raises if what was read from a file is no object with these fields; see [`read_record`]."""
    try:
        check_form(content, fields, f"{path} is damaged")
    except ValueError as error:
        raise TrajectoryError(f"{str(error).rstrip('.')}; {remedy}.") from error
    return content


def found_at(folder: Path) -> str:
    """What is there instead of the folder that was expected, for messages: ``is empty``, ``holds a.txt, b.txt``.

    Example:
        >>> from pathlib import Path
        >>> from know_hf.records import found_at
        >>> found_at(Path("nowhere"))
        'does not exist'
    """
    if not folder.is_dir():
        return "is a file" if folder.exists() else "does not exist"
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return f"holds {', '.join(there[:3])}{' …' if len(there) > 3 else ''}" if there else "is empty"


def file_name(name: str) -> str:
    """What a thing's file or folder is called, whatever signs are in its name; several names may share one."""
    return re.sub(r"[^\w.-]+", "_", name)


def check_file_names(names: Sequence[str], what: str) -> None:
    """Refuses names whose files would be the same, also where upper and lower case are, or could not be made.

    Raises:
        ValueError: If two are, or one is too long.
    """
    seen: dict[str, str] = {}
    for name in names:
        if len(file_name(name).encode()) > LONGEST_NAME:
            raise ValueError(f"{what}: {name[:40]!r} … is too long a name; use at most {LONGEST_NAME} bytes.")
        other = seen.setdefault(file_name(name).casefold(), name)
        if other != name:
            raise ValueError(f"{what} {other!r} and {name!r} would share the file {file_name(name)!r}; rename one.")
