"""A data set decoded once, as tensors in a file that every run maps."""

import hashlib
import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from know_hf.data import Columns, make_preprocessing
from know_hf.forgetting.recipe import describe_dataset
from know_hf.transfer.examples import Examples


def prepare(
    dataset, cache_dir: Path, model, source, columns: Columns, *, image_size=None, max_length=None, name: str = "data"
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
        name: For the progress bar.

    Returns:
        A safetensors file for [`open_examples`].

    Raises:
        FileNotFoundError: If a text model comes without a tokenizer.

    Source: ours.
    """
    preprocessing = make_preprocessing(model, source, columns, image_size=image_size, max_length=max_length)
    rows = preprocessing.apply(dataset)

    def tensors(batches: list[dict]) -> dict[str, torch.Tensor]:
        if columns.task == "image-classification":
            return {
                "pixel_values": torch.cat([torch.stack(batch["pixel_values"]) for batch in batches]).contiguous(),
                "labels": torch.cat([torch.as_tensor(batch["labels"]) for batch in batches]),
            }
        merged = {key: [row for batch in batches for row in batch[key]] for key in batches[0]}
        labels = torch.as_tensor(merged.pop("labels"))
        return {**preprocessing.processing_class.pad(merged, return_tensors="pt"), "labels": labels}

    # The first rows, prepared, stand for whatever the preprocessing depends on.
    digest = hashlib.sha256(json.dumps([describe_dataset(dataset), asdict(columns)]).encode())
    for key, values in sorted(tensors([rows[: min(8, len(rows))]]).items()):
        digest.update(repr((key, values.shape, values.dtype)).encode() + values.numpy().tobytes())
    path = cache_dir / f"{digest.hexdigest()[:20]}.safetensors"
    if not path.exists():
        starts = tqdm(range(0, len(rows), 512), desc=f"Preparing {name}", leave=False)
        made = tensors([rows[start : start + 512] for start in starts])
        cache_dir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        save_file(made, temporary)
        os.replace(temporary, path)
    return path


@lru_cache(maxsize=16)
def open_examples(path: Path) -> Examples:
    """Maps what [`prepare`] made."""
    return Examples(load_file(path))
