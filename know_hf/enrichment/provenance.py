"""What determines an enriched folder, so that a finished one is recognised and another never overwritten."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from know_hf.enrichment.writer import read_enrichment
from know_hf.progress import progress_bar
from know_hf.reading import read_fields
from know_hf.records import ENRICHMENT_FILE
from know_hf.store import flush_file, hash_file, read_json
from know_hf.trajectory import Checkpoint

logger = logging.getLogger(__name__)
# What was not always written down: of folders without it the rest has to do.
_LATER = ("tensors",)
# What only who has model and data can do again.
_FINISHED = ("batch_norm",)


def holds(
    folder: Path, provenance: Mapping[str, Any], source: Checkpoint, files: Iterable[Path], verify: bool = False
) -> bool:
    """Whether a folder already holds this result, whole; what is damaged is named, and counts as not there.

    Args:
        folder: The folder.
        provenance: What determines the result.
        source: Stage 0, of which it is a copy with other values.
        files: What was copied, relative to the folder.
        verify: Whether to hash the weights, too.

    Raises:
        FileExistsError: If it holds another, or something else.
    """
    if not os.path.lexists(folder):
        return False
    try:
        content = read_fields(folder / ENRICHMENT_FILE, {})
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{folder} exists and was not written by know-hf, or its {ENRICHMENT_FILE} is damaged; delete it or choose "
            "another output_dir."
        ) from error
    expected = json.loads(json.dumps(provenance))
    asked = {name: value for name, value in expected.items() if name in content or name not in _LATER}
    different = [name for name, value in asked.items() if content.get(name) != value]
    if different:
        why = f"different {', '.join(different)}"
        sources = [(fields.get("predictor") or {}).get("source") for fields in (content, expected)]
        if different == ["predictor"] and sources[0] == sources[1]:
            why = f"made by another version's predictor {sources[0]!r}"
        raise FileExistsError(f"{folder} holds another result ({why}); delete it or choose another output_dir.")
    damage = _damage(folder, source, files, verify)
    if damage and (finished := [name for name in _FINISHED if name in content and name not in expected]):
        raise FileExistsError(
            f"{folder} is damaged ({damage}), and was finished with data ({', '.join(finished)}), which are not here: "
            "run the command again that made it (know-hf enrich), or delete it."
        )
    if damage:
        logger.warning("%s is damaged (%s); it is made again.", folder, damage)
    return damage is None


def _damage(folder: Path, source: Checkpoint, files: Iterable[Path], verify: bool) -> str | None:
    """The first thing that is not as it was written; None if there is none."""
    try:
        content = read_enrichment(folder)
    except ValueError as error:
        return str(error)
    statistics = content["statistics"]
    if content.get("predicted") and (not statistics or not all(statistics.values())):
        return f"{ENRICHMENT_FILE} lacks statistics of what was predicted"
    weights = {path.relative_to(source.folder) for path in (*source.files, source.weight_file)}  # with the index
    hashes = content.get("sha256")
    if verify and not hashes:
        logger.warning("%s cannot be verified: it was written before hashes were kept.", folder)
    for file in files:
        made, given = folder / file, source.folder / file
        if not made.is_file():
            return f"{file.as_posix()} is missing"
        size, expected = made.stat().st_size, given.stat().st_size
        if file in weights and size != expected:
            return f"{file.as_posix()} has {size:,} bytes, not {expected:,}"
        if file in weights and _header(made) != _header(given):
            return f"{file.as_posix()} has another header than stage 0"
        if size == 0 < expected:
            return f"{file.as_posix()} is empty"
        if verify and hashes and file.as_posix() in hashes and hashes[file.as_posix()] != hash_file(made):
            return f"{file.as_posix()} has another hash than it was written with"
        if file.suffix == ".json" and not _is_json(made) and _is_json(given):
            return f"{file.as_posix()} is no JSON any more"
        if verify and file not in weights and hash_file(made) != hash_file(given):
            logger.warning("%s differs from stage 0's; it is left as it is, in case you edited it.", made)
    return None


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except ValueError:
        return False
    return True


def _header(path: Path) -> bytes:
    with open(path, "rb") as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), 1 << 27))


def hash_files(paths: Sequence[Path], progress: bool = False) -> dict[str, str]:
    """SHA-256 of several files, side by side: path → digest."""
    size = sum(path.stat().st_size for path in paths)
    hidden = not progress or size < 1 << 30
    bar = progress_bar(total=size, desc="hashing inputs", unit="B", unit_scale=True, disable=hidden)
    with bar, ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = {}
        for path, digest in zip(paths, pool.map(hash_file, paths), strict=True):
            digests[str(path)] = digest
            bar.update(path.stat().st_size)
    return digests


def hash_written(source: Checkpoint, folder: Path) -> dict[str, str]:
    """SHA-256 of the weights that were written beside a checkpoint, in files of the same names: name → digest.

    The disk takes them meanwhile, so that giving the folder its name does not wait for it.
    """
    files = [path.relative_to(source.folder) for path in source.files]
    with ThreadPoolExecutor(1, "flush") as disk:
        flushed = disk.map(flush_file, [folder / file for file in files])
        digests = hash_files([folder / file for file in files])
        list(flushed)
    return {file.as_posix(): digests[str(folder / file)] for file in files}


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 of a small network's weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def hub_revision(repo_id: str) -> str | None:
    """Commit of what was loaded from the Hub under this name; None for folders and names that are none."""
    try:
        path = try_to_load_from_cache(repo_id, "config.json") if "/" in repo_id else None
    except HFValidationError:
        return None
    return Path(path).parent.name if isinstance(path, str) else None
