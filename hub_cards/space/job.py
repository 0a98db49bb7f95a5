"""What the Space does, without its buttons: take checkpoints in, say what would be predicted, predict, pack it up.

Whatever comes in is a stranger's. Only safetensors, settings and vocabularies are taken, nothing of it is run, sizes
are counted while they are read, and everything lies in one temporary folder that is gone when the job ends.
"""

import logging
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from know_hf import Trajectory, enrich
from know_hf.models.skeleton import skeleton
from know_hf.plan import Plan, make_plan
from know_hf.remote import bounded, public

#: Bytes of an uploaded file, and of what it holds or a repository has, all stages together.
MOST_UPLOADED, MOST_BYTES = 500_000_000, 1_500_000_000
#: Files of all stages, weights of one checkpoint, and stages: those that the bundled predictors read.
MOST_FILES, MOST_WEIGHTS, STAGES = 200, 60_000_000, range(2, 6)
#: Steps that may be asked for, and seconds that a result stays for download.
MOST_STEPS, KEPT = 3, 3600
#: What a checkpoint needs; everything else stays out, pickles and code above all.
TAKEN = (".safetensors", ".json", ".txt", ".model", ".jinja")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
LIMITS = (
    f"{STAGES.start} to {STAGES.stop - 1} checkpoints of one network, in safetensors, of at most "
    f"{MOST_WEIGHTS / 1e6:.0f} million weights each; {MOST_UPLOADED / 1e6:.0f} MB for an upload, "
    f"{MOST_BYTES / 1e9:.1f} GB unpacked. Public repositories only."
)
#: Named by a prefix of its own, so that what an ended process left can be told from what others keep there.
_PREFIX = "know-hf-space-"
_SOURCE = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")

logger = logging.getLogger(__name__)


class Refused(ValueError):
    """Something that the visitor can mend, in words for them."""


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for one job; what goes wrong in it is raised as [`Refused`], without the names of its folders."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        yield folder
    except Refused:
        raise
    except (OSError, ValueError, TypeError, ImportError, zipfile.BadZipFile) as error:
        words = " ".join(public(str(error).replace(f"{folder}/", "").replace(str(folder), "the upload")).split())
        raise Refused(words or "This cannot be read.") from error
    except Exception as error:
        logger.exception("A job failed.")
        raise Refused(f"This failed in a way that it should not ({type(error).__name__}).") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(now: float | None = None) -> None:
    """Deletes results that were kept long enough, and what jobs of an ended process left."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if (time.time() if now is None else now) - path.stat().st_mtime > KEPT:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpacks a zip file of checkpoint folders.

    Args:
        archive: The upload.
        folder: An empty folder.

    Returns:
        The folders with weights, in the order of their names, numbers by value.

    Raises:
        Refused: If it is no such zip file, too large, or holds no safetensors.
    """
    if not zipfile.is_zipfile(archive):
        raise Refused("This is not a zip file. Pack the folders of the checkpoints into one.")
    if archive.stat().st_size > MOST_UPLOADED:
        raise Refused(f"The upload has {archive.stat().st_size / 1e6:.0f} MB. The limits: {LIMITS}")
    left, pickles, taken = MOST_BYTES, [], 0
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            name = PurePosixPath(entry.filename)
            if entry.is_dir() or "__MACOSX" in name.parts:
                continue
            if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
                raise Refused(f"{entry.filename!r} in the zip file names a place outside of it.")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise Refused(f"{entry.filename!r} in the zip file is a link; pack the file that it means.")
            if entry.flag_bits & 1:
                raise Refused("The zip file is encrypted.")
            if name.suffix not in TAKEN:
                pickles += [entry.filename] * (name.suffix in PICKLES)
                continue
            taken += 1
            if taken > MOST_FILES:
                raise Refused(f"The zip file holds more than {MOST_FILES} files of checkpoints.")
            to = folder.joinpath(*name.parts)
            to.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(entry) as source, to.open("xb") as target:
                while block := source.read(1 << 20):
                    left -= len(block)  # what it really holds, whatever it says
                    if left < 0:
                        raise Refused(f"The zip file holds too much. The limits: {LIMITS}")
                    target.write(block)
    found = sorted({path.parent for path in folder.rglob("*.safetensors")}, key=lambda path: _by_number(path, folder))
    if not found:
        why = f" It holds {pickles[0]}: load that and save it again with save_pretrained." if pickles else ""
        raise Refused(f"The zip file holds no folder with safetensors.{why}")
    return found


