"""``know-hf transfer``, with flags or with a recipe."""

import argparse
from dataclasses import replace
from pathlib import Path

from know_hf.commands.options import PROTOCOL, TRANSFER, TRANSFER_DATA
from know_hf.commands.recipe import check_given, number, pairs, plain_values, read_recipe
from know_hf.commands.surroundings import quiet, save_recipe


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
    quiet()
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
    save_recipe(settings, result.output_dir)
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
    quiet()
    from know_hf.report.laboratory import write_laboratory_report
    from know_hf.transfer.laboratory import run_recipe

    predictors = pairs(getattr(options, "predictors", []), "predictors", "NAME=FOLDER")
    result = run_recipe(recipe, output_dir or f"{recipe.name}-{recipe.size}", predictors=predictors)
    page = write_laboratory_report(result)
    print(page.with_name("results.md").read_text())
    print(f"Page, tables and plots: {page.parent}")
