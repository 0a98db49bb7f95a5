"""A data set decoded once, as tensors in a file that every run maps."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from know_hf.progress import progress_bar
from know_hf.sharing import sweep
from know_hf.store import write_tensors
from know_hf.tasks import Columns, get_task
from know_hf.tasks.labels import label_lookup
from know_hf.training.data import make_preprocessing
from know_hf.training.examples import Examples
from know_hf.trajectory import TrajectoryError
from know_hf.trajectory.identity import CONTENT, describe_dataset


def prepare(
    dataset: datasets.Dataset,
    cache_dir: Path,
    model: Any,
    source: str | Path | None,
    columns: Columns,
    *,
    image_size: int | None = None,
    max_length: int | None = None,
    name: str = "data",
    shared: bool = False,
) -> Path:
    """Preprocesses a data set as a model wants it, unless that was done before.

    Args:
        dataset: A ``datasets.Dataset``.
        cache_dir: Folder of prepared data; the name of a file says what is in it.
        model: The model, or anything with its ``config``.
        source: Its folder or Hub id, for image processor or tokenizer; None without one.
        columns: What to read.
        image_size: As for [`enrich_pretrained`].
        max_length: As for [`enrich_pretrained`].
        name: What the progress bar says is being prepared.
        shared: Whether other machines may be preparing the same.

    Returns:
        A safetensors file for [`open_examples`].

    Raises:
        FileNotFoundError: If a task with text comes without a tokenizer.
    """
    preprocessing = make_preprocessing(model, source, columns, image_size=image_size, max_length=max_length)
    rows = preprocessing.apply(dataset)

    def tensors(slices: Iterable[slice]) -> dict[str, torch.Tensor]:
        made = [preprocessing.collator(as_rows(rows[part])) for part in slices]
        if len({tuple(values.shape[1:] for values in batch.values()) for batch in made}) > 1:
            made = [preprocessing.collator(as_rows(rows[:]))]  # texts are filled up to the longest of their batch
        return {name: torch.cat([batch[name] for batch in made]).contiguous() for name in made[0]}

    # The first rows, prepared, stand for whatever the preprocessing depends on.
    described = describe_dataset(dataset)
    content = described.pop(CONTENT, None) or ""
    digest = hashlib.sha256(json.dumps([described, asdict(columns)]).encode())
    if get_task(columns.task).labels.matched and (lookup := label_lookup(dataset, columns)):
        digest.update(repr(lookup).encode())  # what the labels mean is not in the rows
    first = tensors([slice(0, 8)])
    for key, values in sorted(first.items()):
        digest.update(repr((key, values.shape, values.dtype)).encode() + values.numpy().tobytes())
    path = cache_dir / f"{digest.hexdigest()[:20]}.safetensors"
    # Runs are known by that name, which few rows decide; where other rows have it already, these get one of their own.
    if _content_of(path) not in (None, content):
        path = path.with_stem(f"{path.stem}-{content}")
    if not _is_whole(path, first):
        starts = progress_bar(range(0, len(rows), 512), desc=f"Preparing {name}", leave=False)
        made = tensors(slice(start, start + 512) for start in starts)
        sweep(cache_dir)
        write_tensors(path, made, {CONTENT: content}, shared=shared)
    return path


def _content_of(path: Path) -> str | None:
    """What rows a file was made of; None where it does not tell, as those of former versions, or is not there."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(CONTENT)
    except (OSError, SafetensorError):
        return None


def _is_whole(path: Path, first: dict[str, torch.Tensor]) -> bool:
    """Whether a file is there, undamaged as far as its header tells, with the same tensors as the first rows."""
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            same = {n: part[:1].dtype for n, part in parts.items()} == {n: values.dtype for n, values in first.items()}
            return same and len({part.get_shape()[0] for part in parts.values()}) == 1
    except (OSError, SafetensorError):
        return False


def as_rows(batch: dict[str, list]) -> list[dict]:
    """Columns of rows as the rows, which a collator takes."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


@lru_cache(maxsize=16)
def open_examples(path: Path, centre: Path | None = None) -> Examples:
    """Maps what [`prepare`] made.

    Args:
        path: The file.
        centre: Likewise, of images whose mean is subtracted from all, pixel by pixel; the result lies in memory.

    Raises:
        TrajectoryError: If a file is missing or damaged.
    """
    try:
        inputs, centred = load_file(path), None
        if centre is not None:
            mean = open_examples(centre).inputs["pixel_values"].mean(0)
            centred = inputs["pixel_values"], mean
            inputs["pixel_values"] = inputs["pixel_values"] - mean
        return Examples(inputs, centred=centred)
    except (OSError, SafetensorError) as error:
        raise TrajectoryError(f"{path} is missing or damaged ({error}); run again, which makes it anew.") from error
