"""One trial: a small network trained, then forgetting through seven stages, with settings drawn from a seed."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import nn
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.known.threads import one_thread
from know_hf.laboratory.protocol import Advance
from know_hf.meta.networks import NETWORKS
from know_hf.meta.options import CONVERGED_EPOCHS, LARGE_EXAMPLES, CollectionOptions
from know_hf.meta.shards import is_noted, write_shard
from know_hf.records import check_fields, read_record
from know_hf.sharing import done_with, turn
from know_hf.store import inside, write_json
from know_hf.tasks import get_task
from know_hf.training.examples import Examples, as_it_is
from know_hf.training.options import Augmentation
from know_hf.training.prepared import open_examples
from know_hf.training.scoring import make_scoring
from know_hf.training.workers import Job
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.identity import versions

#: Stages of a trial: five to read and one further step to each side.
STAGES = 7
#: What a trial's Θ^0 is: briefly trained, trained until it had converged, or a wider network on more data.
SHORT, CONVERGED, LARGE = REGIMES = ("short", "converged", "large")
#: Examples that the smallest subset holds at least; it bounds the ratio from below.
_FEWEST = 2


@dataclass(frozen=True)
class Trial:
    """Settings of one trial.

    Args:
        seed: What everything else was drawn from; its name, too.
        architecture: One of ``NETWORKS``.
        width: Scales the network.
        data_set: Name of the data.
        examples: Number of training examples of stage 0.
        sampling_ratio: Ratio of successive stages' data.
        learning_rate: Peak learning rate.
        batch_size: Examples a step.
        epochs: Epochs of every stage.
        optimizer: ``adamw_torch`` or ``sgd``.
        schedule: ``constant`` or ``cosine``.
        regime: One of ``REGIMES``.
        augmented: Whether the images were varied at random, as the paper does.

    Source: paper section 5.1; the ranges suit smaller networks.
    """

    seed: int
    architecture: str
    width: int
    data_set: str
    examples: int
    sampling_ratio: float
    learning_rate: float
    batch_size: int
    epochs: int
    optimizer: str
    schedule: str
    regime: str = SHORT
    augmented: bool = False

    @property
    def name(self) -> str:
        """Name of the trial's files."""
        return _name(self.seed)


def _name(seed: int) -> str:
    return f"trial-{seed:06d}"


