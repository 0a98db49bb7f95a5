"""Continuing a run: only the same one, and to the same end, also where training stops by itself."""

import json

import pytest
import torch
from conftest import tiny_image_model
from test_best import BEST, stages
from test_best import make as make_scored
from test_trainer import KillAt, Killed, make, same
from test_weights import bert
from transformers import EarlyStoppingCallback, TrainerCallback

from know_hf import TrajectoryError
from know_hf.forgetting.resume import OptimizerState

SAVING = {"num_stages": 2, "save_strategy": "steps", "save_steps": 2}


def frozen():
    model = tiny_image_model()
    model.timm_model.layer1.requires_grad_(False)
    return model


def killed(folder, model=None, **settings):
    with pytest.raises(Killed):
        make(folder, callbacks=[KillAt(1, 1)], model=model, **{**SAVING, **settings}).train()


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.slow
def test_other_parameters_frozen_are_another_run(tmp_path, carry):
    for before, now, words in ((frozen, tiny_image_model, "was frozen, is now trained"),
                               (tiny_image_model, frozen, "was trained, is now frozen")):  # fmt: skip
        folder = tmp_path / before.__name__
        killed(folder, before(), carry_optimizer=carry)
        with pytest.raises(TrajectoryError, match=rf"another run: parameter 'timm_model.layer1\S+' {words}"):
            make(folder, model=now(), carry_optimizer=carry, **SAVING).train()


def test_records_that_do_not_tell_are_continued(tmp_path):
    """Of what was trained, and of settings that were not recorded."""
    killed(tmp_path, frozen())
    content = json.loads((tmp_path / "trajectory.json").read_text())
    for parameter in content["parameters"].values():
        del parameter["trained"]
    for name in ("dataloader_drop_last", "train_sampling_strategy", "load_best_model_at_end", "remove_unused_columns",
                 "full_determinism", "ignore_data_skip"):  # fmt: skip
        del content["recipe"][name]
    (tmp_path / "trajectory.json").write_text(json.dumps(content))
    make(tmp_path, model=frozen(), **SAVING, dataloader_drop_last=True).train()


@pytest.mark.parametrize(
    "settings",
    [
        {"train_sampling_strategy": "sequential"},
        {"dataloader_drop_last": True},
        {"ignore_data_skip": True},
        {"optim_target_modules": ["a", "b"]},
        {"load_best_model_at_end": True, "metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 2},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.further_slow
def test_settings_that_change_the_weights_are_another_run(tmp_path, settings):
    trainer = make(tmp_path, **SAVING)
    trainer.train()
    trainer = make(tmp_path, **SAVING)
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    with pytest.raises(TrajectoryError, match=rf"recipe.{next(iter(settings))} was"):
        trainer.train()
    make(tmp_path, **SAVING, logging_steps=3, dataloader_num_workers=1).train()


def test_moments_of_other_parameters_are_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    state = OptimizerState(tmp_path / "moments.safetensors")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state.save(optimizer)
    state.load_into(torch.optim.AdamW(model.parameters()))
    for others, words in ((reversed(list(model.parameters())), r"parameter 0 of shape \[3, 2\], which has shape \[2\]"),
                          (model[0].parameters(), "4 parameters, the optimizer has 2")):  # fmt: skip
        with pytest.raises(TrajectoryError, match=words):
            state.load_into(torch.optim.AdamW(list(others)))


def stopping(folder, *callbacks):
    trainer = make_scored(
        folder, bert, EarlyStoppingCallback(3), *callbacks, num_train_epochs=2, save_total_limit=None,
        per_device_train_batch_size=1, eval_steps=2, save_steps=2,
    )  # fmt: skip
    trainer.compute_metrics = lambda _: {"score": -trainer.state.global_step}  # what callbacks see
    return trainer


class KillOnSave(TrainerCallback):
    """Kills after the last checkpoint of a stage that stops early."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(KillAt(0, 5), id="5", marks=pytest.mark.slow),
        pytest.param(KillAt(0, 7), id="7", marks=pytest.mark.slow),
        pytest.param(KillAt(1, 7), id="second", marks=pytest.mark.slow),
        pytest.param(KillOnSave(BEST + 6), id="stopped"),
    ],
)
def test_early_stopping_counts_on(tmp_path, kill):
    whole = stopping(tmp_path / "whole")
    whole.train()
    assert [stage.steps for stage in whole.trajectory.record.stages] == [BEST + 6] * 2
    with pytest.raises(Killed):
        stopping(tmp_path / "killed", kill).train()
    again = stopping(tmp_path / "killed")
    again.train()
    assert [stage.steps for stage in again.trajectory.record.stages] == [BEST + 6] * 2
    assert all(same(a, b) for a, b in zip(stages(tmp_path / "whole"), stages(tmp_path / "killed"), strict=True))
