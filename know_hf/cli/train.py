"""``know-hf enrich`` and ``forget``."""

import logging
import shlex
from typing import Any

from know_hf.choice.options import Choosing
from know_hf.cli.recipe import Call, resolve_recipe, taken
from know_hf.cli.surroundings import quiet, save_recipe
from know_hf.enrichment.options import Finishing, Prediction
from know_hf.fitting.options import Fitting
from know_hf.hub.options import Hub
from know_hf.training.options import DataOptions, ModelSource

logger = logging.getLogger(__name__)

#: How often a stage's loss is noted unless --logging_steps says otherwise, as a share of the stage.
LOGGED = 0.05


def _prepare(call: Call) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Resolves recipe and data; returns settings, arguments for the job and ``ForgettingArguments``.

    What is only named is looked for first, and loaded when all of it is there.
    """
    settings, training = resolve_recipe(call)
    quiet()
    import torch
    from accelerate import PartialState

    from know_hf.cli.watching import WatchedTrainer
    from know_hf.forgetting.arguments import ForgettingArguments
    from know_hf.forgetting.making import check_output_dir
    from know_hf.tasks import get_task
    from know_hf.training.checks import check_model, check_splits
    from know_hf.training.data import load_evaluation, load_split
    from know_hf.training.evaluation_part import check_slices, split_off
    from know_hf.training.files import split_names

    cpu_only = not torch.accelerator.is_available()
    defaults = {
        "save_total_limit": 1,
        "dataloader_pin_memory": not cpu_only,
        "ddp_find_unused_parameters": False,
        "logging_steps": LOGGED,
        "disable_tqdm": False,  # by default it would follow the verbosity that is turned down here
    }
    if cpu_only:
        defaults["use_cpu"] = True  # without it a launched CPU process would not join its group
    args = ForgettingArguments(**{"output_dir": settings["output_dir"], **defaults, **training})
    check_output_dir(args.output_dir, *(settings.get(name) for name in ("model", "dataset", "eval_dataset")))
    job = taken(settings, DataOptions, ModelSource, Finishing, Choosing, Fitting, Hub)
    if call.command == "enrich":
        from know_hf.pretrained import resolve_enrichment

        for kind in (Hub, Choosing, Fitting, Finishing):  # which look at their values as they are made
            kind(**taken(settings, kind))
        job["prediction"] = resolve_enrichment(Prediction(**taken(settings, Prediction)), args)
    if "task" in job:
        get_task(job["task"])
    with PartialState().main_process_first():
        check_model(settings["model"], **taken(settings, ModelSource))
        dataset, train = settings["dataset"], settings.get("train_split", "train")
        config = settings.get("dataset_config")
        if (purpose := settings.get("choose_on")) is not None:
            split_names(purpose)  # which looks for it
        own, evaluation = settings.get("eval_dataset"), _evaluation_split(settings)
        share = None if own or not evaluation or not _is_number(evaluation) else float(evaluation)
        check_splits(dataset, train, *([evaluation] if evaluation and not own and not share else []), config=config)
        job["train_dataset"] = rows = load_split(dataset, train, config=config)
        about = DataOptions(**taken(settings, DataOptions))
        if own:
            job["eval_dataset"] = load_evaluation(own, evaluation)
        elif share is not None:
            job["train_dataset"], job["eval_dataset"] = split_off(rows, share, args.seed, about)
        else:
            job["eval_dataset"] = load_split(dataset, evaluation, config=config) if evaluation else None
            if evaluation and "[" in evaluation:
                check_slices(rows, job["eval_dataset"], evaluation, about)
        if (split := settings.get("selection_split")) is not None:
            job["selection_split"] = split if _is_number(split) else load_split(dataset, split, config=config)
    job |= {"model": settings["model"], "args": args, "trainer_class": WatchedTrainer}
    return {**settings, **training}, job, args


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _evaluation_split(settings: dict[str, Any]) -> str | None:
    from know_hf.training.checks import splits_in
    from know_hf.training.files import split_names

    split = settings.get("eval_split")
    if split is None and "eval_dataset" not in settings:
        names = split_names(settings["dataset"], settings.get("dataset_config")) or []
        taken = splits_in(settings.get("selection_split") or "")  # what is chosen on says nothing of the chosen one
        found = [name for name in ("validation", "test") if name in names]
        left = next((name for name in found if name not in taken), None)
        if found and left is None:
            logger.warning(
                "There are no evaluation data: the best is chosen on examples of %s, the only split there is for that; "
                "--eval_split names rows that are not chosen on, such as a slice, or --eval_dataset other data.",
                found[0],
            )
        return left
    return None if split == "none" else split


def run_enrich(call: Call) -> None:
    """Forget, then predict: a model and data in, enriched checkpoints out."""
    settings, job, args = _prepare(call)
    from know_hf.pretrained import enrich_pretrained
    from know_hf.report import report_markdown

    result = enrich_pretrained(**job)
    if args.process_index == 0:
        save_recipe(settings, args.output_dir)
        for name, folder in result.checkpoints.items():
            print(f"{name}: {folder}")
        if result.best is not None:
            print(f"best: {result.best}")
        print(f"\n{report_markdown(result)}", end="")  # whose last section is the verdict
        page = f"know-hf report {shlex.quote(str(args.output_dir))}"
        print(f"\nAll of it as a page: {page}")


def run_forget(call: Call) -> None:
    """Forget only: record a trajectory, or train a control (--recipe)."""
    settings, job, args = _prepare(call)
    from know_hf.pretrained import forget_pretrained

    record = forget_pretrained(**job)
    if args.process_index == 0:
        save_recipe(settings, args.output_dir)
        for stage in record.stages:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in stage.metrics.items())
            print(f"stage {stage.index}: {stage.examples} examples  {scores}")
