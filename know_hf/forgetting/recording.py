"""A trajectory of any training: checkpoints along it, recorded by a plain callback of Trainer."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from know_hf.records import TrajectoryError
from know_hf.store import check_output, making, remove, write_tensors
from know_hf.trajectory import StageRecord, Trajectory, TrajectoryRecord, kinds_of
from know_hf.trajectory.identity import describe_model, versions
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.spacing import step_ratio
from know_hf.trajectory.trajectory import RECORDED

#: Name of the folder of the moving average.
AVERAGE = "ema"
_AVERAGE_FILE = "trajectory-ema.safetensors"
# What a card says of a training, by the names that Trainer has for it.
_SETTINGS = ("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "optim", "weight_decay", "seed")


class TrajectoryCallback(TrainerCallback):
    """Records a trajectory of any Trainer run, which goes on as if it were not there.

    The checkpoints are plain folders; of them ``mean``, the fits and ``fitted`` make weights that may be better than
    the last ones, without any forgetting. The newest is stage 0, as the one that has seen most. Learned methods such as
    ``known`` read checkpoints of known shares of the data, so that they need ``fractions``.

    Args:
        output_dir: Folder for ``trajectory.json`` and the checkpoints, one for each training.
        every: Number of optimizer steps between two checkpoints; the last step is always one.
        fractions: Instead: the shares of the training after which to record, rising to 1, such as
            ``(1/16, 1/8, 1/4, 1/2, 1)``. In a training of one epoch they are shares of the data.
        keep: With ``every``: number of the newest checkpoints that are kept.
        average_decay: Decay of an exponential moving average of the weights, which is written as ``ema`` beside them;
            None for none. It rises to the one asked for, as ``(1 + n)/(10 + n)`` after n steps.

    Raises:
        ValueError: If not exactly one of ``every`` and ``fractions`` is given, or one does not fit.

    Source: the average is Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992).

    Example:
        >>> from know_hf import TrajectoryCallback, enrich
        >>> recorder = TrajectoryCallback("runs/course", every=500)
        >>> trainer.add_callback(recorder)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> enrich("runs/course", method="mean", steps=1)  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        every: int | None = None,
        fractions: Sequence[float] | None = None,
        keep: int = 5,
        average_decay: float | None = None,
    ) -> None:
        if (every is None) == (fractions is None):
            raise ValueError("Give either every=, a number of optimizer steps, or fractions= of the training.")
        shares = None if fractions is None else [float(share) for share in fractions]
        if shares is not None and not (
            len(shares) > 1 and shares[-1] == 1 and shares[0] > 0 and shares == sorted(set(shares))
        ):
            raise ValueError(f"fractions is {fractions}; give at least two rising shares that end with 1.")
        if every is not None and (every < 1 or keep < 2):
            raise ValueError(f"every is {every}, keep {keep}; they have to be at least 1 and 2.")
        if average_decay is not None and not 0 < average_decay < 1:
            raise ValueError(f"average_decay is {average_decay}; it lies strictly between 0 and 1.")
        self.output_dir, self.every, self.fractions, self.keep = Path(output_dir), every, shares, keep
        self.average_decay = average_decay
        self.average: AveragedModel | None = None
        self.record: TrajectoryRecord | None = None
        # Optimizer step → share of the training, of those at which to record.
        self._wanted: dict[int, float] = {}

    @property
    def trajectory(self) -> Trajectory:
        """What was recorded, when there are at least two checkpoints."""
        return Trajectory.load(self.output_dir)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Opens the record, or goes on with that of the training which is continued.

        Raises:
            FileExistsError: If the folder holds the trajectory of another training.
            TrajectoryError: If no process holds the whole model.
            ValueError: If the training is too short for the fractions.
        """
        live = self._whole(args, model)
        source = getattr(live, "name_or_path", None)
        check_output(self.output_dir, *([source] if source else []))
        steps = {max(1, round(share * state.max_steps)): share for share in self.fractions or ()}
        if len(steps) < len(self.fractions or ()):
            raise ValueError(f"The training has {state.max_steps} steps, too few to record at {self.fractions}.")
        self._wanted = steps
        recipe = {
            "recipe": RECORDED,
            **({"every": self.every} if self.every else {"fractions": self.fractions}),
            "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            **{name: _plain(getattr(args, name)) for name in _SETTINGS},
        }
        parameters = kinds_of(live)
        self.record = TrajectoryRecord(0, None, [], parameters, recipe, describe_model(live), versions=versions())
        if (self.output_dir / FILE_NAME).exists():
            self._continue(TrajectoryRecord.load(self.output_dir), state.global_step)
        if self.average_decay is not None:
            from know_hf.forgetting.averaging import load_average, moving

            self.average = AveragedModel(live, multi_avg_fn=partial(moving, self.average_decay))
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _AVERAGE_FILE
            if state.global_step and place.exists():
                load_average(self.average, place)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Takes the weights of a step into the average, and writes a checkpoint where one is due."""
        if self.average is not None:
            self.average.update_parameters(self._whole(args, model))
        due = state.global_step % self.every == 0 if self.every else state.global_step in self._wanted
        if due:
            self._save(args, state, model, processing_class)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keeps the scores of a checkpoint."""
        if self.record is None or not self.record.stages or self.record.stages[0].steps != state.global_step:
            return
        scores = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, (int, float))}
        self.record.stages[0].metrics = {n: v for n, v in scores.items() if n.startswith("eval_")}
        if state.is_world_process_zero:
            self.record.save(self.output_dir)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds the average to a checkpoint of Trainer's."""
        if self.average is not None and state.is_world_process_zero:
            tensors = {name: parameter.detach() for name, parameter in self.average.module.named_parameters()}
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _AVERAGE_FILE
            write_tensors(place, tensors, {"count": str(int(self.average.n_averaged))})

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Writes the last checkpoint, and the average."""
        assert self.record is not None
        if not self.record.stages or self.record.stages[0].steps != state.global_step:
            self._save(args, state, model, processing_class)
        if self.average is not None and state.is_world_process_zero:
            remove(self.output_dir / AVERAGE)
            _write(self.average.module, processing_class, self.output_dir / AVERAGE)

    def _save(self, args: TrainingArguments, state: TrainerState, model: Any, processing_class: Any) -> None:
        assert self.record is not None
        folder = f"step-{state.global_step}"
        share = self._wanted.get(state.global_step)
        if share is None and self.fractions:  # stopped early: the shares are of what was to come
            share = state.global_step / state.max_steps
        if state.is_world_process_zero:
            remove(self.output_dir / folder)
            _write(self._whole(args, model), processing_class, self.output_dir / folder)
        newest = StageRecord(0, folder, ratio=share, steps=state.global_step)
        stages = [newest, *self.record.stages]
        left = [] if self.fractions else stages[self.keep :]
        self.record.stages = stages[: len(stages) - len(left)]
        for index, stage in enumerate(self.record.stages):
            stage.index = index
        self.record.num_stages = len(self.record.stages)
        shares = [stage.ratio for stage in self.record.stages if stage.ratio]
        self.record.sampling_ratio = step_ratio(shares) if len(shares) > 1 else None
        if state.is_world_process_zero:
            self.record.save(self.output_dir)
            for stage in left:
                shutil.rmtree(self.output_dir / stage.folder, ignore_errors=True)

    def _continue(self, found: TrajectoryRecord, step: int) -> None:
        """Takes up what was recorded before the checkpoint that the training goes on from."""
        assert self.record is not None
        if found.recipe.get("recipe") != RECORDED or not step:
            raise FileExistsError(
                f"{self.output_dir} holds the trajectory of another training; give each a folder of its own."
            )
        kept = [stage for stage in found.stages if (stage.steps or 0) <= step]
        self.record.stages, self.record.num_stages = kept, len(kept)
        for index, stage in enumerate(kept):
            stage.index = index

    @staticmethod
    def _whole(args: TrainingArguments, model: Any) -> nn.Module:
        from know_hf.forgetting.weights import is_sharded, plain_model

        live = plain_model(model)
        if args.deepspeed or getattr(args, "fsdp", None) or is_sharded(live):
            raise TrajectoryError(
                "A trajectory is recorded of a whole model, and FSDP and DeepSpeed hold it in parts: let Trainer save "
                "checkpoints, and give their folders to Trajectory.from_checkpoints."
            )
        return live


def _write(model: Any, processing_class: Any, folder: Path) -> None:
    """Writes a model as a plain folder, whole or not at all."""
    from know_hf.models.adapters import is_adapted, make_plain

    with making(folder) as beside:
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(beside)
            if is_adapted(model):
                make_plain(model, beside)
        else:
            from safetensors.torch import save_model

            save_model(model, str(beside / "model.safetensors"))
        if hasattr(processing_class, "save_pretrained"):
            processing_class.save_pretrained(beside)


def _plain(value: Any) -> Any:
    return (
        value if isinstance(value, (int, float, str, type(None))) and not hasattr(value, "value") else str(value.value)
    )
