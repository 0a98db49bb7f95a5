"""Flags and names, looked at before anything heavy is imported: which there are, and what was perhaps meant."""

import argparse
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from know_hf.cli.options import PROGRAM
from know_hf.plain_yaml import parse_yaml
from know_hf.settings import Option, number, pairs, suggestion

_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Characters of a message.
_LONGEST = 2000
_TRUE = ("yes", "true", "t", "y", "1")
_TRUTH = (*_TRUE, "no", "false", "f", "n", "0")
_LIKE_NUMBERS = {"int": (int, "a whole number"), "float": (float, "a number")}


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and reads ``-1e-3`` as a number."""

    def __init__(self, **options: Any):
        super().__init__(**{"allow_abbrev": False, **options})
        #: The parser of each command.
        self.commands: dict[str, argparse.ArgumentParser] = {}
        self._negative_number_matcher = re.compile(f"^{_NUMBER.pattern}$")

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, one_line(message) + "\n" if speaks() else None)


def add_flags(parser: argparse.ArgumentParser, options: Mapping[str, Option], lenient: Collection[str] = ()) -> None:
    """Gives a parser the flags of options, spelt with ``-`` and with ``_``, and their former names.

    Args:
        parser: Its defaults are left out, so that what is there was given.
        options: Name of the flag → option.
        lenient: Options that need not be given here.
    """
    for name, known in options.items():
        text = (known.help if known.many == "either" and not known.default_name else known.text).replace("%", "%%")
        like = some_path if known.annotation in (Path, Path | None) else some_text
        kind: dict[str, Any] = {"type": known.form if known.form in (int, float) else like}
        if known.positional:
            kind |= {"nargs": "?", "default": None} if name in lenient else {"nargs": "+"} if known.many else {}
            kind |= {"metavar": known.metavar} if known.metavar else {}
            parser.add_argument(name, help=text, **kind)
            continue
        if known.form is bool:
            kind = {"action": "store_false" if known.default is True else "store_true"}
            text = f"Leave this out: {known.help}" if known.default is True else text
        elif known.many == "pair":
            kind |= {"nargs": 2, "metavar": ("LOW", "HIGH")}
        elif known.many:
            kind |= {"nargs": "+", "metavar": known.metavar}
        else:
            kind |= {"metavar": known.metavar}
        spelt = f"no_{name}" if known.form is bool and known.default is True else name
        parser.add_argument(*spellings(spelt), dest=name, help=text, **kind)
        if known.former:
            parser.add_argument(*spellings(known.former), dest=known.former, help=argparse.SUPPRESS, **kind)


def spellings(name: str) -> list[str]:
    """A flag with ``-`` and with ``_``."""
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def from_flag(known: Option, value: Any) -> Any:
    """What a recipe would hold for what a flag was given: pairs become mappings, a list of one name the name.

    Raises:
        ValueError: If a pair is none.
    """
    if known.many == "mapping":
        texts = pairs(value, known.name, known.metavar or "NAME=VALUE")
        if known.form is str:
            return texts
        return {key: number(parse_yaml(text, f"{known.name}: {key[:80]}")) for key, text in texts.items()}
    return value[0] if known.many == "either" and len(value) == 1 else value


def some_text(text: str) -> str:
    """An argument that has to say something: an empty path would be the folder that one is in."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty.")
    return text


def some_path(text: str) -> Path:
    """The same, as a path."""
    return Path(some_text(text))


def one_line(message: str) -> str:
    """What is printed of an error."""
    text = " ".join(message.split())
    return f"{PROGRAM}: error: {text[:_LONGEST]}{' …' if len(text) > _LONGEST else ''}"


def say(note: str) -> None:
    """Prints a line beside the results."""
    if speaks():
        print(f"{PROGRAM}: {note}", file=sys.stderr)


def speaks() -> bool:
    """Whether this process says what is wrong: before those of a launch join, one of a machine does for all."""
    torch = sys.modules.get("torch")
    joined = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return joined or os.environ.get("LOCAL_RANK", "0") == "0"


def with_underscores(arguments: Iterable[str]) -> list[str]:
    """Spells the names of flags alike: ``--output-dir`` and ``--output_dir`` are the same."""

    def spelled(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument

    return [spelled(argument) for argument in arguments]


def with_plain_truths(arguments: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """Takes ``--flag true`` and ``--flag=false``, as Trainer's flags may be given, for a flag alone or its absence."""
    truths = {name: known.default is True for name, known in options.items() if known.form is bool}
    kept, left = [], list(arguments)
    while left:
        argument = left.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in truths:
            kept.append(argument)
            continue
        if not equals:
            value = left.pop(0) if left and left[0].lower() in _TRUTH else "true"
        if value.lower() not in _TRUTH:
            raise ValueError(f"--{name}: expected true or false, found {value!r}.")
        if (value.lower() in _TRUE) is not truths[name]:
            kept.append(f"--no_{name}" if truths[name] else f"--{name}")
    return kept


def check_flags(rest: Sequence[str], own: Iterable[str], fields: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raises if what a command's own parser left over is no training argument either, or has a wrong value.

    Args:
        rest: What is left over.
        own: Names of the command's own flags, to suggest.
        fields: From [`training_fields`]; nothing is a training argument without.

    Raises:
        ValueError: In one line, with what was perhaps meant.
    """
    known = {name.lstrip("-").replace("-", "_") for name in own} | {"help"} | set(fields)
    taker, needy = None, False  # the flag that a value would go to, and whether it has to come
    for argument in with_underscores(rest):
        if argument.startswith("--"):
            if needy:
                raise ValueError(f"--{taker} needs a value.")
            name, equals, value = argument[2:].partition("=")
            negated = name not in fields and fields.get(name.removeprefix("no_")) == "bool"
            if name not in fields and not negated:
                raise ValueError(f"unknown flag --{name}{suggestion(name, known, '--') or '.'}")
            if equals:
                _check_value(name, fields.get(name, "none"), value)
            taker = None if equals or negated else name
            needy = taker is not None and "bool" not in fields[name]
        elif argument.startswith("-") and len(argument) > 1 and not _NUMBER.fullmatch(argument):
            raise ValueError(f"unknown flag {argument}; flags begin with two dashes.")
        elif taker is None:
            raise ValueError(f"{argument!r} belongs to no flag.")
        else:
            _check_value(taker, fields[taker], argument)
            taker, needy = taker if "list" in fields[taker] else None, False
    if needy:
        raise ValueError(f"--{taker} needs a value.")


def with_truths(rest: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """Says ``true`` and ``false`` where a flag alone, or ``--no_…``, means it: Trainer's parser knows only some so."""
    found, rest = [], with_underscores(rest)
    for argument, following in zip(rest, [*rest[1:], ""], strict=False):
        name = argument.removeprefix("--")
        if argument.startswith("--no_") and name not in fields and fields.get(name.removeprefix("no_")) == "bool":
            found += [f"--{name.removeprefix('no_')}", "false"]
        elif argument.startswith("--") and fields.get(name) == "bool" and following.lower() not in _TRUTH:
            found += [argument, "true"]
        else:
            found.append(argument)
    return found


def _check_value(name: str, kind: str, value: str) -> None:
    if kind in _LIKE_NUMBERS:
        like, words = _LIKE_NUMBERS[kind]
        try:
            like(value)
        except ValueError:
            raise ValueError(f"--{name}: expected {words}, found {value!r}.") from None
    if kind == "none":
        raise ValueError(f"--{name} takes no value, found {value!r}.")
    if kind == "bool" and value.lower() not in _TRUTH:
        raise ValueError(f"--{name}: expected true or false, found {value!r}.")
