"""Files that anyone may have written: what is in them is what it should be, or file and place are named in words.

Whatever reads a file of plain data says here what it expects of it; nothing behind has to expect anything else.
"""

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

#: Whole numbers beyond this are none that anything here counts; all below are floating-point numbers, too.
LARGEST = 2**63

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "name: value pairs",
          list: "a list", NoneType: "nothing"}  # fmt: skip


def read_fields(path: str | Path, form: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a JSON object, of which some fields have to be there and to be of a form.

    Args:
        path: The file.
        form: Name of the field → its form, as for [`check_form`].

    Returns:
        All of it, other fields included.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or a field is missing or of another form; file and field are named.
    """
    from know_hf.store import read_json  # which imports more than help has time for

    content = read_json(path)
    check_form(content, form, str(path))
    return content


def check_form(value: Any, form: Any, where: str) -> None:
    """Compares plain data with the form that they should have.

    Args:
        value: The data.
        form: A type (``int``, ``float``, which whole numbers are too, ``str``, ``bool``, ``dict``, ``list``, None);
            ``list[form]``, ``tuple[form, ...]``, ``tuple[form, form]``, ``dict[str, form]``, ``Any``; alternatives with
            ``|``; ``{"name": form, …}`` for fields, of which those that may be None may be missing; there may be more.
        where: What they are, for the message.

    Raises:
        ValueError: If they do not have it; the place is named.

    Example:
        >>> from know_hf.reading import check_form
        >>> form = {"step": int, "metrics": dict[str, float], "card": str | None}
        >>> check_form({"step": 1, "metrics": {"accuracy": 0.5}}, form, "enrichment.json")
        >>> check_form({"step": 1, "metrics": {"accuracy": "high"}}, form, "enrichment.json")
        Traceback (most recent call last):
        ...
        ValueError: enrichment.json: metrics.accuracy must be a number, found 'high'.
    """
    if fault := _fault(value, form, ""):
        place, words = fault
        raise ValueError(f"{where}: {place or 'its content'} {words}.")


def _fault(value: Any, form: Any, place: str) -> tuple[str, str] | None:
    """Where data first differ from a form, and in what."""
    if isinstance(form, Mapping):
        return _wrong_type(value, dict, place) or _first(
            (value[name], inner, _join(place, name)) if name in value else (None, inner, _join(place, name))
            for name, inner in form.items()
        )
    outer, inner = get_origin(form), get_args(form)
    if outer is UnionType:
        faults = [_fault(value, one, place) for one in inner if one is not NoneType or value is None]
        return (
            None if None in faults else max(filter(None, faults), key=lambda fault: len(fault[0]))
        )  # of what nearly fits
    if form is Any:
        return None
    if outer is tuple and Ellipsis not in inner:
        value = list(value) if isinstance(value, tuple) else value
        if isinstance(value, list) and len(value) != len(inner):
            return place, f"must be a list of {len(inner)}, found {shown(value)}"
        return _wrong_type(value, list, place) or _first(
            (one, form, f"{place}[{i}]") for i, (one, form) in enumerate(zip(value, inner, strict=True))
        )
    if outer in (list, tuple):  # of any length, and JSON and YAML know no tuples
        value = list(value) if isinstance(value, tuple) else value
        return _wrong_type(value, list, place) or _first(
            (one, inner[0], f"{place}[{i}]") for i, one in enumerate(value)
        )
    if outer is dict:
        wrong = _wrong_type(value, dict, place)
        if wrong is None and (odd := [name for name in value if not isinstance(name, str)]):
            wrong = place, f"must have names that are text, found {shown(odd[0])}"
        return wrong or _first((one, inner[1], _join(place, name)) for name, one in value.items())
    return _wrong_type(value, NoneType if form is None else form, place)


def _first(parts: Iterable[tuple[Any, Any, str]]) -> tuple[str, str] | None:
    return next((fault for part in parts if (fault := _fault(*part))), None)


def _join(place: str, name: str) -> str:
    return f"{place}.{name[:80]}" if place else name[:80]


def _wrong_type(value: Any, kind: type, place: str) -> tuple[str, str] | None:
    number = isinstance(value, int) and not isinstance(value, bool)
    if number and kind in (int, float):
        fits = -LARGEST < value < LARGEST
    else:
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return None if fits else (place, f"must be {_WORDS.get(kind, 'name: value pairs')}, found {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)


def check_text(text: str, what: str) -> None:
    """Raises ``ValueError`` for a text that no file can be named by: with a NUL, or bytes that are no UTF-8."""
    if "\0" in text:
        raise ValueError(f"{what} {shown(text)} holds a NUL character.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{what} {shown(text)} is not valid UTF-8; rename it.")
