"""Fits the best point of a trajectory's own subspace, through a Trainer's own loss, resumably."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from know_hf.fitting.batches import Batches, calm
from know_hf.fitting.coefficients import Coefficients, as_written
from know_hf.fitting.options import Fitting
from know_hf.fitting.subspace import Subspace
from know_hf.forgetting.weights import load_weights
from know_hf.progress import progress_bar
from know_hf.reading import read_fields
from know_hf.records import TrajectoryError
from know_hf.store import remove, write_json
from know_hf.trajectory import Trajectory
from know_hf.trajectory.identity import describe_dataset

#: Most steps of a fit, and the share of the forgetting's steps that it takes at most, where nobody says how many.
MOST_STEPS, SHARE = 150, 0.1
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
    output: Path,
    *,
    fitting: Fitting | None = None,
    keep: int = 1 << 30,
) -> Coefficients:
    """Fits ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0`` to data, from c = 0; killed and called again, it continues.

    Weights are put together in place; one backward pass gives the gradient of the weights, whose inner products with
    the differences are those of the coefficients. Adam, a rate that rises and falls as a cosine, a penalty on the
    coefficients, and an end as soon as the smoothed loss has not fallen for a while. BatchNorm goes by the batch, dropout is off.

    Args:
        trainer: Holds the model that made the stages, on its device; its loss, collator and batch sizes are used. The
            model ends with the weights of Θ^0.
        trajectory: The stages.
        predicted: Name of a tensor → kind, of those that are to be fitted.
        dataset: The examples, with their augmentation if they have any.
        output: File of the coefficients; beside it lies the state of an unfinished fit.
        fitting: How to fit.
        keep: Bytes of stages that may stay in memory; beyond, they are read from the disk at every step.

    Returns:
        The coefficients, as the file holds them.

    Raises:
        TrajectoryError: If the model is not of the trajectory, the loss is not finite, or the file holds another fit.
        ValueError: If there are no examples, or a process holds only a part of the model.

    Source: after Li et al., "Trainable Weight Averaging" (ICLR 2023); signs and scale are ours.

    Example:
        >>> fit(trainer, trainer.trajectory, {"fc.weight": "fc"}, trainer.train_dataset, Path("f.json"))  # doctest: +SKIP
    """
    fitting = fitting or Fitting()
    if not len(dataset):
        raise ValueError("Fitting needs examples; there are none.")
    steps = planned_steps(trajectory, fitting)
    described = {
        "settings": {**asdict(fitting), "fit_steps": steps},
        "dataset": describe_dataset(dataset),
        "stages": [stage.sha256 for stage in trajectory.record.stages] if _hashed(trajectory) else len(trajectory),
    }
    if output.exists():
        done = Coefficients.load(output)
        if (different := [name for name, value in described.items() if done.record.get(name) != value]):
            raise TrajectoryError(
                f"{output} holds another fit (different {', '.join(different)}); delete it or choose another folder."
            )
        return done
    load_weights(trainer.model, trajectory.checkpoints[0].folder)
    subspace = Subspace(trainer.model, trajectory, _groups(predicted, fitting), keep)
    batches = Batches(trainer, dataset, fitting.fit_seed)
    state = _State(subspace, output.with_suffix(".state.json"), described)
    hidden = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    bar = progress_bar(total=steps, initial=state.step, desc="Fitting", leave=False, disable=hidden)
    calm(subspace.model)
    frozen = [p for p in subspace.model.parameters() if p.requires_grad]
    wanted = {id(parameter) for parameter in subspace.parameters.values()}
    before = [(p, p.requires_grad) for p in subspace.model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        with bar:
            while state.step < steps and not state.settled:
                subspace.put(_free(state.coefficients, fitting))
                loss = _backward(trainer, subspace, batches, state.step)
                slope = _free(trainer.accelerator.reduce(subspace.slopes().to(trainer.args.device), "sum").cpu(), fitting)
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
    made = Coefficients(as_written(subspace.table(_free(state.best, fitting))), record)
    if trainer.is_world_process_zero():
        made.save(output)
        remove(state.path)
    trainer.accelerator.wait_for_everyone()
    return Coefficients.load(output)


def planned_steps(trajectory: Trajectory, fitting: Fitting) -> int:
    """How many steps a fit takes at most."""
    if fitting.fit_steps is not None:
        return fitting.fit_steps
    trained = [stage.steps for stage in trajectory.record.stages if stage.steps]
    return min(MOST_STEPS, max(1, math.floor(SHARE * sum(trained)))) if trained else MOST_STEPS
