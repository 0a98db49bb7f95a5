"""A meta-data set: a folder of trials, as a collection makes it, read trial by trial."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from know_hf.hub.cards import meta_card
from know_hf.meta.experimental.branches import read_branch_note, read_branches
from know_hf.meta.shards import TensorStages, read_shard
from know_hf.meta.trials import STAGES, read_note
from know_hf.records import found_at, read_record
from know_hf.store import hash_file
from know_hf.trajectory import TrajectoryError


class MetaDataSet:
    """A folder of trials, as [`collect`] makes it.

    Args:
        folder: The folder.

    Raises:
        TrajectoryError: If it holds no finished trial, or a trial's file is missing.

    Source: paper section 5.1.

    Example:
        >>> from know_hf.meta.collection import MetaDataSet
        >>> len(MetaDataSet("meta").trials)  # doctest: +SKIP
        200
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.notes:
            raise TrajectoryError(
                f"{self.folder} holds no finished trial, it {found_at(self.folder)}; `know-hf collect` makes them."
            )
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

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads shards, notes and card to a data set repository; see [`push`][know_hf.hub.push.push] for the options.

        Returns:
            Address of the repository.

        Raises:
            ConnectionError, PermissionError, ValueError: As [`push`][know_hf.hub.push.push].
        """
        from know_hf.hub.push import push

        return push(self.folder, repo_id, **options)

    def settings(self, name: str) -> dict[str, Any]:
        """What a trial was run with, by the names of a [`Trial`](know_hf.meta.trials)'s fields."""
        return next(note["settings"] for note in self.trials if note["name"] == name)

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
        collected: dict[str, dict[tuple[int, int], list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        path = self.folder / "branches" / f"{name}.parquet"
        for tensor, stage, data, values in read_branches(path):
            collected[tensor][stage, data].append(values)
        self._check(path, self.branches[name])
        return {
            tensor: {key: np.stack(rows) for key, rows in by_branch.items()} for tensor, by_branch in collected.items()
        }
