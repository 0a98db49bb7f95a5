"""Optimizer and learning rate schedule, brought back at the start of every stage to where the first began."""

import copy
import io
import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments

from know_hf.forgetting.options import read_steps
from know_hf.forgetting.stages import steps_an_epoch, training_steps

if TYPE_CHECKING:
    from know_hf.forgetting.arguments import ForgettingArguments

logger = logging.getLogger(__name__)

_PLAIN = (int, float, str, tuple, list, type(None), torch.Tensor)


class Optimization:
    """What a trainer optimizes with, the caller's own or Trainer's, as it is before the first stage.

    Every stage starts from there, whether stages follow one another in one process or are continued in another. Moments
    alone may carry over.

    Args:
        trainer: A Trainer before its first stage.

    Raises:
        ValueError: If what the caller gave cannot be used stage by stage.
    """

    def __init__(self, trainer: Trainer) -> None:
        # Trainer hands these the making of optimizers, each time anew; it takes none from the caller then.
        self.by_plugin = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        self._given, self._scheduler = trainer.optimizer is not None, trainer.lr_scheduler
        if self.by_plugin:
            if self._given or self._scheduler is not None:
                raise ValueError(
                    "optimizers=(…) cannot be started again with every stage under DeepSpeed and FSDP: leave it out "
                    "and set optim and lr_scheduler_type in the training arguments."
                )
            return
        if self._scheduler is not None:
            if getattr(trainer.args, "learning_rate_steps", None):
                raise ValueError(
                    f"learning_rate_steps and the {type(self._scheduler).__name__} given in optimizers=(…) are two "
                    "schedules: leave one of them out."
                )
            self._check_scheduler(trainer)
        if self._given:
            _check_optimizer(trainer)
        else:
            trainer.create_optimizer()
        self._optimizer = trainer.optimizer
        trainer.create_optimizer()
        if trainer.optimizer is not self._optimizer and trainer.args.carry_optimizer:
            raise ValueError(
                f"{type(trainer).__name__}.create_optimizer makes a new optimizer whenever it is called, so that "
                "nothing carries over from stage to stage: let it return self.optimizer when that is not None, or set "
                "carry_optimizer=False."
            )
        self._start = copy.deepcopy(self._optimizer.state_dict())
        self._schedule = copy.deepcopy(self._scheduler.state_dict()) if self._scheduler is not None else None
        scaler = getattr(trainer.accelerator, "scaler", None)
        self._scaling = None if scaler is None else scaler.state_dict()

    def describe(self, trainer: Trainer) -> dict[str, Any]:
        """What the caller gave, as far as it decides the weights, for the record; nothing if all is Trainer's own."""
        described: dict[str, Any] = {}
        if not self.by_plugin and (self._given or trainer.optimizer_cls_and_kwargs is not None):
            groups = [
                {
                    k: repr(v) if isinstance(v, _PLAIN) else type(v).__name__
                    for k, v in {**g, "params": len(g["params"])}.items()
                }
                for g in self._start["param_groups"]
            ]
            described["optimizer"] = {"class": type(self._optimizer).__name__, "groups": groups}
        if self._scheduler is not None:
            described["scheduler"] = type(self._scheduler).__name__
        return described

    def begin_stage(self, trainer: Trainer, keep_moments: bool) -> None:
        """Brings everything back to its start, moments only where they are not kept."""
        if self.by_plugin:
            if not keep_moments:
                trainer.optimizer = None
            return
        trainer.optimizer = self._optimizer
        # In place: reading a state dict back may change the type of moments.
        for group, start in zip(self._optimizer.param_groups, self._start["param_groups"], strict=True):
            parameters = group["params"]
            group.clear()
            group.update({**copy.deepcopy(start), "params": parameters})
        if not keep_moments:
            self._optimizer.state.clear()
            if self._start["state"]:
                self._optimizer.load_state_dict(copy.deepcopy(self._start))
        # Trainer makes one of its own, of the stage's length, where there is none.
        trainer.lr_scheduler = self._scheduler
        if self._scheduler is not None:
            self._scheduler.load_state_dict(copy.deepcopy(self._schedule))
        if self._scaling:
            trainer.accelerator.scaler.load_state_dict(self._scaling)

    def check_lengths(self, args: TrainingArguments, examples: Sequence[int], max_steps: Sequence[int]) -> None:
        """Compares the caller's scheduler, which has one length, with the stages, which have many.

        Args:
            args: The training arguments.
            examples: Examples of each trained stage.
            max_steps: Steps of each stage; -1 where they follow from the examples.

        Raises:
            ValueError: If the scheduler ends before a stage does and says so.
        """
        lengths = zip(examples, max_steps, strict=True)
        steps = [most if most > 0 else training_steps(count, args) for count, most in lengths]
        if self._scheduler is None:
            slow = [i for i, count in enumerate(steps) if count <= args.get_warmup_steps(count)]
            if slow:
                logger.warning(
                    "warmup_steps=%s lasts for all of the %d steps of the shortest stage; a value below 1 is a share "
                    "of every stage.", args.warmup_steps, min(steps),
                )  # fmt: skip
            return
        length = getattr(self._scheduler, "total_steps", None)
        if isinstance(length, int) and length < max(steps):
            raise ValueError(
                f"The {type(self._scheduler).__name__} given in optimizers=(…) ends after {length} steps, but a stage "
                f"takes {max(steps)}: make it at least that long, or leave it out (lr_scheduler_type makes one of "
                "every stage's length)."
            )
        factors = getattr(self._scheduler, "lr_lambdas", [])
        if factors and max(steps) > 1 and all(factor(max(steps) - 1) == 0 for factor in factors):
            logger.warning(
                "The scheduler given in optimizers=(…) comes to a learning rate of 0 before a stage ends, which takes "
                "%d steps.", max(steps),
            )  # fmt: skip
        if len(set(steps)) > 1:
            logger.warning(
                "The scheduler given in optimizers=(…) starts again with every stage, but keeps its length, while the "
                "stages take %s steps; lr_scheduler_type makes one of every stage's length.",
                ", ".join(map(str, steps)),
            )  # fmt: skip

    def _check_scheduler(self, trainer: Trainer) -> None:
        scheduler, optimizer = self._scheduler, trainer.optimizer
        name = type(scheduler).__name__
        if optimizer is None or getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise ValueError(
                f"The {name} given in optimizers=(…) belongs to another optimizer than the one given with it, so that "
                "it would change nothing: pass both, the scheduler made for the optimizer."
            )
        try:
            content = io.BytesIO()
            torch.save(scheduler.state_dict(), content)
            torch.load(io.BytesIO(content.getvalue()), weights_only=True)
            scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))
        except Exception as error:  # whatever a scheduler of the caller's own raises
            why = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"The {name} given in optimizers=(…) cannot be started again with every stage, nor stored in a "
                f"checkpoint ({why}): use lr_scheduler_type, override create_scheduler, or give it state_dict and "
                "load_state_dict of plain values."
            ) from error


