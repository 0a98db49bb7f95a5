"""Runs every arm at every learning rate with every seed, resumably."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset
from transformers import AutoConfig

from know_hf.laboratory.fine_tuning import FineTuning
from know_hf.laboratory.heads import classes_of_kept_heads
from know_hf.laboratory.options import ComparisonOptions, Protocol
from know_hf.laboratory.result import TransferResult, read_settings
from know_hf.models.adapters import base_of
from know_hf.records import check_file_names
from know_hf.remote import bounded, public
from know_hf.settings import takes
from know_hf.store import check_output, hash_file, inside, locked, remove, write_json
from know_hf.tasks import Columns, get_task
from know_hf.text import without_secrets
from know_hf.training.data import check_part, load_evaluation, load_split, open_parts
from know_hf.training.options import DataOptions
from know_hf.training.prepared import prepare
from know_hf.training.scoring import load_metric, score_of
from know_hf.training.workers import Workers
from know_hf.trajectory import Checkpoint, TrajectoryError
from know_hf.trajectory.identity import describe_dataset
from know_hf.trajectory.record import FILE_NAME

#: What a comparison's folder keeps its settings in.
SETTINGS_FILE = "transfer.json"
#: The folders in it that are written to, and deleted.
COMPARISON_FOLDERS = ("runs", "scratch")


@takes(options=ComparisonOptions, about=DataOptions)
def transfer(
    arms: Mapping[str, str | Path],
    dataset: Any,
    output_dir: str | Path,
    *,
    options: ComparisonOptions,
    about: DataOptions,
    test_dataset: Any = None,
    validation_dataset: Any = None,
    protocol: Protocol | None = None,
    one_rate: Collection[str] = (),
) -> TransferResult:
    """Fine-tunes every arm on downstream data under one protocol, paired over seeds.

    The same seed gives every arm the same examples, head and order. Every arm gets the same learning rates; its own is
    chosen on validation examples that are not the test set. Killed and called again, it continues.

    Args:
        arms: Name → checkpoint folder or Hub id; the first is the reference. Names that begin with ``naive``,
            ``shrink``, ``mean``, ``equal_compute`` or ``incremental`` are controls.
        dataset: Downstream training data: a ``Dataset``, or the id or folder of one.
        output_dir: Folder of the comparison.
        test_dataset: Test data; by default those of ``dataset``.
        validation_dataset: Data to choose learning rates on; by default drawn from the training data.
        protocol: How to fine-tune; the paper's by default.
        one_rate: Arms that are only run at the learning rate that the reference chose.

    Returns:
        A [`TransferResult`].

    Raises:
        FileExistsError: If the folder is, or lies in, an arm or the data.
        FileNotFoundError: If an arm, the data or a metric module cannot be found.
        TrajectoryError: If the folder holds another comparison, or an arm is damaged.
        ValueError: If there are too few arms, seeds or examples, or a folder of the comparison is a link.

    Source: paper section 5; pairing, grid and controls are ours.

    Example:
        >>> from know_hf.laboratory.comparison import transfer
        >>> transfer({"naive": "run/stage-0", "KNOWN x2": "run/enriched/x2"}, "user/data", "out")  # doctest: +SKIP
    """
    protocol = protocol or Protocol()
    check_arms(arms, options.seeds, options.learning_rates)
    train = load_split(dataset, options.train_split)
    if test_dataset is None:
        test = load_split(dataset, options.test_split)
    else:
        test = load_evaluation(test_dataset, usual=options.test_split)
    if test_dataset is None and test is train:
        raise ValueError("Give a test_dataset: a live Dataset has no test split of its own.")
    validation = None if validation_dataset is None else load_evaluation(validation_dataset, usual="validation")
    train, test, validation, columns = check_data(train, test, validation, protocol=protocol, about=about)
    if not (Path(output_dir) / SETTINGS_FILE).exists():  # else another protocol is what has to be said
        check_sizes(columns, len(train), validation is not None, protocol, "The comparison")
    check_output(output_dir, *arms.values(), *([dataset] if isinstance(dataset, (str, Path)) else []))
    inside(output_dir, "cache")
    comparison = Comparison(
        arms, Path(output_dir), train, test, validation, protocol, list(options.learning_rates), one_rate,
        options.seeds,
    )  # fmt: skip
    sizes = {"image_size": about.image_size, "max_length": about.max_length}
    with locked(output_dir), Workers(options.processes) as workers:
        comparison.prepare(Path(output_dir) / "cache", columns, **sizes)
        workers.run(comparison.grid(), "Fine-tuning")
        workers.run(comparison.rest(), "Fine-tuning the rest")
        comparison.clear()
    return comparison.result()


def check_arms(arms: Mapping[str, str | Path], seeds: int, learning_rates: Sequence[float]) -> None:
    """Raises if there is nothing to compare, or a start is none.

    Args:
        arms: As for [`transfer`]; a run's folder stands for starts that are yet to be predicted.
        seeds: Number of seeds.
        learning_rates: Grid of peak learning rates.

    Raises:
        FileNotFoundError: If an arm is neither a folder nor reachable on the Hub.
        TrajectoryError: If an arm holds no weights, or damaged ones.
        ValueError: If there are too few arms, seeds or learning rates, or two arms' files would have the same name.

    Source: ours.
    """
    if len(arms) < 2 or seeds < 2:
        raise ValueError(f"A comparison needs two arms and two seeds or more, found {len(arms)} and {seeds}.")
    if not learning_rates or min(learning_rates) <= 0:
        raise ValueError(f"learning_rates is {list(learning_rates)}; give at least one, each above 0.")
    check_file_names(list(arms), "The arms")
    for name, arm in arms.items():
        folder = resolve_arm(arm, name)
        if not (folder / FILE_NAME).exists():
            try:
                Checkpoint(folder).tensors  # noqa: B018 (reads and checks the headers)
            except TrajectoryError as error:
                raise TrajectoryError(f"Arm {name!r}: {error}") from error


def check_data(
    train,
    test,
    validation=None,
    *,
    protocol: Protocol,
    about: DataOptions,
) -> tuple[Dataset, Dataset, Dataset | None, Columns]:
    """Raises if data do not fit each other, the protocol or its metric, before any of them are prepared.

    Args:
        train: The downstream training data.
        test: The test data.
        validation: Data to choose learning rates on, or None to draw them from ``train``.
        protocol: How to fine-tune.
        about: What is read of them.

    Returns:
        Training, test and validation data without what is to be dropped, and what they hold.

    Raises:
        FileNotFoundError: If the metric module cannot be found.
        ValueError: If columns or classes do not fit, or rows lack something.

    Source: ours.
    """
    parts, columns = open_parts(
        {"training data": train, "test data": test, "validation data": validation},
        task=about.task, inputs=about.input_columns, label=about.label_column, drop_incomplete=about.drop_incomplete,
    )  # fmt: skip
    load_metric(protocol.metric, columns.task, len(columns.class_names))
    if protocol.new_head and get_task(columns.task).one_class:  # heads that are kept have classes of their own
        for what, part in parts.items():
            if part is not None:
                check_part(part, columns, len(columns.class_names), what)
    return *parts.values(), columns


def check_sizes(columns: Columns, found: int, validated: bool, protocol: Protocol, name: str) -> None:
    """Raises ``ValueError`` if there are fewer downstream examples than a protocol asks for."""
    if not validated and not protocol.validation_examples:
        raise ValueError(f"{name}: validation_examples is 0; learning rates are chosen on validation examples.")
    needed = (protocol.examples or 1) + (0 if validated else protocol.validation_examples)
    # How many examples the rows of a text make shows when they are prepared.
    if get_task(columns.task).rows_are_examples and found < needed:
        raise ValueError(f"{name}: the downstream data have {found} examples, {needed} are asked for.")


class Comparison:
    """One comparison, in steps: prepare, run the jobs of the grid, run the rest, read the result.

    Args:
        arms: As for [`transfer`].
        output_dir: As for [`transfer`].
        train: The downstream training data.
        test: The test data.
        validation: Data to choose learning rates on, or None to draw them from ``train``.
        protocol: As for [`transfer`].
        learning_rates: Grid of peak learning rates.
        one_rate: As for [`transfer`].
        seeds: As for [`transfer`].

    Raises:
        FileNotFoundError: If an arm cannot be found.
        ValueError: If there are too few arms or seeds, or a folder of the comparison is a link.

    Source: ours.
    """

    def __init__(self, arms, output_dir: Path, train, test, validation, protocol: Protocol, learning_rates: list[float],
                 one_rate: Collection[str], seeds: int):  # fmt: skip
        check_arms(arms, seeds, learning_rates)
        for part in COMPARISON_FOLDERS:
            inside(output_dir, part)
        self.folders = {name: resolve_arm(folder, name) for name, folder in arms.items()}
        self.output_dir, self.data = output_dir, {"train": train, "test": test, "validation": validation}
        self.protocol, self.learning_rates, self.seeds = protocol, learning_rates, seeds
        self.one_rate = [name for name in self.folders if name in one_rate]
        self.columns: Columns | None = None
        self.prepared: dict[str, Path] = {}

    @property
    def reference(self) -> str:
        """The first arm."""
        return next(iter(self.folders))

    def prepare(self, cache_dir: Path, columns: Columns, *, image_size=None, max_length=None) -> None:
        """Checks or records the settings, and prepares the data.

        Raises:
            FileNotFoundError: If the metric module cannot be found.
            TrajectoryError: If the folder holds another comparison.
            ValueError: If classes of the parts, or of a head that is kept, do not fit each other.
        """
        folder, task = self.folders[self.reference], get_task(columns.task)
        columns = task.columns_for(columns, folder)
        if not self.protocol.new_head:
            columns = classes_of_kept_heads(self.folders, columns)
        self.columns = columns
        load_metric(self.protocol.metric, task.name, len(columns.class_names))
        parts = {part: data for part, data in self.data.items() if data is not None}
        for part, data in parts.items():
            check_part(data, columns, len(columns.class_names), f"{part} data")
        self.clear()  # what killed runs left; the folder is this run's alone
        settings = {
            "arms": {name: [hash_file(path) for path in Checkpoint(f).files] for name, f in self.folders.items()},
            **{part: describe_dataset(data) for part, data in parts.items()},
            "columns": asdict(columns),
            "protocol": asdict(self.protocol),
            "image_size": image_size,
            "max_length": max_length,
        }
        _same_comparison(self.output_dir / SETTINGS_FILE, settings)
        config = AutoConfig.from_pretrained(base_of(folder))
        if columns.class_names:
            config.num_labels = len(columns.class_names)
        model = SimpleNamespace(config=config)
        for part, data in parts.items():
            self.prepared[part] = prepare(
                data, cache_dir, model, folder, columns, image_size=image_size, max_length=max_length,
                name=f"{part} data",
            )  # fmt: skip

    def grid(self) -> list[FineTuning]:
        """The runs over the grid of learning rates."""
        return self._jobs({arm: self.learning_rates for arm in self.folders if arm not in self.one_rate})

    def rest(self) -> list[FineTuning]:
        """The runs at the rate that the reference chose; those of the grid must be done."""
        if not self.one_rate:
            return []
        return self._jobs(dict.fromkeys(self.one_rate, [self.result().chosen_rates[self.reference]]))

    def clear(self) -> None:
        """Deletes what Trainer wrote while runs lasted."""
        remove(self.output_dir / "scratch")

    def result(self) -> TransferResult:
        """Reads what is done of these arms, rates and seeds: arms without any run are left out."""
        jobs = self._jobs(dict.fromkeys(self.folders, self.learning_rates))
        found = {(job.arm, job.rate, job.seed): job.read() for job in jobs if job.done}
        arms = [name for name in self.folders if any(key[0] == name for key in found)]
        score = score_of(self.protocol.metric, self.columns.task)
        return TransferResult(self.output_dir, arms, self.learning_rates, self.seeds, found, score)

    def _jobs(self, rates: Mapping[str, Sequence[float]]) -> list[FineTuning]:
        return [
            FineTuning(self.output_dir, name, str(self.folders[name]), rate, seed, self.protocol, self.columns,
                       self.prepared)
            for seed in range(self.seeds)
            for name, own in rates.items()
            for rate in own
        ]  # fmt: skip


@bounded()
def resolve_arm(arm: str | Path, name: str) -> Path:
    """Finds the checkpoint folder of the arm of that name, downloading it when it is a Hub id.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
    """
    if Path(arm).is_dir():
        return Path(arm)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(arm), allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"]))
    except Exception as error:  # the client raises many types for one thing: it could not be had
        why = public(error)
        raise FileNotFoundError(
            f"Arm {without_secrets(str(arm))!r}, called {name!r}, is neither a folder nor reachable on the Hub. ({why})"
        ) from error


def _same_comparison(path: Path, settings: dict[str, Any]) -> None:
    """Records the settings, or checks that the folder holds this comparison; more arms, rates and seeds may join."""
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, settings)
        return
    found = read_settings(path)
    check_file_names([*found["arms"], *settings["arms"]], f"{path.parent}: the arms")
    different = [name for name in settings if name != "arms" and found.get(name) != settings[name]]
    different += [f"arm {a}" for a, hashes in settings["arms"].items() if found["arms"].get(a, hashes) != hashes]
    if different:
        raise TrajectoryError(
            f"{path.parent} holds another comparison (different {', '.join(different)}); choose another output_dir."
        )
    write_json(path, {**settings, "arms": {**found["arms"], **settings["arms"]}})
