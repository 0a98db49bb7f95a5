"""``know-hf transfer``, with flags or with a recipe."""

import argparse
from dataclasses import replace
from pathlib import Path

from know_hf.cli.options import PROTOCOL, TRANSFER, TRANSFER_DATA
from know_hf.cli.recipe import check_given, pairs, plain_values
from know_hf.cli.surroundings import quiet, save_recipe
from know_hf.settings import check_names, conform, read_recipe


def run_transfer(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf transfer``."""
    if options.recipe is not None:
        return _run_recipe(options)
    if stray := [name for name in ("size", "predictors") if name in options]:
        raise ValueError(f"--{stray[0]} belongs to a recipe; name its file.")
    names = {*TRANSFER, *TRANSFER_DATA}
    given = {name: value for name, value in vars(options).items() if name in names}
    recipe = read_recipe(options.config) if "config" in options else {}
    check_names(recipe, names, getattr(options, "config", None))
    recipe = {name: value for name, value in recipe.items() if value is not None}
    recipe = conform(recipe, {}, getattr(options, "config", None))
    settings = plain_values({**recipe, **given})
    check_given(settings, ("dataset", "output_dir"))
    quiet()
    from know_hf.laboratory.arms import PredictedArms
    from know_hf.laboratory.comparison import COMPARISON_FOLDERS, check_arms, check_data, check_sizes, compare
    from know_hf.laboratory.protocol import Protocol
    from know_hf.report.comparison import comparison_markdown, write_comparison_report
    from know_hf.store import check_output, inside
    from know_hf.training.checks import check_splits
    from know_hf.training.data import load_split

    job = dict(settings)
    arms, dataset, output_dir = dict(job.pop("arms", {})), job.pop("dataset"), Path(job.pop("output_dir"))
    methods, steps = job.pop("method", ["known", "shrink"]), job.pop("steps", 3)
    methods = [methods] if isinstance(methods, str) else methods
    new_head = not job.pop("keep_head", False)
    protocol = Protocol(**{name: job.pop(name) for name in PROTOCOL if name in job}, new_head=new_head)
    # All that is only named is looked for, then loaded, and only then is anything predicted.
    trajectory = job.pop("trajectory", None)
    predicted = PredictedArms(trajectory, methods, steps) if trajectory else None
    starts = {"naive": trajectory, "predicted": trajectory} if trajectory else {}
    check_arms({**starts, **arms}, **{name: job[name] for name in ("seeds", "learning_rates") if name in job})
    splits = job.pop("train_split", "train"), job.pop("test_split", "test")
    check_output(output_dir, dataset, *arms.values())
    check_splits(dataset, *splits)
    train, test = (load_split(dataset, split) for split in splits)
    about = ("task", "input_columns", "label_column", "drop_incomplete")
    about = {name: job[name] for name in about if name in job}
    train, test, _, columns = check_data(train, test, protocol=protocol, **about)
    if predicted is not None:  # without one nothing is lost where the comparison itself says so
        check_sizes(columns, len(train), False, protocol, "The comparison")
    if predicted is not None:
        for part in ("cache", *COMPARISON_FOLDERS):  # before hours of predicting
            inside(output_dir, part)
        made = predicted.write(inside(output_dir, "arms"))
        arms = {"naive": made.pop("naive"), **arms, **made}
    result = compare(arms, train, output_dir, test_dataset=test, protocol=protocol, **job)
    save_recipe(settings, result.output_dir)
    report = write_comparison_report(result)
    print(comparison_markdown(result))
    print(f"Plots and tables: {report}")


def _run_recipe(options: argparse.Namespace) -> None:
    given = {k: v for k, v in vars(options).items() if k in (*TRANSFER, *TRANSFER_DATA, "config")}
    output_dir, processes = given.pop("output_dir", None), given.pop("processes", None)
    if given:
        raise ValueError(f"a recipe says everything itself; --{next(iter(given)).replace('_', '-')} is not for it.")
    from know_hf.laboratory.recipe import load_recipe

    recipe = load_recipe(options.recipe, getattr(options, "size", None))
    if processes:
        recipe = replace(recipe, processes=processes)
    quiet()
    from know_hf.laboratory.experiment import run_experiment
    from know_hf.report.experiment import write_experiment_report

    predictors = pairs(getattr(options, "predictors", []), "predictors", "NAME=FOLDER")
    result = run_experiment(recipe, output_dir or f"{recipe.name}-{recipe.size}", predictors=predictors)
    page = write_experiment_report(result)
    print(page.with_name("results.md").read_text())
    print(f"Page, tables and plots: {page.parent}")
