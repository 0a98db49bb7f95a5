"""Records on disk, read with their types looked at: what is damaged or of someone else's ends in words."""

import re
import reprlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from know_hf.store import read_json
from know_hf.trajectory.checkpoint import TrajectoryError


def read_record(path: Path, fields: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        fields: Those that it must have → their kind, as for [`fits`]; others may be there too.
        remedy: What to do if it cannot be used, for the message.

    Returns:
        The object.

    Raises:
        TrajectoryError: If it is missing, no JSON object, or lacks a field or has one of another kind.

    Source: ours.

    Example:
        >>> from pathlib import Path
        >>> from know_hf.records import read_record
        >>> read_record(Path("wall.json"), {"seconds": float}, "delete it")  # doctest: +SKIP
    """
    try:
        found = read_json(path)
    except FileNotFoundError as error:
        raise TrajectoryError(f"{path} is missing; {remedy}.") from error
    except ValueError as error:
        raise TrajectoryError(f"{error}; {remedy}.") from error
    return check_fields(path, found, fields, remedy)


def check_fields(path: Path, found: Any, fields: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Raises if what was read from a file is no object with these fields; see [`read_record`]."""
    if not isinstance(found, dict):
        raise TrajectoryError(f"{path} is damaged: it holds {reprlib.repr(found)}, no object; {remedy}.")
    for name, kind in fields.items():
        if name not in found:
            raise TrajectoryError(f"{path} is damaged: {name!r} is missing; {remedy}.")
        if not fits(found[name], kind):
            raise TrajectoryError(f"{path} is damaged: {name!r} is {reprlib.repr(found[name])}; {remedy}.")
    return found


def fits(value: Any, kind: Any) -> bool:
    """Whether a value that was read from JSON is of a kind.

    Args:
        value: The value.
        kind: ``int``, ``float`` (any number), ``str``, ``bool``, ``None``, ``dict``, ``list``; ``list[k]``, ``dict[str,
            k]``, ``tuple[k, …]`` (a list of that length); alternatives with ``|``.

    Source: ours.

    Example:
        >>> from know_hf.records import fits
        >>> fits([[1, 0.5]], list[tuple[int, float]]), fits(True, int)
        (True, False)
    """
    outer, inner = get_origin(kind), get_args(kind)
    if outer is UnionType:
        return any(fits(value, each) for each in inner)
    if outer is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if outer is dict:
        return isinstance(value, dict) and all(fits(each, inner[1]) for each in value.values())
    if outer is tuple:
        return isinstance(value, list) and len(value) == len(inner) and all(map(fits, value, inner))
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, float) or (fits(value, int) and abs(value) <= sys.float_info.max)
    return isinstance(value, NoneType if kind is None else kind) and (kind is bool or not isinstance(value, bool))


def file_name(name: str) -> str:
    """What a thing's file or folder is called, whatever signs are in its name; several names may share one."""
    return re.sub(r"[^\w.-]+", "_", name)


def check_file_names(names: Sequence[str], what: str) -> None:
    """Refuses names whose files would be the same, also where upper and lower case are.

    Raises:
        ValueError: If two are.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(file_name(name).casefold(), name)
        if other != name:
            raise ValueError(f"{what} {other!r} and {name!r} would share the file {file_name(name)!r}; rename one.")
