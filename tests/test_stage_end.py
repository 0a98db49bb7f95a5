"""A run that dies between the last step of a stage and its record, and what else a continued stage must not change."""

import json
from pathlib import Path

import pytest
import torch
from conftest import QUICK, slow, tiny_image_model
from datasets import Dataset
from test_best import adapted
from test_best import make as make_scored
from test_trainer import KillAt, Killed, Pixels, make
from test_weights import bert
from torch.nn.utils.rnn import pad_sequence
from transformers import EarlyStoppingCallback, TrainerCallback

from know_hf import ForgettingArguments, ForgettingTrainer
from know_hf.forgetting import trainer as trainer_module
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.making import make_trainer
from know_hf.trajectory import TrajectoryRecord

SLOW = pytest.mark.slow
SETTINGS = {
    "steps": {"max_steps": 6},  # stage 0 ends within an epoch, the others with one
    "part of an epoch": {"num_train_epochs": 1.25, "lr_scheduler_type": "constant"},
    "epochs": {"num_train_epochs": 2},
    "accumulated": {"max_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
}


class DieAt(TrainerCallback):
    """Ends the process's training dead at the end of one stage, after its last checkpoint."""

    def __init__(self, stage: int):
        self.stage = stage

    def on_train_end(self, args, state, control, **_):
        if args.output_dir.endswith(f"stage-{self.stage}"):
            raise Killed


class Steps(TrainerCallback):
    """Counts the steps of every stage."""

    def __init__(self):
        self.taken = {}

    def on_train_begin(self, args, state, control, **_):
        self.taken.setdefault(int(args.output_dir[-1]), 0)

    def on_step_end(self, args, state, control, **_):
        self.taken[int(args.output_dir[-1])] += 1


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: path → bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def saving(folder, *callbacks, seed=0, **settings):
    return make(
        folder, list(callbacks), model=tiny_image_model(seed), save_strategy="steps", save_steps=2, **settings
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, each made once."""
    made: dict[str, dict] = {}

    def run(name: str) -> dict:
        if name not in made:
            folder = tmp_path_factory.mktemp("whole")
            saving(folder, **SETTINGS[name]).train()
            made[name] = tree(folder)
        return made[name]

    return run


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
@pytest.mark.parametrize("name", ["steps", *slow("part of an epoch", "epochs"), "accumulated"])
@pytest.mark.slow
def test_killed_after_the_last_step_of_a_stage(tmp_path, whole, name, stage):
    with pytest.raises(Killed):
        saving(tmp_path, DieAt(stage), **SETTINGS[name]).train()
    steps = Steps()
    again = saving(tmp_path, steps, seed=5 if stage else 0, **SETTINGS[name])
    output = again.train()
    assert steps.taken[stage] == 0  # it was at its end
    assert tree(tmp_path) == whole(name)
    assert output.global_step == again.trajectory.record.stages[-1].steps


class Noisy(Pixels):
    """Images that come with other noise whenever they are read."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "pixel_values": row["pixel_values"] + 0.1 * torch.randn(1, 16, 16)}


@pytest.mark.slow
def test_random_data_hold_by_epochs(tmp_path):
    settings = {"num_stages": 2, "num_train_epochs": 2, "save_strategy": "epoch", "data": Noisy()}
    make(tmp_path / "whole", **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", [KillAt(1, 3)], **settings).train()
    make(tmp_path / "killed", model=tiny_image_model(5), **settings).train()
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def dying_in(module, name: str, when):
    """A function of a module that dies before it does anything, at one of its calls."""
    real = getattr(module, name)

    def dying(*args, **kwargs):
        if when(*args):
            raise Killed
        return real(*args, **kwargs)

    return lambda monkeypatch: monkeypatch.setattr(module, name, dying)


def finished(stages) -> int:
    return sum(stage.finished for stage in stages)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=SLOW), 1, pytest.param(2, marks=SLOW)])
@pytest.mark.parametrize(
    "window",
    [
        lambda stage: dying_in(trainer_module, "publish", lambda _, final: final.name == f"stage-{stage}"),
        lambda stage: dying_in(TrajectoryRecord, "save", lambda record, _: finished(record.stages) == stage + 1),
        *slow(
            lambda stage: dying_in(
                trainer_module, "save_stage", lambda _, folder: folder.name == f".stage-{stage}.partial"
            ),
            lambda stage: dying_in(RunFolder, "tidy", lambda _, stages: finished(stages) == stage + 1),
        ),
    ],
    ids=["before its name", "before the record", "before it is saved", "before tidying up"],
)
@pytest.mark.slow
def test_killed_while_a_stage_is_finished(tmp_path, whole, window, stage):
    """The order of what is written decides what a killed process leaves."""
    with monkey() as monkeypatch, pytest.raises(Killed):
        window(stage)(monkeypatch)
        saving(tmp_path, **SETTINGS["steps"]).train()
    steps = Steps()
    saving(tmp_path, steps, seed=5, **SETTINGS["steps"]).train()
    assert not steps.taken.get(stage)
    assert tree(tmp_path) == whole("steps")


