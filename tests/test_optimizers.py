"""Optimizers and schedules that the caller gives: kept, started again with every stage, or refused in words."""

import pytest
import torch
from conftest import QUICK, tiny_image_model
from test_trainer import KillAt, Killed, Pixels, same, weights
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from transformers import default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer, TrajectoryError
from know_hf.cli.commands import COMMANDS
from know_hf.cli.recipe import Call, resolve_recipe
from know_hf.forgetting.options import read_steps
from know_hf.forgetting.resume import OptimizerState


def two_groups(model) -> list[dict]:
    head = list(model.timm_model.fc.parameters())
    body = [p for p in model.parameters() if not any(p is q for q in head)]
    return [{"params": body, "lr": 1e-3}, {"params": head, "lr": 1e-2}]


def plain(model):
    return torch.optim.SGD(two_groups(model), lr=0.1, momentum=0.9, weight_decay=0.01), None


def decaying(model):
    optimizer, _ = plain(model)
    return optimizer, LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 8))


def cycling(model):
    optimizer = torch.optim.Adam(two_groups(model), lr=0.1, amsgrad=True)
    return optimizer, OneCycleLR(optimizer, max_lr=[1e-2, 1e-3], total_steps=8)


def on_plateau(model):
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    return optimizer, ReduceLROnPlateau(optimizer, patience=0, threshold=1.0, factor=0.5)


def make(folder, optimizers, stage=None, step=None, seed=0, cls=ForgettingTrainer, further=None, **settings):
    """A trainer of three stages of 8, 4 and 2 steps; dies at a step of a stage, if one is given."""
    model = tiny_image_model(seed)
    settings = {
        **QUICK, "num_stages": 3, "num_train_epochs": 2, "train_stage_zero": True, **settings,
    }  # fmt: skip
    return cls(
        model=model, args=ForgettingArguments(str(folder), **settings), train_dataset=Pixels(),
        eval_dataset=Pixels(8), data_collator=default_data_collator, optimizers=optimizers(model),
        callbacks=[KillAt(stage, step)] if step else None, **(further or {}),
    )  # fmt: skip


class KillBetween(ForgettingTrainer):
    @staticmethod
    def on_stage_end(stage):
        if stage.index == 0:
            raise Killed


def none(model):
    return None, None


