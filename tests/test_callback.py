"""A trajectory of a training that is not ours: recorded by a callback, averaged, fitted, and continued."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from know_hf import Trajectory, TrajectoryCallback, enrich
from know_hf.fitting.fit import fit
from know_hf.trajectory import resolve_kinds
from know_hf.trajectory.record import TrajectoryRecord

CONFIG = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                    max_position_embeddings=8)  # fmt: skip
WEIGHT = "bert.pooler.dense.weight"


def examples(count: int = 64) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(2, 20, (count, 6), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > 10)} for row in words]


def trainer_of(folder, *callbacks, **settings) -> Trainer:
    torch.manual_seed(0)
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=8, learning_rate=1e-2, report_to="none", disable_tqdm=True,
        **{"num_train_epochs": 2, "save_strategy": "no", "use_cpu": True, **settings},
    )  # fmt: skip
    return Trainer(BertForSequenceClassification(CONFIG), args, train_dataset=examples(), eval_dataset=examples(16),
                   callbacks=list(callbacks))  # fmt: skip


def weight_of(folder, name: str = WEIGHT) -> torch.Tensor:
    return load_file(folder / "model.safetensors")[name]


def test_every_so_many_steps(tmp_path):
    recorder = TrajectoryCallback(tmp_path / "course", every=3, keep=4)
    trainer = trainer_of(tmp_path / "out", recorder, eval_strategy="steps", eval_steps=3)
    trainer.train()
    plain = trainer_of(tmp_path / "plain", eval_strategy="steps", eval_steps=3)
    plain.train()
    ours, theirs = trainer.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)  # it takes no notice
    stages = recorder.trajectory.record.stages
    assert [(s.index, s.steps, s.folder) for s in stages] == [
        (0, 16, "step-16"), (1, 15, "step-15"), (2, 12, "step-12"), (3, 9, "step-9")]  # fmt: skip
    assert {p.name for p in (tmp_path / "course").iterdir()} == {"trajectory.json", *(s.folder for s in stages)}
    assert "eval_loss" in stages[1].metrics and torch.equal(weight_of(tmp_path / "course/step-16"), ours[WEIGHT])
    made = enrich(tmp_path / "course", method="mean", steps=1).checkpoints["x2"]
    expected = torch.stack([weight_of(tmp_path / "course" / s.folder) for s in stages]).mean(0)
    assert torch.allclose(weight_of(made), expected, atol=1e-6)
    card = (made / "README.md").read_text()
    assert "from 4 checkpoints of one training" in card and "| 0 | 16 |" in card and "| learning_rate | 0.01 |" in card
    assert BertForSequenceClassification.from_pretrained(made).config.hidden_size == 16
    for method in ("known", "shrink", "all"):
        with pytest.raises(ValueError, match="reads checkpoints of known, falling shares of the data"):
            enrich(tmp_path / "course", method=method)


def test_fractions_are_ratios_that_known_reads(tmp_path):
    recorder = TrajectoryCallback(tmp_path / "course", fractions=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1))
    trainer_of(tmp_path / "out", recorder).train()
    trajectory = recorder.trajectory
    assert [stage.steps for stage in trajectory.record.stages] == [16, 8, 4, 2, 1]
    assert trajectory.record.sampling_ratio == pytest.approx(0.5) and trajectory.positions is None
    assert enrich(trajectory, steps=1).checkpoints["x2"].is_dir()


def test_unequal_fractions_place_the_stages(tmp_path):
    recorder = TrajectoryCallback(tmp_path / "course", fractions=(0.25, 0.75, 1))
    trainer_of(tmp_path / "out", recorder).train()
    below = recorder.trajectory.positions
    assert below == pytest.approx([0, math.log(0.75) / math.log(0.5), 2], abs=1e-4)


class Halt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 8:
            control.should_training_stop = True


@pytest.mark.slow
def test_a_continued_training_goes_on_recording(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = TrajectoryCallback(tmp_path / "whole", every=4, average_decay=0.9)
    trainer_of(tmp_path / "a", whole, **saving).train()
    first = TrajectoryCallback(tmp_path / "parts", every=4, average_decay=0.9)
    trainer_of(tmp_path / "b", first, Halt(), **saving).train()
    second = TrajectoryCallback(tmp_path / "parts", every=4, average_decay=0.9)
    trainer_of(tmp_path / "b", second, **saving).train(resume_from_checkpoint=True)
    for folder in ("step-16", "step-12", "step-8", "step-4", "ema"):
        assert torch.equal(weight_of(tmp_path / "whole" / folder), weight_of(tmp_path / "parts" / folder)), folder
    steps = [[s.steps for s in TrajectoryRecord.load(tmp_path / where).stages] for where in ("whole", "parts")]
    assert steps == [[16, 12, 8, 4]] * 2


def test_the_moving_average(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            seen.append(model.state_dict()[WEIGHT].clone())

    recorder = TrajectoryCallback(tmp_path / "course", every=8, average_decay=0.5)
    trainer_of(tmp_path / "out", recorder, Watch()).train()
    average = seen[0]
    for done, weight in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + done) / (10 + done))
        average = decay * average + (1 - decay) * weight
    assert torch.allclose(weight_of(tmp_path / "course" / "ema"), average, atol=1e-6)


def test_fitting_to_what_was_recorded(tmp_path):
    recorder = TrajectoryCallback(tmp_path / "course", every=4)
    trainer = trainer_of(tmp_path / "out", recorder)
    trainer.train()
    predicted, _ = resolve_kinds(recorder.trajectory.parameters)
    found = fit(trainer, recorder.trajectory, predicted, examples(16), tmp_path / "fitted.json")
    made = enrich(recorder.trajectory, method="fitted", steps=1, parameters={"coefficients": found.table})
    assert not torch.equal(weight_of(made.checkpoints["x2"]), weight_of(tmp_path / "course/step-16"))


def test_a_module_without_a_configuration(tmp_path):
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, labels):
            out = self.layer(x)
            return {"loss": nn.functional.cross_entropy(out, labels), "logits": out}

    recorder = TrajectoryCallback(tmp_path / "course", every=1, keep=2)
    args = TrainingArguments(str(tmp_path / "out"), max_steps=3, report_to="none", save_strategy="no", use_cpu=True)
    Trainer(Line(), args, train_dataset=[{"x": torch.ones(2), "labels": 1}] * 8, callbacks=[recorder]).train()
    assert recorder.trajectory.parameters["layer.weight"].kind == "fc"
    assert json.loads((tmp_path / "course/trajectory.json").read_text())["recipe"]["every"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either every="),
        ({"every": 2, "fractions": (0.5, 1)}, "either every="),
        ({"every": 0}, "every is 0, keep 5"),
        ({"every": 2, "keep": 1}, "keep 1"),
        ({"fractions": (1,)}, "at least two rising shares that end with 1"),
        ({"fractions": (0.5, 0.75)}, "that end with 1"),
        ({"fractions": (0.5, 0.25, 1)}, "rising shares"),
        ({"every": 2, "average_decay": 1}, "average_decay is 1"),
    ],
)
def test_settings_that_fit_nothing(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryCallback(tmp_path, **settings)


@pytest.mark.slow
def test_folders_and_trainings_that_do_not_fit(tmp_path, trajectory):
    recorder = TrajectoryCallback(tmp_path / "course", every=8)
    trainer_of(tmp_path / "out", recorder).train()
    for folder in (tmp_path / "course", trajectory.root):
        with pytest.raises(FileExistsError, match="holds the trajectory of another training"):
            trainer_of(tmp_path / "out", TrajectoryCallback(folder, every=8)).train()
    with pytest.raises(ValueError, match="16 steps, too few to record at"):
        trainer_of(tmp_path / "out", TrajectoryCallback(tmp_path / "b", fractions=(0.001, 0.002, 1))).train()
    assert isinstance(recorder.trajectory, Trajectory) and not (tmp_path / "b").exists()
