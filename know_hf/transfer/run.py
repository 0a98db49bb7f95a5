"""Runs every arm at every learning rate with every seed, resumably, and compares."""

import gc
import json
import logging
import multiprocessing
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import AutoConfig

from know_hf.data import Columns, find_columns, load_split, make_preprocessing
from know_hf.enrichment.provenance import hash_file
from know_hf.forgetting.recipe import describe_dataset
from know_hf.locking import locked
from know_hf.trajectory import Checkpoint, TrajectoryError
from know_hf.trajectory.record import write_atomically
from know_hf.transfer.protocol import Examples, Protocol, fine_tune
from know_hf.transfer.statistics import Difference, paired_difference

logger = logging.getLogger(__name__)

#: Arms whose names begin so are controls: a gain counts only beyond the best of them.
CONTROLS = ("naive", "shrink", "mean", "equal_compute", "incremental")


@dataclass(frozen=True)
class TransferResult:
    """Every run of a comparison, and what follows from them.

    Args:
        output_dir: Folder of the comparison.
        arms: Names of the arms, the reference first.
        learning_rates: The grid.
        seeds: Number of seeds.
        runs: (arm, learning rate, seed) → what [`fine_tune`] returned.

    Source: ours.

    Example:
        >>> from know_hf.transfer.run import transfer
        >>> arms = {"naive": "run/stage-0", "KNOWN": "run/enriched/x2"}
        >>> result = transfer(arms, "user/data", "out")  # doctest: +SKIP
        >>> result.against("KNOWN", "naive").verdict  # doctest: +SKIP
        'no difference shown'
    """

    output_dir: Path
    arms: list[str]
    learning_rates: list[float]
    seeds: int
    runs: dict[tuple[str, float, int], dict[str, Any]]

    def scores(self, arm: str, rate: float, part: str = "test") -> list[float]:
        """Scores of each seed in percent; ``part`` is ``"test"`` or ``"validation"``."""
        return [100 * self.runs[arm, rate, seed][part] for seed in range(self.seeds)]

    @cached_property
    def chosen_rates(self) -> dict[str, float]:
        """Each arm's own learning rate, by its mean validation score."""
        return {
            arm: max(self.learning_rates, key=lambda rate: np.mean(self.scores(arm, rate, "validation")))
            for arm in self.arms
        }

    def best(self, arm: str) -> list[float]:
        """Test scores of each seed at the arm's own learning rate."""
        return self.scores(arm, self.chosen_rates[arm])

    @property
    def best_control(self) -> str:
        """The control with the highest mean test score at its own learning rate."""
        controls = [arm for arm in self.arms if arm.startswith(CONTROLS)] or self.arms[:1]
        return max(controls, key=lambda arm: np.mean(self.best(arm)))

    def against(self, arm: str, other: str) -> Difference:
        """Paired difference of two arms in points, each at its own learning rate."""
        return paired_difference(self.best(arm), self.best(other))

    def area(self, arm: str) -> float:
        """Mean of the learning curves in percent, at the arm's own learning rate."""
        rate = self.chosen_rates[arm]
        return 100 * float(np.mean([score for s in range(self.seeds) for _, score in self.runs[arm, rate, s]["curve"]]))

    def epochs_to(self, arm: str, score: float) -> float | None:
        """First epoch at which the mean learning curve reaches a score in percent; None if it never does."""
        rate = self.chosen_rates[arm]
        curves = [self.runs[arm, rate, seed]["curve"] for seed in range(self.seeds)]
        for points in zip(*curves, strict=True):
            if 100 * np.mean([value for _, value in points]) >= score:
                return points[0][0]
        return None

    @property
    def share_in_steps(self) -> float:
        """Share of the wall time that was spent inside training steps."""
        return sum(r["training"] for r in self.runs.values()) / sum(r["seconds"] for r in self.runs.values())


