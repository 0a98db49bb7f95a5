"""``know-hf collect``, ``meta-train`` and ``meta-evaluate``."""

import argparse
import os

from know_hf.cli.options import COLLECTION, EVALUATION, META_TRAINING
from know_hf.cli.recipe import check_given, pairs
from know_hf.cli.surroundings import quiet


def run_collect(options: argparse.Namespace, rest: list[str]) -> None:
    """``know-hf collect``."""
    given = {name: value for name, value in vars(options).items() if name in COLLECTION}
    check_given(given, ("data", "output_dir"))
    quiet()
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
    quiet()
    from know_hf.known import KnownConfig
    from know_hf.meta.evaluation import error_table
    from know_hf.meta.experimental.functional import FunctionalSettings
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
    quiet()
    from know_hf.enrichment.methods import load_predictor, load_predictor_stages
    from know_hf.known import KnownPredictor
    from know_hf.meta.data_set import MetaDataSet
    from know_hf.meta.evaluation import evaluate_predictors
    from know_hf.meta.images import prepare_images
    from know_hf.meta.samples import split_trials
    from know_hf.store import check_output, inside, locked
    from know_hf.training.prepared import open_examples

    meta = MetaDataSet(options.meta)
    held_out = given.get("held_out_architectures", ["densenet"]), given.get("held_out_data", ["fashion_mnist"])
    names = split_trials(meta, *held_out).report
    folders = pairs(given.get("predictors", []), "predictors", "NAME=FOLDER")
    check_output(given["output_dir"], meta.folder, *folders.values(), *given.get("data", []))
    cache = inside(given["output_dir"], "cache")
    predictors = {name: load_predictor(path, load_predictor_stages(path)) for name, path in folders.items()}
    with locked(given["output_dir"]):
        images = None
        if "data" in given:
            prepared = prepare_images(given["data"], cache, 1000)
            images = {name: tuple(map(open_examples, paths)) for name, paths in prepared.items()}
        predictors = predictors or {"known": KnownPredictor.default()}
        print(evaluate_predictors(meta, names, predictors, given["output_dir"], images).read_text())
