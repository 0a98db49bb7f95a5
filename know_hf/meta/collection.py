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
from know_hf.meta.trials import EPOCHS, EXAMPLES, STAGES, Run, Trial, TrialRun, clear, draw_trial
from know_hf.sharing import sweep
from know_hf.store import check_output, inside, write_text
from know_hf.training.workers import Workers

logger = logging.getLogger(__name__)

# The folders of a meta-data set that are written to.
_PARTS = ("cache", "trials", "times", "data", "branches", "work")


def collect(
    output_dir: str | Path,
    data: Sequence[str],
    *,
    trials: int = 200,
    first_seed: int = 0,
    architectures: Sequence[str] | None = None,
    examples: tuple[int, int] = EXAMPLES,
    epochs: tuple[int, int] = EPOCHS,
    branches: int = 0,
    processes: int = 1,
) -> MetaDataSet:
    """Runs trials of progressive forgetting and keeps all their stages.

    Each trial is decided by its seed alone. What is done is not done again, so a stopped collection continues, and
    several machines may fill one folder, or folders to be merged, with different seeds; a trial that two of them are to
    make is made by one, and the other waits for it. Under ``accelerate launch``
    every process takes its share of the trials.

    Args:
        output_dir: Folder of the meta-data set.
        data: Hub ids or folders of image data sets with ten classes.
        trials: Number of trials.
        first_seed: Seed of the first; the others follow.
        architectures: Names of networks (``know_hf.meta.networks``); all by default.
        examples: Range of the number of training examples of stage 0.
        epochs: Range of the number of epochs of every stage.
        branches: Repetitions of each of a trial's branches (``know_hf/meta/experimental``), which serve further
            targets of meta-training; 0 for none. Trials that are there already get theirs.
        processes: Number of processes that this one starts, where it was not launched as one of several.

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
    if unknown := [name for name in architectures or () if name not in NETWORKS]:
        raise ValueError(f"Unknown network {unknown[0]!r}; there are {', '.join(NETWORKS)}.")
    if trials < 1 or not data:
        raise ValueError(f"Nothing to collect: {trials} trials on {len(data)} data sets.")
    if not 0 <= branches <= 10:
        raise ValueError(f"branches is {branches}; it must lie between 0 and 10.")
    check_output(output_dir, *data)
    output_dir = Path(output_dir)
    seeds = range(first_seed, first_seed + trials)
    drawn = [draw_trial(seed, list(named_sources(data)), architectures, examples, epochs) for seed in seeds]
    _check_sizes(drawn, examples)
    for part in _PARTS:
        inside(output_dir, part)
    state = PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)
    with state.main_process_first():
        if state.is_main_process:
            for part in ("", *_PARTS):
                sweep(output_dir / part)
        images = prepare_images(data, output_dir / "cache", examples[1], shared=True)
    runs = [TrialRun(trial, output_dir, *images[trial.data_set]) for trial in drawn]
    branching = [BranchRun(run, branches) for run in runs] if branches else []
    everything: list[Run] = [*runs, *branching]
    for run in everything:
        run.check()
        if run.done and state.is_main_process:  # a process that was killed after its last file left them
            clear(run.work)
        elif not run.done and run.note.exists() and run.shard.exists() and state.is_main_process:
            logger.warning("%s is damaged: it is not the file that its note describes; it is made again.", run.shard)
    launched = (state.local_process_index, state.num_processes) if state.num_processes > 1 else None
    with Workers(processes, launched) as workers:
        share = slice(state.process_index, None, state.num_processes)
        workers.run([*runs[share], *branching[share]], "Collecting")
    state.wait_for_everyone()
    meta = MetaDataSet(output_dir)
    if state.is_main_process:
        _write_card(meta)
    return meta


def _check_sizes(trials: Sequence[Trial], examples: tuple[int, int]) -> None:
    """Raises if a trial that was drawn has too few examples for its stages, before anything is prepared."""
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
