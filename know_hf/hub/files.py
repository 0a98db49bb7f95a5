"""Which files go to the Hub: those that loading needs, by exact names and types. Everything else stays here."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from know_hf.models.reader_files import PROCESSORS, TEMPLATES, TOKENIZERS
from know_hf.records import BEST, ENRICHMENT_FILE, found_at
from know_hf.store import read_json
from know_hf.trajectory.record import FILE_NAME

_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
#: What a model's folder may hold for others to load it. Of what a type of file may be called anything, the content has
#: to be of that type (know_hf.hub.contents).
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    *TOKENIZERS, *PROCESSORS, *TEMPLATES, "modules.json", "sentence_*_config.json", "config_sentence_transformers.json",
    "router_config.json", "labels.txt", ENRICHMENT_FILE, "meta_training.json", "README.md", *_LICENSES,
)  # fmt: skip
#: What any sub-folder may hold: a processor's tokenizers and templates. Modules' may hold the same as a model's.
NESTED_FILES = (*TOKENIZERS, "*_config.json", "config.json", "*.jinja")
#: The same of a meta-data set.
DATA_FILES = ("data/*.parquet", "trials/*.json", "branches/*.parquet", "branches/*.json", "README.md", *_LICENSES)
# Longer files of settings are none, in bytes; they are read whole.
_LONGEST_SETTINGS = 64 << 20
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


@dataclass
class Upload:
    """What goes into one revision of a repository.

    Args:
        folder: Where the files lie.
        revision: Branch that receives them.
        files: Paths of the files, relative to the folder.
        left_out: Paths of those that are not on the allow-list, and of links.
    """

    folder: Path
    revision: str
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Size of the files in bytes."""
        return sum((self.folder / name).stat().st_size for name in self.files)

    def __str__(self) -> str:
        listed = "\n".join(f"  {name}  {(self.folder / name).stat().st_size:,} bytes" for name in self.files)
        kept = f"\n  stays here: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.folder} → revision {self.revision}, {self.nbytes / 1e6:.1f} MB\n{listed}{kept}"


