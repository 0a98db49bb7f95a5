"""Meta-training: KNOWN learns to undo the forgetting of many small networks."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from know_hf.hub.cards import predictor_card
from know_hf.known import KnownConfig, KnownPredictor
from know_hf.known.inference import FoldedNetwork
from know_hf.known.networks import ScaledLinear
from know_hf.known.threads import one_thread
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.evaluation import compare_errors, error_tables
from know_hf.meta.experimental.functional import FunctionalTraining
from know_hf.meta.experimental.variants import relative_errors
from know_hf.meta.options import MetaTrainingOptions, MetaTrainingSettings
from know_hf.meta.progress import Progress, has_ended, read_state
from know_hf.meta.samples import Batch, Samples, Split, split_trials, windows_of
from know_hf.records import read_record
from know_hf.settings import takes
from know_hf.store import (
    as_os_error,
    check_output,
    hash_file,
    inside,
    locked,
    partial_name,
    remove,
    write_json,
    write_text,
    writing,
)
from know_hf.training.checks import check_splits
from know_hf.training.workers import Workers, advance
from know_hf.trajectory import TrajectoryError

RESULT = "meta_training.json"
#: Rows that an epoch is judged by, the same in every epoch.
JUDGED_ROWS = 500_000
#: Values of a kind below which there is nothing to learn from.
FEWEST_VALUES = 100


@takes(options=MetaTrainingOptions)
def meta_train(
    meta: MetaDataSet | str | Path,
    output_dir: str | Path,
    *,
    config: KnownConfig | None = None,
    settings: MetaTrainingSettings | None = None,
    options: MetaTrainingOptions,
) -> dict[str, Any]:
    """Trains one network a kind, and leaves a folder that ``KnownPredictor.from_pretrained`` loads.

    The epoch that does best on trials with either an unseen network family or unseen data is kept; the report is on
    trials where both are unseen. Stopped and called again, it continues with the next epoch and gives the same, with
    any number of processes.

    Args:
        meta: A [`MetaDataSet`] or its folder.
        output_dir: Folder of the predictor.
        config: Sizes of the predictor and what it reads; ``history_length`` 2 to 6.
        settings: How to train.

    Returns:
        What ``meta_training.json`` in the folder holds: settings, split, and the errors on the report's trials, of the
        predictor and of all methods (see [`compare_errors`]).

    Raises:
        FileExistsError: If the folder is another model's, or is or lies in one of the inputs.
        TrajectoryError: If the meta-data or the progress are damaged, or the folder holds another training.
        ValueError: If nothing is left to train on, choose by or report on, or too little, or a folder of the training
            is a link.

    Source: paper section 5.1.

    Example:
        >>> from know_hf.meta.training import meta_train
        >>> meta_train("meta", "predictor")["errors"]  # doctest: +SKIP
    """
    meta = meta if isinstance(meta, MetaDataSet) else MetaDataSet(meta)
    config, settings, output_dir = config or KnownConfig(), settings or MetaTrainingSettings(), Path(output_dir)
    windows_of(settings.target, config)
    if settings.functional.epochs and not options.data:
        raise ValueError("The functional objective runs networks on images: name the data sets of the trials (data).")
    for source in options.data:
        check_splits(str(source), "train")
    split = split_trials(
        meta, options.held_out_architectures, options.held_out_data, branched=settings.target != "stage"
    )
    held_out = {"architectures": list(options.held_out_architectures), "data": list(options.held_out_data)}
    described = _describe(meta, config, settings, split, held_out)
    check_output(output_dir, meta.folder, *options.data)
    work = inside(output_dir, "training")
    for part in ("cache", "predictor"):
        inside(work, part)
    if (output_dir / "config.json").exists() and not (work / "settings.json").exists():
        raise FileExistsError(f"{output_dir} is another model's folder; choose another output_dir.")
    with locked(output_dir):
        _same_training(work / "settings.json", described)
        jobs = [KindTraining(kind, meta.folder, split, config, settings, work) for kind in config.kinds]
        with Workers(min(options.processes, len(jobs))) as workers:
            workers.run(jobs, "Meta-training")
        predictor = _initial(config, settings.seed)
        for job in jobs:
            job.load_best(predictor.network(job.kind))
        if settings.functional.epochs:
            predictor.to(training_device())
            with one_thread():
                FunctionalTraining(predictor, meta, split, options.data, settings.functional, settings.seed, work).run()
        predictor = predictor.cpu()
        with _stored(predictor, work / "predictor") as files:
            result: dict[str, Any] = {
                **described,
                **{name: digest_of(described[name]) for name in ("data", "branches") if name in described},
                "weights": hash_file(files["model.safetensors"]),
                "epochs": {job.kind: job.state for job in jobs},
                "errors": compare_errors(meta, split.report, {"known": predictor.eval()}),
            }
            _publish(output_dir, files, result, predictor)
    return result


def _describe(
    meta: MetaDataSet, config: KnownConfig, settings: MetaTrainingSettings, split: Split, held_out: dict[str, list[str]]
) -> dict[str, Any]:
    """What identifies a training, as plain data: a training that continues has to be described alike."""
    names = {name for part in asdict(split).values() for name in part}
    described = {
        "config": {name: getattr(config, name) for name in _SIZES},
        "settings": asdict(settings),
        "split": asdict(split),
        "held_out": held_out,
        "data": {note["name"]: note["sha256"] for note in meta.trials if note["name"] in names},
    }
    if settings.target != "stage":
        described["branches"] = {name: note["sha256"] for name, note in meta.branches.items() if name in names}
    return described


def _publish(output_dir: Path, files: dict[str, Path], result: dict[str, Any], predictor: KnownPredictor) -> None:
    """Writes record and card beside a stored predictor's files."""
    size = sum(parameter.numel() for parameter in predictor.network(predictor.config.kinds[0]).parameters())
    write_json(output_dir / RESULT, result, indent=None)
    write_text(output_dir / "README.md", predictor_card(result, size, error_tables(result["errors"])))
    # The configuration last: without it the folder is no predictor.
    for name in sorted(files, key=lambda name: name == "config.json"):
        with writing(output_dir / name) as beside:
            shutil.copyfile(files[name], beside)


