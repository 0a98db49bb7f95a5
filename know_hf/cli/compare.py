"""``know-hf compare``, ``benchmark``, ``experiment`` and their former name, ``transfer``."""

from dataclasses import replace
from pathlib import Path

from know_hf.cli.flags import say
from know_hf.cli.options import ExperimentInputs
from know_hf.cli.recipe import Call, taken
from know_hf.cli.surroundings import quiet, save_recipe
from know_hf.laboratory.options import ComparisonOptions, Protocol
from know_hf.settings import options_of
from know_hf.training.options import DataOptions


def run_transfer(call: Call) -> None:
    """The former name of compare and, with a recipe, of experiment."""
    of_experiments = options_of(ExperimentInputs)
    if "recipe" in call.flags:
        say("transfer with a recipe is now called experiment.")
        if stray := [name for name in call.flags if name not in of_experiments]:
            raise ValueError(f"a recipe says everything itself; --{stray[0].replace('_', '-')} is not for it.")
        return run_experiment(replace(call, options=of_experiments))
    if stray := [name for name in ("size", "predictors") if name in call.flags]:
        raise ValueError(f"--{stray[0]} belongs to a recipe; name its file.")
    say("transfer is now called compare.")
    options = {name: known for name, known in call.options.items() if name not in ("recipe", "size", "predictors")}
    return run_compare(replace(call, options=options))


def run_compare(call: Call) -> None:
    """Fine-tune from several starts under one protocol, and compare."""
    settings = call.merged()
    quiet()
    from know_hf.laboratory.arms import PredictedArms
    from know_hf.laboratory.comparison import COMPARISON_FOLDERS, check_arms, check_data, check_sizes, compare
    from know_hf.report.comparison import comparison_markdown, write_comparison_report
    from know_hf.store import check_output, inside
    from know_hf.training.checks import check_splits
    from know_hf.training.data import load_split

    arms, dataset, output_dir = dict(settings.get("arms", {})), settings["dataset"], Path(settings["output_dir"])
    methods, steps, reset = (settings.get(name, call.options[name].default) for name in ("method", "steps", "reset"))
    methods = [methods] if isinstance(methods, str) else methods
    protocol = Protocol(**taken(settings, Protocol), new_head=not settings.get("keep_head", False))
    how = ComparisonOptions(**taken(settings, ComparisonOptions))
    # All that is only named is looked for, then loaded, and only then is anything predicted.
    trajectory = settings.get("trajectory")
    predicted = PredictedArms(trajectory, methods, steps, reset) if trajectory else None
    starts = {"naive": trajectory, "predicted": trajectory} if trajectory else {}
    if predicted is not None and (twice := [name for name in arms if name in predicted.planned]):
        raise ValueError(
            f"--arms {twice[0]}={arms[twice[0]]} and {predicted.planned[twice[0]]} of --trajectory {trajectory} would "
            f"have the same name, {twice[0]}; rename that of --arms."
        )
    check_arms({**starts, **arms}, how.seeds, how.learning_rates)
    check_output(output_dir, dataset, *arms.values())
    about = DataOptions(**taken(settings, DataOptions))
    config, splits = about.dataset_config, (how.train_split, how.test_split)
    check_splits(dataset, *splits, config=config)
    train, test = (load_split(dataset, split, config=config) for split in splits)
    train, test, _, columns = check_data(train, test, protocol=protocol, about=about)
    if predicted is not None:  # without one nothing is lost where the comparison itself says so
        check_sizes(columns, len(train), False, protocol, "The comparison")
        for part in ("cache", *COMPARISON_FOLDERS):  # before hours of predicting
            inside(output_dir, part)
        made = predicted.write(inside(output_dir, "arms"))
        arms = {"naive": made.pop("naive"), **arms, **made}
    result = compare(arms, train, output_dir, test_dataset=test, protocol=protocol, options=how, about=about)
    save_recipe(settings, result.output_dir)
    report = write_comparison_report(result)
    print(comparison_markdown(result))
    print(f"Plots and tables: {report}")


def run_benchmark(call: Call) -> None:
    """Score language models as they are on standard benchmarks, paired over documents."""
    settings = call.merged()
    arms, trajectory = dict(settings.pop("arms", None) or {}), settings.pop("trajectory", None)
    tasks, output_dir = settings.pop("tasks"), Path(settings.pop("output_dir"))
    if not trajectory and len(arms) < 2:
        raise ValueError(
            "say what is scored: --trajectory RUN, or two or more --arms NAME=FOLDER, the reference first."
        )
    quiet()
    from know_hf.laboratory.benchmarks import compare_on_benchmarks, starts_of_run
    from know_hf.store import check_output

    if trajectory:
        own = starts_of_run(trajectory)
        if twice := [name for name in arms if name in own]:
            raise ValueError(
                f"--arms {twice[0]}={arms[twice[0]]} and {own[twice[0]]} of --trajectory would have the same name, "
                f"{twice[0]}; rename that of --arms."
            )
        arms = {**own, **arms}
    check_output(output_dir, *arms.values())
    result = compare_on_benchmarks(arms, [tasks] if isinstance(tasks, str) else tasks, output_dir, **settings)
    print(result.markdown())


def run_experiment(call: Call) -> None:
    """Run a recipe: pre-training, forgetting, controls, every method, comparison."""
    settings = call.merged()
    from know_hf.laboratory.recipe import load_recipe

    recipe = load_recipe(settings["recipe"], settings.get("size"))
    if "processes" in settings:
        recipe = replace(recipe, processes=settings["processes"])
    quiet()
    if settings.get("dry_run"):
        from know_hf.laboratory.dry_run import dry_run

        return print(dry_run(recipe, settings.get("predictors")))
    from know_hf.laboratory.experiment import run_experiment as run
    from know_hf.report.experiment import write_experiment_report

    output_dir = settings.get("output_dir", f"{recipe.name}-{recipe.size}")
    result = run(recipe, output_dir, predictors=settings.get("predictors"))
    page = write_experiment_report(result)
    print(page.with_name("results.md").read_text())
    print(f"Page, tables and plots: {page.parent}")