@pytest.mark.parametrize(
    ("optimizers", "carry"),
    [
        (decaying, True),
        pytest.param(plain, False, marks=pytest.mark.slow),
        pytest.param(cycling, False, marks=pytest.mark.slow),
        pytest.param(on_plateau, True, marks=pytest.mark.slow),
        pytest.param(none, True, marks=pytest.mark.slow),
    ],
)
def test_killed_with_an_own_optimizer_equals_uninterrupted(tmp_path, optimizers, carry):
    settings = {"carry_optimizer": carry, "save_strategy": "steps", "save_steps": 2}
    if optimizers in (on_plateau, none):
        settings |= {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    if optimizers is none:
        plateau = {"patience": 0, "threshold": 1.0, "factor": 0.5}
        settings |= {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": plateau}
    whole = make(tmp_path / "whole", optimizers, **settings)
    expected = type(whole.optimizer)
    whole.train()
    assert optimizers is none or type(whole.optimizer.optimizer) is expected
    stages = [weights(tmp_path / "whole", i) for i in range(3)]
    assert not same(stages[0], stages[1]) and not same(stages[1], stages[2])
    with pytest.raises(Killed):  # between stages
        make(tmp_path / "killed", optimizers, cls=KillBetween, **settings).train()
    with pytest.raises(Killed):  # within one
        make(tmp_path / "killed", optimizers, stage=1, step=3, seed=5, **settings).train()
    make(tmp_path / "killed", optimizers, seed=5, **settings).train()
    assert all(same(stages[i], weights(tmp_path / "killed", i)) for i in range(3))
    record = (tmp_path / "whole" / "trajectory.json").read_bytes()
    assert record == (tmp_path / "killed" / "trajectory.json").read_bytes()


def rates(trainer, monkeypatch) -> list[tuple[int, list[float]]]:
    """Learning rates that every step of every stage has used."""
    seen = []
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            seen.append((int(args.output_dir[-1]), [round(group["lr"], 8) for group in optimizer.param_groups]))

    trainer.add_callback(Watch())
    trainer.train()
    return seen


@pytest.mark.parametrize("carry", [True, False], ids=["carried", "fresh"])
@pytest.mark.slow
def test_every_stage_has_the_rates_of_the_first(tmp_path, monkeypatch, carry):
    seen = rates(make(tmp_path, cycling, carry_optimizer=carry), monkeypatch)
    first = [rate for stage, rate in seen if stage == 0]
    for stage, steps in ((0, 8), (1, 4), (2, 2)):
        assert [rate for i, rate in seen if i == stage] == first[:steps]
    assert len({tuple(rate) for rate in first}) > 4 and first[0][0] != first[0][1]


def test_a_scheduler_made_by_a_subclass_starts_again(tmp_path, monkeypatch):
    class Own(ForgettingTrainer):
        def create_scheduler(self, num_training_steps, optimizer=None):
            if self.lr_scheduler is None:
                self.lr_scheduler = LambdaLR(self.optimizer, lambda step: 1 - step / num_training_steps)
            return self.lr_scheduler

    seen = rates(make(tmp_path, plain, cls=Own), monkeypatch)
    for stage, steps in ((0, 8), (1, 4), (2, 2)):
        assert [rate[0] for i, rate in seen if i == stage] == [round(1e-3 * (1 - s / steps), 8) for s in range(steps)]


def test_settings_of_groups_are_kept_for_every_stage(tmp_path, monkeypatch):
    model = tiny_image_model()
    settings = {"lr": 1e-3, "params": two_groups(model)}
    trainer = ForgettingTrainer(
        model=model, train_dataset=Pixels(), data_collator=default_data_collator,
        args=ForgettingArguments(
            str(tmp_path), **QUICK, num_stages=3, carry_optimizer=False, lr_scheduler_type="constant"
        ),
        optimizer_cls_and_kwargs=(torch.optim.SGD, settings),
    )  # fmt: skip
    assert {tuple(rate) for _, rate in rates(trainer, monkeypatch)} == {(1e-3, 1e-2)}
    assert settings.keys() == {"lr", "params"}


def test_an_optimizer_made_anew_every_time_cannot_be_carried(tmp_path):
    class Anew(ForgettingTrainer):
        def create_optimizer(self, model=None):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
            return self.optimizer

    with pytest.raises(ValueError, match="Anew.create_optimizer makes a new optimizer whenever"):
        make(tmp_path / "carried", none, cls=Anew).train()
    make(tmp_path / "fresh", none, cls=Anew, carry_optimizer=False).train()
    assert not same(weights(tmp_path / "fresh", 1), weights(tmp_path / "fresh", 2))


class Unstorable(LambdaLR):
    def state_dict(self):
        return {"made": object()}


class Wrapping(torch.optim.SGD):
    def __init__(self, inner):
        super().__init__(inner.param_groups, lr=0.1)
        self.inner = inner


def foreign_scheduler(model):
    return plain(model)[0], decaying(model)[1]


def foreign_parameters(model):
    return plain(tiny_image_model(3))


def short(model):
    optimizer, _ = plain(model)
    return optimizer, OneCycleLR(optimizer, max_lr=0.1, total_steps=3)


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        (lambda model: (None, decaying(model)[1]), "LambdaLR .* belongs to another optimizer"),
        (foreign_scheduler, "belongs to another optimizer"),
        (foreign_parameters, "parameters in the optimizer .* are not the model's"),
        (lambda model: (Wrapping(plain(model)[0]), None), "Wrapping .* wraps SGD"),
        (short, "OneCycleLR .* ends after 3 steps, but a stage takes 8"),
        (
            lambda model: (o := plain(model)[0], Unstorable(o, lambda step: 1.0)),
            "Unstorable .* cannot be started again",
        ),
    ],
)
def test_what_cannot_work_stage_by_stage_is_refused(tmp_path, optimizers, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, optimizers).train()
    assert not list(tmp_path.glob("stage-*")) and not (tmp_path / "trajectory.json").exists()