def monkey():
    return pytest.MonkeyPatch.context()


@pytest.mark.parametrize("model", [adapted, pytest.param(bert, marks=SLOW)])
@pytest.mark.slow
def test_the_best_weights_of_a_stage_that_was_at_its_end(tmp_path, model):
    """The optimizer is that of the last step, the weights those of the best."""
    for folder in ("whole", "killed"):
        callbacks = [DieAt(0)] if folder == "killed" else []
        trainer = make_scored(tmp_path / folder, model, *callbacks, num_train_epochs=1.5, save_total_limit=None)
        if callbacks:
            with pytest.raises(Killed):
                trainer.train()
            trainer = make_scored(tmp_path / folder, model, num_train_epochs=1.5, save_total_limit=None)
        trainer.train()
    assert tree(tmp_path / "whole") == tree(tmp_path / "killed")


def texts(folder, *callbacks, **settings):
    rows = [[1 + (i * j) % 40 for j in range(1, 3 + i % 6)] for i in range(32)]
    data = Dataset.from_dict({"input_ids": rows, "labels": [i % 2 for i in range(32)]})
    torch.manual_seed(0)
    settings = {**QUICK, "num_stages": 2, "per_device_train_batch_size": 4, "num_train_epochs": 4, **settings}
    return ForgettingTrainer(
        model=bert(),
        args=ForgettingArguments(str(folder), train_stage_zero=True, **{**settings, "save_strategy": "steps"}),
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        data_collator=lambda rows: {
            "input_ids": pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True),
            "labels": torch.tensor([row["labels"] for row in rows]),
        },
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize(
    ("settings", "kill"),
    [
        # The order of every epoch is its own, wherever training's random numbers have come to.
        ({"train_sampling_strategy": "group_by_length", "save_steps": 3}, KillAt(0, 13)),
        *slow(({"accelerator_config": {"use_seedable_sampler": False}, "save_steps": 3}, KillAt(0, 13))),
        # What is decided at the end of an epoch is part of the checkpoint that is due there.
        (
            {
                "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0},
                "eval_strategy": "epoch", "metric_for_best_model": "loss", "save_steps": 8,
            },
            KillAt(0, 20),
        ),
        # What is scored before the first step is scored once.
        *slow((
            {
                "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 8, "metric_for_best_model": "loss",
                "save_steps": 3, "learning_rate": 0.0,
            },
            KillAt(0, 13),
        )),
    ],
    ids=["by length", "unseeded", "plateau", "scored at the start"],
)  # fmt: skip
@pytest.mark.slow
def test_a_stage_continued_within_an_epoch(tmp_path, settings, kill):
    stopping = [EarlyStoppingCallback(3)] if "eval_on_start" in settings else []
    texts(tmp_path / "whole", *stopping, **settings).train()
    with pytest.raises(Killed):
        texts(tmp_path / "killed", *stopping, kill, **settings).train()
    stopping = [EarlyStoppingCallback(3)] if stopping else []
    texts(tmp_path / "killed", *stopping, **settings).train()
    assert tree(tmp_path / "whole") == tree(tmp_path / "killed")


@pytest.mark.parametrize("kill", [DieAt(1), pytest.param(KillAt(2, 2), marks=SLOW)], ids=["end", "within"])
@pytest.mark.slow
def test_all_files_of_a_text_model_are_the_same(tmp_path, text_model_folder, sentences, kill):
    """Tokenizers keep what they were last asked for, models what they learned from the first batch."""

    def trainer(folder, *callbacks):
        settings = {**QUICK, "num_stages": 3, "per_device_train_batch_size": 4, "max_steps": 5}
        return make_trainer(
            str(text_model_folder), sentences, str(tmp_path / folder), eval_dataset=sentences.select(range(8)),
            callbacks=list(callbacks), **{**settings, "save_strategy": "steps", "save_steps": 1},
        )  # fmt: skip

    trainer("whole").train()
    with pytest.raises(Killed):
        trainer("killed", kill).train()
    trainer("killed").train()
    assert tree(tmp_path / "whole") == tree(tmp_path / "killed")
    assert "stage-0/tokenizer.json" in tree(tmp_path / "whole")


def test_sets_in_an_adapters_config_have_one_order(tmp_path):
    """Their own differs from process to process."""
    trainer = make_scored(tmp_path, adapted, load_best_model_at_end=False)
    names = {f"layer{i}" for i in range(40)}
    trainer.model.peft_config["default"].exclude_modules = names
    trainer.train()
    config = json.loads((tmp_path / "stage-1" / "adapter_config.json").read_text())
    assert config["exclude_modules"] == sorted(names) and config["target_modules"] == ["query", "value"]