def transfer(
    arms: Mapping[str, str | Path],
    dataset,
    output_dir: str | Path,
    *,
    test_dataset=None,
    protocol: Protocol | None = None,
    learning_rates: Sequence[float] = (4e-4, 1e-3, 2.5e-3),
    seeds: int = 5,
    task: str | None = None,
    input_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    processes: int = 1,
) -> TransferResult:
    """Fine-tunes every arm on downstream data under one protocol, paired over seeds.

    The same seed gives every arm the same examples, head and order. Every arm gets the same learning rates; its own is
    chosen on validation examples that are not the test set. Killed and called again, it continues.

    Args:
        arms: Name → checkpoint folder or Hub id; the first is the reference. Names that begin with ``naive``,
            ``shrink``, ``mean``, ``equal_compute`` or ``incremental`` are controls.
        dataset: Downstream training data: a ``Dataset``, or an id or folder, whose ``train`` split is used.
        test_dataset: Test data; by default the ``test`` split of ``dataset``.
        output_dir: Folder of the comparison.
        protocol: How to fine-tune; the paper's by default.
        learning_rates: Grid of peak learning rates.
        seeds: Number of seeds, at least 2.
        task: As for [`enrich_pretrained`].
        input_columns: As for [`enrich_pretrained`].
        label_column: As for [`enrich_pretrained`].
        image_size: As for [`enrich_pretrained`].
        max_length: As for [`enrich_pretrained`].
        processes: Number of processes; each runs whole fine-tunings on its share of the processors.

    Returns:
        A [`TransferResult`].

    Raises:
        FileNotFoundError: If an arm or the data cannot be found.
        TrajectoryError: If the folder holds another comparison, or an arm is damaged.
        ValueError: If there are too few arms, seeds or examples.

    Source: paper section 5; pairing, grid and controls are ours.

    Example:
        >>> from know_hf.transfer.run import transfer
        >>> transfer({"naive": "run/stage-0", "KNOWN x2": "run/enriched/x2"}, "user/data", "out")  # doctest: +SKIP
    """
    protocol = protocol or Protocol()
    if len(arms) < 2 or seeds < 2:
        raise ValueError(f"A comparison needs two arms and two seeds or more, found {len(arms)} and {seeds}.")
    if not learning_rates:
        raise ValueError("Give at least one learning rate.")
    folders = {name: resolve_arm(folder) for name, folder in arms.items()}
    train = load_split(dataset)
    test = load_split(dataset if test_dataset is None else test_dataset, "test")
    if test_dataset is None and test is train:
        raise ValueError("Give a test_dataset: a live Dataset has no test split of its own.")
    columns = find_columns(train, task=task, inputs=list(input_columns) if input_columns else None, label=label_column)
    output_dir = Path(output_dir)
    settings = {
        "arms": {name: [hash_file(path) for path in Checkpoint(folder).files] for name, folder in folders.items()},
        "train": describe_dataset(train),
        "test": describe_dataset(test),
        "columns": asdict(columns),
        "protocol": asdict(protocol),
        "image_size": image_size,
        "max_length": max_length,
    }
    jobs = [
        _Job(output_dir, name, str(folder), rate, seed, protocol, columns)
        for seed in range(seeds)
        for name, folder in folders.items()
        for rate in learning_rates
    ]
    with locked(output_dir):
        _same_comparison(output_dir / "transfer.json", settings)
        _cache(output_dir, "train", train, folders, columns, image_size, max_length)
        _cache(output_dir, "test", test, folders, columns, image_size, max_length)
        _run_all([job for job in jobs if not job.path.exists()], processes, len(jobs))
    runs = {(job.arm, job.rate, job.seed): json.loads(job.path.read_text()) for job in jobs}
    return TransferResult(output_dir, list(folders), list(learning_rates), seeds, runs)


