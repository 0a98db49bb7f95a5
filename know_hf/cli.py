"""The command line. Only the parser is built before a command is known, so help is quick."""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from know_hf import __version__

PROGRAM = "know-hf"

_PREDICTION = {
    "method": "retrodiction method, several, or all (default: known)",
    "parameters": "NAME=VALUE …: the method's own parameters; with several methods METHOD.NAME=VALUE",
    "iterate": "take single steps and slide the window, whatever the method's own way to further steps",
    "predictor": "folder or Hub id of a predictor (default: the bundled one)",
    "steps": "number of prediction steps (default: 3)",
    "norms": "copy (default) or bias: predict normalisation parameters",
    "embeddings": "copy (default) or fc: predict embedding tables",
    "kinds": "PATTERN=KIND …: kind of the parameters that match a name pattern",
    "device": "where to predict, such as cpu or cuda:0",
}
_DATA = {
    "model": "Hub id or folder of the model",
    "dataset": "Hub id or folder of the data set",
    "output_dir": "folder of the run",
    "train_split": "split to forget on (default: train)",
    "eval_split": "split to score on, 'none' for no scores (default: validation or test, if there is one)",
    "task": "image-classification or text-classification (default: from the data)",
    "input_columns": "input column(s) (default: found by type)",
    "label_column": "label column (default: found by type)",
    "image_size": "side of the images in pixels (default: the model's)",
    "max_length": "longest text in tokens",
    "from_scratch": "take only the architecture; MODEL may be timm/<name>",
    "revision": "revision of the model on the Hub",
    "trust_remote_code": "let code of the model's repository run",
}
_TRANSFER = {
    "arms": "NAME=FOLDER …: the starts to compare, the reference (naive) first",
    "trajectory": "folder of a forgetting run: adds naive and its predictions",
    "method": "with --trajectory: methods to predict by (default: known shrink)",
    "steps": "with --trajectory: number of prediction steps (default: 3)",
    "learning_rates": "grid of peak learning rates (default: 4e-4 1e-3 2.5e-3)",
    "seeds": "number of seeds (default: 5)",
    "head_epochs": "epochs with only head and norms trained (default: 10)",
    "epochs": "epochs with everything trained (default: 100)",
    "batch_size": "examples a step (default: 128)",
    "examples": "training examples of a seed (default: all but the validation examples)",
    "validation_examples": "examples held out to choose learning rates on (default: 1000)",
    "processes": "number of processes (default: 1)",
}
_TRANSFER_DATA = ("dataset", "output_dir", "task", "input_columns", "label_column", "image_size", "max_length")
_PROTOCOL = ("head_epochs", "epochs", "batch_size", "examples", "validation_examples")
_FLAGS = ("from_scratch", "trust_remote_code", "iterate")
_INTEGERS = ("steps", "image_size", "max_length", "seeds", "batch_size", "examples", "validation_examples", "processes")
_FLOATS = ("learning_rates", "head_epochs", "epochs")
_LISTS = ("input_columns", "kinds", "method", "parameters", "arms", "learning_rates")
_REQUIRED = ("model", "dataset", "output_dir")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; bad input ends with exit code 2 and one line."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options, "takes_training_arguments", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Threads that spin while they wait slow everything down on machines with few or busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options.run(options, rest)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue.", options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        _fail(str(error) or type(error).__name__, options)


