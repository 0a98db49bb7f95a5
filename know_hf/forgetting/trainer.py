"""The Trainer that forgets: one ordinary training per stage, on smaller and smaller subsets."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate.utils import gather_object
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset
from transformers import Trainer, enable_full_determinism, set_seed
from transformers.trainer_utils import TrainOutput

from know_hf.forgetting.preemption import SaveWhenTerminated
from know_hf.forgetting.recipe import describe_dataset, describe_model, describe_recipe, versions
from know_hf.forgetting.resume import OptimizerState, last_complete_checkpoint
from know_hf.forgetting.stages import first_trained_stage, stage_plan
from know_hf.forgetting.weights import load_weights, not_finite, save_stage
from know_hf.locking import locked
from know_hf.trajectory import (
    Checkpoint,
    StageRecord,
    Trajectory,
    TrajectoryError,
    TrajectoryRecord,
    kinds_of,
)
from know_hf.trajectory.record import FILE_NAME

logger = logging.getLogger(__name__)

WORK_FOLDER = "training"  # what Trainer writes while a stage runs; its checkpoints go when the stage is finished
# Scores that say how fast, not how well: they would make equal runs differ.
_TIMINGS = ("runtime", "per_second", "epoch", "_time")


class ForgettingMixin:
    """Makes any Trainer subclass forget; its arguments need the fields of [`ForgettingSettings`].

    ``train()`` runs all stages. Each is one ordinary ``train()`` of the class mixed into, on a nested subset, so
    callbacks, metrics, collators, precision, accumulation and logging work as ever. ``args.output_dir`` receives
    ``stage-0`` … as plain ``from_pretrained`` folders and ``trajectory.json``; running again in the same folder
    continues where an earlier run stopped and gives the same trajectory. The live model ends as the last stage trained.

    Source: paper section 3.

    Example:
        >>> from transformers import Seq2SeqTrainer
        >>> from know_hf import ForgettingMixin
        >>> class ForgettingSeq2SeqTrainer(ForgettingMixin, Seq2SeqTrainer):
        ...     pass
    """

    #: Called between stages with the stage's record, for example to report progress.
    on_stage_end: Callable[[StageRecord], None] | None = None
    #: Hub id of the data, when there is one, for the record and the cards.
    dataset_id: str | None = None
    #: Names of the classes in the order of the model's outputs, where they are known, for the record.
    class_names: Sequence[str] = ()
    _stage: StageRecord | None = None
    #: Stage whose final weights the live model holds; None in a run that has just begun.
    _in_memory: int | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, **kwargs) -> TrainOutput:
        """Runs every stage that is not finished yet.

        Args:
            resume_from_checkpoint: Ignored unless a path, which is refused: a run continues from its own folder.
            trial: Not supported; must be None.
            **kwargs: Passed on to each stage's ``train``.

        Returns:
            The output of the last stage trained, with the scores of every stage as ``stage_<i>_<metric>``.

        Raises:
            TrajectoryError: If the folder holds another run.
            KeyboardInterrupt: If SIGTERM came; the stage was saved at the step it had reached.
            TypeError: If the training data have no length.
            ValueError: If the settings do not fit the data.
        """
        if trial is not None or self.model_init is not None:
            raise ValueError("Forgetting needs one model from start to end: trial and model_init are not supported.")
        if isinstance(resume_from_checkpoint, str):
            raise ValueError(
                "resume_from_checkpoint takes no path here: a run continues from its own output_dir by itself."
            )
        with locked(self.args.output_dir, self.is_world_process_zero()):
            return self._forget(**kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Logs with the fields ``stage`` and ``stage_examples`` added."""
        if self._stage is not None:
            logs = {**logs, "stage": self._stage.index, "stage_examples": self._stage.examples}
        super().log(logs, *args, **kwargs)

    @property
    def trajectory(self) -> Trajectory:
        """The finished trajectory in ``args.output_dir``."""
        return Trajectory.load(self.args.output_dir)

    def _forget(self, **kwargs) -> TrainOutput:
        args, full_dataset, output_dir = self.args, self.train_dataset, self.args.output_dir
        root, max_steps = Path(output_dir), args.max_steps
        subsets, steps = stage_plan(full_dataset, args)
        self._warn_about_sizes([len(subset) for subset in subsets])
        record = self._open_record(root, subsets)
        self._reopen_lost_stages(root, record)
        history, output = [], TrainOutput(0, 0.0, {})
        termination = SaveWhenTerminated()
        self.add_callback(termination)
        try:
            for stage, subset in zip(record.stages, subsets, strict=True):
                self._stage = stage
                if stage.finished:
                    continue
                if stage.index >= first_trained_stage(args):
                    logger.info("Stage %d of %d: %d examples.", stage.index, len(subsets) - 1, stage.examples)
                    self._restore_previous_stage(root, record, stage)
                    self.train_dataset, args.max_steps = subset, steps
                    args.output_dir = str(root / WORK_FOLDER / f"stage-{stage.index}")
                    # One seed a stage: a run that starts in the middle draws the same numbers.
                    seed = args.seed + stage.index
                    enable_full_determinism(seed) if args.full_determinism else set_seed(seed)
                    resume = last_complete_checkpoint(args.output_dir)
                    with termination.watching():
                        output = super().train(resume_from_checkpoint=resume, **kwargs)
                    if termination.stopped:
                        raise KeyboardInterrupt(f"terminated; stage {stage.index} is saved at {self.state.global_step}")
                    history += self.state.log_history
                    stage.steps = self.state.global_step
                self._finish_stage(root, record, stage)
                if termination.told(args):  # too late in the stage to stop within it
                    raise KeyboardInterrupt(f"terminated; stage {stage.index} is finished")
        finally:
            self.remove_callback(termination)
            self._in_memory = None  # whoever comes next may put other weights into the model
            self.train_dataset, args.output_dir, args.max_steps, self._stage = full_dataset, output_dir, max_steps, None
        if history:
            self.state.log_history = history
        scores = {f"stage_{s.index}_{name}": value for s in record.stages for name, value in s.metrics.items()}
        return output._replace(metrics={**output.metrics, **scores})

    def _warn_about_sizes(self, sizes: list[int]) -> None:
        """Says beforehand what a small subset may do hours later."""
        args = self.args
        together = args.train_batch_size * args.world_size
        if min(sizes) < together * args.gradient_accumulation_steps:
            logger.warning(
                "The smallest subset has %d examples, less than one batch of %d.",
                min(sizes), together * args.gradient_accumulation_steps,
            )  # fmt: skip
        lonely = [str(i) for i, size in enumerate(sizes) if size % together == 1]
        if lonely and not args.dataloader_drop_last and any(isinstance(m, _BatchNorm) for m in self.model.modules()):
            logger.warning(
                "Stage %s ends an epoch with a batch of one example, on which BatchNorm may fail: set "
                "dataloader_drop_last or another batch size.", ", ".join(lonely),
            )  # fmt: skip

    def _open_record(self, root: Path, subsets: list[Dataset]) -> TrajectoryRecord:
        """Finds the run that the folder holds, or begins one."""
        total = max(len(subset) for subset in subsets)
        fresh = TrajectoryRecord(
            num_stages=self.args.num_stages,
            sampling_ratio=self.args.sampling_ratio,
            stages=[
                StageRecord(i, f"stage-{i}", len(subset), len(subset) / total, finished=False)
                for i, subset in enumerate(subsets)
            ],
            parameters=kinds_of(self.accelerator.unwrap_model(self.model)),
            recipe=describe_recipe(self.args),
            model=describe_model(self.model),
            dataset={
                "id": self.dataset_id,
                **describe_dataset(self.train_dataset),
                **({"classes": self.class_names} if self.class_names else {}),
            },
            versions=versions(),
        )
        if not (root / FILE_NAME).exists():
            if root.is_dir() and any(root.glob("stage-*")):
                raise TrajectoryError(f"{root} holds stage folders but no {FILE_NAME}; choose another output_dir.")
            # Everyone has looked before anyone writes.
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                fresh.save(root)
            return fresh
        found = TrajectoryRecord.load(root)
        self.accelerator.wait_for_everyone()
        differences = [
            f"{section}.{name} was {old.get(name)!r}, now {new.get(name)!r}"
            for section in ("recipe", "model", "dataset")
            for old, new in [(getattr(found, section), getattr(fresh, section))]
            # A licence is not always to be learnt, and records did not always name the classes.
            for name in sorted((old.keys() | new.keys()) - {"license", *({"classes"} - old.keys())})
            if old.get(name) != new.get(name)
        ]
        if differences:
            raise TrajectoryError(
                f"{root} holds another run: {'; '.join(differences[:4])}. Choose another output_dir, or repeat the "
                "settings to continue that run."
            )
        return found

    def _reopen_lost_stages(self, root: Path, record: TrajectoryRecord) -> None:
        """Marks as unfinished what has to be made again because a stage folder, or what leads to it, is gone."""
        lost = [s.index for s in record.stages if not (s.finished and (root / s.folder).is_dir())]
        if not lost:
            return
        first = lost[0]
        first_trained = first_trained_stage(self.args)
        if self.args.carry_optimizer and first > first_trained and not _optimizer(root, first - 1).path.exists():
            # The moments that this stage started from are gone: only the first trained stage starts without any.
            first = first_trained
        for stage in record.stages[first:]:
            stage.finished = False

    def _restore_previous_stage(self, root: Path, record: TrajectoryRecord, stage: StageRecord) -> None:
        """Puts weights and optimizer where the end of the previous stage left them."""
        if stage.index == 0:
            return
        if not self.args.carry_optimizer:
            self.optimizer = None
        if self._in_memory == stage.index - 1:
            return
        load_weights(self.model, root / record.stages[stage.index - 1].folder)
        state = _optimizer(root, stage.index - 1)
        if self.args.carry_optimizer and state.path.exists():
            self.optimizer = None
            state.load_into(self.create_optimizer())

    def _finish_stage(self, root: Path, record: TrajectoryRecord, stage: StageRecord) -> None:
        """Saves a plain checkpoint, scores it, and records the stage as finished."""
        found = not_finite(self.model)
        if self.args.world_size > 1:  # each may hold another part
            found = next((name for name in gather_object([found]) if name), None)
        if found:
            raise TrajectoryError(
                f"Stage {stage.index} diverged: it left NaN or infinite values in tensor {found!r}. Lower the "
                "learning rate and run again in a new folder."
            )
        partial, final = root / f".{stage.folder}.partial", root / stage.folder
        main = self.is_world_process_zero()
        if main:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        save_stage(self, partial)
        if self.eval_dataset is not None:
            stage.metrics = quality_scores(evaluate_all(self))
        stage.finished, self._in_memory = True, stage.index
        following = record.stages[stage.index + 1 : stage.index + 2]
        if main:
            # Trainer leaves its arguments there as a pickle, with any token in clear.
            (partial / "training_args.bin").unlink(missing_ok=True)
            Checkpoint(partial).tensors  # noqa: B018 (reads and checks the headers)
            if following and self.args.carry_optimizer and self.optimizer is not None:
                _optimizer(root, stage.index).save(self.optimizer)
            partial.replace(final)
            record.save(root)
            for checkpoint in (root / WORK_FOLDER / f"stage-{stage.index}").glob("checkpoint-*"):
                shutil.rmtree(checkpoint, ignore_errors=True)
            _optimizer(root, stage.index - 1).path.unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        if self.on_stage_end:
            self.on_stage_end(replace(stage))


