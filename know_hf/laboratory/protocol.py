"""One fine-tuning: new head, head and norms first, then everything; the same for every arm."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from know_hf.forgetting.evaluation import evaluate_all
from know_hf.laboratory.fast import LEAN, FastTrainer, LeanTrainer, fast_settings, goes_fast
from know_hf.laboratory.options import Protocol
from know_hf.laboratory.placed import OnDevice
from know_hf.models.building import load_with_new_head
from know_hf.tasks import Columns, get_task
from know_hf.training.batch_norm import FromBatch, has_batch_norm
from know_hf.training.examples import Examples, as_it_is
from know_hf.training.scoring import make_scoring
from know_hf.training.workers import advance
from know_hf.trajectory import kinds_of


class DivergedError(ValueError):
    """A fine-tuning whose weights or scores are no numbers any more."""


def fine_tune(
    folder: Path,
    pool: Examples,
    test: Examples,
    columns: Columns,
    rate: float,
    seed: int,
    protocol: Protocol,
    scratch: Path,
    validation: Examples | None = None,
    fast: bool | None = None,
) -> dict[str, Any]:
    """Fine-tunes one arm at one learning rate with one seed.

    The seed alone decides examples, head and order: arms with the same seed differ in nothing but their start.

    Args:
        folder: The arm's checkpoint.
        pool: Examples to draw training and validation from.
        test: Examples for the final score.
        columns: Task and classes.
        rate: Peak learning rate.
        seed: Of this repetition.
        protocol: How to fine-tune.
        scratch: Folder that Trainer may write to.
        validation: Examples to choose learning rates on; by default drawn from the pool.
        fast: As for [`Speed`](know_hf.laboratory.options).

    Returns:
        ``test`` and ``validation`` score, ``curve`` of (epoch, validation score), ``seconds`` in all and ``training``
        seconds within training steps.

    Raises:
        DivergedError: If weights or a score are not finite.
        ValueError: If the pool is too small, or the fast path is asked for where there is none.

    Source: paper section 5.2.
    """
    begun = time.perf_counter()
    train, validation = split_pool(pool, seed, protocol, validation)
    set_seed(seed)
    model = load_with_new_head(folder, columns, seed, protocol.new_head)
    if protocol.channels_last:
        model.to(memory_format=torch.channels_last)
    if protocol.renew_batch_norm and has_batch_norm(model):
        order, device = torch.Generator().manual_seed(seed), _device(protocol)
        model.to(device)
        quick = goes_fast(fast, columns.task, device.type == "cpu")
        loader = DataLoader(
            OnDevice(train, device, device.type != "cpu") if quick else train, protocol.batch_size, shuffle=True,
            generator=order, collate_fn=as_it_is, drop_last=len(train) > protocol.batch_size,
        )  # fmt: skip
        update_bn(loader, FromBatch(model))
    train = train.augmented(protocol.augmentation)
    watch, finite = Stopwatch(), StayFinite(f"Fine-tuning at learning rate {rate:g}, seed {seed},")
    if protocol.head_epochs:
        everything = [parameter for parameter in model.parameters() if parameter.requires_grad]
        first = {id(parameter) for parameter in _head_and_norms(model, columns)}
        for parameter in everything:
            parameter.requires_grad = id(parameter) in first
        _train(
            model,
            train,
            columns,
            protocol.head_epochs,
            rate,
            seed,
            protocol,
            scratch,
            [watch, finite],
            fast,
            _of_head(protocol),
        ).train()
        for parameter in everything:
            parameter.requires_grad = True
    curve = _Curve(validation, protocol, finite)
    trainer = _train(
        model, train, columns, protocol.epochs, rate, seed + 1, protocol, scratch, [watch, finite, curve], fast
    )
    curve.trainer = trainer
    trainer.train()
    tested, score = _score(trainer, test), curve.scores[-1][1]
    answers: Any = trainer.preprocess_logits_for_metrics
    if not answers.sound or not np.isfinite([tested, *(value for _, value in curve.scores)]).all():
        raise DivergedError(
            f"{finite.what} ended with scores that are not finite, though its weights are: "
            + ("the metric has no value for its answers." if answers.sound else "its answers are not.")
        )
    return {
        "test": tested,
        "validation": score,
        "curve": curve.scores,
        "seconds": time.perf_counter() - begun,
        "training": watch.seconds,
    }


def split_pool(
    pool: Examples, seed: int, protocol: Protocol, validation: Examples | None = None
) -> tuple[Examples, Examples]:
    """Draws training examples, and validation examples unless they are given; disjoint, decided by the seed.

    Raises:
        ValueError: If the pool is too small.
    """
    held_out, wanted = protocol.validation_examples if validation is None else 0, protocol.examples
    if len(pool) < held_out + (wanted or 1):
        raise ValueError(
            f"The downstream data have {len(pool)} training examples; {held_out} for validation and "
            f"{wanted or 'at least 1'} to train on were asked for."
        )
    order = np.random.default_rng(seed).permutation(len(pool))
    stop = None if wanted is None else held_out + wanted
    return pool.select(order[held_out:stop]), pool.select(order[:held_out]) if validation is None else validation


def _head_and_norms(model: nn.Module, columns: Columns) -> list[nn.Parameter]:
    head = list(get_task(columns.task).head(model, len(columns.class_names)).parameters())
    kinds = kinds_of(model)
    return head + [p for name, p in model.named_parameters() if name in kinds and kinds[name].kind == "norm"]


def _of_head(protocol: Protocol) -> dict[str, Any]:
    """Training arguments of the epochs with head and norms alone."""
    if protocol.head_learning_rate is None:
        return {}
    return {"learning_rate": protocol.head_learning_rate, "lr_scheduler_type": "constant"}


def _train(
    model: PreTrainedModel,
    train: Examples,
    columns: Columns,
    epochs: float,
    rate: float,
    seed: int,
    protocol: Protocol,
    scratch: Path,
    callbacks: Sequence[TrainerCallback],
    fast: bool | None = None,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    task, stated = get_task(columns.task), dict(protocol.training_arguments)
    quick = goes_fast(fast, task.name, _device(protocol).type == "cpu")
    args = TrainingArguments(
        str(scratch),
        **{
            "num_train_epochs": epochs,
            "learning_rate": rate,
            "lr_scheduler_type": "cosine",
            "per_device_train_batch_size": protocol.batch_size,
            "per_device_eval_batch_size": task.eval_batch_size(protocol.batch_size),
            "dataloader_drop_last": len(train) > protocol.batch_size,
            "dataloader_pin_memory": torch.accelerator.is_available(),
            "use_cpu": not torch.accelerator.is_available(),
            "seed": seed,
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            **LEAN,
            **(fast_settings(stated) if quick else {}),
            **stated,
            **own,
        },
    )
    trainer = (FastTrainer if quick else LeanTrainer)(
        model=model,
        args=args,
        train_dataset=train,
        data_collator=as_it_is,
        compute_metrics=make_scoring(protocol.metric, task.name, len(columns.class_names)),
        preprocess_logits_for_metrics=Answers(task.keep),
        callbacks=[*callbacks, Advance(), Vary(train, lambda: args.seed)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _device(protocol: Protocol) -> torch.device:
    """Where a fine-tuning runs."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if device is None or dict(protocol.training_arguments).get("use_cpu") else device


