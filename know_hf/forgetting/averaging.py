"""Averages of the weights of stage 0, recorded while it is trained: the plain alternative to going beyond it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from know_hf.forgetting.controls import AVERAGES
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.stages import first_trained_stage
from know_hf.forgetting.weights import is_sharded, not_finite, plain_model, save_stage
from know_hf.models.adapters import is_adapted
from know_hf.records import TrajectoryError
from know_hf.store import partial_name, publish, remove, write_tensors
from know_hf.training.batch_norm import estimate_batch_norm, has_batch_norm

# In a checkpoint of Trainer's.
_FILE = "average-{}.safetensors"


class StageZeroAverages(TrainerCallback):
    """Averages the weights of stage 0 after every optimizer step, beside a training that takes no notice.

    ``ema`` is an exponential moving average; its decay rises to the one asked for as ``(1 + n)/(10 + n)``, so that a
    short training is not averaged with its beginning. ``swa`` is the plain average of all steps of the end of the
    stage, under the stage's own schedule. What a continued stage needs of them lies in Trainer's checkpoints.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992); Izmailov et al.,
        "Averaging weights leads to wider optima and better generalization" (UAI 2018), who average once an epoch under
        a constant or cyclic rate. The rise of the decay is that of TensorFlow's moving averages.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        #: The averages that are asked for.
        self.names = AVERAGES.get(trainer.args.average_stage_zero, ())
        self.models: dict[str, AveragedModel] = {}

    @property
    def files(self) -> list[str]:
        """Names of the files without which a checkpoint of the present stage cannot be continued from."""
        return [] if self.trainer._stage.index else [_FILE.format(name) for name in self.names]

    @property
    def _live(self) -> nn.Module:
        return plain_model(self.trainer.model)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begins the averages, or takes them up where a checkpoint left them."""
        own: Any = args
        self.models = {}
        if self.trainer._stage.index:  # stage 0 alone
            return
        updates: dict[str, Callable[..., None]] = {
            "ema": partial(moving, own.average_decay),
            "swa": get_swa_multi_avg_fn(),
        }
        for name in self.names:
            self.models[name] = AveragedModel(self._live, multi_avg_fn=updates[name])
            if state.global_step:
                load_average(
                    self.models[name], Path(args.output_dir) / f"checkpoint-{state.global_step}" / _FILE.format(name)
                )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Takes the weights of a step in."""
        own: Any = args
        for name, average in self.models.items():
            if name != "swa" or state.global_step > own.average_start * state.max_steps:
                average.update_parameters(self._live)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds the averages to a checkpoint."""
        if state.is_world_process_zero:
            for name, average in self.models.items():
                place = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _FILE.format(name)
                tensors = {key: parameter.detach() for key, parameter in average.module.named_parameters()}
                write_tensors(place, tensors, {"count": str(int(average.n_averaged))})

    def write(self, folder: RunFolder) -> None:
        """Writes the averages of the stage as plain folders beside it, if it has any; every process has to call it.

        Its BatchNorm statistics are estimated on the data of the stage: no step ever had them.

        Raises:
            TrajectoryError: If an average is not finite.
        """
        trainer = self.trainer
        for name, average in self.models.items():
            if not average.n_averaged:  # stopped early, before the first step that counts
                average.update_parameters(self._live)
            final = folder.average(name)
            beside = partial_name(final)
            with _in_place(trainer, average.module):
                if has_batch_norm(average.module) and not is_adapted(average.module):
                    estimate_batch_norm(trainer, trainer.train_dataset)
                if damaged := not_finite(average.module):
                    raise TrajectoryError(
                        f"The average {name} of stage 0 holds NaN or infinite values in tensor {damaged!r}. Lower the "
                        "learning rate and run again in a new folder."
                    )
                if trainer.is_world_process_zero():
                    remove(beside)
                trainer.accelerator.wait_for_everyone()
                save_stage(trainer, beside)
            if trainer.is_world_process_zero():
                (beside / "training_args.bin").unlink(missing_ok=True)
                remove(final)
                publish(beside, final)
        self.models = {}


def check_averaging(trainer: Any) -> None:
    """Looks whether the averages that are asked for can be had.

    Raises:
        ValueError: If stage 0 is not trained, the model is in pieces, or its parameters have 16 bits.
    """
    args, model = trainer.args, trainer.model
    if args.average_stage_zero is None:
        return
    asked = f"average_stage_zero={args.average_stage_zero!r}"
    if first_trained_stage(args):
        raise ValueError(f"{asked} averages the training of stage 0, which is taken as it is: set train_stage_zero.")
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or is_sharded(model):
        raise ValueError(f"{asked} needs a whole model in every process: leave it off with FSDP and DeepSpeed.")
    if small := next((n for n, p in model.named_parameters() if p.requires_grad and p.dtype.itemsize < 4), None):
        raise ValueError(
            f"{asked} adds small parts of every step, which parameter {small!r} of 16 bits would lose: load the model "
            "in float32 (training with bf16=True is fine)."
        )


def moving(decay: float, averages: Any, current: Any, count: Tensor) -> None:
    """Takes a step into an exponential moving average, whose decay rises to the one given."""
    done = int(count)
    get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(averages, current, count)


def load_average(average: AveragedModel, path: Path) -> None:
    """Takes an average up where a checkpoint left it."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, parameter in average.module.named_parameters():
            parameter.copy_(file.get_tensor(name))
        average.n_averaged.fill_(int(file.metadata()["count"]))


@contextmanager
def _in_place(trainer: Trainer, model: nn.Module) -> Iterator[None]:
    """Lets a trainer work with another model within the block."""
    live, trainer.model = trainer.model, model
    try:
        yield
    finally:
        trainer.model = live
