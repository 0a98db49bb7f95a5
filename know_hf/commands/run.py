"""The commands."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from know_hf.commands.options import (
    COLLECTION,
    EVALUATION,
    META_TRAINING,
    PREDICTION,
    PROTOCOL,
    TRANSFER,
    TRANSFER_DATA,
)
from know_hf.commands.recipe import check_given, number, pairs, plain_values, read_recipe, resolve_recipe


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
    job["push_to_hub"] = job.pop("push", None)
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

    given = plain_values({k: v for k, v in vars(options).items() if k in PREDICTION or k == "output_dir"})
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
    if options.recipe is not None:
        return _run_recipe(options)
    if stray := [name for name in ("size", "predictors") if name in options]:
        raise ValueError(f"--{stray[0]} belongs to a recipe; name its file.")
    names = {*TRANSFER, *TRANSFER_DATA}
    given = {name: value for name, value in vars(options).items() if name in names}
    recipe = read_recipe(options.config) if "config" in options else {}
    if unknown := sorted(set(recipe) - names):
        raise ValueError(f"{options.config}: unknown setting {', '.join(map(repr, unknown))}.")
    settings = {**{name: number(value) for name, value in recipe.items()}, **plain_values(given)}
    check_given(settings, ("dataset", "output_dir"))
    _quiet()
    from know_hf.enrichment.stream import enrich
    from know_hf.report.transfer import transfer_markdown, write_transfer_report
    from know_hf.retrodiction import ALL
    from know_hf.transfer.protocol import Protocol
    from know_hf.transfer.run import transfer

    job = dict(settings)
    arms = dict(job.pop("arms", {}))
    methods, steps = job.pop("method", ["known", "shrink"]), job.pop("steps", 3)
    methods = [methods] if isinstance(methods, str) else methods
    if trajectory := job.pop("trajectory", None):
        others = [name for name in (ALL if "all" in methods else methods) if name != "naive"]
        found = enrich(trajectory, Path(job["output_dir"]) / "arms", retrodictor=["naive", *others], steps=steps)
        arms = {"naive": next(iter(found.checkpoints.values())), **arms}
        arms |= {name: folder for name, folder in found.checkpoints.items() if name.split("/")[0] in others}
    new_head = not job.pop("keep_head", False)
    protocol = Protocol(**{name: job.pop(name) for name in PROTOCOL if name in job}, new_head=new_head)
    result = transfer(arms, job.pop("dataset"), job.pop("output_dir"), protocol=protocol, **job)
    _save_recipe(settings, result.output_dir)
    report = write_transfer_report(result)
    print(transfer_markdown(result))
    print(f"Plots and tables: {report}")


def _run_recipe(options: argparse.Namespace) -> None:
    given = {k: v for k, v in vars(options).items() if k in (*TRANSFER, *TRANSFER_DATA, "config")}
    output_dir, processes = given.pop("output_dir", None), given.pop("processes", None)
    if given:
        raise ValueError(f"a recipe says everything itself; --{next(iter(given)).replace('_', '-')} is not for it.")
    from know_hf.transfer.recipe import load_recipe

    recipe = load_recipe(options.recipe, getattr(options, "size", None))
    if processes:
        recipe = replace(recipe, processes=processes)
    _quiet()
    from know_hf.report.laboratory import write_laboratory_report
    from know_hf.transfer.laboratory import run_recipe

    predictors = pairs(getattr(options, "predictors", []), "predictors", "NAME=FOLDER")
    result = run_recipe(recipe, output_dir or f"{recipe.name}-{recipe.size}", predictors=predictors)
    page = write_laboratory_report(result)
    print(page.with_name("results.md").read_text())
    print(f"Page, tables and plots: {page.parent}")


def run_collect(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf collect``."""
    given = {name: value for name, value in vars(options).items() if name in COLLECTION}
    check_given(given, ("data", "output_dir"))
    _quiet()
    from know_hf.meta.collection import collect

    repo_id = given.pop("push", None)
    found = collect(given.pop("output_dir"), given.pop("data"), **given)
    if int(os.environ.get("RANK", 0)) == 0:
        diverged = len(found.notes) - len(found.trials)
        print(f"{found.folder}: {len(found.trials)} trials ({diverged} more diverged), {found.nbytes / 1e6:,.1f} MB")
        if repo_id:
            print(found.push_to_hub(repo_id))


def run_meta_train(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf meta-train``."""
    given = {name: value for name, value in vars(options).items() if name in META_TRAINING}
    check_given(given, ("output_dir",))
    _quiet()
    from know_hf.known import KnownConfig
    from know_hf.meta.evaluation import error_table
    from know_hf.meta.functional import FunctionalSettings
    from know_hf.meta.training import MetaTrainingSettings, meta_train

    config = KnownConfig(
        **{name: given.pop(name) for name in ("history_length", "inputs", "conditions") if name in given}
    )
    output_dir = given.pop("output_dir")
    functional = {"functional_epochs": "epochs", "inner_steps": "inner_steps"}
    second = FunctionalSettings(**{field: given.pop(name) for name, field in functional.items() if name in given})
    outside = ("held_out_architectures", "held_out_data", "data", "processes")
    job = {name: given.pop(name) for name in outside if name in given}
    settings = MetaTrainingSettings(**given, functional=second)
    result = meta_train(options.meta, output_dir, config=config, settings=settings, **job)
    print(f"‖Θ̂⁰−Θ⁰‖₁ as a share of the distance that there was, {len(result['split']['report'])} unseen trials")
    print(f"(mean of trials / all trials as one):\n\n{error_table(result['errors'])}\n")
    print(f"{output_dir}: pass it as --predictor.")


def run_meta_evaluate(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf meta-evaluate``."""
    given = {name: value for name, value in vars(options).items() if name in EVALUATION}
    check_given(given, ("output_dir",))
    _quiet()
    from know_hf.enrichment.methods import load_predictor
    from know_hf.known import KnownPredictor
    from know_hf.meta.collection import MetaDataSet, prepare_images
    from know_hf.meta.evaluation import evaluate_predictors
    from know_hf.meta.samples import split_trials
    from know_hf.plan import load_predictor_stages
    from know_hf.transfer.prepared import open_examples

    meta = MetaDataSet(options.meta)
    held_out = given.get("held_out_architectures", ["densenet"]), given.get("held_out_data", ["fashion_mnist"])
    names = split_trials(meta, *held_out).report
    folders = pairs(given.get("predictors", []), "predictors", "NAME=FOLDER")
    predictors = {name: load_predictor(path, load_predictor_stages(path)) for name, path in folders.items()}
    images = None
    if "data" in given:
        prepared = prepare_images(given["data"], meta.folder / "cache", 1000)
        images = {name: tuple(map(open_examples, paths)) for name, paths in prepared.items()}
    predictors = predictors or {"known": KnownPredictor.default()}
    print(evaluate_predictors(meta, names, predictors, given["output_dir"], images).read_text())


def run_report(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf report``."""
    _quiet()
    from know_hf.report.write import write_page

    print(write_page(options.folder))


def run_push(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf push``."""
    from know_hf.hub.push import push

    given = {name: getattr(options, name) for name in ("create_pr", "dry_run", "overwrite_card")}
    print(push(options.folder, options.repo_id, private=options.private or None, **given))


def run_plan(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf plan``."""
    _quiet()
    from know_hf.plan import make_plan

    given = plain_values({k: v for k, v in vars(options).items() if k in (*PREDICTION, "trust_remote_code")})
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