def resolve_arm(arm: str | Path) -> Path:
    """Finds a checkpoint folder, downloading it when it is a Hub id.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
    """
    if Path(arm).is_dir():
        return Path(arm)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(arm), allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"]))
    except Exception as error:  # the client raises many types for one thing: it could not be had
        raise FileNotFoundError(f"Arm {str(arm)!r} is neither a folder nor reachable on the Hub. ({error})") from error


@dataclass(frozen=True)
class _Job:
    output_dir: Path
    arm: str
    folder: str
    rate: float
    seed: int
    protocol: Protocol
    columns: Columns

    @property
    def path(self) -> Path:
        name = re.sub(r"[^\w.-]+", "_", self.arm)
        return self.output_dir / "runs" / f"{name}--{self.rate:g}--{self.seed}.json"

    def run(self) -> None:
        """Fine-tunes and writes the result; whole or not at all."""
        pool, test = (
            Examples(load_file(self.output_dir / "cache" / f"{part}.safetensors")) for part in ("train", "test")
        )
        scratch = self.output_dir / "scratch" / str(os.getpid())
        result = fine_tune(Path(self.folder), pool, test, self.columns, self.rate, self.seed, self.protocol, scratch)
        write_atomically(
            self.path, json.dumps({"arm": self.arm, "rate": self.rate, "seed": self.seed, **result}) + "\n"
        )


def _run_all(jobs: list[_Job], processes: int, total: int) -> None:
    bar = tqdm(desc="Fine-tuning", total=total, initial=total - len(jobs), unit="run")
    with bar:
        if processes <= 1 or len(jobs) < 2:
            gc.freeze()  # Trainer collects garbage after every run; what is imported need not be looked at each time
            try:
                for job in jobs:
                    job.run()
                    bar.update()
            finally:
                gc.unfreeze()
            return
        threads = max(1, (os.cpu_count() or 1) // processes)
        with multiprocessing.get_context("spawn").Pool(processes, _set_up_process, (threads,)) as pool:
            for _ in pool.imap_unordered(_Job.run, jobs):
                bar.update()


def _set_up_process(threads: int) -> None:
    from transformers.utils import logging as transformers_logging

    gc.freeze()
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _same_comparison(path: Path, settings: dict[str, Any]) -> None:
    """Records the settings, or checks that the folder holds this comparison; more arms, rates and seeds may join."""
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
        return
    found = json.loads(path.read_text())
    different = [name for name in settings if name != "arms" and found.get(name) != settings[name]]
    different += [f"arm {a}" for a, hashes in settings["arms"].items() if found["arms"].get(a, hashes) != hashes]
    if different:
        raise TrajectoryError(
            f"{path.parent} holds another comparison (different {', '.join(different)}); choose another output_dir."
        )
    write_atomically(path, json.dumps({**settings, "arms": {**found["arms"], **settings["arms"]}}, indent=1) + "\n")


def _cache(
    output_dir: Path, part: str, data, folders: Mapping[str, Path], columns: Columns, image_size, max_length
) -> None:
    """Prepares a data set once, as tensors in one file that every run maps."""
    path = output_dir / "cache" / f"{part}.safetensors"
    if path.exists():
        return
    first = next(iter(folders.values()))
    described = SimpleNamespace(config=AutoConfig.from_pretrained(first))
    prepared = make_preprocessing(described, first, columns, image_size=image_size, max_length=max_length)
    rows = prepared.apply(data)
    batches = [rows[start : start + 512] for start in tqdm(range(0, len(rows), 512), desc=f"Preparing {part} data")]
    if columns.task == "image-classification":
        tensors = {
            "pixel_values": torch.cat([torch.stack(batch["pixel_values"]) for batch in batches]),
            "labels": torch.cat([torch.as_tensor(batch["labels"]) for batch in batches]),
        }
    else:
        merged = {name: [row for batch in batches for row in batch[name]] for name in batches[0]}
        labels = merged.pop("labels")
        tensors = dict(prepared.processing_class.pad(merged, return_tensors="pt"), labels=torch.as_tensor(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)
