"""Collecting a meta-data set: many trials, resumably, on as many processes and machines as there are."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from know_hf.forgetting.subsets import subset_sizes
from know_hf.hub.cards import meta_card
from know_hf.meta.branches import BranchRun, read_branch_note, read_branches
from know_hf.meta.networks import CLASSES, NETWORKS
from know_hf.meta.options import CollectionOptions
from know_hf.meta.shards import TensorStages, read_shard
from know_hf.meta.trials import STAGES, Trial, TrialRun, clear, draw_trial, read_note
from know_hf.records import read_record
from know_hf.settings import takes
from know_hf.sharing import sweep
from know_hf.store import check_output, hash_file, inside, write_text
from know_hf.tasks import Columns, find_columns
from know_hf.training.data import load_split
from know_hf.training.examples import Examples
from know_hf.training.prepared import open_examples, prepare
from know_hf.training.workers import Workers
from know_hf.trajectory import TrajectoryError

logger = logging.getLogger(__name__)
#: Test examples that scores are measured on, and the side of the images in pixels.
TEST_EXAMPLES, SIDE = 1000, 32
#: Training examples, the last of a data set, that the functional objective of meta-training draws from.
UNSEEN_EXAMPLES = 2000

# The folders of a meta-data set that are written to.
_PARTS = ("cache", "trials", "times", "data", "branches", "work")
# What is read of the note of a trial, and of one that did not diverge.
_NUMBERS = ("examples", "sampling_ratio", "learning_rate", "batch_size", "epochs")
_NOTE = {"settings": {"architecture": str, "data_set": str, **dict.fromkeys(_NUMBERS, float)}}
_FINISHED = {"scores": list[float], "parameters": int, "sha256": str}


class MetaDataSet:
    """A folder of trials, as [`collect`] makes it.

    Args:
        folder: The folder.

    Raises:
        TrajectoryError: If it holds no finished trial, or a trial's file is missing.

    Source: paper section 5.1; the format is ours, ``know_hf/meta/shards.py`` describes it.

    Example:
        >>> from know_hf.meta.collection import MetaDataSet
        >>> len(MetaDataSet("meta").trials)  # doctest: +SKIP
        200
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.notes:
            raise TrajectoryError(f"{self.folder} holds no finished trial; `know-hf collect` makes them.")
        if not self.trials:
            raise TrajectoryError(f"{self.folder}: every one of the {len(self.notes)} trials diverged.")
        if lost := [note["name"] for note in self.trials if not self.path(note["name"]).exists()]:
            raise TrajectoryError(f"{self.folder}: data/{lost[0]}.parquet is missing ({len(lost)} trials lack theirs).")

    @cached_property
    def notes(self) -> list[dict[str, Any]]:
        """What became of every trial that ended, in order of their seeds."""
        paths = sorted((self.folder / "trials").glob("trial-*.json"))
        return [{**read_note(path), "name": path.stem} for path in paths]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The trials that did not diverge."""
        return [note for note in self.notes if "diverged" not in note]

    @property
    def nbytes(self) -> int:
        """Size of all Parquet files."""
        branches = [self.folder / "branches" / f"{name}.parquet" for name in self.branches]
        return sum(path.stat().st_size for path in [*(self.path(note["name"]) for note in self.trials), *branches])

    def card(self) -> str:
        """The README that describes the set."""
        times = [self.folder / "times" / f"{note['name']}.json" for note in self.trials]
        timed = [read_record(path, {"seconds": float}, "delete it") for path in times if path.exists()]
        seconds = sum(note["seconds"] for note in timed)
        diverged = len(self.notes) - len(self.trials)
        return meta_card(self.trials, diverged, STAGES, self.nbytes, seconds, self.branches)

    def push_to_hub(self, repo_id: str, **options) -> str:
        """Uploads shards, notes and card to a data set repository.

        Args:
            repo_id: ``user/name``; made if need be.
            **options: As for [`push`](know_hf.hub.push): ``private``, ``create_pr``, ``dry_run``, ``overwrite_card``,
                ``token``.

        Returns:
            Address of the repository.

        Raises:
            ConnectionError, PermissionError, ValueError: As [`push`](know_hf.hub.push).
        """
        from know_hf.hub.push import push

        return push(self.folder, repo_id, **options)

    def path(self, name: str) -> Path:
        """The shard of a trial."""
        return self.folder / "data" / f"{name}.parquet"

    def read(self, name: str, kinds: Collection[str] | None = ("conv", "fc", "bias")) -> Iterator[TensorStages]:
        """Reads the tensors of one trial.

        Args:
            name: Its name.
            kinds: Kinds to read; None for all, normalisation and buffers included.

        Yields:
            Each tensor with all its stages.

        Raises:
            TrajectoryError: As [`read_shard`], or if the trial has another number of stages than its set, or the file
                is not the one that its note describes.
        """
        for tensor in read_shard(self.path(name)):
            if len(tensor.values) != STAGES:
                raise TrajectoryError(
                    f"{self.path(name)}: tensor {tensor.tensor!r} has {len(tensor.values)} stages, expected {STAGES}."
                )
            if kinds is None or tensor.kind in kinds:
                yield tensor
        self._check(self.path(name), next((note for note in self.trials if note["name"] == name), {}))

    def _check(self, path: Path, note: Mapping[str, Any]) -> None:
        """Raises if a file is whole, but another than was noted: of its bytes nothing else would tell."""
        if hash_file(path) != note.get("sha256"):
            raise TrajectoryError(f"{path} is damaged: it is not the file that its note describes; collect it again.")

    @cached_property
    def branches(self) -> dict[str, dict[str, Any]]:
        """Trial → what became of its branches, for the trials that have any."""
        paths = sorted((self.folder / "branches").glob("trial-*.json"))
        notes = {path.stem: read_branch_note(path) for path in paths}
        return {name: note for name, note in notes.items() if "diverged" not in note}

    def read_branches(self, name: str) -> dict[str, dict[tuple[int, int], np.ndarray]]:
        """Reads the branches of one trial.

        Args:
            name: Its name.

        Returns:
            Tensor → (stage, stage of the data) → ``(repetitions, n)`` float32.

        Raises:
            TrajectoryError: If the trial has none, or the file is damaged.
        """
        if name not in self.branches:
            raise TrajectoryError(f"{self.folder}: {name} has no branches; `know-hf collect --branches 1` makes them.")
        found: dict[str, dict[tuple[int, int], list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        path = self.folder / "branches" / f"{name}.parquet"
        for tensor, stage, data, values in read_branches(path):
            found[tensor][stage, data].append(values)
        self._check(path, self.branches[name])
        return {tensor: {key: np.stack(rows) for key, rows in own.items()} for tensor, own in found.items()}


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
        raise ValueError(f"Unknown network {unknown[0]!r}; there are {', '.join(NETWORKS)}.")
    if not data:
        raise ValueError(f"Nothing to collect: {options.trials} trials on no data set.")
    check_output(output_dir, *data)
    output_dir = Path(output_dir)
    seeds = range(options.first_seed, options.first_seed + options.trials)
    names, ranges = list(_named(data)), (options.examples, options.epochs)
    drawn = [draw_trial(seed, names, options.architectures, *ranges) for seed in seeds]
    _check_sizes(drawn, options.examples)
    for part in _PARTS:
        inside(output_dir, part)
    state = PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)
    with state.main_process_first():
        if state.is_main_process:
            for part in ("", *_PARTS):
                sweep(output_dir / part)
        images = prepare_images(data, output_dir / "cache", options.examples[1], shared=True)
    runs = [TrialRun(trial, output_dir, *images[trial.data_set]) for trial in drawn]
    branching = [BranchRun(run, options.branches) for run in runs] if options.branches else []
    for run in [*runs, *branching]:
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
    found = MetaDataSet(output_dir)
    if state.is_main_process:
        _write_card(found)
    return found


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


def prepare_images(
    data: Sequence[str], cache_dir: Path, largest: int, shared: bool = False
) -> dict[str, tuple[Path, Path]]:
    """Prepares the images of every data set once.

    Args:
        data: Hub ids or folders of image data sets with ten classes.
        cache_dir: Folder for the prepared images.
        largest: Training examples that a trial may need.
        shared: Whether other machines may be preparing the same.

    Returns:
        Last part of each name → files of training and test examples, for [`open_examples`].

    Raises:
        FileNotFoundError: If a data set cannot be found.
        ValueError: If two share a name, or one is too small or has other than ten classes.
    """
    loaded = {}
    for name, source in _named(data).items():  # all of them, before the first is prepared
        train, test = (load_split(source, part) for part in ("train", "test"))
        columns = _columns(source, train, largest)
        loaded[name] = columns, (train.select(range(largest)), test.select(range(min(TEST_EXAMPLES, len(test)))))
    return {
        name: tuple(_prepare(part, columns, cache_dir, name, shared) for part in parts)
        for name, (columns, parts) in loaded.items()
    }


def prepare_unseen(data: Sequence[str], cache_dir: Path) -> dict[str, Path]:
    """Prepares training images from the end of every data set, which no trial trained on: trials take the first.

    Args:
        data: Hub ids or folders of image data sets with ten classes.
        cache_dir: Folder for the prepared images.

    Returns:
        Last part of each name → file for [`open_examples`].

    Raises:
        FileNotFoundError: If a data set cannot be found.
        ValueError: As [`prepare_images`].
    """
    found = {}
    for name, source in _named(data).items():
        train = load_split(source, "train")
        columns = _columns(source, train, UNSEEN_EXAMPLES)
        found[name] = _prepare(train.select(range(len(train) - UNSEEN_EXAMPLES, len(train))), columns, cache_dir, name)
    return found


def _named(data: Sequence[str]) -> dict[str, str]:
    names = [str(name).rstrip("/").split("/")[-1] for name in data]
    if len(set(names)) < len(names):
        raise ValueError(f"Two data sets share a name: {', '.join(names)}.")
    return dict(zip(names, data, strict=True))


def _columns(source: str, train, needed: int) -> Columns:
    columns = find_columns(train, task="image-classification")
    if len(columns.class_names) != CLASSES or len(train) < needed:
        raise ValueError(
            f"{source} has {len(columns.class_names)} classes and {len(train)} training images; a trial needs "
            f"{CLASSES} and {needed}."
        )
    return columns


def _prepare(part, columns: Columns, cache_dir: Path, name: str, shared: bool = False) -> Path:
    colour = part[0][columns.inputs[0]].mode not in ("L", "1")
    like = SimpleNamespace(config=SimpleNamespace(num_channels=3 if colour else 1))
    return prepare(part, cache_dir, like, None, columns, image_size=SIDE, name=f"images of {name}", shared=shared)


def open_task(images: Mapping[str, Path], meta: MetaDataSet, name: str) -> Examples:
    """Opens the prepared images of a trial's task.

    Raises:
        ValueError: If its data set is not among them.
    """
    wanted = next(note["settings"]["data_set"] for note in meta.trials if note["name"] == name)
    if wanted not in images:
        raise ValueError(f"{name} was run on {wanted}, which is not among the data {', '.join(images)}: name it too.")
    return open_examples(images[wanted])
