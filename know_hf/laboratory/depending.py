"""The files beside weights and data that scores of a comparison depend on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from know_hf.models.reader_files import TEMPLATES, TOKENIZERS, files_like
from know_hf.store import hash_file

#: What is beside an arm's weights and decides what becomes of them and of inputs.
_BESIDE = ("*config.json", *TOKENIZERS, *TEMPLATES)
# Which library wrote a configuration, and from where its model came, decides nothing.
_IDLE = ("transformers_version", "_name_or_path", "generation_config.json")


@dataclass(frozen=True)
class Depends:
    """Hashes of such files.

    Args:
        beside: Arm → hashes of its configuration, tokenizer and processor.
        metric_files: Hash of the metric module; nothing where the task's own score counts.
    """

    beside: dict[str, str]
    metric_files: str = ""


def depends_on(folders: Mapping[str, Path], metric: str | None = None) -> Depends:
    """Looks what else scores depend on.

    Args:
        folders: Arm → its folder.
        metric: Name of a score, or path of a metric module or its folder.

    Example:
        >>> from know_hf.laboratory.depending import depends_on
        >>> depends_on({"naive": "runs/mine/stage-0"})  # doctest: +SKIP
    """
    found = "" if metric is None or not Path(metric).exists() else _together(_modules(Path(metric)))
    return Depends({name: _beside(Path(folder)) for name, folder in folders.items()}, found)


def _modules(path: Path) -> dict[str, str]:
    paths = sorted(path.glob("*.py")) if path.is_dir() else [path]
    return {one.name: hash_file(one) for one in paths}


def _beside(folder: Path) -> str:
    return _together({path.name: _hash_of(path) for path in files_like(folder, _BESIDE) if path.name not in _IDLE})


def _hash_of(path: Path) -> str:
    """Hash of a file; of a configuration, that of what it says."""
    if not path.name.endswith("config.json"):
        return hash_file(path)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # whoever reads it says so
        return hash_file(path)
    if isinstance(said, dict):
        said = {name: value for name, value in said.items() if name not in _IDLE}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _together(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]