def test_moments_that_cannot_be_stored_are_seen_after_one_step(tmp_path):
    class Remembering(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["past"] = [1.0]

    def remembering(model):
        return Remembering(model.parameters(), lr=0.01), None

    trainer = make(tmp_path / "carried", remembering)
    with pytest.raises(TypeError, match="keeps a list as 'past', which cannot be carried over"):
        trainer.train()
    assert trainer.state.global_step == 1
    make(tmp_path / "fresh", remembering, carry_optimizer=False).train()


@pytest.mark.slow
def test_lengths_that_do_not_fit_are_said(tmp_path, caplog):
    make(tmp_path / "a", decaying).train()
    assert "keeps its length, while the stages take 8, 4, 2 steps" in caplog.text
    caplog.clear()
    make(tmp_path / "b", decaying, recipe="equal_compute", num_train_epochs=4).train()
    assert "learning rate of 0 before a stage ends, which takes 12 steps" in caplog.text
    caplog.clear()
    make(tmp_path / "c", none, warmup_steps=2).train()
    assert "warmup_steps=2 lasts for all of the 2 steps of the shortest stage" in caplog.text


def test_another_optimizer_is_another_run(tmp_path):
    make(tmp_path, plain).train()
    with pytest.raises(TrajectoryError, match=r"another run: recipe.optimizer was .*SGD.*, now .*Adam"):
        make(tmp_path, cycling).train()


def test_moments_keep_their_type(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    moment = torch.randn(3)
    optimizer.state[parameter]["momentum_buffer"] = moment
    OptimizerState(tmp_path / "optimizer.safetensors").save(optimizer)
    fresh = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    OptimizerState(tmp_path / "optimizer.safetensors").load_into(fresh)
    assert torch.equal(fresh.state[parameter]["momentum_buffer"], moment)


def test_gradient_scaling_starts_again(tmp_path, monkeypatch):
    trainer = make(tmp_path, plain)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scales = []
    monkeypatch.setattr(
        trainer.accelerator.scaler, "load_state_dict", lambda state: scales.append(state["scale"]), raising=True
    )
    trainer.train()
    assert scales == [64.0] * 3


STEPS = {"lr_scheduler_type": "constant", "learning_rate_steps": {1: 0.1, "1.5": 0.01}}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_of_the_learning_rate_begin_anew_with_every_stage(tmp_path, monkeypatch, accumulation):
    seen = rates(make(tmp_path, none, **STEPS, gradient_accumulation_steps=accumulation), monkeypatch)
    for stage, epoch in ((0, 4 // accumulation), (1, 2 // accumulation), (2, 1)):
        factors = [0.01 if 2 * i >= 3 * epoch else 0.1 if i >= epoch else 1 for i in range(2 * epoch)]
        assert [rate[0] for i, rate in seen if i == stage] == [round(1e-3 * factor, 8) for factor in factors]


def test_steps_of_the_learning_rate_are_kept_in_a_continued_run(tmp_path):
    settings = {**STEPS, "save_strategy": "steps", "save_steps": 1}
    make(tmp_path / "whole", none, **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", none, stage=0, step=6, **settings).train()
    with pytest.raises(TrajectoryError, match="recipe.learning_rate_steps was {'1.0': 0.1, '1.5': 0.01}, now None"):
        make(tmp_path / "killed", none, lr_scheduler_type="constant").train()
    make(tmp_path / "killed", none, seed=5, **settings).train()
    assert all(same(weights(tmp_path / "whole", i), weights(tmp_path / "killed", i)) for i in range(3))
    record = (tmp_path / "whole" / "trajectory.json").read_bytes()
    assert record == (tmp_path / "killed" / "trajectory.json").read_bytes()


def test_steps_of_the_learning_rate_that_cannot_be_are_refused(tmp_path):
    def refused(match, optimizers=none, **settings):
        with pytest.raises(ValueError, match=match):
            make(tmp_path, optimizers, **{**STEPS, **settings}).train()

    refused("lr_scheduler_type is 'cosine': set it to constant", lr_scheduler_type="cosine")
    refused("learning_rate_steps is '81'; it must be like", learning_rate_steps="81")
    refused("it must hold epochs and factors, all of them above 0", learning_rate_steps={5: 0})
    refused("learning_rate_steps and the LambdaLR given in optimizers=\\(…\\) are two schedules", decaying)
    assert ForgettingArguments("x", **{**STEPS, "learning_rate_steps": '{"81": 0.1}'}).learning_rate_steps == {81: 0.1}


def test_steps_of_the_learning_rate_from_flags_and_files(tmp_path):
    def read(*rest, **flags):
        command = COMMANDS["forget"]
        flags = {"model": "m", "dataset": "d", "output_dir": "o", **flags}
        return resolve_recipe(Call("forget", command.options, flags, rest))[1]

    expected = {"81": 0.1}
    assert read_steps(read("--learning_rate_steps", '{"81": 0.1}')["learning_rate_steps"]) == {81.0: 0.1}
    (tmp_path / "own.yaml").write_text('learning_rate_steps: {"81": 0.1}\n')
    assert read(config=tmp_path / "own.yaml")["learning_rate_steps"] == expected