class ForgettingTrainer(ForgettingMixin, Trainer):
    """A ``Trainer`` whose ``train()`` forgets progressively and records the trajectory of weights.

    Takes what ``Trainer`` takes, with [`ForgettingArguments`] as ``args``. See [`ForgettingMixin`].

    Source: paper section 3.

    Example:
        >>> from know_hf import ForgettingArguments, ForgettingTrainer
        >>> trainer = ForgettingTrainer(  # doctest: +SKIP
        ...     model=model, args=ForgettingArguments("run"), train_dataset=train, eval_dataset=test
        ... )
        >>> trainer.train()  # doctest: +SKIP
        >>> trainer.trajectory  # doctest: +SKIP
        Trajectory('run', 5 stages, r=0.5)
    """


def evaluate_all(trainer: Trainer, *args) -> dict[str, float]:
    """Evaluates on every example: ``dataloader_drop_last`` is meant for training, but Trainer drops there too."""
    dropping, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False
    try:
        return trainer.evaluate(*args)
    finally:
        trainer.args.dataloader_drop_last = dropping


def quality_scores(metrics: dict[str, float]) -> dict[str, float]:
    """Keeps the numbers of an evaluation that say how well, not how fast, the model does."""
    return {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not k.endswith(_TIMINGS)}


def _optimizer(root: Path, stage: int) -> OptimizerState:
    return OptimizerState(root / WORK_FOLDER / f"optimizer-{stage}.safetensors")
