"""Uploads finished folders to the Hub: an allow-list of files, each looked into before anything is sent."""

import fnmatch
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file
from transformers.utils import logging

from know_hf.enrichment.writer import ENRICHMENT_FILE, read_enrichment
from know_hf.hub.cards import plain_predictor_card
from know_hf.store import read_json
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.checkpoint import WEIGHT_FILES, check_file
from know_hf.trajectory.record import FILE_NAME

logger = logging.get_logger(__name__)
# Of the client's HTTP library, whichever that is: lost connections as well as the server's answers.
_HttpError = HfHubHTTPError.__bases__[0]
Result = TypeVar("Result")

# What tokenizers are stored in, by the names that transformers and models' own code give it.
_TOKENIZERS = (
    "tokenizer*", "*.tokenizer", "special_tokens_map.json", "added_tokens.json", "vocab.*", "vocab-*.json",
    "*_vocab.json", "merges.txt", "*.model", "*.spm", "*.codes", "*.tiktoken", "dict.txt", "dict.*.txt", "emoji.json",
    "normalizer.json", "word_shape.json", "word_pronunciation.json", "byte_maps.json",
)  # fmt: skip
#: What a model's folder may hold for others to load it. Everything else stays here.
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "*processor_config.json", "audio_tokenizer_config.json", *_TOKENIZERS, "chat_template*", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "router_config.json", "labels.txt",
    ENRICHMENT_FILE, "meta_training.json", "README.md", "LICENSE*",
)  # fmt: skip
#: What any sub-folder may hold: a processor's tokenizers and templates. Modules' may hold the same as a model's.
NESTED_FILES = (*_TOKENIZERS, "*_config.json", "config.json", "*.jinja")
#: The same of a meta-data set.
DATA_FILES = ("data/*.parquet", "trials/*.json", "branches/*.parquet", "branches/*.json", "README.md", "LICENSE*")
_WITHOUT_US = (
    "Where know-hf is not installed, transformers alone loads it with the code in this repository:\n"
    '`AutoModel.from_pretrained("path/or/hub-id", trust_remote_code=True)`.\n'
)
# Shards of another size, and their index, go when new weights come.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]
_BINARY = (".safetensors", ".parquet", ".model", ".spm")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_PICKLE = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")
_ATTEMPTS, _FIRST_WAIT, _LONGEST_WAIT = 5, 1.0, 60.0


@dataclass
class Upload:
    """What goes into one revision of a repository.

    Args:
        folder: Where the files lie.
        revision: Branch that receives them.
        files: Paths of the files, relative to the folder.
        left_out: Paths of those that are not on the allow-list.
    """

    folder: Path
    revision: str
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)

    def __str__(self) -> str:
        listed = "\n".join(f"  {name}  {(self.folder / name).stat().st_size:,} bytes" for name in self.files)
        kept = f"\n  stays here: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.folder} → revision {self.revision}, {self.nbytes / 1e6:.1f} MB\n{listed}{kept}"


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    overwrite_card: bool = False,
    token: str | None = None,
) -> str:
    """Uploads an enriched checkpoint, all steps of a run, a predictor or a meta-data set.

    All steps of a run become revisions of one repository, ``x2``, ``x4`` …, each a plain
    ``from_pretrained(repo_id, revision="x4")``; ``main`` is the first of them. A push that was interrupted continues:
    what the Hub already has is not sent again.

    Args:
        folder: A run, its ``enriched`` folder, one checkpoint, a predictor or a meta-data set.
        repo_id: ``user/name``; made if need be.
        private: Whether a new repository is private; the account's default if None.
        create_pr: Open a pull request instead of writing to the repository; for single checkpoints.
        dry_run: Say what would be sent, and send nothing.
        overwrite_card: Replace a README that the repository already has.
        token: Instead of the one that ``hf auth login`` stored. Never written anywhere.

    Returns:
        Address of the repository or pull request; with ``dry_run`` the list of files.

    Raises:
        ConnectionError: If the Hub cannot be reached, or is too busy for longer than we wait.
        FileNotFoundError: If there is nothing to push in the folder.
        PermissionError: If there is no token, or it may not write there.
        ValueError: If a file holds a token, a path of this machine or a pickle, or an option does not fit.

    Source: ours.

    Example:
        >>> from know_hf.hub.push import push
        >>> push("runs/mine", "me/resnet-18-know", private=True)  # doctest: +SKIP
        'https://huggingface.co/me/resnet-18-know'
    """
    folder = Path(folder)
    validate_repo_id(repo_id)
    repo_type, uploads = find_uploads(folder)
    if create_pr and len(uploads) > 1:
        raise ValueError(
            f"A pull request takes one checkpoint; push one of {', '.join(str(u.folder) for u in uploads)}."
        )
    for upload in uploads:
        check_files(upload)
    if dry_run:
        return "\n\n".join(map(str, uploads))
    url, api = ensure_repository(repo_id, repo_type, private, token), HfApi(token=token)
    with _explained(repo_id):
        for upload in uploads:
            if upload.revision != "main":
                _persistently(
                    lambda to=upload: api.create_branch(repo_id, branch=to.revision, repo_type=repo_type, exist_ok=True)
                )
            steps = [u.revision for u in uploads if u.revision != "main"]
            sent = _send(api, repo_id, repo_type, upload, steps, create_pr, overwrite_card)
            url = getattr(sent, "pr_url", None) or url
    return url


