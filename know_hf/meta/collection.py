"""Collecting a meta-data set: many trials, resumably, on as many processes and machines as there are."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from know_hf.forgetting.subsets import subset_sizes
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.experimental.branches import BranchRun
from know_hf.meta.images import named_sources, prepare_images
from know_hf.meta.networks import NETWORKS
from know_hf.meta.options import CollectionOptions
from know_hf.meta.trials import STAGES, Run, Trial, TrialRun, clear, draw_trial
from know_hf.settings import meant, takes
from know_hf.sharing import sweep
from know_hf.store import check_output, inside, write_text
from know_hf.training.workers import Workers

logger = logging.getLogger(__name__)

# The folders of a meta-data set that are written to.
_PARTS = ("cache", "trials", "times", "data", "branches", "work")


@takes(options=CollectionOptions)
def collect(output_dir: str | Path, data: Sequence[str], *, options: CollectionOptions) -> MetaDataSet:
    """Runs trials of progressive forgetting and keeps all their stages.

    Each trial is decided by its seed alone. What is done is not done again, so a stopped collection continues, and
    several machines may fill one folder, or folders to be merged, with different seeds; a trial that two of them are to
    make is made by one, and the other waits for it. Under ``accelerate launch``
    every process takes its share of the trials.

    Args:
        output_dir: Folder of the meta-data set.
        data: Hub ids or folders of image data sets with ten classes.

    Returns:
        The [`MetaDataSet`], once all processes are through.

    Raises:
        FileExistsError: If the folder is, or lies in, one of the data sets.
        FileNotFoundError: If a data set cannot be found.
        TrajectoryError: If the folder holds trials or branches of the same seeds that were made otherwise, or a note
            is damaged.
        ValueError: If a name is unknown, a data set is too small or has other than ten classes, a trial has too few
            examples for its stages, or a folder of the meta-data set is a link.

    Source: paper section 5.1; true progressive fine-tuning by the ForgettingTrainer.

    Example:
        >>> from know_hf.meta.collection import collect
        >>> collect("meta", ["uoft-cs/cifar10", "ylecun/mnist"], trials=10)  # doctest: +SKIP
    """
    if unknown := [name for name in options.architectures or () if name not in NETWORKS]:
        raise ValueError(f"Unknown network {unknown[0]!r}{meant(unknown[0], NETWORKS)}")
    if not data:
        raise ValueError(f"Nothing to collect: {options.trials} trials on no data set.")
    check_output(output_dir, *data)
    output_dir = Path(output_dir)
    seeds = range(options.first_seed, options.first_seed + options.trials)
    names = list(named_sources(data))
    drawn = [draw_trial(seed, names, options) for seed in seeds]
    _check_sizes(drawn, options)
    for part in _PARTS:
        inside(output_dir, part)
    state = PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)
    with state.main_process_first():
        if state.is_main_process:
            for part in ("", *_PARTS):
                sweep(output_dir / part)
        images = prepare_images(data, output_dir / "cache", options.images, shared=True)
    runs = [TrialRun(trial, output_dir, *images[trial.data_set]) for trial in drawn]
    branching = [BranchRun(run, options.branches) for run in runs] if options.branches else []
    everything: list[Run] = [*runs, *branching]
    for run in everything:
        run.check()
        if run.done and state.is_main_process:  # a process that was killed after its last file left them
            clear(run.work)
        elif not run.done and run.note.exists() and run.shard.exists() and state.is_main_process:
            logger.warning("%s is damaged: it is not the file that its note describes; it is made again.", run.shard)
    launched = (state.local_process_index, state.num_processes) if state.num_processes > 1 else None
    with Workers(options.processes, launched) as workers:
        share = slice(state.process_index, None, state.num_processes)
        workers.run([*runs[share], *branching[share]], "Collecting")
    state.wait_for_everyone()
    meta = MetaDataSet(output_dir)
    if state.is_main_process:
        _write_card(meta)
    return meta


def _check_sizes(trials: Sequence[Trial], options: CollectionOptions) -> None:
    """Raises if a trial that was drawn has too few examples for its stages, before anything is prepared."""
    largest, examples = max(trials, key=lambda trial: trial.examples), options.examples
    if largest.examples > options.images:
        raise ValueError(
            f"The trial of seed {largest.seed} takes {largest.examples} examples, the pool holds {options.images}: "
            "raise pool or lower examples."
        )
    for trial in trials:
        try:
            subset_sizes(trial.examples, trial.sampling_ratio, STAGES)
        except ValueError as error:
            why = str(error).partition(":")[0]
            raise ValueError(
                f"The trial of seed {trial.seed} cannot be run: {why}. Raise the range of examples, which is "
                f"{examples[0]} to {examples[1]}, or take other seeds."
            ) from error


def _write_card(meta: MetaDataSet) -> None:
    """Writes the README; again where another machine finished a trial meanwhile, whose README this one replaced."""
    text, written = meta.card(), None
    while text != written:
        write_text(meta.folder / "README.md", text, shared=True)
        text, written = MetaDataSet(meta.folder).card(), text