def digest_of(hashes: dict[str, str]) -> dict[str, Any]:
    """Stands for the hashes of many files, name → SHA-256: how many they are, and the SHA-256 of their list."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return {"files": len(hashes), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


@contextmanager
def _stored(predictor: KnownPredictor, folder: Path) -> Iterator[dict[str, Path]]:
    """Stores a predictor beside a folder's name, for the time of the block: name → file."""
    beside = partial_name(folder)
    remove(beside)
    try:
        predictor.save_pretrained(beside)
    except SafetensorError as error:
        raise as_os_error(error, beside) from error
    yield {path.name: path for path in sorted(beside.iterdir())}
    remove(beside)


_SIZES = (
    "history_length", "hidden_size", "bottleneck_size", "output_size", "negative_slope", "kinds", "inputs",
    "conditions",
)  # fmt: skip


@dataclass(frozen=True)
class KindTraining:
    """The training of one kind's network, for [`Workers`](know_hf.training.workers)."""

    kind: str
    meta: Path
    split: Split
    config: KnownConfig
    settings: MetaTrainingSettings
    work: Path

    #: A kind builds on nothing.
    ready = True

    @property
    def cost(self) -> float:
        """Rows to train on, at most."""
        return self.settings.epochs * self.settings.rows

    @property
    def done(self) -> bool:
        """Whether it was trained to its end."""
        state = read_state(self.work, self.kind)
        return state is not None and has_ended(state, self.settings.epochs, self.settings.patience)

    @property
    def state(self) -> dict[str, Any]:
        """What came of every epoch: ``history`` of training loss and choice score, ``best_epoch``, and ``best``."""
        state = read_state(self.work, self.kind) or {}
        return {name: value for name, value in state.items() if name != "files"}

    def load_best(self, network: nn.Module) -> None:
        """Puts the best epoch's weights into a network of this kind."""
        self._progress(network).load_best()

    def run(self) -> None:
        """Trains to the end, or until nothing gets better.

        Raises:
            TrajectoryError: If the meta-data or the progress are damaged.
            ValueError: If there are too few values of the kind.
        """
        with one_thread():  # tiny products gain nothing from more, and the sums stay the same everywhere
            device = training_device()
            network = _initial(self.config, self.settings.seed).network(self.kind).to(device)
            progress, meta = self._progress(network), MetaDataSet(self.meta)
            train, choice = (
                Samples(meta, names, self.kind, self.config, self.settings.target, device)
                for names in (self.split.train, self.split.choice)
            )
            if (count := len(train.values)) < FEWEST_VALUES:
                raise ValueError(
                    f"The {len(self.split.train)} trials to train on hold {count} values of kind {self.kind}; at "
                    f"least {FEWEST_VALUES} are needed: collect more trials."
                )
            judged = choice.draw(min(self.settings.rows, JUDGED_ROWS), torch.Generator(device).manual_seed(1))
            while not progress.ended:
                progress.finish_epoch(self._epoch(network, progress, train), self._score(network, judged))

    def _progress(self, network: nn.Module) -> Progress:
        settings = self.settings
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
        return Progress(self.work, self.kind, network, optimizer, settings.epochs, settings.patience)

    def _epoch(self, network: nn.Module, progress: Progress, train: Samples) -> float:
        settings, epoch, optimizer = self.settings, progress.epoch, progress.optimizer
        # Each epoch draws its own numbers, so that one that is repeated draws the same.
        generator = torch.Generator(train.device).manual_seed(1_000_003 * (settings.seed + 1) + epoch)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        total = torch.zeros((), device=train.device)
        for batch in train.batches(settings.rows, settings.batch_size, generator):
            loss = self._errors(batch, batch.history[-1] + residuals(network, batch)).mean()
            objective = loss + penalty(network, settings)
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            total += loss.detach() * len(batch.target)
            advance(len(batch.target))
        return total.item() / settings.rows

    def _errors(self, batch: Batch, predicted: Tensor) -> Tensor:
        """Every row's distance between what is predicted ``(n,)`` and the target, in the objective's unit."""
        errors = (predicted - batch.target).abs()
        return errors if self.settings.objective == "absolute" else relative_errors(errors, batch.distance)

    @torch.no_grad()
    def _score(self, network: nn.Module, judged: Batch) -> float:
        """The objective over the judged rows, as a share of its value where nothing is predicted."""
        error = distance = 0.0
        for start in range(0, len(judged.target), 65_536):
            part = judged[start : start + 65_536]
            error += self._errors(part, part.history[-1] + residuals(network, part)).sum().item()
            distance += self._errors(part, part.history[-1]).sum().item()
        return error / max(distance, 1e-30)


