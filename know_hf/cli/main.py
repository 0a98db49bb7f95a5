"""The command line. Only the parser is built before a command is known, so help is quick."""

import argparse
import dis
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from know_hf import __version__
from know_hf.cli.commands import COMMANDS
from know_hf.cli.flags import (
    Parser,
    add_flags,
    check_flags,
    one_line,
    speaks,
    with_plain_truths,
    with_underscores,
)
from know_hf.cli.options import PROGRAM
from know_hf.cli.recipe import Call
from know_hf.garbage import seldom_looked_for
from know_hf.reading import check_text
from know_hf.settings import suggestion
from know_hf.text import without_secrets

#: Exit codes: of an error that a file or flag caused, of a fault of ours (Python's own), and of an interruption.
FAILED, FAULT, INTERRUPTED = 2, 1, 130
#: Errors that a file or flag may cause.
_IN_WORDS = (ValueError, TypeError, OSError, ImportError, MemoryError)
# What the parser leaves that is no option of a command.
_OURS = ("command", "traceback")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command.

    What a user's file or flag causes ends with exit code 2, an interruption with 130, both in one line; a fault of ours
    keeps its traceback, followed by a line on how to report it, and ends with 1.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that lacks a letter of a table is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = build_parser()
    arguments = with_underscores(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        parser.print_help()
        return
    try:
        for argument in arguments:
            check_text(argument, "the argument")
    except ValueError as error:
        parser.error(str(error))
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is None and (stray := [a for a in arguments if a not in parser._option_string_actions]):
        parser.error(f"unknown flag {stray[0]}{suggestion(stray[0], parser._option_string_actions) or '.'}")
    if named is not None and named not in COMMANDS:
        meant = suggestion(named, COMMANDS) or f"; there are {', '.join(COMMANDS)}."
        parser.error(f"unknown command {named!r}{meant}")
    if named is not None:
        try:
            arguments = with_plain_truths(arguments, COMMANDS[named].options)
        except ValueError as error:
            parser.error(str(error))
    options, rest = parser.parse_known_args(arguments)
    # Threads that spin while they wait slow everything down on machines with few or busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name: str = options.command
    command = COMMANDS[name]
    try:
        if not command.trains:
            check_flags(rest, [flag for action in parser.commands[name]._actions for flag in action.option_strings])
        flags = {flag: value for flag, value in vars(options).items() if flag not in _OURS and value is not None}
        for flag, known in command.options.items():
            if flag in flags and known.many != "mapping":
                replace(known, name=flag).check(flags[flag], "--")
        # A machine that is taken away ends the run as Ctrl-C does: nothing half-written stays.
        with _terminable(), _bounded(), seldom_looked_for():
            command.run(Call(name, command.options, flags, rest))
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue.", options, INTERRUPTED)
    except Exception as error:
        if (message := in_words(error)) is not None:
            _fail(message, options)
        traceback.print_exc()
        _fail(
            f"{type(error).__name__}: {error}. This is a fault of know-hf, not of what it was given: please report it, "
            "with the traceback above and what `know-hf env` prints.",
            options, FAULT,
        )  # fmt: skip


def in_words(error: Exception) -> str | None:
    """What to say about an error that a user's file, flag or machine caused.

    Of errors of the operating system, and of packages that are not there, the text says all. A ``ValueError`` or
    ``TypeError`` is one of our words where our code raises it; where a library does, its type is told too; where an
    operation of our own code failed by itself, no one thought of it.

    Returns:
        The message, or None for a fault of ours.
    """
    while not isinstance(error, _IN_WORDS) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # a library wrapped it in one of its own
    kind, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory; smaller batches, images or blocks need less. ({text or kind})"
    if isinstance(error, ImportError) and (error.name or "").startswith("know_hf"):
        return None
    if isinstance(error, (OSError, ImportError)):
        return text or kind
    if not isinstance(error, _IN_WORDS) or error.__traceback__ is None:
        return None
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    code = last.tb_frame.f_code
    if not code.co_filename.startswith(str(Path(__file__).parents[1]) + os.sep):
        return f"{kind}: {text}"
    return text or kind if dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS" else None


@contextmanager
def _bounded() -> Iterator[None]:
    """Never waits for the Hub without end."""
    from know_hf.remote import bounded

    with bounded():
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """Treats SIGTERM as Ctrl-C, so that locks are given back and half-written folders removed."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, options: argparse.Namespace, code: int = FAILED) -> NoReturn:
    if "know_hf.progress" in sys.modules:
        sys.modules["know_hf.progress"].close_all()
    if options.traceback and code != FAULT:
        traceback.print_exc()
    if code != FAILED or speaks() or options.traceback:
        print(without_secrets(one_line(message)), file=sys.stderr)
    sys.exit(code)


def build_parser() -> Parser:
    """Builds the parser of all commands without importing anything heavy."""
    parser = Parser(prog=PROGRAM, description="Better pre-trained weights from the data you already have.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--traceback", action="store_true", help=_TRACEBACK)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = parser.commands[name] = commands.add_parser(
            name,
            help=command.help,
            description=command.help,
            argument_default=argparse.SUPPRESS,
            epilog=_TRAINING if command.trains else None,
        )
        added.set_defaults(command=name)
        added.add_argument("--traceback", action="store_true", help=_TRACEBACK)
        add_flags(added, command.options, command.lenient)
    return parser


_TRACEBACK = "show where an error came from"
_TRAINING = (
    "Every training argument of transformers and every field of ForgettingArguments is a flag too, for example "
    "--num_stages, --sampling_ratio, --self_check, --learning_rate, --num_train_epochs, --bf16."
)