def _by_number(path: Path, root: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.relative_to(root).as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def download(sources: str, folder: Path) -> list[Path]:
    """Downloads checkpoints from public repositories of the Hub.

    Args:
        sources: A line for each stage, ``user/name`` or ``user/name@revision``.
        folder: An empty folder.

    Returns:
        Their folders, in the order of the lines.

    Raises:
        Refused: If a line is no such name, nothing public is there, or it is too large.
    """
    lines = [line.strip() for line in sources.splitlines() if line.strip()]
    if len(lines) not in STAGES:
        raise Refused(f"{len(lines)} checkpoints are named. The limits: {LIMITS}")
    wanted = [match for line in lines if (match := _SOURCE.fullmatch(line))]
    if len(wanted) < len(lines):
        wrong = next(line for line in lines if not _SOURCE.fullmatch(line))
        raise Refused(f"{wrong[:80]!r} is no name on the Hub: user/name or user/name@revision, one a line.")
    left, found = MOST_BYTES, []
    for number, source in enumerate(wanted):
        name, revision = source["id"], source["revision"]
        try:
            # Without a token, not even the Space's own: what is not public stays so.
            with bounded():
                api = HfApi(token=False)
                info = api.model_info(name, revision=revision)
                tree = list(api.list_repo_tree(name, revision=info.sha))
                files = [f for f in tree if hasattr(f, "size") and PurePosixPath(f.path).suffix in TAKEN]
                left -= sum(f.size for f in files)
                if left < 0 or len(files) * len(wanted) > MOST_FILES:
                    raise Refused(f"{name} is too large. The limits: {LIMITS}")
                if not any(f.path.endswith(".safetensors") for f in files):
                    raise Refused(f"{name} holds no safetensors.")
                to = folder / f"stage-{number}"
                for file in files:
                    hf_hub_download(name, file.path, revision=info.sha, token=False, local_dir=to)
                shutil.rmtree(to / ".cache", ignore_errors=True)
        except (HfHubHTTPError, HFValidationError, ConnectionError, FileNotFoundError) as error:
            raise Refused(f"{name} is not to be had as a public repository. ({public(error)})") from error
        found.append(to)
    return found


def take(archive: str | Path | None, sources: str, newest_first: bool, ratio: float, folder: Path) -> Trajectory:
    """The trajectory that a visitor gives, uploaded or named, its headers read and compared.

    Args:
        archive: The upload, if there is one.
        sources: Names on the Hub, if there are any.
        newest_first: Whether the first of the checkpoints is the one that was trained on all the data.
        ratio: Of the amounts of data of one stage to the next.
        folder: An empty folder.

    Raises:
        Refused: If it is both or neither, or beyond the limits.
        ValueError: If it is no trajectory.
    """
    if bool(archive) == bool(sources.strip()):
        raise Refused("Give either a zip file of checkpoint folders or names on the Hub.")
    found = unpack(Path(archive), folder) if archive else download(sources, folder)
    if len(found) not in STAGES:
        raise Refused(f"There are {len(found)} checkpoints. The limits: {LIMITS}")
    folders = found if newest_first else found[::-1]
    # Built without memory for weights, and never from code that came along.
    trajectory = Trajectory.from_checkpoints(folders, model=skeleton(folders[0]), sampling_ratio=ratio)
    weights = sum(spec.numel for spec in trajectory.tensors.values())
    if weights > MOST_WEIGHTS:
        raise Refused(f"A checkpoint has {weights / 1e6:.1f} million weights. The limits: {LIMITS}")
    return trajectory


def plan(archive: str | Path | None, sources: str, newest_first: bool, ratio: float, steps: int) -> str:
    """Says what would be predicted, as Markdown.

    Raises:
        Refused: If it cannot be, in words.
    """
    with workplace() as folder:
        trajectory = take(archive, sources, newest_first, ratio, folder / "stages")
        return _planned(trajectory, _steps(steps), folder)


def _steps(steps: int) -> int:
    if int(steps) not in range(1, MOST_STEPS + 1):
        raise Refused(f"{steps} steps; 1 to {MOST_STEPS} are predicted here.")
    return int(steps)


def _planned(trajectory: Trajectory, steps: int, folder: Path) -> str:
    trajectory.save(folder)
    found: Plan = make_plan(folder, steps=steps)
    order = [
        f"{i}. `{Path(stage.folder).relative_to(folder / 'stages').as_posix()}`"
        + (" – all the data" if i == 0 else " – the least" if i == len(trajectory) - 1 else "")
        for i, stage in enumerate(trajectory.record.stages)
    ]
    words = str(found).replace(f"{folder}: ", "", 1)
    return "Stages, by the data that they were trained on:\n\n" + "\n".join(order) + f"\n\n{words}"


def predict(archive: str | Path | None, sources: str, newest_first: bool, ratio: float, steps: int) -> tuple[str, str]:
    """Predicts.

    Returns:
        What was done, as Markdown, and the path of a zip file of the enriched checkpoints, which is kept for an hour.

    Raises:
        Refused: If it cannot be, in words.
    """
    with workplace() as folder:
        trajectory = take(archive, sources, newest_first, ratio, folder / "stages")
        result = enrich(trajectory, folder / "enriched", steps=_steps(steps), device="cpu")
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=".zip")
        try:
            with open(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
                for path in _files(list(result.checkpoints.values())):
                    packed.write(path, path.relative_to(folder / "enriched").as_posix())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return _done(list(result.checkpoints), result.statistics), name


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _done(names: Sequence[str], statistics: dict) -> str:
    rows = [
        f"| {name} | {kind} | {values['relative_change']:.4f} | {values['norm_ratio']:.4f} |"
        for name in names
        for kind, values in statistics[name].items()
    ]
    return (
        f"Predicted {', '.join(names)}; every folder in the zip file loads with `from_pretrained`.\n\n"
        "| prediction | kind | ‖Θ̂−Θ⁰‖/‖Θ⁰‖ | ‖Θ̂‖/‖Θ⁰‖ |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "These are starting points, and whether they are better than Θ⁰ is not known: score them, and what you could "
        "do without them, on data that nothing was trained on. BatchNorm statistics are those of Θ⁰; re-estimate them "
        "on your data."
    )
