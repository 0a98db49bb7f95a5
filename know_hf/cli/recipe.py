"""Recipes: settings from a YAML file and from flags, merged and checked."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from know_hf.cli.flags import Parser, check_flags, with_truths
from know_hf.cli.options import DATA, NOT_WHILE_TRAINING, PREDICTION, PROGRAM, PUSH
from know_hf.plain_yaml import parse_yaml
from know_hf.settings import REQUIRED, check_names, conform, number, read_recipe, training_fields

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


def check_given(settings: Mapping[str, Any], required: Sequence[str]) -> None:
    """Raises ``ValueError`` if a required option is missing, naming its flag."""
    if missing := [name for name in required if name not in settings]:
        raise ValueError(f"missing {', '.join('--' + name.replace('_', '-') for name in missing)}.")


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