def penalty(network: nn.Module, settings: MetaTrainingSettings) -> Tensor | float:
    """L1 penalties on the first and the last layer of each stream; 0 for a network that has none such."""
    layers = [module for module in network.modules() if isinstance(module, ScaledLinear)]
    if not layers:
        return 0.0
    kernels = torch.cat([layer.weight.flatten() for layer in layers]).abs().sum()
    biases = torch.cat([layer.bias for layer in layers]).abs().sum()
    return settings.kernel_penalty * kernels + settings.bias_penalty * biases


def residuals(network: nn.Module, batch: Batch) -> Tensor:
    """Residuals of a batch, ``(n,)``, differentiable; the paper's network in its folded form."""
    if batch.statistics is None:
        return FoldedNetwork.of(network).residual(batch.history)
    return network(batch.history.T, batch.statistics)


def training_device() -> torch.device:
    """The accelerator, where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def _initial(config: KnownConfig, seed: int) -> KnownPredictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KnownPredictor(config)


def _same_training(path: Path, described: dict[str, Any]) -> None:
    described = json.loads(json.dumps(described))
    if path.exists():
        recorded = read_record(path, {}, "choose another output_dir")
        if different := [name for name in described if recorded.get(name) != described[name]]:
            raise TrajectoryError(
                f"{path.parent.parent} holds another training (different {', '.join(different)}); choose another "
                "output_dir."
            )
        return
    write_json(path, described)
