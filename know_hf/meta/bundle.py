"""How the bundled predictors come about, from the data sets to ``known/weights``: every setting of it, and the command.

    python -m know_hf.meta.bundle --data CIFAR10 MNIST FASHION_MNIST --output-dir OUT [--stages 5 4 …] [--into FOLDER]

collects the trials, meta-trains a predictor for each number of stages, all of them for as many epochs at most (of which
held-out trials choose one, and end the training of a kind that gains no more), and puts what ``KnownPredictor.default``
loads into a folder, by default the package's own. Stopped and called again, it continues.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from know_hf.hub.cards import bundled_card, repository
from know_hf.known import KnownConfig
from know_hf.known.bundled import BUNDLED
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.images import named_sources
from know_hf.meta.options import HeldOut, MetaTrainingSettings
from know_hf.meta.training import RESULT, digest_of, meta_train
from know_hf.records import read_record
from know_hf.store import hash_file, inside, making, publish, remove, write_text
from know_hf.text import one_line
from know_hf.trajectory import TrajectoryError

#: Options of [`collect`](know_hf.meta.collection) for the trials of all pairs of network and data.
COLLECTED: dict[str, Any] = {"trials": 108, "examples": (1500, 6000), "epochs": (2, 8), "pool": 13_290}
#: Further trials for the report, of what is held out from training.
REPORTED: dict[str, Any] = {**COLLECTED, "trials": 12, "first_seed": 9000, "converged": 0.5}
#: How every predictor is trained.
TRAINED = MetaTrainingSettings(epochs=40, rows=1_000_000)
_CARD = "README.md"
_FILES = ("model.safetensors", RESULT, "config.json")


def make_predictors(
    data: Sequence[str],
    output_dir: str | Path,
    stages: Sequence[int] = BUNDLED,
    *,
    processes: int = 1,
    held_out: Mapping[str, Any] | None = None,
    settings: MetaTrainingSettings = TRAINED,
    **fewer: Any,
) -> list[Path]:
    """Collects what the predictors learn from, and trains them.

    Args:
        data: Hub ids or folders of the data sets, those that are held out included.
        output_dir: Folder for all of it.
        stages: Numbers of stages that predictors are made for.
        processes: Number of processes.
        held_out: What predictors are not trained on: fields of ``HeldOut``.
        settings: How every predictor is trained.
        **fewer: Other ranges and numbers of trials, to go the whole way quickly.

    Returns:
        The folder of each predictor.

    Raises:
        As [`collect`](know_hf.meta.collection) and [`meta_train`](know_hf.meta.training).
    """
    output_dir, unseen = Path(output_dir), HeldOut(**held_out or {})
    collect(output_dir / "meta", data, processes=processes, **{**COLLECTED, **fewer})
    unseen_data = [source for name, source in named_sources(data).items() if name in unseen.held_out_data]
    further = {
        **REPORTED, **fewer,
        "architectures": list(unseen.held_out_architectures),
        "trials": min(REPORTED["trials"], fewer.get("trials", REPORTED["trials"])),
    }  # fmt: skip
    meta = collect(output_dir / "meta", unseen_data, processes=processes, **further)
    folders = []
    for length in stages:
        folders.append(output_dir / f"stages-{length}")
        meta_train(
            meta, folders[-1], config=KnownConfig(history_length=length), settings=settings, processes=processes,
            held_out_architectures=unseen.held_out_architectures, held_out_data=unseen.held_out_data,
        )  # fmt: skip
    return folders


def bundle(
    predictor: str | Path, meta: MetaDataSet, into: str | Path, data: Sequence[str] = (), note: str = ""
) -> Path:
    """Puts a meta-trained predictor where [`KnownPredictor.default`](know_hf.known.modeling_known) looks for it.

    Args:
        predictor: Folder that [`meta_train`](know_hf.meta.training) left.
        meta: What it was trained on.
        into: The folder that holds a folder for each number of stages; what lies in that one is replaced as a whole.
        data: Hub ids or folders of the data sets, for the card; by default the names that the trials have.
        note: What else the card has to say of the copies of the data.

    Returns:
        The predictor's new folder: weights, configuration, record, and a card that says how all of it came about.

    Raises:
        FileNotFoundError: If a file of the predictor is missing.
        TrajectoryError: If the record of the training is missing, of other weights, or of another meta-data set.
        ValueError: If no predictor for so many stages comes with the package, or the trials are of other data.
    """
    predictor = Path(predictor)
    if lost := [name for name in (*_FILES, _CARD) if not (predictor / name).is_file()]:
        raise FileNotFoundError(
            f"{predictor} lacks {', '.join(lost)}: it is no finished meta-training; meta-train again."
        )
    record = read_record(
        predictor / RESULT,
        {"weights": str, "config": dict, "split": dict[str, list[str]], "data": dict, "held_out": dict},
        "meta-train again",
    )
    if record["weights"] != hash_file(predictor / "model.safetensors"):
        raise TrajectoryError(f"{predictor}: {RESULT} is the record of other weights; meta-train again.")
    length = record["config"].get("history_length")
    if length not in BUNDLED:
        raise ValueError(f"{predictor} reads {length} stages; the package holds predictors for {BUNDLED}.")
    names = {name for part in record["split"].values() for name in part}
    if record["data"] != digest_of({note["name"]: note["sha256"] for note in meta.trials if note["name"] in names}):
        raise TrajectoryError(
            f"{predictor} was trained on another meta-data set than {meta.folder}: name its own, or meta-train again."
        )
    card = bundled_card(record, (predictor / _CARD).read_text("utf-8"), meta.card(), _shown(meta, data), note)
    folder = inside(into, f"stages-{length}")
    new, former = (folder.with_name(f"{folder.name}.{which}") for which in ("new", "former"))
    remove(new)
    with making(new) as beside:
        for name in _FILES:
            shutil.copyfile(predictor / name, beside / name)
        write_text(beside / _CARD, card)
    remove(former)
    if folder.exists():
        folder.rename(former)
    publish(new, folder)
    remove(former)
    return folder


def _shown(meta: MetaDataSet, data: Sequence[str]) -> list[str]:
    """The data sets of the trials for a card: Hub ids where they are known, else names, no folder of this machine."""
    found = sorted({note["settings"]["data_set"] for note in meta.trials})
    named = named_sources(data)
    if data and (lost := [name for name in found if name not in named]):
        raise ValueError(f"{meta.folder} holds trials on {', '.join(lost)}, which data does not name.")
    sources = {name: str(source) for name, source in named.items() if name in found}
    known = {name: source for name, source in sources.items() if repository(source) and not Path(source).exists()}
    return [known.get(name, name) for name in sources or found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser("python -m know_hf.meta.bundle", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="Folders or Hub ids of the data sets.")
    parser.add_argument("--output-dir", required=True, help="Folder for trials and trainings.")
    parser.add_argument("--stages", nargs="+", type=int, choices=BUNDLED, default=BUNDLED, help="Predictors to make.")
    parser.add_argument("--processes", type=int, default=1, help="Number of processes.")
    parser.add_argument("--into", default=Path(__file__).parents[1] / "known" / "weights", help="Where they are put.")
    parser.add_argument("--note", default="", help="What the cards have to say of these copies of the data.")
    given = parser.parse_args(arguments)
    try:
        folders = make_predictors(given.data, given.output_dir, given.stages, processes=given.processes)
        meta = MetaDataSet(Path(given.output_dir) / "meta")
        for folder in folders:
            print(bundle(folder, meta, given.into, given.data, given.note))
    except (OSError, ImportError, ValueError) as error:  # of what was given; all else is a fault of ours
        parser.exit(2, f"{one_line(error)}\n")


if __name__ == "__main__":
    main()
