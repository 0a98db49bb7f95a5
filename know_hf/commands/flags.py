"""Flags and names, looked at before anything heavy is imported: which there are, and what was perhaps meant."""

import argparse
import ast
import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from know_hf.commands.options import PROGRAM

_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Characters of a message.
_LONGEST = 2000
_TRUTH = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")
_LIKE_NUMBERS = {"int": (int, "a whole number"), "float": (float, "a number")}


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and reads ``-1e-3`` as a number."""

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})
        self._negative_number_matcher = re.compile(f"^{_NUMBER.pattern}$")

    def error(self, message: str) -> None:
        """Ends the program with exit code 2."""
        self.exit(2, one_line(message) + "\n" if speaks() else None)


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
        Path(__file__).parents[1] / "forgetting" / "arguments.py": ("ForgettingSettings", "ForgettingArguments"),
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
