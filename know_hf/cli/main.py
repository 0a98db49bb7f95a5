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
from pathlib import Path
from typing import NoReturn

from know_hf import __version__
from know_hf.cli import compare, meta, other, train
from know_hf.cli.flags import Parser, check_flags, one_line, some_path, some_text, speaks, with_underscores
from know_hf.cli.options import (
    COLLECTION,
    DATA,
    EVALUATION,
    META_TRAINING,
    NOT_WHILE_TRAINING,
    PREDICTION,
    PROGRAM,
    PUSH,
    TRANSFER,
    TRANSFER_DATA,
)
from know_hf.limits import check_limits
from know_hf.reading import check_text
from know_hf.settings import FLAGS, FLOATS, INTEGERS, LISTS, suggestion
from know_hf.text import without_secrets

#: Exit codes: of an error that a file or flag caused, of a fault of ours (Python's own), and of an interruption.
FAILED, FAULT, INTERRUPTED = 2, 1, 130
#: Errors that a file or flag may cause.
_IN_WORDS = (ValueError, TypeError, OSError, ImportError, MemoryError)


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
    commands = parser.commands.choices
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is None and (stray := [a for a in arguments if a not in parser._option_string_actions]):
        parser.error(f"unknown flag {stray[0]}{suggestion(stray[0], parser._option_string_actions) or '.'}")
    if named is not None and named not in commands:
        meant = suggestion(named, commands) or f"; there are {', '.join(commands)}."
        parser.error(f"unknown command {named!r}{meant}")
    options, rest = parser.parse_known_args(arguments)
    # Threads that spin while they wait slow everything down on machines with few or busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if not options.takes_training_arguments:
            check_flags(rest, [flag for action in commands[named]._actions for flag in action.option_strings])
        check_limits(vars(options), "--")
        # A machine that is taken away ends the run as Ctrl-C does: nothing half-written stays.
        with _terminable(), _bounded():
            options.run(options, rest)
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

    def stop(*_) -> None:
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


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands without importing anything heavy."""
    parser = Parser(prog=PROGRAM, description="Better pre-trained weights from the data you already have.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function, help: str, **kwargs) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help, argument_default=argparse.SUPPRESS,
                                    **kwargs)  # fmt: skip
        added.set_defaults(run=function, command=name, takes_training_arguments=False)
        added.add_argument("--traceback", action="store_true", help="show where an error came from")
        return added

    training = (
        "Every training argument of transformers and every field of ForgettingArguments is a flag too, for example "
        "--num_stages, --sampling_ratio, --self_check, --learning_rate, --num_train_epochs, --bf16."
    )
    for name, function, help in (
        ("enrich", train.run_enrich, "forget, then predict: a model and data in, enriched checkpoints out"),
        ("forget", train.run_forget, "forget only: record a trajectory, or train a control (--recipe)"),
    ):
        sub = command(name, function, help, epilog=training)
        sub.set_defaults(takes_training_arguments=True)
        sub.add_argument("--config", type=some_path, metavar="YAML", help="recipe with the same names; flags win")
        for option, text in {**DATA, **({**PREDICTION, **PUSH} if name == "enrich" else {})}.items():
            if option not in NOT_WHILE_TRAINING:
                _add_option(sub, option, text)
        if name == "enrich":
            spellings = _spellings("no_update_batch_norm")
            text = "keep stage 0's BatchNorm statistics"
            sub.add_argument(*spellings, dest="update_batch_norm", action="store_false", help=text)

    sub = command("predict", train.run_predict, "predict enriched checkpoints from a finished trajectory")
    sub.add_argument("trajectory", type=some_text, help="folder of a forgetting run")
    for option, text in {
        "output_dir": "folder for x2, x4 … (default: enriched in the run's folder)",
        "verify": "hash results that are already there, too; what is damaged is made again",
        **PREDICTION,
    }.items():
        _add_option(sub, option, text)

    sub = command("transfer", compare.run_transfer, "fine-tune from several starts under one protocol, and compare")
    sub.add_argument(
        "recipe",
        nargs="?",
        type=some_path,
        default=None,
        help="YAML recipe of a whole experiment, pre-training included",
    )
    sub.add_argument("--size", type=some_text, help="with a recipe: which of its sizes (default: the first)")
    sub.add_argument(
        "--predictors", nargs="+", type=some_text, metavar="NAME=FOLDER", help="with a recipe: further predictors"
    )
    sub.add_argument("--config", type=some_path, metavar="YAML", help="recipe with the same names; flags win")
    for option, text in {**TRANSFER, **{name: DATA[name] for name in TRANSFER_DATA}}.items():
        _add_option(sub, option, text)

    sub = command("collect", meta.run_collect, "collect trajectories of small networks, for meta-training")
    for option, text in COLLECTION.items():
        pair = {"nargs": 2, "metavar": ("LOW", "HIGH")} if option in ("examples", "epochs") else {}
        _add_option(sub, option, text, **({"type": int, **pair} if pair else {}))

    sub = command("meta-train", meta.run_meta_train, "train a predictor on a meta-data set")
    sub.add_argument("meta", type=some_text, help="folder of a meta-data set")
    for option, text in META_TRAINING.items():
        numbers = ("history_length", "epochs", "rows", "patience", "seed", "functional_epochs", "inner_steps")
        whole = {"type": int} if option in numbers else {}
        _add_option(sub, option, text, **({"type": float} if option == "learning_rate" else whole))

    sub = command("meta-evaluate", meta.run_meta_evaluate, "compare predictors with every method on unseen trials")
    sub.add_argument("meta", type=some_text, help="folder of a meta-data set")
    for option, text in EVALUATION.items():
        _add_option(sub, option, text)

    sub = command("report", other.run_report, "write one HTML page about a finished run, comparison or experiment")
    sub.add_argument("folder", type=some_path, help="folder of enrich, forget or transfer")

    text = "upload a run's steps, a checkpoint, a predictor or a meta-data set to the Hub"
    sub = command("push", other.run_push, text)
    sub.add_argument(
        "folder", type=some_text, help="a run, its enriched folder, a checkpoint, a predictor or a meta-data set"
    )
    sub.add_argument("repo_id", type=some_text, help="user/name; made if need be")
    for name, text in {
        "private": "make a new repository private",
        "create-pr": "open a pull request instead of writing (one checkpoint)",
        "dry-run": "say what would be sent, and send nothing",
        "overwrite-card": "replace a README that the repository already has",
    }.items():
        sub.add_argument(*_spellings(name), action="store_true", default=False, help=text)

    sub = command("plan", other.run_plan, "show what would be predicted and copied, and what it takes")
    sub.add_argument("source", type=some_text, help="folder of a forgetting run or of a model")
    for option in ("predictor", "steps", "norms", "embeddings", "kinds", "trust_remote_code"):
        _add_option(sub, option, {**DATA, **PREDICTION}[option])

    sub = command("convert", other.run_convert, "read released weights of KNOWN, WNN or NiNo from your own copy")
    sub.add_argument(
        "source", type=some_text, help="folder with KNOWN_Conv.h5 … or NWNN_Conv_13.h5 …, or the file nino_mlp.pt"
    )
    sub.add_argument("out_dir", type=some_text, help="folder to write the predictor to")

    sub = command("quickstart", other.run_quickstart, "the whole job on scikit-learn's handwritten digits, in minutes")
    sub.add_argument(
        "--output-dir", "--output_dir", type=some_text, default="know-quickstart", help="default: know-quickstart"
    )
    sub.add_argument("--seeds", type=int, default=5, help="fine-tuning repetitions (default: 5)")

    command("env", other.run_env, "print versions for a bug report")
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, text: str, **own) -> None:
    names = _spellings(name)
    if name in FLAGS:
        parser.add_argument(*names, dest=name, action="store_true", help=text)
    else:
        kind = int if name in INTEGERS else float if name in FLOATS else some_text
        settings = {"type": kind, "nargs": "+" if name in LISTS else None, **own}
        parser.add_argument(*names, dest=name, help=text, **settings)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}")))
