"""ForgettingTrainer: stages, resuming, Trainer's own features, bad input."""

import shutil
import subprocess
import sys
from dataclasses import dataclass

import datasets
import pytest
import torch
from conftest import QUICK, slow, tiny_image_model
from safetensors.torch import load_file
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset
from transformers import (
    AutoModelForImageClassification,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    default_data_collator,
)

from know_hf import (
    ForgettingArguments,
    ForgettingMixin,
    ForgettingSettings,
    ForgettingTrainer,
    Trajectory,
    TrajectoryError,
)
from know_hf.forgetting.controls import TRAINED
from know_hf.forgetting.stages import stage_plan
from know_hf.store import LOCK_NAME, locked
from know_hf.trajectory import TrajectoryRecord


@dataclass
class Seq2SeqArguments(ForgettingSettings, Seq2SeqTrainingArguments):
    pass


class Pixels(TorchDataset):
    """A plain sized torch data set of random images."""

    def __init__(self, examples: int = 64):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(examples, 1, 16, 16, generator=generator)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": index % 3}


def make(
    folder, callbacks=None, cls=ForgettingTrainer, args_cls=ForgettingArguments, data=None, model=None, **settings
):
    settings = {"num_stages": 3, "train_stage_zero": True, **QUICK, **settings}
    return cls(
        model=model or tiny_image_model(),
        args=args_cls(str(folder), **settings),
        train_dataset=Pixels() if data is None else data,
        data_collator=default_data_collator,
        callbacks=callbacks,
    )


