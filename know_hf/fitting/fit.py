"""Fits the best point of a trajectory's own subspace, through a Trainer's own loss, resumably."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from know_hf.fitting.batches import Batches, calm
from know_hf.fitting.coefficients import SHARE, Coefficients, as_written
from know_hf.fitting.options import Fitting
from know_hf.fitting.subspace import Subspace
from know_hf.forgetting.weights import load_weights
from know_hf.progress import progress_bar
from know_hf.reading import read_fields
from know_hf.records import TrajectoryError
from know_hf.store import hash_file, remove, write_json
from know_hf.trajectory import Trajectory
from know_hf.trajectory.functions import describe_loss
from know_hf.trajectory.identity import as_told, describe_dataset
from know_hf.trajectory.kinds import describe_tensors

#: Most steps of a fit, where nobody says how many.
MOST_STEPS = 150
# Usual rate, and the highest one; in between the way that the coefficients can go is the same for fewer steps.
_RATE, _HIGHEST = 0.02, 0.1
# Steps between two saved states, and steps without a lower mean loss after which a fit ends.
_SAVE_EVERY, _PATIENCE, _SMOOTHING = 10, 50, 0.9
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
# Share of the steps during which the rate rises.
_WARM_UP = 0.1


def fit(
    trainer: Trainer,
    trajectory: Trajectory,
    predicted: Mapping[str, str],
    dataset: Any,
    output: str | Path,
    *,
    fitting: Fitting | None = None,
    keep: int = 1 << 30,
    anew: bool = False,
) -> Coefficients:
    """Fits ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0`` to data, from c = 0; killed and called again, it continues.

    Weights are put together in place; one backward pass gives the gradient of the weights, whose inner products with
    the differences are those of the coefficients. Adam, a rate that rises and falls as a cosine, a penalty on the
    coefficients, and an end as soon as the smoothed loss has not fallen for a while. BatchNorm goes by the batch,
    dropout is off.

    Args:
        trainer: Holds the model that made the stages, on its device; its loss, collator and batch sizes are used. The
            model ends with the weights of Θ^0.
        trajectory: The stages.
        predicted: Name of a tensor → kind, of those that are to be fitted.
        dataset: The examples, with their augmentation if they have any.
        output: File of the coefficients; beside it lies the state of an unfinished fit.
        fitting: How to fit.
        keep: Bytes of stages that may stay in memory; beyond, they are read from the disk at every step.
        anew: Whether to fit again where the file holds another fit, or is damaged.

    Returns:
        The coefficients, as the file holds them.

    Raises:
        TrajectoryError: If the model is not of the trajectory, the loss is not finite, or the file holds another fit.
        ValueError: If there are no examples, or a process holds only a part of the model.

    Source: after Li et al., "Trainable Weight Averaging" (ICLR 2023); signs and scale are ours.

    Example:
        >>> data, kinds = trainer.train_dataset, {"fc.weight": "fc"}  # doctest: +SKIP
        >>> fit(trainer, trainer.trajectory, kinds, data, Path("fitted.json")).furthest  # doctest: +SKIP
    """
    fitting, output = fitting or Fitting(), Path(output)
    if not len(dataset):
        raise ValueError("Fitting needs examples; there are none.")
    steps = planned_steps(trajectory, fitting)
    if fitting.fit_learning_rate is None:
        fitting = replace(fitting, fit_learning_rate=min(_HIGHEST, max(_RATE, _RATE * MOST_STEPS / max(steps, 1))))
    batches = Batches(trainer, dataset, fitting.fit_seed)
    described: dict[str, Any] = {
        "settings": {**asdict(fitting), "fit_steps": steps},
        "dataset": describe_dataset(dataset),
        "stages": [[hash_file(path) for path in checkpoint.files] for checkpoint in trajectory.checkpoints],
        "tensors": describe_tensors(groups := _groups(predicted, fitting)),
        "loss": {**describe_loss(trainer), "batches": [batches.size, batches.count]},
    }
    if output.exists() and (done := _done(output, anew)) is not None:
        told = as_told(done.record, described)
        different = [name for name, value in told.items() if done.record.get(name) != value]
        if not different:
            return done
        if not anew:
            raise TrajectoryError(
                f"{output} holds another fit (different {', '.join(different)}); delete it or choose another folder."
            )
    load_weights(trainer.model, trajectory.checkpoints[0].folder)
    subspace = Subspace(trainer.model, trajectory, groups, keep)
    state = _State(subspace, output.with_suffix(".state.json"), described)
    hidden = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    bar = progress_bar(total=steps, initial=state.step, desc="Fitting", leave=False, disable=hidden)
    calm(subspace.model)
    wanted = {id(parameter) for parameter in subspace.parameters.values()}
    before = [(p, p.requires_grad) for p in subspace.model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        with bar:
            while state.step < steps and not state.settled:
                subspace.put(_free(state.coefficients, fitting))
                loss = _backward(trainer, subspace, batches, state.step)
                slope = _free(
                    trainer.accelerator.reduce(subspace.slopes().to(trainer.args.device), "sum").cpu(), fitting
                )
                state.take(loss, slope, steps, fitting)
                bar.update()
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                if state.step % _SAVE_EVERY == 0 and trainer.is_world_process_zero():
                    state.save()
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
            parameter.grad = None
        load_weights(trainer.model, trajectory.checkpoints[0].folder)
    record = {**described, "steps": state.step, "losses": state.losses, "examples": batches.size * batches.count}
    made = Coefficients(as_written(subspace.table(_free(state.result, fitting))), record)
    if trainer.is_world_process_zero():
        made.save(output)
        remove(state.path)
    trainer.accelerator.wait_for_everyone()
    return Coefficients.load(output)


def _done(output: Path, anew: bool) -> Coefficients | None:
    try:
        return Coefficients.load(output)
    except TrajectoryError:
        if not anew:
            raise
        return None


def planned_steps(trajectory: Trajectory, fitting: Fitting) -> int:
    """How many steps a fit takes at most."""
    if fitting.fit_steps is not None:
        return fitting.fit_steps
    trained = [stage.steps for stage in trajectory.record.stages if stage.steps]
    return min(MOST_STEPS, max(1, math.floor(SHARE * sum(trained)))) if trained else MOST_STEPS


def _groups(predicted: Mapping[str, str], fitting: Fitting) -> dict[str, str]:
    """Name of a tensor → what it shares its coefficients with."""
    if fitting.fit_groups == "kind":
        return dict(predicted)
    if fitting.fit_groups == "layer":
        return {name: name.rpartition(".")[0] for name in predicted}
    return {name: name for name in predicted}


def _free(coefficients: Tensor, fitting: Fitting) -> Tensor:
    """The coefficients, that of Θ^0 itself held at 0 unless it is fitted."""
    if fitting.fit_scale:
        return coefficients
    held = coefficients.clone()
    held[:, -1] = 0
    return held


def _backward(trainer: Trainer, subspace: Subspace, batches: Batches, step: int) -> float:
    """Leaves the gradients of the mean loss of a step in the model, as far as this process made them; its loss."""
    subspace.model.zero_grad(set_to_none=True)
    total = torch.zeros((), device=trainer.args.device, dtype=torch.float64)
    for number, rows in batches.micro_batches(step):
        inputs = batches.make(step, number, rows)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(subspace.model, inputs) / batches.count
        loss.backward()
        total += loss.detach().double()
    return float(trainer.accelerator.reduce(total, "sum"))


class _State:
    """Coefficients, Adam's moments, and how the loss went: all that a fit needs to continue.

    Args:
        subspace: What is fitted.
        path: Where it is kept while the fit lasts.
        described: What the fit is of; a state of another is not continued.
    """

    def __init__(self, subspace: Subspace, path: Path, described: Mapping[str, Any]) -> None:
        self.path, self.described = path, dict(described)
        self.step = 0
        self.losses: list[float] = []
        self.smooth = self.lowest = math.inf
        self.since = 0
        self.coefficients, self.first, self.second, self.best = (subspace.zeros for _ in range(4))
        if path.exists():
            self._continue()

    @property
    def settled(self) -> bool:
        """Whether the loss has not fallen for so long that nothing more is to be had."""
        return self.since >= _PATIENCE

    @property
    def result(self) -> Tensor:
        """The coefficients to take: the last ones, or where the loss rose again those before it did."""
        return self.best if self.settled else self.coefficients

    def take(self, loss: float, slope: Tensor, steps: int, fitting: Fitting) -> None:
        """Takes one step of Adam, and looks whether the weights before it were the best so far.

        Raises:
            TrajectoryError: If loss or slope are not finite.
        """
        if not (math.isfinite(loss) and torch.isfinite(slope).all()):
            raise TrajectoryError(
                f"Fitting went astray: the loss is {loss} after {self.step} steps. Lower fit_learning_rate."
            )
        penalty = fitting.fit_penalty * float(self.coefficients.square().mean())
        slope = slope + 2 * fitting.fit_penalty * self.coefficients / self.coefficients.numel()
        self.losses.append(loss)
        self.smooth = (
            loss + penalty if self.step == 0 else _SMOOTHING * self.smooth + (1 - _SMOOTHING) * (loss + penalty)
        )
        if self.smooth < self.lowest:
            self.lowest, self.since, self.best = self.smooth, 0, self.coefficients.clone()
        else:
            self.since += 1
        self.step += 1
        done = (self.step - 0.5) / steps  # the middle of the step, so that one alone has a rate, too
        rate = (
            (fitting.fit_learning_rate or _RATE)
            * min(1.0, done / _WARM_UP)
            * 0.5
            * (1 + math.cos(math.pi * min(1.0, done)))
        )
        b1, b2 = _BETAS
        self.first = b1 * self.first + (1 - b1) * slope
        self.second = b2 * self.second + (1 - b2) * slope.square()
        step = (self.first / (1 - b1**self.step)) / ((self.second / (1 - b2**self.step)).sqrt() + _EPSILON)
        self.coefficients = self.coefficients - rate * step

    def save(self) -> None:
        """Keeps it, whole or not at all."""
        tensors = {name: getattr(self, name).tolist() for name in _TENSORS}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        write_json(self.path, {"of": self.described, **numbers, **tensors}, indent=None)

    def _continue(self) -> None:
        try:
            found = read_fields(self.path, _FORM)
            tensors = {name: torch.tensor(found[name], dtype=torch.float64) for name in _TENSORS}
        except (OSError, ValueError):  # a state that cannot be read is none
            return
        if found["of"] != self.described or any(own.shape != self.coefficients.shape for own in tensors.values()):
            return
        for name, value in {**{name: found[name] for name in _NUMBERS}, **tensors}.items():
            setattr(self, name, value)


_TENSORS = ("coefficients", "first", "second", "best")
_NUMBERS = ("step", "losses", "smooth", "lowest", "since")
_FORM = {"of": dict, "step": int, "losses": list[float], "smooth": float, "lowest": float, "since": int,
         **dict.fromkeys(_TENSORS, list[list[float]])}  # fmt: skip
