"""Recipes: settings from a YAML file and from flags, merged and checked."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from know_hf.cli.flags import Parser, check_flags, from_flag, say, with_truths
from know_hf.cli.options import PROGRAM
from know_hf.forgetting.options import training_fields, training_options
from know_hf.settings import Option, check_names, conform, modern, options_of, read_recipe


@dataclass(frozen=True)
class Call:
    """What a command was called with.

    Args:
        command: Its name.
        options: Its options, by the name of their flag.
        flags: What was given, by the name of its flag, as the parser left it.
        rest: What is no flag of its own.
    """

    command: str
    options: Mapping[str, Option]
    flags: Mapping[str, Any]
    rest: Sequence[str] = ()

    def settings(self) -> dict[str, Any]:
        """What was given, as a recipe would hold it.

        Raises:
            ValueError: If a value is none for its option, or a former name stands beside the present one.
        """
        given = _renamed(self.flags, self.options)
        return {name: from_flag(self.options[name], value) for name, value in given.items()}

    def merged(self) -> dict[str, Any]:
        """Flags, and a recipe's settings where a flag says nothing; all that is required is there.

        Raises:
            ValueError: If a name is unknown, a required one missing, a value of another type or the file no mapping.
        """
        settings = self.settings()
        recipe, where = _recipe(settings, self.options)
        check_names(recipe, self.recipe_names, where)
        recipe = conform(recipe, self.options, where)
        settings = {**recipe, **settings}
        check_given(settings, self.options)
        return settings

    @property
    def recipe_names(self) -> list[str]:
        """The options that a recipe may hold."""
        return [name for name, known in self.options.items() if name != "config" and not known.positional]


def taken(settings: Mapping[str, Any], *kinds: type) -> dict[str, Any]:
    """Of settings by the name of their flag those of some dataclasses, by the name of their field."""
    options = options_of(*kinds)
    return {name: settings[known.flag] for name, known in options.items() if known.flag and known.flag in settings}


def resolve_recipe(call: Call) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merges a YAML recipe and flags (flags win); splits our own options from training arguments.

    Returns:
        Our options by name, and the fields of ``ForgettingArguments`` that were given.

    Raises:
        ValueError: If a name is unknown, a required one missing, a value of another type or the file not a mapping.
    """
    own = call.settings()
    recipe, where = _recipe(own, call.options)
    early = training_options()  # by reading; what Trainer itself says follows below
    kinds = training_fields() or {}
    if early is not None:
        check_flags(call.rest, call.recipe_names, kinds)
        check_names(recipe, [*call.recipe_names, *early], where)
    if recipe.get("output_dir") and "output_dir" not in own:
        own["output_dir"] = str(recipe["output_dir"])
    check_given({**recipe, **own}, call.options)
    recipe = conform(recipe, {**(early or {}), **call.options}, where)

    from dataclasses import fields

    from transformers import HfArgumentParser

    from know_hf.forgetting.arguments import ForgettingArguments

    class TrainingParser(Parser, HfArgumentParser):
        def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
            if kinds.get(str(names[0]).lstrip("-"), "").endswith("str | list[str]"):
                options["nargs"] = "+"  # of which transformers' parser would take the first
            return super().add_argument(*names, **options)

        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    names = {field.name: field for field in fields(ForgettingArguments) if field.init}
    check_names(recipe, [*call.recipe_names, *names], where)
    parser = TrainingParser(dataclass_types=ForgettingArguments, prog=f"{PROGRAM} {call.command}", add_help=False)
    # Only what was given: a name that is there already keeps argparse from filling in the default.
    unset = object()
    found = parser.parse_args(
        with_truths(call.rest, kinds), namespace=argparse.Namespace(**dict.fromkeys(names, unset))
    )
    given = {name: value for name, value in vars(found).items() if name in names and value is not unset}
    training = {name: value for name, value in recipe.items() if name in names and name not in call.options}
    training.update(given)
    return {**{name: value for name, value in recipe.items() if name in call.options}, **own}, training


def _recipe(settings: dict[str, Any], options: Mapping[str, Option]) -> tuple[dict[str, Any], Any]:
    """The settings of the file that ``config`` names, which is taken out, and its name; nothing is said of nulls."""
    where = settings.pop("config", None)
    recipe = {} if where is None else _renamed(read_recipe(where), options)
    return {name: value for name, value in recipe.items() if value is not None}, where


def _renamed(given: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    present, notes = modern(given, options)
    for note in notes:
        say(note)
    return present


def check_given(settings: Mapping[str, Any], options: Mapping[str, Option]) -> None:
    """Raises ``ValueError`` if a required option is missing, naming its flag."""
    required = [name for name, known in options.items() if known.required and not known.positional]
    if missing := [name for name in required if name not in settings]:
        raise ValueError(f"missing {', '.join('--' + name.replace('_', '-') for name in missing)}.")