def _fail(message: str, options: argparse.Namespace) -> None:
    if options.traceback:
        raise
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands without importing anything heavy."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Better pre-trained weights from the data you already have."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, help: str, **kwargs) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help, argument_default=argparse.SUPPRESS,
                                    allow_abbrev=False, **kwargs)  # fmt: skip
        added.set_defaults(run=run, command=name)
        return added

    training = (
        "Every training argument of transformers and every field of ForgettingArguments is a flag too, for example "
        "--num_stages, --sampling_ratio, --self_check, --learning_rate, --num_train_epochs, --bf16."
    )
    for name, run, help in (
        ("enrich", run_enrich, "forget, then predict: a model and data in, enriched checkpoints out"),
        ("forget", run_forget, "forget only: record a trajectory, or train a control (--recipe)"),
    ):
        sub = command(name, run, help, epilog=training)
        sub.set_defaults(takes_training_arguments=True)
        sub.add_argument("--config", type=Path, metavar="YAML", help="recipe with the same names; flags win")
        for option, text in {**_DATA, **(_PREDICTION if name == "enrich" else {})}.items():
            _add_option(sub, option, text)
        if name == "enrich":
            sub.add_argument("--no-update-batch-norm", dest="update_batch_norm", action="store_false",
                             help="keep stage 0's BatchNorm statistics")  # fmt: skip

    sub = command("predict", run_predict, "predict enriched checkpoints from a finished trajectory")
    sub.add_argument("trajectory", help="folder of a forgetting run")
    for option, text in {
        "output_dir": "folder for x2, x4 … (default: enriched in the run's folder)",
        **_PREDICTION,
    }.items():
        _add_option(sub, option, text)

    sub = command("transfer", run_transfer, "fine-tune from several starts under one protocol, and compare")
    sub.add_argument("--config", type=Path, metavar="YAML", help="recipe with the same names; flags win")
    for option, text in {**_TRANSFER, **{name: _DATA[name] for name in _TRANSFER_DATA}}.items():
        _add_option(sub, option, text)

    sub = command("plan", run_plan, "show what would be predicted and copied, and what it takes")
    sub.add_argument("source", help="folder of a forgetting run or of a model")
    for option in ("predictor", "steps", "norms", "embeddings", "kinds", "trust_remote_code"):
        _add_option(sub, option, {**_DATA, **_PREDICTION}[option])

    sub = command("convert", run_convert, "read released weights of KNOWN, WNN or NiNo from your own copy")
    sub.add_argument("source", help="folder with KNOWN_Conv.h5 … or NWNN_Conv_13.h5 …, or the file nino_mlp.pt")
    sub.add_argument("out_dir", help="folder to write the predictor to")

    sub = command("quickstart", run_quickstart, "the whole job on scikit-learn's handwritten digits, in minutes")
    sub.add_argument("--output-dir", "--output_dir", default="know-quickstart", help="default: know-quickstart")
    sub.add_argument("--seeds", type=int, default=5, help="fine-tuning repetitions (default: 5)")

    command("env", run_env, "print versions for a bug report")
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    names = list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))
    if name in _FLAGS:
        parser.add_argument(*names, dest=name, action="store_true", help=text)
    else:
        kind = int if name in _INTEGERS else float if name in _FLOATS else str
        parser.add_argument(*names, dest=name, type=kind, nargs="+" if name in _LISTS else None, help=text)


