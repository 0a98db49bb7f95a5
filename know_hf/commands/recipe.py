"""Recipes: settings from a YAML file and from flags, merged and checked."""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from know_hf.commands.flags import Parser, check_flags, check_names, training_fields, with_truths
from know_hf.commands.options import (
    DATA,
    FLAGS,
    FLOATS,
    INTEGERS,
    LISTS,
    NOT_WHILE_TRAINING,
    PREDICTION,
    PROGRAM,
    PUSH,
    REQUIRED,
)
from know_hf.limits import check_limits
from know_hf.plain_yaml import parse_yaml, read_yaml
from know_hf.reading import LARGEST, shown

# What YAML's "no" means where it is not false.
_OFF = {"eval_split": "none", "report_to": "none"}


def resolve_recipe(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merges a YAML recipe and flags (flags win); splits our own options from training arguments.

    Returns:
        Our options by name, and the fields of ``ForgettingArguments`` that were given.

    Raises:
        ValueError: If a name is unknown, a required one missing, a value of another type or the file not a mapping.
    """
    own_names = {*DATA, *(PREDICTION if options.command == "enrich" else ())}
    if options.command == "enrich":
        own_names |= {"update_batch_norm", *PUSH}
    own_names -= set(NOT_WHILE_TRAINING)
    own = {name: value for name, value in vars(options).items() if name in own_names}
    own = plain_values(own)
    recipe = read_recipe(options.config) if "config" in options else {}
    early = training_fields()  # by reading; what Trainer itself says follows below
    if early is not None:
        check_flags(rest, own_names, early)
        check_names(recipe, [*own_names, *early], getattr(options, "config", None))
    if recipe.get("output_dir") and "output_dir" not in own:
        own["output_dir"] = str(recipe["output_dir"])
    recipe = {name: value for name, value in recipe.items() if value is not None}
    check_given({**recipe, **own}, REQUIRED)
    recipe = conform(recipe, early or {}, getattr(options, "config", None))

    from dataclasses import fields

    from transformers import HfArgumentParser

    from know_hf.forgetting.arguments import ForgettingArguments

    class TrainingParser(Parser, HfArgumentParser):
        def error(self, message: str) -> None:
            raise ValueError(message)

    names = {field.name: field for field in fields(ForgettingArguments) if field.init}
    check_names(recipe, [*own_names, *names], getattr(options, "config", None))
    parser = TrainingParser(dataclass_types=ForgettingArguments, prog=f"{PROGRAM} {options.command}", add_help=False)
    # Only what was given: a name that is there already keeps argparse from filling in the default.
    unset = object()
    found = parser.parse_args(
        with_truths(rest, early or {}), namespace=argparse.Namespace(**dict.fromkeys(names, unset))
    )
    given = {name: value for name, value in vars(found).items() if name in names and value is not unset}
    training = {name: value for name, value in recipe.items() if name in names and name not in own_names}
    training.update(given)
    return {**plain_values({n: v for n, v in recipe.items() if n in own_names}), **own}, training


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


def check_given(settings: Mapping[str, Any], required: Sequence[str]) -> None:
    """Raises ``ValueError`` if a required option is missing, naming its flag."""
    if missing := [name for name in required if name not in settings]:
        raise ValueError(f"missing {', '.join('--' + name.replace('_', '-') for name in missing)}.")


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


def plain_values(given: dict[str, Any]) -> dict[str, Any]:
    """Turns flags into what a recipe would hold: pairs into mappings, a list of one method into its name."""
    if isinstance(given.get("kinds"), list):
        given["kinds"] = pairs(given["kinds"], "kinds", "PATTERN=KIND")
    if isinstance(given.get("parameters"), list):
        found = pairs(given["parameters"], "parameters", "NAME=VALUE")
        given["parameters"] = {
            name: number(parse_yaml(value, f"parameters: {name[:80]}")) for name, value in found.items()
        }
    if isinstance(given.get("arms"), list):
        given["arms"] = pairs(given["arms"], "arms", "NAME=FOLDER")
    for name in ("learning_rates", "input_columns"):
        if name in given and not isinstance(given[name], list):
            given[name] = [given[name]]
    if isinstance(given.get("method"), list) and len(given["method"]) == 1:
        given["method"] = given["method"][0]
    return given


def pairs(items: list[str], option: str, form: str) -> dict[str, str]:
    """Splits NAME=VALUE items.

    Raises:
        ValueError: If one of them has no name, or the same as another.
    """
    wrong = [item for item in items if "=" not in item]
    if wrong:
        raise ValueError(f"{option}: expected {form}, got {wrong[0]!r}.")
    found = [item.split("=", 1) for item in items]
    names = [name for name, _ in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{option}: {twice!r} is there twice.")
    return dict(found)
