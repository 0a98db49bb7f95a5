"""How the bundled predictors come about, from the data sets to ``known/weights``: every setting of it, and the command.

    python -m know_hf.meta.bundle --data CIFAR10 MNIST FASHION_MNIST --output-dir OUT [--stages 5 4 …] [--into FOLDER]

collects the trials, meta-trains a predictor for each number of stages, all of them equally long, and puts what
``KnownPredictor.default`` loads into a folder, by default the package's own. Stopped and called again, it continues.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from know_hf.hub.cards import bundled_card
from know_hf.known import KnownConfig
from know_hf.known.modeling_known import BUNDLED
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.images import named_sources
from know_hf.meta.options import HeldOut, MetaTrainingSettings
from know_hf.meta.training import RESULT, meta_train
from know_hf.records import read_record
from know_hf.store import hash_file, write_text, writing
from know_hf.trajectory import TrajectoryError

#: Options of [`collect`](know_hf.meta.collection) for the trials of all pairs of network and data.
COLLECTED: dict[str, Any] = {"trials": 108, "examples": (1500, 6000), "epochs": (2, 8), "pool": 13_290}
#: Further trials for the report, of what is held out from training.
REPORTED: dict[str, Any] = {**COLLECTED, "trials": 12, "first_seed": 9000, "converged": 0.5}
#: How every predictor is trained.
TRAINED = MetaTrainingSettings(epochs=40, rows=1_000_000)
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


def bundle(predictor: str | Path, meta: MetaDataSet, into: str | Path) -> Path:
    """Puts a meta-trained predictor where [`KnownPredictor.default`](know_hf.known.modeling_known) looks for it.

    Args:
        predictor: Folder that [`meta_train`](know_hf.meta.training) left.
        meta: What it was trained on.
        into: The folder that holds a folder for each number of stages.

    Returns:
        The predictor's new folder: weights, configuration, record, and a card that says how all of it came about.

    Raises:
        TrajectoryError: If the record of the training is missing, or of other weights.
        ValueError: If no predictor for so many stages comes with the package.
    """
    predictor = Path(predictor)
    record = read_record(predictor / RESULT, {"weights": str, "config": dict}, "meta-train again")
    if record["weights"] != hash_file(predictor / "model.safetensors"):
        raise TrajectoryError(f"{predictor}: {RESULT} is the record of other weights; meta-train again.")
    length = record["config"].get("history_length")
    if length not in BUNDLED:
        raise ValueError(f"{predictor} reads {length} stages; the package holds predictors for {BUNDLED}.")
    folder = Path(into) / f"stages-{length}"
    for name in _FILES:
        with writing(folder / name) as beside:
            shutil.copyfile(predictor / name, beside)
    write_text(folder / "README.md", bundled_card(record, (predictor / "README.md").read_text("utf-8"), meta.card()))
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser("python -m know_hf.meta.bundle", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="Folders or Hub ids of the data sets.")
    parser.add_argument("--output-dir", required=True, help="Folder for trials and trainings.")
    parser.add_argument("--stages", nargs="+", type=int, choices=BUNDLED, default=BUNDLED, help="Predictors to make.")
    parser.add_argument("--processes", type=int, default=1, help="Number of processes.")
    parser.add_argument("--into", default=Path(__file__).parents[1] / "known" / "weights", help="Where they are put.")
    given = parser.parse_args(arguments)
    folders = make_predictors(given.data, given.output_dir, given.stages, processes=given.processes)
    for folder in folders:
        print(bundle(folder, MetaDataSet(Path(given.output_dir) / "meta"), given.into))


if __name__ == "__main__":
    main()
