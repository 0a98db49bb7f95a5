"""What determines an enriched folder, so that a finished one is recognised and another never overwritten."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from know_hf.enrichment.writer import ENRICHMENT_FILE
from know_hf.progress import progress_bar
from know_hf.reading import read_fields
from know_hf.store import hash_file


def holds(folder: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether a folder already holds this result.

    Raises:
        FileExistsError: If it holds another, or something else.
    """
    if not folder.exists():
        return False
    try:
        content = read_fields(folder / ENRICHMENT_FILE, {})
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{folder} exists and was not written by know-hf; choose another output_dir.") from error
    expected = json.loads(json.dumps(provenance))
    different = [name for name, value in expected.items() if content.get(name) != value]
    if different:
        raise FileExistsError(
            f"{folder} holds another result (different {', '.join(different)}); delete it or choose another output_dir."
        )
    return True


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