def resolve_recipe(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], Any]:
    """Merges a YAML recipe and flags (flags win); splits our own options from training arguments.

    Returns:
        Our options by name, and the ``ForgettingArguments``.

    Raises:
        ValueError: If a name is unknown, a required one missing or the file not a mapping.
    """
    own_names = {*_DATA, *(_PREDICTION if options.command == "enrich" else ())}
    if options.command == "enrich":
        own_names.add("update_batch_norm")
    own = {name: value for name, value in vars(options).items() if name in own_names}
    own = _plain(own)
    recipe = read_recipe(options.config) if "config" in options else {}
    if recipe.get("output_dir") and "output_dir" not in own:
        own["output_dir"] = str(recipe["output_dir"])
    required = [name for name in _REQUIRED if name not in own and not recipe.get(name)]
    if required:
        raise ValueError(f"missing {', '.join('--' + name.replace('_', '-') for name in required)}.")

    from dataclasses import fields

    from transformers import HfArgumentParser

    from know_hf.forgetting.arguments import ForgettingArguments

    names = {field.name: field for field in fields(ForgettingArguments) if field.init}
    unknown = sorted(set(recipe) - own_names - set(names))
    if unknown:
        raise ValueError(f"{options.config}: unknown setting {', '.join(map(repr, unknown))}.")
    parser = HfArgumentParser(ForgettingArguments, prog=f"{PROGRAM} {options.command}", add_help=False)
    # Only what was given: a name that is there already keeps argparse from filling in the default.
    unset = object()
    found = parser.parse_args(rest, namespace=argparse.Namespace(**dict.fromkeys(names, unset)))
    given = {name: value for name, value in vars(found).items() if name in names and value is not unset}
    training = {name: _number(value) for name, value in recipe.items() if name in names and name not in own_names}
    training.update(given)
    return {**{n: v for n, v in recipe.items() if n in own_names}, **own}, training


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a YAML recipe: plain data only.

    Raises:
        ValueError: If it is not a mapping of plain data.
    """
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not plain YAML: {error}") from error
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise ValueError(f"{path} must hold name: value pairs.")
    return recipe


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text; settings mean a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """Turns flags into what a recipe would hold: pairs into mappings, a list of one method into its name."""
    if isinstance(given.get("kinds"), list):
        given["kinds"] = _pairs(given["kinds"], "kinds", "PATTERN=KIND")
    if isinstance(given.get("parameters"), list):
        import yaml

        pairs = _pairs(given["parameters"], "parameters", "NAME=VALUE")
        given["parameters"] = {name: _number(yaml.safe_load(value)) for name, value in pairs.items()}
    if isinstance(given.get("arms"), list):
        wrong = [item for item in given["arms"] if "=" not in item]
        if wrong:
            raise ValueError(f"arms: expected NAME=FOLDER, got {wrong[0]!r}.")
        given["arms"] = dict(item.split("=", 1) for item in given["arms"])
    if isinstance(given.get("method"), list) and len(given["method"]) == 1:
        given["method"] = given["method"][0]
    return given


def _pairs(items: list[str], option: str, form: str) -> dict[str, str]:
    wrong = [item for item in items if "=" not in item]
    if wrong:
        raise ValueError(f"{option}: expected {form}, got {wrong[0]!r}.")
    return dict(item.rsplit("=", 1) for item in items)


def _prepare(options: argparse.Namespace, rest: list[str]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Resolves recipe and data; returns settings, arguments for the job and ``ForgettingArguments``."""
    settings, training = resolve_recipe(options, rest)
    _quiet()
    import torch
    from accelerate import PartialState

    from know_hf.data import load_split
    from know_hf.forgetting.arguments import ForgettingArguments

    cpu_only = not torch.accelerator.is_available()
    defaults = {
        "save_total_limit": 1,
        "dataloader_pin_memory": not cpu_only,
        "ddp_find_unused_parameters": False,
    }
    if cpu_only:
        defaults["use_cpu"] = True  # without it a launched CPU process would not join its group
    args = ForgettingArguments(**{"output_dir": settings["output_dir"], **defaults, **training})
    job = {
        name: settings[name] for name in settings if name not in ("dataset", "output_dir", "train_split", "eval_split")
    }
    with PartialState().main_process_first():
        job["train_dataset"] = load_split(settings["dataset"], settings.get("train_split", "train"))
        job["eval_dataset"] = _evaluation(settings)
    job["args"] = args
    return {**settings, **training}, job, args


def _evaluation(settings: dict[str, Any]):
    from know_hf.data import load_split

    split = settings.get("eval_split")
    if split is None:
        from datasets import get_dataset_split_names

        names = get_dataset_split_names(settings["dataset"])
        split = next((name for name in ("validation", "test") if name in names), "none")
    return None if split == "none" else load_split(settings["dataset"], split)


def _quiet() -> None:
    """Leaves Trainer's and our own progress, without a bar for every file that is saved or loaded."""
    import logging

    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # its reports about a head that is new on purpose
    disable_progress_bar()
    logging.basicConfig(format="%(message)s")
    main = os.environ.get("RANK", "0") == "0"
    logging.getLogger("know_hf").setLevel(logging.INFO if main else logging.ERROR)


def _save_recipe(settings: dict[str, Any], output_dir: str) -> None:
    import yaml

    from know_hf.trajectory.record import write_atomically

    secret = {name for name in settings if name.endswith("token")}
    plain = {name: value for name, value in sorted(settings.items()) if name not in secret and value is not None}
    write_atomically(Path(output_dir) / "run.yaml", yaml.safe_dump(json.loads(json.dumps(plain)), sort_keys=False))


