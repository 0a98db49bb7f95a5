"""Options from files: what YAML means by a value, names that are looked at, and instances of dataclasses."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from know_hf.plain_yaml import read_yaml
from know_hf.reading import LARGEST, check_form, shown
from know_hf.settings.names import meant, suggestion
from know_hf.settings.options import Option, form_of, options_of


def check_names(names: Iterable[str], known: Iterable[str], where: object) -> None:
    """Raises if a recipe holds a name that is none.

    Raises:
        ValueError: Naming the first, and what was perhaps meant.
    """
    known = list(known)
    if unknown := [name for name in names if name not in known]:
        near = suggestion(unknown[0], known) or "."
        raise ValueError(f"{where}: unknown setting {', '.join(map(repr, unknown))}{near}")


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a YAML recipe: plain data only.

    Raises:
        ValueError: If it is not a mapping of plain data.
    """
    recipe = read_yaml(path)
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold name: value pairs.")
    return recipe


def number(value: Any) -> Any:
    """YAML reads 1e-3 as text; settings mean a number, also in lists and mappings."""
    if isinstance(value, list):
        return [number(one) for one in value]
    if isinstance(value, dict):
        return {name: number(one) for name, one in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value


def modern(given: Mapping[str, Any], options: Mapping[str, Option]) -> tuple[dict[str, Any], list[str]]:
    """Settings under their present names, and what to say about those that came under former ones.

    Args:
        given: Name → value.
        options: Those that there are, by name.

    Returns:
        The settings, and a sentence for each former name.

    Raises:
        TypeError: If one is given under both names.
    """
    present, notes = dict(given), []
    for name, known in options.items():
        if known.former is None or known.former not in present:
            continue
        if name in present:
            raise TypeError(f"{known.former} is the former name of {name}; give only {name}.")
        value = present.pop(known.former)
        if value is None:
            continue
        present[name] = value
        pushes = known.former == "push"  # it named the repository and meant the upload
        notes.append(f"{known.former} is now called {'push_to_hub, with ' if pushes else ''}{name}.")
        if pushes:
            present["push_to_hub"] = True
    return present, notes


def conform(recipe: Mapping[str, Any], options: Mapping[str, Option], where: object) -> dict[str, Any]:
    """What a recipe means: YAML reads ``1e-3`` as text, ``3.0`` as a fraction and ``no`` as false.

    Args:
        recipe: Name → value, as YAML has it.
        options: Those that there are, by name.
        where: The file, for messages.

    Returns:
        Name → value, of the type that the option has.

    Raises:
        ValueError: Where it has text for a number, one value for a mapping, and the like.
    """
    meant = {name: _conform(name, number(value), options.get(name), where) for name, value in recipe.items()}
    for name, value in meant.items():
        if name in options:
            options[name].check(value, f"{where}: ")
    return meant


def _conform(name: str, value: Any, known: Option | None, where: object) -> Any:
    form, many = (known.form, known.many) if known else (str, "")
    if value is False and known and known.off:
        return known.off
    several = value if many and isinstance(value, list) else [value]
    if many == "mapping":
        right, words = isinstance(value, dict), "name: value pairs"
    elif many == "list":
        right, words = isinstance(value, list) and all(isinstance(one, str) for one in value), "a list of names"
    elif form is int:
        right, words = all(map(_is_whole, several)), "a whole number"
    elif form is float:
        right, words = all(map(_is_number, several)), "numbers" if many else "a number"
    elif form is bool:
        right, words = isinstance(value, bool), "true or false"
    elif form is str:
        right = all(isinstance(one, str) and one.strip() for one in several)
        words = "a name or several" if many else "text"
    else:
        right, words = True, ""
    if not right:
        raise ValueError(f"{where}: {name} must be {words}, found {shown(value)}.")
    if form is int:
        several = [int(one) for one in several]
    return several if many in ("several", "pair") else several[0] if form is int else value


def _is_whole(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return whole or isinstance(value, float)


def make(kind: type, values: Any, where: str) -> Any:
    """Makes a dataclass of plain data that someone wrote, dataclasses within it included.

    Args:
        kind: The dataclass.
        values: Name → value.
        where: What they are, for messages.

    Returns:
        The instance. Where a field takes several values, one may stand for itself.

    Raises:
        ValueError: If a name is unknown or missing, or a value is of another type or out of its limits; it is named.

    Example:
        >>> from know_hf.settings import make
        >>> from know_hf.training.options import Augmentation
        >>> make(Augmentation, {"rotation": 5}, "augmentation").rotation
        5
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold name: value pairs, found {values!r}.")
    known, options = {f.name: f for f in fields(kind)}, options_of(kind)
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where}: unknown {', '.join(map(repr, unknown))}{meant(unknown[0], known)}")
    required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: missing {', '.join(missing)}.")
    made = {}
    for name, value in values.items():
        made[name] = _made(known[name].type, name, value, where)
        if name in options:
            options[name].check(made[name], f"{where}: ")
    return kind(**made)


def _made(annotation: Any, name: str, value: Any, where: str) -> Any:
    parts = (annotation, *get_args(annotation))
    inner = next((part for part in parts if isinstance(part, type) and is_dataclass(part)), None)
    if inner is not None:
        if isinstance(value, (tuple, list)):
            return tuple(value)  # made already
        optional = value is None and annotation is not inner
        return value if optional or is_dataclass(value) else make(inner, value, f"{where}.{name}")
    form, many = form_of(annotation)
    if many == "several" and not isinstance(value, (list, tuple)) and value is not None:
        value = [value]
    if form is int and not many and isinstance(value, float) and value.is_integer():
        value = int(value)  # 3.0
    check_form({name: value}, {name: annotation}, where)
    return tuple(value) if many == "several" and isinstance(value, list) else value


def pairs(items: list[str], name: str, form: str) -> dict[str, str]:
    """Splits NAME=VALUE items.

    Raises:
        ValueError: If one of them has no name, or the same as another.
    """
    wrong = [item for item in items if "=" not in item]
    if wrong:
        raise ValueError(f"{name}: expected {form}, got {wrong[0]!r}.")
    split = [item.split("=", 1) for item in items]
    names = [name for name, _ in split]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{name}: {twice!r} is there twice.")
    return dict(split)
