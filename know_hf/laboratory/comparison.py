"""Runs every arm at every learning rate with every seed, resumably."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from datasets import Dataset

from know_hf.laboratory.arms import Arm, make_arm, make_arms, read_arms
from know_hf.laboratory.asked import ASKED, Asked
from know_hf.laboratory.depending import depends_on
from know_hf.laboratory.fast import goes_fast
from know_hf.laboratory.fine_tuning import FineTuning
from know_hf.laboratory.heads import classes_of_kept_heads
from know_hf.laboratory.joining import joined
from know_hf.laboratory.looking import look_at_arms
from know_hf.laboratory.options import ComparisonOptions, Protocol
from know_hf.laboratory.readers import prepare_for
from know_hf.laboratory.result import SETTINGS_FILE, ComparisonResult, read_settings, twins
from know_hf.laboratory.statistics import require_scipy
from know_hf.laboratory.unseen import check_unseen
from know_hf.records import check_file_names
from know_hf.settings import meant, takes
from know_hf.store import check_output, hash_file, inside, locked, remove, write_json
from know_hf.tasks import Columns, get_task
from know_hf.training.data import check_part, load_evaluation, load_split, open_parts
from know_hf.training.options import DataOptions
from know_hf.training.scoring import make_scoring, score_of
from know_hf.training.tracking import report_scores
from know_hf.training.workers import Workers
from know_hf.trajectory import Checkpoint, TrajectoryError
from know_hf.trajectory.identity import describe_dataset
from know_hf.trajectory.record import FILE_NAME

#: The folders in it that are written to, and deleted.
COMPARISON_FOLDERS = ("runs", "scratch")


@takes(options=ComparisonOptions, about=DataOptions)
def compare(
    arms: Mapping[str, Arm | str | Path],
    dataset: Dataset | str | Path,
    output_dir: str | Path,
    *,
    options: ComparisonOptions,
    about: DataOptions,
    test_dataset: Dataset | str | Path | None = None,
    validation_dataset: Dataset | str | Path | None = None,
    protocol: Protocol | None = None,
    one_rate: Collection[str] = (),
    workers: Workers | None = None,
) -> ComparisonResult:
    """Fine-tunes every arm on downstream data under one protocol, paired over seeds.

    The same seed gives every arm the same examples, head and order; of arms with the same files one is fine-tuned, and
    the others get its results. Every arm gets the same learning rates; its own is
    chosen on validation examples that are not the test set. Killed and called again, it continues.

    Args:
        arms: Name → checkpoint folder or Hub id; the first is the reference. A folder that was predicted says itself
            whether it is a control (``mean``, ``shrink``); of other starts an [`Arm`] may say it.
        dataset: Downstream training data: a ``Dataset``, or the id or folder of one.
        output_dir: Folder of the comparison.
        test_dataset: Test data; by default those of ``dataset``.
        validation_dataset: Data to choose learning rates on; by default drawn from the training data.
        protocol: How to fine-tune; the paper's by default.
        one_rate: Arms that are only run at the learning rate that the reference chose.
        workers: Processes that are there already; by default as many as ``processes`` are started, and ended.

    Returns:
        A [`ComparisonResult`].

    Raises:
        FileExistsError: If the folder is, or lies in, an arm or the data.
        FileNotFoundError: If an arm, the data or a metric module cannot be found.
        ImportError: If scipy is not installed, which computes the intervals.
        TrajectoryError: If the folder holds another comparison, or an arm is damaged.
        ValueError: If there are too few arms, seeds or examples, or a folder of the comparison is a link; or at the end
            if the first arm has a score at no learning rate.

    Source: paper section 5; pairing, grid and controls are ours.

    Example:
        >>> from know_hf.laboratory.comparison import compare
        >>> compare({"naive": "run/stage-0", "KNOWN x2": "run/enriched/x2"}, "user/data", "out")  # doctest: +SKIP
    """
    protocol, folders = protocol or Protocol(), folders_of(arms)
    check_arms(folders, options.seeds, options.learning_rates)
    check_output(output_dir, *folders.values(), *([dataset] if isinstance(dataset, (str, Path)) else []))
    train = load_split(dataset, options.train_split, config=about.dataset_config)
    if test_dataset is None:
        test = load_split(dataset, options.test_split, config=about.dataset_config)
    else:
        test = load_evaluation(test_dataset, usual=options.test_split)
    if test_dataset is None and test is train:
        raise ValueError("Give a test_dataset: a live Dataset has no test split of its own.")
    validation = None if validation_dataset is None else load_evaluation(validation_dataset, usual="validation")
    train, test, validation, columns = check_data(train, test, validation, protocol=protocol, about=about)
    check_unseen(train, test, validation, columns, "The comparison")
    if not (Path(output_dir) / SETTINGS_FILE).exists():  # else another protocol is what has to be said
        check_sizes(columns, len(train), validation is not None, protocol, "The comparison")
    inside(output_dir, "cache")
    data = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    root = Path(output_dir)
    arms = with_controls(_as_recorded(make_arms(arms), root / SETTINGS_FILE), options.controls)
    comparison = Comparison(
        arms, root, data, protocol, list(options.learning_rates), one_rate, options.seeds, options.fast
    )
    with locked(output_dir), Workers(options.processes) if workers is None else nullcontext(workers) as running:
        comparison.prepare(root / "cache", columns, image_size=about.image_size, max_length=about.max_length)
        comparison.run(comparison.grid(), running, "Fine-tuning")
        comparison.run(comparison.rest(), running, "Fine-tuning the rest")
        comparison.clear()
    result = comparison.result()
    if options.report_to:
        report_scores(tracked_scores(result), output_dir, [*options.report_to], run_name=options.run_name)
    return result


def tracked_scores(result: ComparisonResult) -> list[dict[str, float]]:
    """What trackers are told of a comparison: for every seed the test score of each arm at its own learning rate."""
    scores = {f"eval_{arm}/{result.metric}": result.best(arm) for arm in result.arms}
    return [{name: own[seed] for name, own in scores.items()} for seed in range(result.seeds)]


def with_controls(arms: Mapping[str, Arm], controls: Collection[str]) -> dict[str, Arm]:
    """Arms of which those that are named are controls.

    Raises:
        ValueError: If no arm has such a name.
    """
    if unknown := [name for name in controls if name not in arms]:
        raise ValueError(f"controls names {unknown[0]!r}, which no arm is called{meant(unknown[0], arms)}")
    return {name: replace(arm, role="control") if name in controls else arm for name, arm in arms.items()}


def _as_recorded(arms: dict[str, Arm], path: Path) -> dict[str, Arm]:
    """Arms of which a record of a former version, which went by names, says what they are: one folder, one verdict."""
    if not path.exists() or "starts" in (recorded := read_settings(path)):
        return arms
    then = read_arms(path, recorded, "choose another output_dir")
    return {
        name: replace(arm, role=then[name].role) if arm.role == "start" and name in then else arm
        for name, arm in arms.items()
    }


def folders_of(arms: Mapping[str, Arm | str | Path]) -> dict[str, str | Path]:
    """Name → folder or Hub id of the starts of a comparison."""
    return {name: arm.checkpoint if isinstance(arm, Arm) else arm for name, arm in arms.items()}


def check_arms(arms: Mapping[str, str | Path], seeds: int, learning_rates: Sequence[float]) -> None:
    """Raises if there is nothing to compare, or a start is none.

    Args:
        arms: Name → folder or Hub id; a run's folder stands for starts that are yet to be predicted.
        seeds: Number of seeds.
        learning_rates: Grid of peak learning rates.

    Raises:
        FileNotFoundError: If an arm is neither a folder nor reachable on the Hub.
        ImportError: If scipy is not installed, which computes the intervals.
        TrajectoryError: If an arm holds no weights, or damaged ones, or a damaged record of its prediction.
        ValueError: If there are too few arms, seeds or learning rates, or two arms' files would have the same name.
    """
    if len(arms) < 2 or seeds < 2:
        raise ValueError(f"A comparison needs two arms and two seeds or more, found {len(arms)} and {seeds}.")
    require_scipy()
    if not learning_rates or min(learning_rates) <= 0:
        raise ValueError(f"learning_rates is {list(learning_rates)}; give at least one, each above 0.")
    check_file_names(list(arms), "The arms")
    for name, arm in arms.items():
        folder = make_arm(name, arm).checkpoint
        if not (folder / FILE_NAME).exists():
            try:
                Checkpoint(folder).tensors  # noqa: B018 (reads and checks the headers)
            except TrajectoryError as error:
                raise TrajectoryError(f"Arm {name!r}: {error}") from error


def check_data(
    train: Dataset,
    test: Dataset,
    validation: Dataset | None = None,
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
    """
    parts, columns = open_parts(
        {"training data": train, "test data": test, "validation data": validation},
        task=about.task, inputs=about.input_columns, label=about.label_column, drop_incomplete=about.drop_incomplete,
    )  # fmt: skip
    make_scoring(protocol.metric, columns.task, len(columns.class_names))
    if protocol.new_head and get_task(columns.task).labels.matched:  # heads that are kept have classes of their own
        for what, part in parts.items():
            if part is not None:
                check_part(part, columns, len(columns.class_names), what)
    return parts["training data"], parts["test data"], parts["validation data"], columns


