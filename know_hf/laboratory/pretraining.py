"""Θ^0, its forgetting and the trained controls: one run of the ForgettingTrainer each, on prepared examples."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.controls import CONTROLS, FORGETTING
from know_hf.forgetting.subsets import subset_sizes
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.laboratory.fast import LEAN, FastForgettingTrainer, LeanForgettingTrainer, fast_settings, goes_fast
from know_hf.laboratory.protocol import Advance, Stopwatch, Vary
from know_hf.laboratory.setting import Pretraining
from know_hf.models.building import auto_class_of
from know_hf.models.loading import LoadedModel, load_model
from know_hf.store import write_json
from know_hf.tasks import Columns, get_task
from know_hf.training.data import make_preprocessing
from know_hf.training.examples import Augmentation, Examples, as_it_is
from know_hf.training.prepared import open_examples
from know_hf.training.scoring import make_scoring
from know_hf.trajectory import TrajectoryRecord
from know_hf.trajectory.record import FILE_NAME

#: Points of the learning curve of stage 0, by which one sees whether it had converged.
CURVE_POINTS = 10


def build_model(pretraining: Pretraining, columns: Columns, seed: int) -> LoadedModel:
    """Loads the model to start from, or builds the network to train from nothing, with its classes in order.

    Raises:
        FileNotFoundError: If the model cannot be found.
        ValueError: If the architecture is unknown.
    """
    set_seed(seed)
    source = pretraining.model if pretraining.model is not None else pretraining.architecture
    return load_model(source, columns.task, columns.class_names, image_size=pretraining.image_size)


@dataclass(frozen=True)
class ForgettingRun:
    """The forgetting of an experiment or one of its trained controls, for [`Workers`](know_hf.training.workers)."""

    folder: Path
    control: str
    pretraining: Pretraining
    columns: Columns
    data: dict[str, Path]
    #: Folder of Θ^0 for the control that trains on from it.
    start: Path | None = None
    #: Averages of stage 0 that the forgetting records.
    average: str | None = None
    #: As for [`Speed`](know_hf.laboratory.options).
    fast: bool | None = None

    @property
    def examples(self) -> dict[str, Examples]:
        """The data, by the names of ``data``."""
        centre = None if self.pretraining.image_mean is None else self.data["train"]
        return {part: open_examples(path, centre) for part, path in self.data.items()}

    @property
    def done(self) -> bool:
        """Whether all stages are finished."""
        if not (self.folder / FILE_NAME).exists():
            return False
        return all(stage.finished for stage in TrajectoryRecord.load(self.folder).stages)

    @property
    def ready(self) -> bool:
        """Whether Θ^0 is there, if it starts from it."""
        return self.start is None or self.start.is_dir()

    @property
    def cost(self) -> float:
        """Examples to train on, in all."""
        args = self.arguments()
        stages = args.num_stages + bool(args.self_check)
        sizes = subset_sizes(len(open_examples(self.data["train"])), args.sampling_ratio, stages)
        control = CONTROLS[self.control]
        trained = control.subsets(sizes)
        return args.num_train_epochs * (sum(trained) if control.steps is None else len(trained) * control.steps(sizes))

    @property
    def quick(self) -> bool:
        """Whether it takes the fast path."""
        return goes_fast(self.fast, self.columns.task, bool(self.pretraining.training.get("use_cpu")))

    def arguments(self) -> ForgettingArguments:
        """The training arguments: the recipe's, and what the laboratory needs."""
        accelerator = torch.accelerator.is_available()
        own = {**self.pretraining.training}
        usual: int = ForgettingArguments.per_device_train_batch_size
        batch = own.get("per_device_train_batch_size", usual)
        own["average_stage_zero"] = self.average
        if self.control != FORGETTING:
            own.pop("self_check", None)
            own["average_stage_zero"] = None
        return ForgettingArguments(
            str(self.folder),
            **{
                "train_stage_zero": True,
                "eval_strategy": "steps",
                "eval_steps": 1 / CURVE_POINTS,
                "save_strategy": "no",
                "logging_strategy": "no",
                "per_device_eval_batch_size": get_task(self.columns.task).eval_batch_size(batch),
                "dataloader_pin_memory": accelerator,
                "use_cpu": not accelerator,
                "remove_unused_columns": False,
                "disable_tqdm": True,
                **LEAN,
                **(fast_settings(own) if self.quick else {}),
                **own,
                "recipe": self.control,
            },
        )

    def make_trainer(self) -> ForgettingTrainer:
        """Its trainer, with the model that it starts from and the data of all stages."""
        args, task = self.arguments(), get_task(self.columns.task)
        train, test = (self.examples[part] for part in ("train", "eval"))
        if self.pretraining.augmentation is not None:
            train = train.augmented(Augmentation(**self.pretraining.augmentation))
        if self.start is None:
            model = build_model(self.pretraining, self.columns, args.seed).model
        else:
            model = auto_class_of(task.name).from_pretrained(self.start, dtype=torch.float32)
        # Saved with every stage, so that each can be fine-tuned on its own.
        processor = make_preprocessing(
            model, self.pretraining.model, self.columns, image_size=self.pretraining.image_size
        ).processing_class
        trainer = (FastForgettingTrainer if self.quick else LeanForgettingTrainer)(
            model=model, args=args, train_dataset=train, eval_dataset=test, data_collator=as_it_is,
            compute_metrics=make_scoring(None, task.name, getattr(model.config, "num_labels", 0)),
            preprocess_logits_for_metrics=task.keep, processing_class=processor,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.keep_start = "never"  # it is drawn from the seed, or lies in a folder
        return trainer

    def run(self) -> None:
        """Trains what is not finished of it."""
        self.train(self.make_trainer())

    def train(self, trainer: ForgettingTrainer) -> None:
        """Trains what is not finished of it with a trainer from [`make_trainer`], and keeps a log of each stage."""
        watch, seed = Stopwatch(), trainer.args.seed
        trainer.add_callback(watch)
        trainer.add_callback(Advance())
        trainer.add_callback(
            Vary(trainer.train_dataset, lambda: seed + (trainer._stage.index if trainer._stage else 0))
        )
        trainer.add_callback(_StageLog(trainer, self.folder / "curves", watch))
        trainer.train()


class _StageLog(TrainerCallback):
    """Writes each stage's learning curve and times beside the trajectory."""

    def __init__(self, trainer: ForgettingTrainer, folder: Path, watch: Stopwatch):
        self.trainer, self.folder, self.watch = trainer, folder, watch
        self.begun = self.in_steps = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun, self.in_steps = time.perf_counter(), self.watch.seconds

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        stage = self.trainer._stage
        if stage is not None and stage.index:  # only stage 0 has to show that it converged
            control.should_evaluate = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        stage = self.trainer._stage
        if stage is None:
            return
        curve = [(round(e["epoch"], 4), e["eval_score"]) for e in state.log_history if "eval_score" in e]
        content = {
            "stage": stage.index,
            "curve": curve,
            "steps": state.global_step,
            "seconds": time.perf_counter() - self.begun,
            "training": self.watch.seconds - self.in_steps,
        }
        write_json(self.folder / f"stage-{stage.index}.json", content, indent=None)
