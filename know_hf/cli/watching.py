"""Training as the command line shows it: one bar over all stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from know_hf.forgetting.stages import first_trained_stage, stage_title, training_steps
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.progress import progress_bar
from know_hf.trajectory import TrajectoryRecord


class WatchedTrainer(ForgettingTrainer):
    """A ForgettingTrainer with a [`RunProgress`] in place of Trainer's own bar a stage and printed dictionaries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for own in (ProgressCallback, PrinterCallback):
            self.remove_callback(own)
        self.add_callback(RunProgress())


class RunProgress(TrainerCallback):
    """One progress bar over all stages of a run: stage, steps, loss, time left; another for each long evaluation.

    Silent under ``disable_tqdm`` and in all processes but the main one. A run that continues begins where it is.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.evaluation: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.disable_tqdm or not state.is_world_process_zero:
            return
        # The trainer works in training/stage-<i> and keeps its record two folders above.
        folder = Path(args.output_dir)
        record = TrajectoryRecord.load(folder.parents[1])
        index = int(folder.name.rpartition("-")[2])
        steps = {
            stage.index: state.max_steps if stage.index == index else training_steps(stage.examples or 0, args)
            for stage in record.stages
            if stage.index >= first_trained_stage(args)
        }
        done = sum(own for stage, own in steps.items() if stage < index) + state.global_step
        name = stage_title(index, len(record.stages), bool(getattr(args, "self_check", False)))
        if self.bar is None:
            self.bar = progress_bar(total=sum(steps.values()), initial=done, desc=name, unit=" steps", smoothing=0)
        self.bar.set_description(name, refresh=False)
        self.bar.update(done - self.bar.n)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.4g}", refresh=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A stage that was told to stop is the last one that is trained now.
        if self.bar is not None and (self.bar.n >= self.bar.total or state.global_step < state.max_steps):
            self.bar.close()
            self.bar = None

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        if args.disable_tqdm or not state.is_world_process_zero or not hasattr(eval_dataloader, "__len__"):
            return
        if self.evaluation is None:
            self.evaluation = progress_bar(total=len(eval_dataloader), desc="Scoring", leave=False, delay=1)
        self.evaluation.update(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._end_evaluation()

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._end_evaluation()

    def _end_evaluation(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None