def weights(folder, stage):
    return load_file(folder / f"stage-{stage}" / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_stages_are_plain_folders(image_run):
    root = image_run.trajectory.root
    for stage in range(6):
        names = {path.name for path in (root / f"stage-{stage}").iterdir()}
        assert names == {"config.json", "model.safetensors"}
        AutoModelForImageClassification.from_pretrained(root / f"stage-{stage}")
    assert not [p for p in root.rglob("*") if p.suffix in (".bin", ".pt", ".pth")]
    assert not [p for p in root.iterdir() if p.name.endswith(".partial")]


def test_record_and_forgetting_curve(image_run):
    record = image_run.trajectory.record
    assert [stage.examples for stage in record.stages] == [128, 64, 32, 16, 8, 4]
    assert all(stage.finished and "eval_accuracy" in stage.metrics for stage in record.stages)
    assert record.recipe["sampling_ratio"] == 0.5 and record.num_stages == 5
    assert record.model["auto_class"] == "AutoModelForImageClassification"
    assert "torch" in record.versions and len(record.dataset["fingerprint"]) == 16


def test_stages_differ_and_stage_zero_may_be_taken_as_it_is(tmp_path):
    model = tiny_image_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make(tmp_path, model=model, train_stage_zero=None).train()
    zero = weights(tmp_path, 0)
    assert all(torch.equal(zero[name], before[name]) for name in zero)
    assert not same(zero, weights(tmp_path, 1)) and not same(weights(tmp_path, 1), weights(tmp_path, 2))


def test_logs_carry_the_stage(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((logs.get("stage"), logs.get("stage_examples")))

    trainer = make(tmp_path, callbacks=[Watch()], logging_strategy="epoch")
    output = trainer.train()
    assert set(seen) == {(0, 64), (1, 32), (2, 16)}
    assert {entry["stage"] for entry in trainer.state.log_history} == {0, 1, 2}
    assert output.training_loss > 0 and trainer.args.output_dir == str(tmp_path) and len(trainer.train_dataset) == 64


class Killed(RuntimeError):
    pass


class KillAt(TrainerCallback):
    """Stops the process's training dead at one step of one stage."""

    def __init__(self, stage, step):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(f"stage-{self.stage}") and state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(
    ("stage", "carry"), [(1, False), (2, True), *slow((0, True), (0, False), (1, True), (2, False))]
)
@pytest.mark.slow
def test_resumed_equals_uninterrupted(tmp_path, stage, carry):
    settings = {"carry_optimizer": carry, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    make(tmp_path / "whole", **settings).train()
    steps = [8, 4, 2][stage]
    with pytest.raises(Killed):
        make(tmp_path / "killed", callbacks=[KillAt(stage, steps - 1)], **settings).train()
    # A new process would come with other weights and random numbers.
    torch.manual_seed(99)
    make(tmp_path / "killed", model=tiny_image_model(seed=0 if stage == 0 else 5), **settings).train()
    for i in range(3):
        assert same(weights(tmp_path / "whole", i), weights(tmp_path / "killed", i))
    assert (tmp_path / "whole" / "trajectory.json").read_bytes() == (
        tmp_path / "killed" / "trajectory.json"
    ).read_bytes()


@pytest.mark.parametrize("lost", [1, *slow(2)])
@pytest.mark.slow
def test_lost_stage_is_made_again(tmp_path, lost):
    make(tmp_path).train()
    before = [weights(tmp_path, i) for i in range(3)]
    before = [{name: tensor.clone() for name, tensor in stage.items()} for stage in before]
    shutil.rmtree(tmp_path / f"stage-{lost}")
    make(tmp_path).train()
    assert all(same(before[i], weights(tmp_path, i)) for i in range(3))


@pytest.mark.slow
def test_optimizer_choice_changes_the_trajectory(tmp_path):
    make(tmp_path / "carried").train()
    make(tmp_path / "fresh", carry_optimizer=False).train()
    assert same(weights(tmp_path / "carried", 0), weights(tmp_path / "fresh", 0))
    assert not same(weights(tmp_path / "carried", 1), weights(tmp_path / "fresh", 1))


def test_half_written_checkpoint_is_skipped(tmp_path):
    from know_hf.forgetting.resume import last_complete_checkpoint

    with pytest.raises(Killed):
        make(tmp_path, callbacks=[KillAt(0, 4)], save_strategy="steps", save_steps=1).train()
    work = tmp_path / "training" / "stage-0"
    assert last_complete_checkpoint(work).endswith("checkpoint-3")
    (work / "checkpoint-3" / "trainer_state.json").unlink()
    assert last_complete_checkpoint(work).endswith("checkpoint-2")
    path = work / "checkpoint-2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert last_complete_checkpoint(work).endswith("checkpoint-1")
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_finished_run_trains_nothing_more(tmp_path):
    make(tmp_path).train()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("stage-*/model.safetensors")}
    make(tmp_path).train()
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.glob("stage-*/model.safetensors")}


def test_other_trainers_forget_through_the_mixin(tmp_path):
    class Forgetting(ForgettingMixin, Seq2SeqTrainer):
        pass

    make(tmp_path, cls=Forgetting, args_cls=Seq2SeqArguments).train()
    assert len(Trajectory.load(tmp_path)) == 3


def test_trainer_features_keep_working(tmp_path):
    trainer = make(
        tmp_path,
        gradient_accumulation_steps=2,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        max_steps=3,
    )
    trainer.train()
    assert len(trainer.trajectory) == 3 and trainer.trajectory.tensors["timm_model.fc.weight"].dtype == "F32"


def test_another_run_in_the_folder_is_refused(tmp_path):
    make(tmp_path).train()
    with pytest.raises(TrajectoryError, match=r"another run: recipe.learning_rate was 0.001, now 0.5"):
        make(tmp_path, learning_rate=0.5).train()
    with pytest.raises(TrajectoryError, match="dataset.examples was 64, now 48"):
        make(tmp_path, data=Pixels(48)).train()


def test_unsuitable_data(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from Pixels()

    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict({"x": [1, 2]}))
    with pytest.raises(TypeError, match=r"dictionary of splits \(train\); pass one"):
        make(tmp_path / "b", data=splits).train()
    with pytest.raises(TypeError, match="Stream and no map-style data set with a length"):
        make(tmp_path / "a", data=Stream(), max_steps=1).train()
    with pytest.raises(ValueError, match="without data"):
        make(tmp_path / "c", data=Pixels(3)).train()
    with pytest.raises(ValueError, match="stratify_by='label' is not a column"):
        make(tmp_path / "d", stratify_by="label").train()


def test_small_subset_is_a_warning(tmp_path, caplog):
    make(tmp_path, data=Pixels(40)).train()
    assert "smallest subset has 10 examples, less than one batch of 16" in caplog.text


@pytest.mark.slow
def test_batch_of_one_is_a_warning_beforehand(tmp_path, caplog):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        make(tmp_path / "a", data=Pixels(68)).train()
    assert "Stage 2 ends an epoch with a batch of one example" in caplog.text
    caplog.clear()
    make(tmp_path / "b", data=Pixels(68), dataloader_drop_last=True).train()
    assert "batch of one" not in caplog.text


def test_dropping_the_last_batch_is_for_training_only(tmp_path):
    trainer = make(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=256)
    trainer.eval_dataset = Pixels(32)
    trainer.train()
    assert all("eval_loss" in stage.metrics for stage in trainer.trajectory.record.stages)
    assert trainer.args.dataloader_drop_last is True


def test_folder_in_use(tmp_path):
    hold = (
        f"import filelock\nlock = filelock.FileLock({str(tmp_path / LOCK_NAME)!r})\n"
        "lock.acquire()\nprint('held', flush=True)\ninput()"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match="in use by another run"), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path), locked(tmp_path):  # a killed holder leaves nothing behind; nesting is fine
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_stages": 1}, "at least 2 stages"),
        ({"sampling_ratio": 1.0}, "strictly between 0 and 1"),
        ({"sampling_ratio": 0.0}, "strictly between 0 and 1"),
        ({"push_to_hub": True}, "push_to_hub would upload"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        ForgettingArguments(str(tmp_path), **settings)


def test_model_init_is_refused(tmp_path):
    trainer = make(tmp_path)
    trainer.model_init = tiny_image_model
    with pytest.raises(ValueError, match="model_init"):
        trainer.train()


@pytest.mark.slow
def test_incremental_trains_the_same_subsets_smallest_first(tmp_path):
    make(tmp_path / "forget").train()
    sizes = [stage.examples for stage in TrajectoryRecord.load(tmp_path / "forget").stages]
    trainer = make(tmp_path / "incremental", recipe="incremental")
    trainer.train()
    record = TrajectoryRecord.load(tmp_path / "incremental")
    assert [stage.examples for stage in record.stages] == sizes[::-1] == [16, 32, 64]
    assert all(stage.steps for stage in record.stages)
    forgetting, incremental = (stage_plan(Pixels(), make(tmp_path / r, recipe=r).args)[0] for r in TRAINED[:2])
    assert [list(s.indices) for s in forgetting[1:]] == [list(s.indices) for s in incremental[:2]][::-1]
    with pytest.raises(TrajectoryError, match="control 'incremental', not of forgetting"):
        Trajectory.load(tmp_path / "incremental")


@pytest.mark.parametrize(
    "settings", [{"max_steps": 3}, {"gradient_accumulation_steps": 2}, *slow({}, {"num_train_epochs": 3})]
)
@pytest.mark.further_slow
def test_equal_compute_takes_as_many_steps_as_the_forgetting(tmp_path, settings):
    make(tmp_path / "forget", **settings).train()
    stages = TrajectoryRecord.load(tmp_path / "forget").stages
    make(tmp_path / "equal", recipe="equal_compute", **settings).train()
    (only,) = TrajectoryRecord.load(tmp_path / "equal").stages
    assert only.steps == sum(stage.steps for stage in stages[1:]) and only.examples == 64


@pytest.mark.slow
def test_controls_continue_too(tmp_path):
    settings = {"recipe": "incremental", "save_strategy": "steps", "save_steps": 1}
    make(tmp_path / "whole", **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", callbacks=[KillAt(2, 2)], **settings).train()
    make(tmp_path / "killed", **settings).train()
    assert same(weights(tmp_path / "whole", 2), weights(tmp_path / "killed", 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "other"}, "'other' is not known"),
        ({"recipe": "incremental", "self_check": True}, "nothing to check"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        ForgettingArguments(str(tmp_path), **settings)
