"""``know-hf collect``, ``meta-train`` and ``meta-evaluate``."""

import os

from know_hf.cli.recipe import Call, taken
from know_hf.cli.surroundings import quiet
from know_hf.hub.options import DatasetHub
from know_hf.meta.options import (
    CollectionOptions,
    FunctionalSettings,
    HeldOut,
    MetaTrainingOptions,
    MetaTrainingSettings,
    PredictorOptions,
)


def run_collect(call: Call) -> None:
    """Collect trajectories of small networks, for meta-training."""
    settings = call.merged()
    repository = DatasetHub(**taken(settings, DatasetHub)).repository  # refused before hours of collecting
    quiet()
    from know_hf.meta.collection import collect

    found = collect(settings["output_dir"], settings["data"], **taken(settings, CollectionOptions))
    if int(os.environ.get("RANK", 0)) == 0:
        diverged = len(found.notes) - len(found.trials)
        print(f"{found.folder}: {len(found.trials)} trials ({diverged} more diverged), {found.nbytes / 1e6:,.1f} MB")
        if repository:
            print(found.push_to_hub(repository))


def run_meta_train(call: Call) -> None:
    """Train a predictor on a meta-data set."""
    given = call.merged()
    quiet()
    from know_hf.known import KnownConfig
    from know_hf.meta.evaluation import error_tables
    from know_hf.meta.training import meta_train

    config = KnownConfig(**taken(given, PredictorOptions))
    functional = FunctionalSettings(**taken(given, FunctionalSettings))
    settings = MetaTrainingSettings(**taken(given, MetaTrainingSettings), functional=functional)
    output_dir = given["output_dir"]
    job = taken(given, MetaTrainingOptions)
    result = meta_train(given["meta"], output_dir, config=config, settings=settings, **job)
    print(f"‖Θ̂⁰−Θ⁰‖₁ as a share of the distance that there was, {len(result['split']['report'])} unseen trials")
    print(f"(mean of trials / all trials as one):\n\n{error_tables(result['errors'])}\n")
    print(f"{output_dir}: pass it as --predictor.")


def run_meta_evaluate(call: Call) -> None:
    """Compare predictors with every method on unseen trials."""
    given = call.merged()
    quiet()
    from know_hf.known import KnownPredictor
    from know_hf.meta.data_set import MetaDataSet
    from know_hf.meta.evaluation import evaluate_predictors
    from know_hf.meta.images import prepare_images
    from know_hf.meta.samples import split_trials
    from know_hf.retrodiction.predictors import load_predictor, load_predictor_stages
    from know_hf.store import check_output, inside, locked
    from know_hf.training.prepared import open_examples

    meta = MetaDataSet(given["meta"])
    held_out = HeldOut(**taken(given, HeldOut))
    names = split_trials(meta, held_out.held_out_architectures, held_out.held_out_data).report
    folders = given.get("predictors", {})
    check_output(given["output_dir"], meta.folder, *folders.values(), *given.get("data", []))
    cache = inside(given["output_dir"], "cache")
    predictors = {name: load_predictor(path, load_predictor_stages(path)) for name, path in folders.items()}
    with locked(given["output_dir"]):
        images = None
        if "data" in given:
            prepared = prepare_images(given["data"], cache, 1000)
            images = {name: (open_examples(train), open_examples(test)) for name, (train, test) in prepared.items()}
        predictors = predictors or {"known": KnownPredictor.default()}
        print(evaluate_predictors(meta, names, predictors, given["output_dir"], images).read_text())