def draw_trial(seed: int, data_sets: Sequence[str], options: CollectionOptions | None = None) -> Trial:
    """Draws a trial's settings; its seed and the options decide them.

    Args:
        seed: The trial's number. Successive seeds go through all pairs of network and data set in turn, and the share
            of converged trials is the same for every pair.
        data_sets: Names of the data.
        options: Ranges, shares and networks.

    Returns:
        The settings.

    Source: paper section 5.1 (random ratio, learning rate and batch size) and its released sample (ratios from 0.3 to
    0.9).

    Example:
        >>> from know_hf.meta.trials import draw_trial
        >>> draw_trial(0, ["mnist"]).architecture
        'cnn'
    """
    options = options or CollectionOptions()
    architectures = list(options.architectures or NETWORKS)
    random = np.random.default_rng(seed)
    regime = _regime(seed // (len(architectures) * len(data_sets)), options, random)
    optimizer = str(random.choice(["adamw_torch", "sgd"], p=[0.8, 0.2]))
    # Nothing converges at the smallest rates in so few steps.
    lowest_rate = 5e-4 if regime == CONVERGED else 1e-4
    rate = math.exp(random.uniform(math.log(lowest_rate), math.log(4e-3)))
    schedule = str(random.choice(["constant", "cosine"]))
    few, epochs = _lower_third(options.examples), options.epochs
    examples = int(random.integers(*(few if regime == CONVERGED else options.examples), endpoint=True))
    examples *= LARGE_EXAMPLES if regime == LARGE else 1
    stage_epochs = int(random.integers(*(_lower_third(epochs) if regime == LARGE else epochs), endpoint=True))
    lowest_ratio = max(0.3, (_FEWEST / examples) ** (1 / (STAGES - 1)))
    return Trial(
        seed=seed,
        architecture=architectures[seed % len(architectures)],
        width=int(random.integers(*_WIDTHS[regime], endpoint=True)),
        data_set=data_sets[seed // len(architectures) % len(data_sets)],
        examples=examples,
        sampling_ratio=round(float(random.uniform(lowest_ratio, max(0.9, lowest_ratio))), 4),
        learning_rate=float(f"{rate * (10 if optimizer == 'sgd' else 1):.4g}"),
        batch_size=int(random.choice([32, 64, 128])),
        epochs=stage_epochs * (CONVERGED_EPOCHS if regime == CONVERGED else 1),
        optimizer=optimizer,
        schedule="cosine" if regime == CONVERGED else schedule,
        regime=regime,
        augmented=bool(random.random() < options.augmented),
    )


# Widths, ends included; of converged trials narrow ones, which so many epochs can be afforded for.
_WIDTHS = {SHORT: (8, 20), CONVERGED: (8, 14), LARGE: (24, 40)}


def _regime(turn: int, options: CollectionOptions, random: np.random.Generator) -> str:
    """Of every pair of network and data the same share converges: its turns are spread evenly over them."""
    large = random.random() < options.large
    if int((turn + 1) * options.converged) > int(turn * options.converged):
        return CONVERGED
    return LARGE if large else SHORT


def _lower_third(limits: tuple[int, int]) -> tuple[int, int]:
    return limits[0], limits[0] + (limits[1] - limits[0]) // 3


class Run(Job, Interface):
    """A job of a collection, which other machines may take up as well: a shard is made, and then a note of it."""

    @property
    def note(self) -> Path:
        """The file that says what became of it; it is written last."""
        ...

    @property
    def shard(self) -> Path:
        """The file of its tensors."""
        ...

    @property
    def work(self) -> Path:
        """The folder that it runs in."""
        ...

    def check(self) -> None:
        """Raises if something else was made under its name."""
        ...

    def make(self, work: Path) -> None:
        """Makes shard and note, in a folder that no one else uses now."""
        ...


@dataclass(frozen=True)
class TrialRun:
    """A trial to run into a folder of meta-data, for [`Workers`](know_hf.training.workers)."""

    trial: Trial
    folder: Path
    train: Path
    test: Path

    @property
    def note(self) -> Path:
        """The file that says what became of the trial; it is written last."""
        return self.folder / "trials" / f"{self.trial.name}.json"

    @property
    def done(self) -> bool:
        """Whether the trial ended, well or diverged, and what it made is there, undamaged."""
        return self.note.exists() and is_noted(self.shard, read_note(self.note))

    @property
    def shard(self) -> Path:
        """The file of the trial's tensors."""
        return self.folder / "data" / f"{self.trial.name}.parquet"

    def check(self) -> None:
        """Raises if a trial of that seed is there that was drawn otherwise.

        Raises:
            TrajectoryError: If it is, or its note is damaged.
            ValueError: If its work folder is a link.
        """
        inside(self.folder, self.work.relative_to(self.folder))
        if self.note.exists() and (settings := read_note(self.note)["settings"]) != asdict(self.trial):
            different = [name for name, value in asdict(self.trial).items() if settings.get(name) != value]
            raise TrajectoryError(
                f"{self.folder} holds another {self.trial.name} (different {', '.join(different)}): take the same "
                "data, networks and ranges, or another folder."
            )

    #: A trial builds on nothing.
    ready = True

    @property
    def cost(self) -> float:
        """Examples to train on, in all."""
        r = self.trial.sampling_ratio
        return self.trial.examples * self.trial.epochs * (1 - r**STAGES) / (1 - r)

    @property
    def work(self) -> Path:
        """The folder that it runs in."""
        return self.folder / "work" / self.trial.name

    def parts(self) -> tuple[nn.Module, Examples, Examples]:
        """The network with its initial values, its training data D^0, and the test data.

        Raises:
            ValueError: If there are fewer images than the trial needs.
        """
        trial, train = self.trial, open_examples(self.train)
        if len(train) < trial.examples:
            raise ValueError(
                f"{trial.name} needs {trial.examples} examples of {trial.data_set}, there are {len(train)}."
            )
        set_seed(trial.seed)
        rows = np.random.default_rng(trial.seed).permutation(len(train))[: trial.examples]
        model = NETWORKS[trial.architecture](train.inputs["pixel_values"].shape[1], trial.width)
        train = train.select(rows).augmented(Augmentation() if trial.augmented else None)
        return model, train, open_examples(self.test)

    def arguments(self, work: Path, **changed: Any) -> ForgettingArguments:
        """Training arguments for a work folder, the trial's own but for ``changed``."""
        trial, accelerator = self.trial, torch.accelerator.is_available()
        settings: dict[str, Any] = dict(
            num_stages=STAGES, sampling_ratio=trial.sampling_ratio, train_stage_zero=True, seed=trial.seed,
            subset_seed=trial.seed, num_train_epochs=trial.epochs, per_device_train_batch_size=trial.batch_size,
            per_device_eval_batch_size=get_task("image-classification").eval_batch_size(trial.batch_size),
            learning_rate=trial.learning_rate, lr_scheduler_type=trial.schedule,
            optim=trial.optimizer, save_strategy="no", logging_strategy="no", disable_tqdm=True,
            remove_unused_columns=False, dataloader_pin_memory=accelerator, use_cpu=not accelerator,
        )  # fmt: skip
        return ForgettingArguments(str(work), **{**settings, **changed})

    def run(self) -> None:
        """Forgets, and keeps every tensor's stages; a trial that diverges is noted and left out.

        Where another machine has the same trial in hand, it is waited for, not done twice.
        """
        make_in_turn(self)

    def make(self, work: Path) -> None:
        """Runs it in a folder that no one else uses now."""
        trial = self.trial
        begun = time.perf_counter()
        model, train, test = self.parts()
        trainer = ForgettingTrainer(
            model=model, args=self.arguments(work), train_dataset=train, eval_dataset=test, data_collator=as_it_is,
            compute_metrics=make_scoring("accuracy"), callbacks=[Advance()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.keep_start = "never"  # it is drawn from the seed
        content: dict[str, Any] = {"settings": asdict(trial), "versions": versions()}
        try:
            with one_thread():  # sums must come out alike, whatever process a trial runs in
                trainer.train()
        except TrajectoryError as error:
            if "diverged" not in str(error):
                raise
            content["diverged"] = str(error)
        else:
            trajectory = Trajectory.load(work)
            content["scores"] = [stage.metrics["eval_score"] for stage in trajectory.record.stages]
            content["parameters"] = trajectory.record.model["parameters"]
            content["sha256"] = write_shard(self.shard, trial, trajectory)
        # Beside the note, so that two runs with one seed give the same bytes.
        seconds = {"seconds": time.perf_counter() - begun}
        write_json(self.folder / "times" / f"{trial.name}.json", seconds, indent=None, shared=True)
        write_json(self.note, content, shared=True)


def make_in_turn(run: Run) -> None:
    """Makes what no other machine has in hand, or waits and looks whether that made it; its work folder goes."""
    with turn(run.work.with_name(f"{run.work.name}.lock")):
        run.check()
        if not run.done:
            run.make(run.work)
        clear(run.work)


def clear(work: Path) -> None:
    """Deletes the work folder of something that is made, and the lock file beside it."""
    shutil.rmtree(work, ignore_errors=True)  # who made it may be deleting it as well
    done_with(work.with_name(f"{work.name}.lock"))


_REMEDY = "delete it and run `know-hf collect` again, which makes it anew"


def read_note(path: Path) -> dict[str, Any]:
    """Reads what became of a trial.

    Returns:
        ``settings``, and either ``diverged`` or ``scores``, ``parameters`` and ``sha256`` of the file.

    Raises:
        TrajectoryError: If it is damaged, or of a trial that cannot be.
    """
    note = read_record(path, {"settings": dict}, _REMEDY)
    known = {field.name: field for field in fields(Trial)}
    usual = {name: field.default for name, field in known.items() if field.default is not MISSING}
    # Notes of former versions lack what came later.
    note["settings"] = settings = {**usual, **note["settings"]}
    check_fields(path, settings, {name: field.type for name, field in known.items()}, _REMEDY)
    ended = {"diverged": str} if "diverged" in note else {"scores": list[float], "parameters": int, "sha256": str}
    check_fields(path, note, ended, _REMEDY)
    network = settings["architecture"]
    if network not in NETWORKS:
        raise TrajectoryError(
            f"{path}: network {network[:60]!r} is not known; upgrade know-hf, or leave the trial out."
        )
    # Wider ones were never drawn; what is built here must not fill the memory.
    sound = 1 <= settings["width"] <= 256 and 0 < settings["sampling_ratio"] < 1 and settings["seed"] >= 0
    sound = sound and 0 < settings["learning_rate"] < math.inf and _name(settings["seed"]) == path.stem
    sound = sound and settings["regime"] in REGIMES
    if not sound or len(note.get("scores", range(STAGES))) != STAGES:
        raise TrajectoryError(f"{path} is damaged: there is no such trial; {_REMEDY}.")
    return note
