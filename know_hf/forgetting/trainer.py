"""The Trainer that forgets: one ordinary training per stage, on smaller and smaller subsets."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accelerate.utils import gather_object
from transformers import Trainer, enable_full_determinism, set_seed
from transformers.trainer_utils import TrainOutput

from know_hf.forgetting.averaging import StageZeroAverages, check_averaging
from know_hf.forgetting.branches import check_branches
from know_hf.forgetting.checks import (
    check_batches,
    check_construction,
    check_labels,
    check_model,
    check_model_kind,
    check_settings,
    check_sizes,
    named_arguments,
)
from know_hf.forgetting.course import SameCourse
from know_hf.forgetting.evaluation import evaluate_all, quality_scores, score_again
from know_hf.forgetting.folder import RunFolder, reopen_lost
from know_hf.forgetting.loss_scale import settle_loss_scale
from know_hf.forgetting.opening import open_record
from know_hf.forgetting.optimization import Optimization, in_steps
from know_hf.forgetting.preemption import SaveWhenTerminated
from know_hf.forgetting.resume import CheckMoments, has_ended, last_complete_checkpoint, take_config
from know_hf.forgetting.stages import branching, first_trained_stage, stage_plan, stage_sizes, stage_title
from know_hf.forgetting.start import begin, room_for_start
from know_hf.forgetting.weights import load_weights, not_finite, save_stage
from know_hf.garbage import nothing_old
from know_hf.models.adapters import is_adapted, make_plain
from know_hf.store import locked, partial_name, publish, remove
from know_hf.training.set_aside import SetAside
from know_hf.training.tracking import Tracking, one_run
from know_hf.trajectory import Checkpoint, StageRecord, Trajectory, TrajectoryError, TrajectoryRecord
from know_hf.trajectory.record import FILE_NAME
from know_hf.trajectory.rounds import Rounds

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import Trainer as _Mixin
else:  # a mixin for any subclass of it
    _Mixin = object


class ForgettingMixin(_Mixin):
    """Makes any Trainer subclass forget; its arguments need the fields of [`ForgettingSettings`].

    ``train()`` runs all stages. Each is one ordinary ``train()`` of the class mixed into, on a nested subset, so
    callbacks, metrics, collators, precision, accumulation and logging work as ever. ``args.output_dir`` receives
    ``stage-0`` … as plain ``from_pretrained`` folders and ``trajectory.json``; running again in the same folder
    continues where an earlier run stopped and gives the same trajectory. The live model ends as the last stage trained.

    Args:
        *args: As for the class mixed into, in its order.
        **kwargs: Likewise by name: ``model``, a live one; ``args``, which say how to train and to forget;
            ``train_dataset``, of known length, all the data; ``eval_dataset``, to score every stage on; and the rest.

    Raises:
        TypeError: If model, arguments or data are of a kind that cannot be used.
        ValueError: If there is no model, only a part of it is compiled, or the evaluation data are empty.

    Source: paper section 3.

    Example:
        >>> from transformers import Seq2SeqTrainer
        >>> from know_hf import ForgettingMixin
        >>> class ForgettingSeq2SeqTrainer(ForgettingMixin, Seq2SeqTrainer):
        ...     pass
    """

    #: All the data; while a stage is trained, those of the stage.
    train_dataset: Any
    #: Called between stages with the stage's record, for example to report progress.
    on_stage_end: Callable[[StageRecord], None] | None = None
    #: Hub id of the data, when there is one, for the record and the cards.
    dataset_id: str | None = None
    #: Names of the classes in the order of the model's outputs, where they are known, for the record.
    class_names: Sequence[str] = ()
    #: A key of [`TASKS`](know_hf.tasks), where the data were prepared for one; else the model tells.
    task: str | None = None
    #: Examples that were set aside before the training data were taken: none of them is trained on.
    set_aside: SetAside = SetAside()
    #: What is to be said of the data beside every score, a sentence each.
    remarks: Sequence[str] = ()
    #: Trainings that made Θ^0 of the model before this run takes it as its stage 0.
    rounds: Rounds | None = None
    #: How long the weights that a run begins with are kept, where stage 0 is trained: until it is made, for good, or
    #: never, as whoever makes the trainer can make the same model again.
    keep_start: Literal["until made", "always", "never"] = "until made"
    _stage: StageRecord | None = None
    #: Stage whose final weights the live model holds; None in a run that has just begun.
    _in_memory: int | None = None
    #: Whether the stage is continued from its own end: there is nothing left to train.
    _ended = False
    _averages: StageZeroAverages
    _tracking: Tracking

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unnamed, named = named_arguments(super().__init__, args, kwargs)
        check_construction(named)
        try:
            super().__init__(*unnamed, **named)
        except Exception:
            check_model_kind(named["model"])
            raise

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: None = None, **kwargs: Any) -> TrainOutput:
        """Runs every stage that is not finished yet.

        Args:
            resume_from_checkpoint: Ignored unless a path, which is refused: a run continues from its own folder.
            trial: Not supported; must be None.
            **kwargs: Passed on to each stage's ``train``.

        Returns:
            The output of the last stage trained, with the scores of every stage as ``stage_<i>_<metric>``.

        Raises:
            TrajectoryError: If the folder holds another run, or a stage diverged.
            OSError: If the folder is in use or cannot be written to, or the stages do not fit on the disk.
            KeyboardInterrupt: If SIGTERM came; the stage was saved at the step it had reached.
            TypeError: If the training data have no length.
            ValueError: If settings, optimizer or model do not fit the data or one another; nothing is trained then.
        """
        if trial is not None or self.model_init is not None:
            raise ValueError("Forgetting needs one model from start to end: trial and model_init are not supported.")
        if isinstance(resume_from_checkpoint, str):
            raise ValueError(
                "resume_from_checkpoint takes no path here: a run continues from its own output_dir by itself."
            )
        root = self.args.output_dir
        with locked(root, self.is_world_process_zero()), one_run(self, root) as self._tracking, nothing_old():
            return self._forget(**kwargs)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Logs with the fields ``stage`` and ``stage_examples`` added."""
        if self._stage is not None:
            logs = {**logs, "stage": self._stage.index, "stage_examples": self._stage.examples}
        super().log(logs, *args, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the schedule of a stage as Trainer does, in steps where ``learning_rate_steps`` has some."""
        return in_steps(super().create_scheduler(*args, **kwargs), self.args, len(self.train_dataset))

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[int, ...]:
        """Plans the epochs as Trainer does, but none for a stage that is continued from its own end."""
        epochs, steps_in_epoch, *others = super().set_initial_training_values(*args, **kwargs)
        return (0 if self._ended else epochs, steps_in_epoch, *others)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model; while a stage runs, of a PEFT model the adapter that is trained, as a plain folder."""
        super().save_model(output_dir, _internal_call)
        if self._stage is not None and self.args.should_save and is_adapted(self.model):
            make_plain(self.model, Path(output_dir or self.args.output_dir))

    @property
    def trajectory(self) -> Trajectory:
        """The finished trajectory in ``args.output_dir``; raises ``TrajectoryError`` before it is one."""
        return Trajectory.load(self.args.output_dir)

    @cached_property
    def _optimization(self) -> Optimization:
        """Optimizer and schedule as they were before the first stage."""
        return Optimization(self)

    def _forget(self, **kwargs: Any) -> TrainOutput:
        args, root = self.args, Path(self.args.output_dir)
        full_dataset: Any = self.train_dataset
        before = {name: getattr(args, name) for name in ("output_dir", "max_steps")}
        subsets, steps = stage_plan(full_dataset, args)
        folder, begun = RunFolder(root), (root / FILE_NAME).exists()
        record = open_record(self, root, subsets, self._optimization)
        reopen_lost(folder, record, args)
        self._averages = StageZeroAverages(self)
        folder.check(record.stages, self._averages.names)
        if not all(stage.finished for stage in record.stages):
            self._check_beforehand()
            missing = sum(not stage.finished for stage in record.stages) + len(self._averages.names) + branching(args)
            folder.check_room(self.model, room_for_start(self, missing))
        settle_loss_scale(self)
        self.accelerator.wait_for_everyone()  # everyone has looked before anyone writes
        if self.is_world_process_zero():
            folder.tidy(record.stages, self.keep_start == "always")
        with folder.saying("What the run begins with"):
            begin(self, folder, record, begun)
        with self._tracking.silence():  # scores of before are none of this training
            if score_again(self, folder, record) and self.is_world_process_zero():
                record.save(root)
        self.accelerator.wait_for_everyone()
        history, output = [], TrainOutput(0, 0.0, {})
        termination = SaveWhenTerminated()
        callbacks = [termination, self._averages, *([] if self._loads_by_itself() else [CheckMoments()])]
        for callback in callbacks:
            self.add_callback(callback)
        try:
            for stage, subset, most in zip(record.stages, subsets, steps, strict=True):
                self._stage = stage
                self._tracking.before = sum(earlier.steps or 0 for earlier in record.stages[: stage.index])
                if stage.finished:
                    continue
                with folder.saying(stage):
                    if stage.index >= first_trained_stage(args):
                        title = stage_title(stage.index, len(subsets), bool(args.self_check))
                        logger.info("%s: %d examples.", title, stage.examples)
                        self._restore_previous_stage(folder, stage)
                        self.train_dataset, args.max_steps = subset, most
                        args.output_dir = str(folder.work(stage.index))
                        output = self._train_stage(stage, termination, **kwargs)
                        history += self.state.log_history
                        stage.steps = self.state.global_step
                    self._finish_stage(folder, record, stage)
                if termination.told(args):  # too late in the stage to stop within it
                    raise KeyboardInterrupt(f"terminated; stage {stage.index} is finished")
        finally:
            for callback in callbacks:
                self.remove_callback(callback)
            self._in_memory = None  # whoever comes next may put other weights into the model
            self.train_dataset, self._stage, self._ended = full_dataset, None, False
            for name, value in before.items():
                setattr(args, name, value)
        if history:
            self.state.log_history = history
        scores = {f"stage_{s.index}_{name}": value for s in record.stages for name, value in s.metrics.items()}
        return output._replace(metrics={**output.metrics, **scores})

    def _train_stage(self, stage: StageRecord, termination: SaveWhenTerminated, **kwargs: Any) -> TrainOutput:
        """One ordinary training, from where an earlier process left it."""
        args, scored_first = self.args, self.args.eval_on_start
        course, resume = SameCourse(self.begin_random(stage)), self._find_checkpoint()
        self._ended = resume is not None and has_ended(resume)
        args.eval_on_start = scored_first and resume is None  # once
        self.add_callback(course)  # after the caller's, and after what listens for signals
        try:
            with termination.watching():
                output = super().train(resume_from_checkpoint=resume, **kwargs)
        finally:
            self.remove_callback(course)
            args.eval_on_start = scored_first
        if termination.stopped:
            raise KeyboardInterrupt(f"terminated; stage {stage.index} is saved at {self.state.global_step}")
        if self._ended and resume is not None:
            take_config(self.accelerator.unwrap_model(self.model), resume)
        self._ended = False
        self._take_best()
        return output

    def begin_random(self, stage: StageRecord) -> int:
        """Begins the random numbers of a stage: a run that starts in the middle draws the same ones."""
        seed = self.args.seed + stage.index
        enable_full_determinism(seed) if self.args.full_determinism else set_seed(seed)
        return seed

    def check_stages(self) -> None:
        """Looks, without training anything, whether the stages that the arguments ask for fit data and optimizer.

        Raises:
            TypeError: As ``train``.
            ValueError: As ``train``.
        """
        args, (subsets, steps) = self.args, stage_plan(self.train_dataset, self.args)
        sizes, first = [len(subset) for subset in subsets], first_trained_stage(args)
        # A control takes as many steps as the forgetting would, whose stages have to exist for that.
        check_sizes(stage_sizes(self.train_dataset, args), args, self.model)
        check_branches(self, sizes)
        check_averaging(self)
        self._optimization.check_lengths(args, sizes[first:], steps[first:])

    def _check_beforehand(self) -> None:
        """Looks at all that can be seen before the first stage."""
        check_settings(self.args)
        check_model(self.model, self.args.recipe)
        self.check_stages()
        check_labels(self)
        check_batches(self)

    def _restore_previous_stage(self, folder: RunFolder, stage: StageRecord) -> None:
        """Puts weights and optimizer where the end of the previous stage left them, or a branch's where it begins."""
        branch = branching(self.args)
        first = branch or stage.index == first_trained_stage(self.args)
        in_memory = not branch and self._in_memory == stage.index - 1
        carry = self.args.carry_optimizer and not first
        self._optimization.begin_stage(self, keep_moments=carry and in_memory)
        if (stage.index == 0 and not branch) or in_memory:
            return
        load_weights(self.model, folder.start if branch else folder.stage(stage.index - 1))
        state = folder.optimizer(stage.index - 1)
        if carry and state.path.exists():
            state.load_into(self.create_optimizer())

    def _find_checkpoint(self) -> str | None:
        """Finds what this stage can be continued from; what else lies in its folder is in the way, and deleted."""
        args, scaler = self.args, getattr(self.accelerator, "scaler", None)
        checkpoint = last_complete_checkpoint(
            args.output_dir, args.world_size, scaler is not None, args.load_best_model_at_end, self._averages.files
        )
        self.accelerator.wait_for_everyone()
        reached = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else -1
        if self.is_world_process_zero():
            for path in Path(args.output_dir).glob("*checkpoint-*"):
                number = path.name.removeprefix("checkpoint-")
                if not number.isdecimal() or int(number) > reached or path.is_symlink():
                    remove(path)
        self.accelerator.wait_for_everyone()
        if checkpoint and not self._loads_by_itself():
            # Trainer itself takes no notice of names that differ from the live ones.
            load_weights(self.model, checkpoint)
        return checkpoint

    def _take_best(self) -> None:
        """Puts the best weights of a stage into the model: Trainer passes over names that differ from the live ones."""
        if not self.args.load_best_model_at_end or self._loads_by_itself():
            return
        self.accelerator.wait_for_everyone()  # it may just have been written
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            load_weights(self.model, best)
        else:
            logger.warning("No weights of this stage were both scored and saved; it ends with its last weights.")

    def _loads_by_itself(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def _finish_stage(self, folder: RunFolder, record: TrajectoryRecord, stage: StageRecord) -> None:
        """Saves a plain checkpoint, scores it, and records the stage as finished."""
        damaged = not_finite(self.model)
        if self.args.world_size > 1:  # each may hold another part
            damaged = next((name for name in gather_object([damaged]) if name), None)
        if damaged:
            raise TrajectoryError(
                f"Stage {stage.index} diverged: it left NaN or infinite values in tensor {damaged!r}. Lower the "
                "learning rate and run again in a new folder."
            )
        final = folder.stage(stage.index)
        partial, main = partial_name(final), self.is_world_process_zero()
        if main:
            remove(partial)
        self.accelerator.wait_for_everyone()
        save_stage(self, partial)
        self._averages.write(folder)
        if self.eval_dataset is not None:
            self.begin_random(stage)  # the score does not depend on where the stage was continued from
            stage.metrics = quality_scores(evaluate_all(self))
        stage.finished, self._in_memory = True, stage.index
        following = [] if branching(self.args) else record.stages[stage.index + 1 : stage.index + 2]
        if main:
            # Trainer leaves its arguments there as a pickle, with any token in clear.
            (partial / "training_args.bin").unlink(missing_ok=True)
            Checkpoint(partial).tensors  # noqa: B018 (reads and checks the headers)
            # In this order: a stage counts once the record says so, and then its weights and moments are on the disk;
            # until then it is continued from what led to it, which goes last.
            if following and self.args.carry_optimizer and self.optimizer is not None:
                folder.optimizer(stage.index).save(self.optimizer)
            remove(final)
            publish(partial, final)
            record.save(folder.root)
            folder.tidy(record.stages, self.keep_start == "always")
        self.accelerator.wait_for_everyone()
        if self.on_stage_end:
            self.on_stage_end(replace(stage))


class ForgettingTrainer(ForgettingMixin, Trainer):
    """A ``Trainer`` whose ``train()`` forgets progressively and records the trajectory of weights.

    Args:
        *args: As for ``Trainer``.
        **kwargs: As for ``Trainer``, with [`ForgettingArguments`] as ``args``; see [`ForgettingMixin`].

    Raises:
        TypeError: As [`ForgettingMixin`].
        ValueError: As [`ForgettingMixin`].

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