def check_sizes(columns: Columns, found: int, validated: bool, protocol: Protocol, name: str) -> None:
    """Raises ``ValueError`` if there are fewer downstream examples than a protocol asks for."""
    if not validated and not protocol.validation_examples:
        raise ValueError(f"{name}: validation_examples is 0; learning rates are chosen on validation examples.")
    needed = (protocol.examples or 1) + (0 if validated else protocol.validation_examples)
    # How many examples the rows of a text make shows when they are prepared.
    if get_task(columns.task).rows_are_examples and found < needed:
        raise ValueError(f"{name}: the downstream data have {found} examples, {needed} are asked for.")


@dataclass
class Comparison:
    """One comparison, in steps: prepare, run the jobs of the grid, run the rest, read the result.

    Args:
        arms: Name → arm, each with its folder; the first is the reference.
        output_dir: As for [`compare`].
        data: ``train``, ``test`` and, unless learning rates are chosen on examples of ``train``, ``validation`` → data.
        protocol: As for [`compare`].
        learning_rates: As for [`compare`].
        one_rate: As for [`compare`].
        seeds: As for [`compare`].
        fast: As for [`compare`].

    Raises:
        FileNotFoundError: If an arm cannot be found.
        ValueError: If there are too few arms or seeds, or a folder of the comparison is a link.
    """

    arms: dict[str, Arm]
    output_dir: Path
    data: dict[str, Dataset]
    protocol: Protocol
    learning_rates: list[float]
    one_rate: Collection[str]
    seeds: int
    fast: bool | None = None
    columns: Columns = field(init=False)
    #: Arm → part → its prepared data.
    prepared: dict[str, dict[str, Path]] = field(init=False)
    image_mean: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # A rate that is named twice is one; in one order, in which the first of equals is chosen, whoever reads them.
        self.learning_rates = sorted(set(map(float, self.learning_rates)))
        self.folders = {name: arm.checkpoint for name, arm in self.arms.items()}
        check_arms(self.folders, self.seeds, self.learning_rates)
        for part in COMPARISON_FOLDERS:
            inside(self.output_dir, part)

    def prepare(
        self,
        cache_dir: Path,
        columns: Columns,
        *,
        image_size: int | None = None,
        max_length: int | None = None,
        image_mean: str | None = None,
    ) -> None:
        """Checks or records the settings, and prepares the data.

        Raises:
            FileNotFoundError: If the metric module cannot be found.
            TrajectoryError: If the folder holds another comparison.
            ValueError: If classes of the parts, or of a head that is kept, do not fit each other, or an arm cannot be
                fine-tuned on the data.
        """
        path = self.output_dir / SETTINGS_FILE
        recorded = read_settings(path) if path.exists() else None
        if recorded is not None and "head_learning_rate" not in recorded["protocol"]:
            # A record of a former version, which trained heads at the arm's own rate.
            self.protocol = replace(self.protocol, head_learning_rate=None)
            recorded["protocol"]["head_learning_rate"] = None
        folder, task = next(iter(self.folders.values())), get_task(columns.task)
        goes_fast(self.fast, task.name)  # raises if it is asked for in vain
        given, columns = columns, task.columns_for(columns, folder)
        if not self.protocol.new_head:
            columns = classes_of_kept_heads(self.folders, columns)
        self.columns = columns
        make_scoring(self.protocol.metric, task.name, len(columns.class_names))
        for part, data in self.data.items():
            check_part(data, columns, len(columns.class_names), f"{part} data")
        self.clear()  # what killed runs left; the folder is this run's alone
        settings = {
            "arms": {name: [hash_file(path) for path in Checkpoint(f).files] for name, f in self.folders.items()},
            "starts": {name: arm.record for name, arm in self.arms.items()},
            **asdict(depends_on(self.folders, self.protocol.metric)),
            **{part: describe_dataset(data) for part, data in self.data.items()},
            "columns": asdict(columns),
            "protocol": asdict(self.protocol),
            "image_size": image_size,
            "max_length": max_length,
            "image_mean": image_mean,
            ASKED: Asked(
                list(self.arms), self.learning_rates, [a for a in self.arms if a in self.one_rate], self.seeds
            ).record,
        }
        self.image_mean = image_mean
        settings = joined(path, recorded, settings)
        self.prepared = prepare_for(
            self.folders, self.data, cache_dir, given, columns, image_size=image_size, max_length=max_length
        )
        look_at_arms(self.folders, self.prepared, columns, self.protocol.new_head)
        write_json(path, settings)  # no arm that cannot be used is recorded as one

    def grid(self) -> list[FineTuning]:
        """The runs over the grid of learning rates."""
        return self._jobs({arm: self.learning_rates for arm in self.arms if arm not in self.one_rate})

    def rest(self) -> list[FineTuning]:
        """The runs at the rate that the reference chose; those of the grid must be done."""
        spared = [arm for arm in self.arms if arm in self.one_rate]
        if not spared:
            return []
        return self._jobs(dict.fromkeys(spared, [self._of_grid().own_rate(next(iter(self.arms)))]))

    def at(self, places: Sequence[tuple[str, float]]) -> list[FineTuning]:
        """The runs of arms at learning rates of their own; of arms with the same weights those of the first."""
        same = twins({name: [hash_file(p) for p in Checkpoint(f).files] for name, f in self.folders.items()})
        rates: dict[str, list[float]] = {}
        for arm, rate in places:
            own = rates.setdefault(same.get(arm, arm), [])
            own += [rate] if rate not in own else []
        return self._jobs(rates)

    def run(self, jobs: Sequence[FineTuning], workers: Workers, description: str) -> None:
        """Runs jobs; of arms with the same weights the first alone is fine-tuned, and the others' results are its."""
        read = {name: [str(path) for path in parts.values()] for name, parts in self.prepared.items()}
        same = twins({name: [*_files_of(folder), *read[name]] for name, folder in self.folders.items()})
        asked = {(job.arm, job.rate, job.seed): job for job in jobs}
        firsts = [asked.get((same.get(job.arm, job.arm), job.rate, job.seed), job) for job in jobs]
        workers.run([job for job, first in zip(jobs, firsts, strict=True) if job is first], description)
        for job, first in zip(jobs, firsts, strict=True):
            if not job.done:
                job.write(first.read())

    def clear(self) -> None:
        """Deletes what Trainer wrote while runs lasted."""
        remove(self.output_dir / "scratch")

    def result(self) -> ComparisonResult:
        """Reads what is done of these arms, rates and seeds: arms without all seeds of any rate are left out.

        Raises:
            ReferenceLostError: If the reference diverged at every learning rate.
        """
        found, rest = self._of_grid(), self.rest()
        done = {**found.fine_tunings, **{(job.arm, job.rate, job.seed): job.read() for job in rest if job.done}}
        whole = replace(found, arms=self.arms, fine_tunings=done)
        return replace(whole, arms={name: arm for name, arm in self.arms.items() if whole.run_at(name)}).settled()

    def _of_grid(self) -> ComparisonResult:
        """What is done of the arms that have a learning rate of their own."""
        done = {(job.arm, job.rate, job.seed): job.read() for job in self.grid() if job.done}
        arms = {name: arm for name, arm in self.arms.items() if name not in self.one_rate}
        score = score_of(self.protocol.metric, self.columns.task)
        return ComparisonResult(self.output_dir, arms, self.learning_rates, self.seeds, done, score)

    def _jobs(self, rates: Mapping[str, Sequence[float]]) -> list[FineTuning]:
        return [
            FineTuning(self.output_dir, name, str(self.folders[name]), rate, seed, self.protocol, self.columns,
                       self.prepared[name], self.image_mean, self.fast)
            for seed in range(self.seeds)
            for name, own in rates.items()
            for rate in own
        ]  # fmt: skip


def _files_of(folder: str | Path) -> list[str]:
    """Hashes of all that a fine-tuning from a folder depends on."""
    described = (Path(folder) / name for name in ("config.json", "adapter_config.json"))
    return [hash_file(path) for path in (*Checkpoint(folder).files, *described) if path.is_file()]