def run_enrich(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf enrich``."""
    settings, job, args = _prepare(options, rest)
    from know_hf.enrichment.pretrained import enrich_pretrained
    from know_hf.report import report_markdown

    if "method" in job:
        job["retrodictor"] = job.pop("method")
    result = enrich_pretrained(**job)
    if args.process_index == 0:
        _save_recipe(settings, args.output_dir)
        print(report_markdown(result))
        for name, folder in result.checkpoints.items():
            print(f"{name}: {folder}")


def run_forget(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf forget``."""
    settings, job, args = _prepare(options, rest)
    from know_hf.forgetting.pretrained import forget_pretrained

    record = forget_pretrained(**job)
    if args.process_index == 0:
        _save_recipe(settings, args.output_dir)
        for stage in record.stages:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in stage.metrics.items())
            print(f"stage {stage.index}: {stage.examples} examples  {scores}")


def run_predict(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf predict``."""
    _quiet()
    from know_hf.enrichment.stream import enrich
    from know_hf.report import comparison
    from know_hf.trajectory.record import write_atomically

    given = _plain({k: v for k, v in vars(options).items() if k in _PREDICTION or k == "output_dir"})
    if "method" in given:
        given["retrodictor"] = given.pop("method")
    result = enrich(options.trajectory, **given)
    if int(os.environ.get("RANK", 0)) == 0:
        text = comparison(result.statistics)
        write_atomically(result.output_dir / "report" / "retrodiction.md", f"# Retrodiction methods\n\n{text}\n")
        print(text)
        for name, folder in result.checkpoints.items():
            print(f"{name}: {folder}")


def run_transfer(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf transfer``."""
    names = {*_TRANSFER, *_TRANSFER_DATA}
    given = {name: value for name, value in vars(options).items() if name in names}
    recipe = read_recipe(options.config) if "config" in options else {}
    if unknown := sorted(set(recipe) - names):
        raise ValueError(f"{options.config}: unknown setting {', '.join(map(repr, unknown))}.")
    settings = {**{name: _number(value) for name, value in recipe.items()}, **_plain(given)}
    if required := [name for name in ("dataset", "output_dir") if name not in settings]:
        raise ValueError(f"missing {', '.join('--' + name.replace('_', '-') for name in required)}.")
    _quiet()
    from know_hf.enrichment.stream import enrich
    from know_hf.transfer.protocol import Protocol
    from know_hf.transfer.report import transfer_markdown, write_transfer_report
    from know_hf.transfer.run import transfer

    job = dict(settings)
    arms = dict(job.pop("arms", {}))
    methods, steps = job.pop("method", ["known", "shrink"]), job.pop("steps", 3)
    if trajectory := job.pop("trajectory", None):
        found = enrich(trajectory, Path(job["output_dir"]) / "arms", retrodictor=["naive", *methods], steps=steps)
        arms = {"naive": found.checkpoints.pop(next(iter(found.checkpoints))), **arms}
        arms |= {name: folder for name, folder in found.checkpoints.items() if not name.startswith("naive/")}
    protocol = Protocol(**{name: job.pop(name) for name in _PROTOCOL if name in job})
    result = transfer(arms, job.pop("dataset"), job.pop("output_dir"), protocol=protocol, **job)
    _save_recipe(settings, result.output_dir)
    report = write_transfer_report(result)
    print(transfer_markdown(result))
    print(f"Plots and tables: {report}")


def run_plan(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf plan``."""
    _quiet()
    from know_hf.plan import make_plan

    given = _plain({k: v for k, v in vars(options).items() if k in (*_PREDICTION, "trust_remote_code")})
    print(make_plan(options.source, **given))


def run_convert(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf convert``."""
    out_dir = Path(options.out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} exists and is not an empty folder; choose another.")
    _quiet()
    from know_hf.known.conversion import convert_keras, convert_nino

    if Path(options.source).is_file():
        print(f"{convert_nino(options.source, out_dir)}: pass the folder as --predictor with --method nino.")
        return
    convert_keras(options.source).save_pretrained(out_dir)
    print(f"{out_dir}: pass it as --predictor. The authors state no licence: keep it to yourself.")


def run_quickstart(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf quickstart``."""
    _quiet()
    from know_hf.quickstart import quickstart

    quickstart(options.output_dir, seeds=options.seeds)


def run_env(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf env``."""
    import platform

    import torch

    from know_hf.forgetting.recipe import versions

    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package, version in versions().items():
        print(f"{package} {version}")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    print(f"accelerator: {accelerator or 'none'}; processors: {os.cpu_count()}")