def ensure_repository(
    repo_id: str, repo_type: str = "model", private: bool | None = None, token: str | None = None
) -> str:
    """Makes a repository unless it is there; returns its address.

    Raises:
        ConnectionError, PermissionError: As [`push`].
    """
    with _explained(repo_id):
        create = HfApi(token=token).create_repo
        return str(_persistently(lambda: create(repo_id, repo_type=repo_type, private=private, exist_ok=True)))


def find_uploads(folder: Path) -> tuple[str, list[Upload]]:
    """What a folder holds, as repository type and uploads.

    Raises:
        FileNotFoundError: If there is nothing to push.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    if (folder / "trials").is_dir() and (folder / "data").is_dir():
        return "dataset", [_upload(folder, "main", DATA_FILES)]
    if (folder / FILE_NAME).exists():
        folder = folder / "enriched"
    steps = {p.name: read_enrichment(p)["step"]
             for p in folder.glob("[!.]*") if (p / ENRICHMENT_FILE).is_file()}  # fmt: skip
    if steps:
        names = sorted(steps, key=steps.__getitem__)
        first, *_ = names
        pairs = [(first, "main"), *zip(names, names, strict=True)]
        return "model", [_upload(folder / name, revision, MODEL_FILES) for name, revision in pairs]
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no enriched checkpoints, predictor or meta-data set; push a run, its enriched folder or a "
            "checkpoint."
        )
    return "model", [_upload(folder, "main", MODEL_FILES)]


def _upload(folder: Path, revision: str, allowed: tuple[str, ...]) -> Upload:
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if isinstance(config, dict) and config.get("auto_map"):
            allowed = (*allowed, "*.py")  # a model that brings its own code
    upload, modules = Upload(folder, revision), _modules(folder)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if path.is_symlink() or not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        fits = any(fnmatch.fnmatchcase(name, pattern) and name.count("/") <= pattern.count("/") for pattern in allowed)
        if allowed is not DATA_FILES and len(relative.parts) > 1 and not name.startswith("checkpoint-"):
            is_module = any(relative.is_relative_to(module) for module in modules)
            nested = (*NESTED_FILES, *(MODEL_FILES if is_module else ()))
            fits = any(fnmatch.fnmatchcase(path.name, pattern) for pattern in nested)
        (upload.files if fits else upload.left_out).append(name)
    return upload


def _modules(folder: Path) -> list[str]:
    """Sub-folders that hold modules with weights of their own.

    All of an enriched checkpoint, which was made of chosen files; otherwise those that sentence-transformers' list
    names.
    """
    if (folder / ENRICHMENT_FILE).is_file():
        return ["."]
    try:
        listed = read_json(folder / "modules.json")
        return [module["path"] for module in listed if module["path"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def check_files(upload: Upload) -> None:
    """Looks into every file that would be sent.

    Raises:
        TrajectoryError: If a safetensors file is damaged.
        ValueError: If one holds a token, a path of this machine, or a pickle in disguise.
    """
    secrets = {"this machine's token": get_token(), "the home directory": str(Path.home())}
    secrets["the folder's path on this machine"] = str(upload.folder.resolve())
    weights = [upload.folder / name for name in upload.files if name.endswith(".safetensors")]
    if any(path.parent == upload.folder for path in weights):
        Checkpoint(upload.folder).tensors  # noqa: B018 (reads and checks the headers)
    for path in weights:
        check_file(path)
    for name in upload.files:
        path = upload.folder / name
        with open(path, "rb") as file:
            start = file.read(8)
            if path.suffix == ".safetensors":
                head = file.read(min(int.from_bytes(start, "little"), path.stat().st_size))
            else:
                head = start + (b"" if path.suffix in _BINARY else file.read())
        if _PICKLE.match(start) and path.suffix != ".safetensors":
            raise ValueError(f"{path} looks like a pickle or an archive; nothing of that kind is pushed.")
        text = head.decode("utf-8", errors="replace")
        found = [what for what, secret in secrets.items() if secret and len(secret) > 4 and secret in text]
        if _TOKEN.search(text):
            found.append("a Hub token")
        if found:
            raise ValueError(f"{path} holds {found[0]}; remove it there and push again. Nothing was sent.")


def _send(api: HfApi, repo_id: str, repo_type: str, upload: Upload, steps: list[str], create_pr: bool, card: bool):
    files = list(upload.files)
    with tempfile.TemporaryDirectory(prefix="know-hf-") as temporary:
        staged = Path(temporary)
        keeps = not card and _persistently(
            lambda: api.file_exists(repo_id, "README.md", repo_type=repo_type, revision=upload.revision)
        )
        if keeps and "README.md" in files and _untouched(_readme(api, repo_id, repo_type, upload.revision)):
            keeps = False
        if keeps and "README.md" in files:
            logger.warning(f"{repo_id} keeps the README that it has (overwrite_card replaces it).")
            files.remove("README.md")
        for name in files:
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == "README.md":
                text = (upload.folder / name).read_text(encoding="utf-8")
                target.write_text(addressed(text, repo_id, upload.revision, steps), encoding="utf-8")
            else:
                _link_or_copy(upload.folder / name, target)
        return _persistently(
            lambda: api.upload_folder(
                repo_id=repo_id, repo_type=repo_type, folder_path=staged, revision=upload.revision,
                create_pr=create_pr, delete_patterns=None if repo_type == "dataset" else _REPLACED,
                commit_message=f"Upload {upload.folder.name} with know-hf",
            )
        )  # fmt: skip


def _readme(api: HfApi, repo_id: str, repo_type: str, revision: str) -> str:
    with tempfile.TemporaryDirectory(prefix="know-hf-") as folder:
        path = _persistently(
            lambda: api.hf_hub_download(repo_id, "README.md", repo_type=repo_type, revision=revision, local_dir=folder)
        )
        return Path(path).read_text(encoding="utf-8")


def _signed(text: str) -> str:
    """A card that tells later pushes whether it was edited since: with the hash of its text in a comment."""
    return f"{text.rstrip()}\n\n<!-- know-hf {hashlib.sha256(text.strip().encode()).hexdigest()[:16]} -->\n"


def _untouched(text: str) -> bool:
    """Whether a README is a card as we pushed it, or the empty one that the Hub begins with."""
    body, _, rest = text.rpartition("<!-- know-hf ")
    return len(text.strip()) < 60 or (bool(rest) and _signed(body.rstrip()) == text.rstrip() + "\n")


def addressed(card: str, repo_id: str, revision: str, steps: list[str]) -> str:
    """A card whose code loads from the Hub, and which names the other steps."""
    where = f'"{repo_id}"' if revision == "main" else f'"{repo_id}", revision="{revision}"'
    card = card.replace('"path/to/this/folder"', where).replace('"path/or/hub-id"', f'"{repo_id}"')
    names = ", ".join(f"`{step}`" for step in steps)
    said = (
        f"The steps of this run are revisions of this repository: {names}; `main` is `{steps[0]}`.\n\n" if steps else ""
    )
    return _signed(card.replace("## How it was made\n", f"{said}## How it was made\n", 1))


def add_predictor_card(predictor, folder: Path) -> None:
    """Puts the card of a predictor, and the record of its training, beside its saved weights.

    Args:
        predictor: A [`KnownPredictor`]. The card of the folder that it was loaded from is taken if its weights are
            still the same; other weights get one that claims nothing.
        folder: Where it was just saved.
    """
    source = Path(predictor.name_or_path or "")
    weights = (source / WEIGHT_FILES[0], folder / WEIGHT_FILES[0])
    if predictor.name_or_path and all(path.is_file() for path in weights):
        old, new = map(load_file, weights)
        if old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old):
            for name in ("README.md", "meta_training.json"):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else plain_predictor_card(predictor.config)
    loading = 'KnownPredictor.from_pretrained("path/or/hub-id")'
    text = re.sub(r"KnownPredictor\.default\(\d*\)", lambda _: loading, text)
    if "trust_remote_code" not in text:
        text = re.sub(r"(```python\n.*?\n```\n)", lambda found: f"{found[1]}\n{_WITHOUT_US}", text, count=1, flags=re.S)
    card.write_text(text, encoding="utf-8")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        try:
            target.symlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, target)


def _persistently(call: Callable[[], Result]) -> Result:
    """Repeats what may succeed a little later: a busy or failing server, a lost connection, somebody else's commit."""
    wait = _FIRST_WAIT
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except _HttpError as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if attempt == _ATTEMPTS or not (status is None or status in (408, 409, 412, 429) or status >= 500):
                raise
            asked = (response.headers.get("Retry-After") or "") if response is not None else ""
            pause = min(float(asked) if asked.isdigit() else wait, _LONGEST_WAIT)
            logger.warning(f"The Hub answers {status or type(error).__name__}; trying again in {pause:.0f} s.")
            time.sleep(pause)
            wait *= 2
    raise AssertionError


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns the Hub's errors into what to do about them; what was sent so far stays, and a repeated push continues."""
    again = "Nothing is lost: the same push continues."
    try:
        yield
    except (LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        kind = PermissionError if isinstance(error, LocalTokenNotFoundError) else ConnectionError
        raise kind(f"Cannot push to {repo_id}: {str(error).splitlines()[0]}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            message = f"The Hub does not know the token for {repo_id} (401): log in with `hf auth login`."
            raise PermissionError(message) from error
        if status == 403:
            message = f"The token may not write to {repo_id} (403): use one with write access, or --create-pr."
            raise PermissionError(message) from error
        raise ConnectionError(f"The Hub refuses {repo_id} ({status}): {str(error).splitlines()[0]} {again}") from error
    except _HttpError as error:
        raise ConnectionError(f"The connection to the Hub was lost ({error}). {again}") from error
