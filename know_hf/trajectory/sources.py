"""Checkpoints that are named: folders, or models on the Hub with a revision, found before anything is made of them."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from know_hf.checkpoints.checkpoint import WEIGHT_FILES, Checkpoint
from know_hf.model_config import ADAPTER_FILE, CONFIG_FILE
from know_hf.reading import shown
from know_hf.records import TrajectoryError
from know_hf.remote import bounded, persistently, public
from know_hf.store import read_json
from know_hf.text import without_secrets

# user/name, perhaps @revision; a revision may be a branch with slashes (refs/pr/1).
_ON_THE_HUB = re.compile(r"([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
# What a checkpoint is loaded from, beside its weights: never pickles, nor other formats of the same weights.
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.py", "README.md", "LICENSE*")
# The weights of modules in sub-folders; those of the folder itself are chosen by their index.
_OF_MODULES = "*/model.safetensors"
# What two adapters have to share, beside the shapes of their tensors, to be points of one space.
_OF_ADAPTERS = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "alpha_pattern",
    "rank_pattern",
    "fan_in_fan_out",
)

_ALIKE = "save all in one way: from_pretrained(folder, dtype=…), then save_pretrained."


@dataclass(frozen=True)
class Source:
    """A checkpoint that was named.

    Args:
        folder: Where it lies.
        name: What records and cards call it: ``user/name@commit``, or the last part of a folder's path.
        repository: Its Hub id; None for a folder.
    """

    folder: Path
    name: str
    repository: str | None = None


def given_checkpoints(checkpoints: Sequence[str | Path]) -> list[Source]:
    """The checkpoints that were named, in stage order; those on the Hub are downloaded, when all else is there.

    Raises:
        TrajectoryError: If one is missing or given twice, or there are fewer than two.
        TypeError: If this is not a list of paths.
    """
    unordered = isinstance(checkpoints, (Set, Mapping))  # whose order says nothing
    if unordered or isinstance(checkpoints, (str, bytes, os.PathLike)) or not isinstance(checkpoints, Iterable):
        raise TypeError(
            f"checkpoints is {checkpoints!r:.80}; give a list of folders, one for each stage, stage 0 first."
        )
    given = []
    for checkpoint in checkpoints:
        if not isinstance(checkpoint, (str, os.PathLike)):
            raise TypeError(f"checkpoints: {checkpoint!r:.80} is not the path of a folder.")
        given.append(checkpoint)
    if len(given) < 2:
        raise TrajectoryError(f"A trajectory needs at least 2 checkpoints, one for each stage; found {len(given)}.")
    for stage, checkpoint in enumerate(given):
        if not Path(checkpoint).is_dir() and not _on_the_hub(checkpoint):
            what = "is a file; give the folder that it lies in." if Path(checkpoint).exists() else (
                "is not a folder. A model on the Hub is user/name or user/name@revision."
            )  # fmt: skip
            raise TrajectoryError(f"Checkpoint {str(checkpoint)!r}, given as stage {stage}, {what}")
    _check_once([Path(c).resolve() if Path(c).is_dir() else str(c).removesuffix("@main") for c in given], given)
    sources = [_found(checkpoint, stage) for stage, checkpoint in enumerate(given)]
    _check_once([source.folder.resolve() for source in sources], given)  # of two revisions that are one commit
    return sources


def _check_once(places: Sequence[Any], given: Sequence[str | os.PathLike[str]]) -> None:
    seen: dict[Any, int] = {}
    for stage, place in enumerate(places):
        first = seen.setdefault(place, stage)
        if first != stage:
            raise TrajectoryError(f"{given[stage]} is given twice, as stage {first} and as stage {stage}.")


def _on_the_hub(checkpoint: str | os.PathLike[str]) -> re.Match[str] | None:
    return _ON_THE_HUB.fullmatch(checkpoint) if isinstance(checkpoint, str) else None


def _found(checkpoint: str | os.PathLike[str], stage: int) -> Source:
    if Path(checkpoint).is_dir():
        return Source(Path(checkpoint), os.path.basename(os.path.abspath(checkpoint)))
    match = _on_the_hub(checkpoint)
    assert match is not None  # looked at already
    repository, revision = match.groups()
    folder = _downloaded(repository, revision, stage)
    return Source(folder, f"{repository}@{folder.name}", repository)


@bounded()
def _downloaded(repository: str, revision: str | None, stage: int) -> Path:
    """The folder of a snapshot, whose name is the commit; nothing is downloaded of what holds no safetensors."""
    from huggingface_hub import snapshot_download

    def download(patterns: Sequence[str]) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))

    try:
        # A commit that was downloaded before needs no network; of a branch the Hub knows the newest.
        small = persistently(lambda: download(_SMALL))
        if not any((small / name).exists() for name in (CONFIG_FILE, ADAPTER_FILE)):
            raise TrajectoryError(f"{repository} on the Hub, given as stage {stage}, holds no {CONFIG_FILE}.")
        weights = _weights(small)
        return persistently(lambda: download([*_SMALL, *weights, _OF_MODULES]))
    except TrajectoryError:
        raise
    except Exception as error:  # the client raises many types for one thing: it could not be had
        name = f"{repository}@{revision}" if revision else repository
        raise TrajectoryError(
            f"Checkpoint {without_secrets(name)!r}, given as stage {stage}, is neither a folder nor a model reachable "
            f"on the Hub. ({public(error)})"
        ) from error


def _weights(folder: Path) -> list[str]:
    """Names of the weights that loading takes: some repositories hold the same in other files, too."""
    index = folder / "model.safetensors.index.json"
    places = read_json(index).get("weight_map") if index.is_file() else None
    shards = sorted(set(places.values())) if isinstance(places, dict) else []
    return [*WEIGHT_FILES, *(name for name in shards if isinstance(name, str))]


def check_same_model(sources: Sequence[Source]) -> None:
    """Compares what the configurations say that the checkpoints are.

    Raises:
        TrajectoryError: If they are of different architectures, some are adapters and others are not, or their adapters
            are scaled in different ways.
    """
    first, *others = sources
    expected = _described(first.folder)
    for other in others:
        found = _described(other.folder)
        for name in dict.fromkeys([*expected, *found]):
            if name in expected and name in found and expected[name] == found[name]:
                continue
            if name == "adapter":
                which, whole = (first, other) if expected["adapter"] else (other, first)
                raise TrajectoryError(
                    f"{which.folder} is a PEFT adapter, {whole.folder} a whole model: merge the adapter into its model "
                    "(merge_and_unload), and save that."
                )
            if name in expected and name in found:
                raise TrajectoryError(
                    f"{first.folder} and {other.folder} are different models: {name} is {shown(expected[name])} in the "
                    f"former, {shown(found[name])} in the latter."
                )


def _described(folder: Path) -> dict[str, Any]:
    """What has to be alike, as far as a folder says it."""
    adapter = (folder / ADAPTER_FILE).is_file() and not (folder / CONFIG_FILE).is_file()
    file = folder / (ADAPTER_FILE if adapter else CONFIG_FILE)
    try:
        content = read_json(file) if file.is_file() else {}
    except ValueError as error:
        raise TrajectoryError(str(error)) from error
    content = content if isinstance(content, dict) else {}
    names = _OF_ADAPTERS if adapter else ("model_type", "architectures")
    found = {name: content[name] for name in names if content.get(name) is not None}
    if isinstance(base := content.get("base_model_name_or_path"), str) and adapter:
        found["base_model_name_or_path"] = base.rstrip("/").rpartition("/")[2]
    return {"adapter": adapter, **found}


def check_alike(first: Checkpoint, other: Checkpoint) -> None:
    """Compares the headers of two checkpoints.

    Raises:
        TrajectoryError: If one is damaged, or they differ in names, shapes or storage types.
    """
    expected, found = first.tensors, other.tensors
    if odd := sorted(expected.keys() ^ found.keys()):
        where = [name for name in odd if name in expected]
        raise TrajectoryError(
            f"{other.folder} and {first.folder} hold different tensors: {len(where)} only in the latter, "
            f"{len(odd) - len(where)} only in the former, e.g. {odd[0]!r}. If they are of one model (one "
            f"may store a tied weight twice), {_ALIKE}"
        )
    for name, spec in expected.items():
        if (spec.shape, spec.dtype) != (found[name].shape, found[name].dtype):
            raise TrajectoryError(
                f"Tensor {name!r} is {spec.dtype} {list(spec.shape)} in {first.folder} but {found[name].dtype} "
                f"{list(found[name].shape)} in {other.folder}"
                + (f": {_ALIKE}" if spec.shape == found[name].shape else ": they are of different models.")
            )