def in_steps(scheduler: Any, args: "ForgettingArguments", examples: int) -> Any:
    """Turns Trainer's schedule of constant rates into one of steps, in place, if the arguments ask for that.

    Args:
        scheduler: Of type ``constant``, if there are ``learning_rate_steps``.
        args: The training arguments.
        examples: Of a data set of one epoch.

    Returns:
        The schedule.

    Source: ``lr_schedule`` in the authors' ``1_CIFAR100_Pretraininng.py``, whose epochs count from 0.
    """
    if args.learning_rate_steps is not None:
        steps, epoch = read_steps(args.learning_rate_steps), steps_an_epoch(examples, args)
        beginnings, factors = [epochs * epoch for epochs in steps], [1.0, *steps.values()]
        scheduler.lr_lambdas = [lambda step: factors[bisect_right(beginnings, step)]] * len(scheduler.lr_lambdas)
    return scheduler


def _check_optimizer(trainer: Trainer) -> None:
    name, kind = type(trainer.optimizer).__name__, torch.optim.Optimizer
    within = [value for value in vars(trainer.optimizer).values() if isinstance(value, kind)]
    if within or not isinstance(trainer.optimizer, kind):
        what = f"wraps {type(within[0]).__name__}" if within else "is not a torch.optim.Optimizer"
        raise ValueError(
            f"The {name} given in optimizers=(…) {what}, so that it cannot be started again with every stage: pass a "
            "plain optimizer, or set optim in the training arguments."
        )
    live = {id(parameter) for parameter in trainer.model.parameters()}
    held = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    if foreign := sum(id(parameter) not in live for parameter in held):
        raise ValueError(
            f"{foreign} of the {len(held)} parameters in the optimizer given in optimizers=(…) are not the model's, so "
            "that they would be trained in vain: make the optimizer from the parameters of the model passed with it."
        )