def find_uploads(folder: Path) -> tuple[str, list[Upload]]:
    """What a folder holds, as repository type and uploads.

    Raises:
        FileNotFoundError: If there is nothing to push.
        ValueError: If what is there is only half of it, cannot be read, or contradicts itself.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} {found_at(folder)}; push a run, its enriched folder or a checkpoint.")
    if (folder / "trials").is_dir() and (folder / "data").is_dir():
        return "dataset", [_upload(folder, "main", DATA_FILES)]
    if (folder / FILE_NAME).exists():
        folder = folder / "enriched"
    if steps := _steps(folder):
        # What the run chose is what most want; each step has a revision of its own.
        first = BEST if _is_chosen(folder / BEST) else steps[0]
        pairs = [(first, "main"), *zip(steps, steps, strict=True)]
        return "model", [_upload(folder / name, revision, MODEL_FILES) for name, revision in pairs]
    if _is_chosen(folder / BEST):
        return "model", [_upload(folder / BEST, "main", MODEL_FILES)]
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no enriched checkpoints, predictor or meta-data set, it {found_at(folder)}; push a run, "
            "its enriched folder or a checkpoint."
        )
    return "model", [_upload(folder, "main", MODEL_FILES)]


def _steps(folder: Path) -> list[str]:
    """Names of the folders of the steps, in their order."""
    steps: dict[int, str] = {}
    inner = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    inner = [path for path in inner if not _is_chosen(path)]
    for path in (path for path in inner if (path / ENRICHMENT_FILE).exists()):
        described = _settings(path / ENRICHMENT_FILE)
        number = described.get("step")
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"{path / ENRICHMENT_FILE} does not say which step it is (step: {str(number)[:40]!r}); predict again."
            )
        if path.is_symlink():
            raise ValueError(f"{path} is a link, which is not followed; push what it leads to by itself.")
        if not _REVISION.fullmatch(path.name) or path.name == "main":
            raise ValueError(f"{path} cannot be called like that on the Hub; rename it, for example to x{2**number}.")
        if number in steps:
            raise ValueError(f"{folder / steps[number]} and {path} are both step {number}; push one of them.")
        steps[number] = path.name
    for path in inner if steps else ():
        if path.name not in steps.values() and any(path.glob("*.safetensors")):
            raise ValueError(
                f"{path} holds weights but no {ENRICHMENT_FILE}, unlike its neighbours: is it half-copied? Move it "
                "away, or push the others one by one."
            )
    return [steps[number] for number in sorted(steps)]


def _is_chosen(folder: Path) -> bool:
    """Whether a folder is the checkpoint that a run chose."""
    path = folder / ENRICHMENT_FILE
    return folder.name == BEST and path.is_file() and isinstance(_settings(path).get("chosen"), dict)


def _settings(path: Path) -> dict[str, Any]:
    """A file of settings.

    Raises:
        ValueError: If it cannot be read, is no JSON, or holds something else than settings by name.
    """
    if path.is_file() and path.stat().st_size > _LONGEST_SETTINGS:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which settings never have; restore it.")
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds {type(settings).__name__} where settings by name belong; restore it.")
    return settings


def _upload(folder: Path, revision: str, allowed: tuple[str, ...]) -> Upload:
    upload, modules = Upload(folder, revision), _modules(folder)
    code = set() if allowed is DATA_FILES else set(_code(folder))
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if any(part.startswith(".") for part in relative.parts):
            continue
        if not path.is_file():
            continue
        fits = any(fnmatchcase(name, pattern) and name.count("/") <= pattern.count("/") for pattern in allowed)
        if allowed is not DATA_FILES and len(relative.parts) > 1 and not name.startswith("checkpoint-"):
            is_module = any(relative.is_relative_to(module) for module in modules)
            nested = (*NESTED_FILES, *(MODEL_FILES if is_module else ()))
            fits = any(fnmatchcase(path.name, pattern) for pattern in nested)
        if fits and path.is_symlink():
            raise ValueError(
                f"{path} is a link, which is not followed; put the file itself there, or move the link away."
            )
        (upload.files if fits or name in code else upload.left_out).append(name)
    suffix = ".parquet" if allowed is DATA_FILES else ".safetensors"
    if not any(name.endswith(suffix) for name in upload.files):
        raise ValueError(f"{folder} holds no {suffix} file: there is nothing to push. Restore it there.")
    return upload


def _code(folder: Path) -> Iterable[str]:
    """Files of code that a model brings: those that its settings declare, and what they import beside themselves."""
    waiting = [name for name in _module_types(folder) if not name.startswith("sentence_transformers.")]
    waiting = [name.rpartition(".")[0] for name in waiting if "--" not in name]
    for path in (folder / "config.json", *folder.glob("*_config.json")):
        if path.is_file() and not path.is_symlink() and any(fnmatchcase(path.name, name) for name in MODEL_FILES):
            declared = _settings(path).get("auto_map")
            waiting += [value.rpartition(".")[0] for value in _words(declared) if "--" not in value]
    code: set[str] = set()
    while waiting:
        name = f"{waiting.pop().replace('.', '/')}.py"
        path = folder / name
        if name in code or not re.fullmatch(r"(?:\w+/)*\w+\.py", name) or not path.is_file() or path.is_symlink():
            continue
        code.add(name)
        package = name.split("/")[:-1]
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, RecursionError):
            continue  # which is said when it is looked into
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                waiting += [".".join([*base, module]) for module in names]
    return code


def _module_types(folder: Path) -> list[str]:
    """Classes of the modules that sentence-transformers' lists name: of packages, or of the folder's own code."""
    types: list[str] = []
    for name, key in (("modules.json", "type"), ("router_config.json", "types")):
        path = folder / name
        try:
            listed = [] if path.is_symlink() or not path.is_file() else read_json(path)
        except ValueError:
            continue  # which is said when it is looked into
        for entry in listed if isinstance(listed, list) else [listed]:
            types += _words(entry.get(key)) if isinstance(entry, dict) else ()
    return types


def _words(declared: Any) -> Iterator[str]:
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, dict | list):
        for value in declared.values() if isinstance(declared, dict) else declared:
            yield from _words(value)


def _modules(folder: Path) -> list[str]:
    """Sub-folders that hold modules with weights of their own.

    All of an enriched checkpoint, which was made of chosen files; otherwise those that sentence-transformers' list
    names.
    """
    if (folder / ENRICHMENT_FILE).is_file():
        return ["."]
    try:
        return [module["path"] for module in read_json(folder / "modules.json") if module["path"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