def _score(trainer: Trainer, examples: Examples) -> float:
    return float(evaluate_all(trainer, examples)["eval_score"])


class Answers:
    """Notes whether what a model answers are numbers: of answers that are none a classifier's score would not tell.

    Args:
        keep: What is kept of them for the score; None for all of it.
    """

    def __init__(self, keep: Callable[[Any, Tensor], Tensor] | None) -> None:
        self.keep = keep
        self._sound: Tensor | None = None

    def __call__(self, logits: Any, labels: Any) -> Any:
        for values in tensors_of(logits):
            sound = (values < math.inf).all()  # minus infinity is what excluded answers have
            self._sound = sound if self._sound is None else self._sound & sound
        return logits if self.keep is None else self.keep(logits, labels)

    @property
    def sound(self) -> bool:
        """Whether all that were looked at are; waits for the device."""
        return self._sound is None or bool(self._sound)


def tensors_of(values: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors_of(value)


class Advance(TrainerCallback):
    """Tells [`Workers`](know_hf.training.workers) of every step how many examples it took."""

    def on_step_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        advance(args.train_batch_size * args.gradient_accumulation_steps)


class Vary(TrainerCallback):
    """Tells examples by which seed and epoch they vary, so that a continued epoch goes on as it would have.

    Args:
        examples: The examples of a training.
        seed: Gives the seed of the training that begins.
    """

    def __init__(self, examples: Examples, seed: Callable[[], int]) -> None:
        self.examples, self.seed = examples, seed

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        if self.examples.augmentation is not None and args.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers keeps copies of the examples, which would be varied alike in every "
                "epoch: leave it out."
            )

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.examples.vary(self.seed(), int(state.epoch or 0))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.examples.vary(None)


class Stopwatch(TrainerCallback):
    """Seconds between the beginning and end of training steps."""

    def __init__(self) -> None:
        self.seconds, self._begun = 0.0, 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self._begun


class StayFinite(TrainerCallback):
    """Ends a training whose weights are no numbers any more, of which a classifier's scores would not tell.

    Args:
        what: The training, for the message.

    Raises:
        DivergedError: At the end, and before every score on the way.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._infinite: set[str] = set()

    def on_train_begin(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self._infinite = _infinite(model)  # masks of attention, for one, which have to be

    def on_train_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.check(model)

    def check(self, model: nn.Module) -> None:
        """Raises if weights, or statistics of normalisation, are not finite."""
        if found := sorted(_infinite(model) - self._infinite):
            raise DivergedError(f"{self.what} diverged: values of {found[0]} are not finite.")


def _infinite(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers with values that are not finite."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    named = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
    if not named:
        return set()
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in named.values()]).tolist()  # waits once
    return {name for name, sound in zip(named, finite, strict=True) if not sound}


class _Curve(TrainerCallback):
    """Scores the validation examples at evenly spread steps, the last one included."""

    trainer: Trainer

    def __init__(self, validation: Examples, protocol: Protocol, finite: StayFinite):
        self.validation, self.points, self.finite = validation, protocol.evaluations, finite
        self.scores: list[tuple[float, float]] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        due = [round(state.max_steps * (i + 1) / self.points) for i in range(self.points)]
        if state.global_step in due:
            self.finite.check(self.trainer.model)  # metrics raise for answers that are no numbers
            generator = copy.deepcopy(torch.get_rng_state())
            self.scores.append((round(state.epoch, 4), _score(self.trainer, self.validation)))
            torch.set_rng_state(generator)
            self.trainer.model.train()
