"""Settings that people write: names that are looked at, and what YAML means by a value."""

import ast
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from know_hf.limits import check_limits
from know_hf.plain_yaml import read_yaml
from know_hf.reading import LARGEST, shown

FLAGS = ("drop_incomplete", "from_scratch", "trust_remote_code", "iterate", "keep_head", "verify")
INTEGERS = (
    "steps",
    "image_size",
    "max_length",
    "seeds",
    "batch_size",
    "examples",
    "validation_examples",
    "evaluations",
    "processes",
    "trials",
    "first_seed",
    "branches",
)
FLOATS = ("learning_rates", "head_epochs", "epochs")
LISTS = (
    "input_columns",
    "kinds",
    "method",
    "parameters",
    "arms",
    "learning_rates",
    "data",
    "architectures",
    "held_out_architectures",
    "held_out_data",
    "conditions",
    "predictors",
)
REQUIRED = ("model", "dataset", "output_dir")
# What YAML's "no" means where it is not false.
_OFF = {"eval_split": "none", "report_to": "none"}


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``"; did you mean …?"`` for a name that is not known, or nothing."""
    known = list(dict.fromkeys(known))
    near = [other for other in known if other.startswith(name)] if len(name) > 1 else []
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    near = near or ([other for other in known if name in other] if len(name) > 3 else [])
    return f"; did you mean {prefix}{min(near, key=len)}?" if near else ""


def check_names(found: Iterable[str], known: Iterable[str], where: object) -> None:
    """Raises if a recipe holds a name that is none.

    Raises:
        ValueError: Naming the first, and what was perhaps meant.
    """
    known = list(known)
    if unknown := [name for name in found if name not in known]:
        meant = suggestion(unknown[0], known) or "."
        raise ValueError(f"{where}: unknown setting {', '.join(map(repr, unknown))}{meant}")


def conform(recipe: Mapping[str, Any], training: Mapping[str, str], where: object) -> dict[str, Any]:
    """What a recipe means: YAML reads ``1e-3`` as text, ``3.0`` as a fraction and ``no`` as false.

    Raises:
        ValueError: Where it has text for a number, one value for a mapping, and the like.
    """
    meant = {name: _conform(name, number(value), training.get(name), where) for name, value in recipe.items()}
    check_limits(meant, f"{where}: ")
    return meant


def _conform(name: str, value: Any, kind: str | None, where: object) -> Any:
    several = value if name in LISTS and isinstance(value, list) else [value]
    whole = name in INTEGERS or kind == "int"
    if value is False and (name in _OFF or "Strategy" in (kind or "")):
        return _OFF.get(name, "no")
    if whole:
        right, words = all(_is_whole(one) for one in several), "a whole number"
    elif name in FLOATS or kind == "float":
        right = all(map(_is_number, several))
        words = "a number" if name not in LISTS else "numbers"
    elif name in FLAGS or name == "update_batch_norm" or kind == "bool":
        right, words = isinstance(value, bool), "true or false"
    elif name in ("kinds", "parameters", "arms"):
        right, words = isinstance(value, dict), "name: value pairs"
    elif name in LISTS:
        right, words = all(isinstance(one, str) and one.strip() for one in several), "a name or several"
    elif kind == "list[str]":
        right, words = isinstance(value, list) and all(isinstance(one, str) for one in value), "a list of names"
    else:
        said = isinstance(value, str) and bool(value.strip())
        right, words = said or (kind is not None and name not in REQUIRED), "text"
    if not right:
        raise ValueError(f"{where}: {name} must be {words}, found {shown(value)}.")
    if not whole:
        return value
    return [int(one) for one in several] if isinstance(value, list) else int(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return whole or isinstance(value, float)


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
    """YAML reads 1e-3 as text; settings mean a number, also in lists."""
    if isinstance(value, list):
        return [number(one) for one in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value


@cache
def training_fields() -> dict[str, str] | None:
    """Names of all training arguments with their types, read from the source: importing it takes seconds.

    Returns:
        Name → type as the source writes it, without ``| None``; None where there is no source to read.
    """
    package = find_spec("transformers")  # finds a package without importing it
    if package is None or not package.origin:
        return None
    sources = {
        Path(package.origin).with_name("training_args.py"): ("TrainingArguments",),
        Path(__file__).parent / "forgetting" / "arguments.py": ("ForgettingSettings", "ForgettingArguments"),
    }
    found: dict[str, str] = {}
    for path, names in sources.items():
        try:
            classes = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)]
        except (OSError, SyntaxError, ValueError):
            return None
        classes = [node for node in classes if node.name in names]
        # What a class inherits from elsewhere would be missed, and its flags refused.
        if len(classes) < len(names) or (names[0] == "TrainingArguments" and classes[0].bases):
            return None
        for node in classes:
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            found |= {ast.unparse(field.target): _kind(field) for field in fields}
    return {name: kind for name, kind in found.items() if not name.startswith("_")}


def _kind(field: ast.AnnAssign) -> str:
    annotation = ast.unparse(field.annotation).strip("'\"")
    annotation = re.sub(r"^(typing\.)?Optional\[(.*)\]$", r"\2", annotation)
    return " | ".join(part for part in annotation.split(" | ") if part != "None")
