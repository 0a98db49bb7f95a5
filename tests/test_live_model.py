"""A live model is trained in place: whatever is called again with the same object begins as it did the first time."""

import shutil

import pytest
import torch
from conftest import QUICK, slow, tiny_image_model
from test_trainer import KillAt, Killed, make, same
from transformers import EarlyStoppingCallback, GPT2Config, GPT2LMHeadModel, default_data_collator, set_seed

from know_hf import ForgettingArguments, ForgettingTrainer, enrich_pretrained
from know_hf.forgetting.folder import RunFolder
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.start import hash_weights
from know_hf.trajectory import Checkpoint, TrajectoryError, TrajectoryRecord

SETTINGS = {"num_stages": 2, "train_stage_zero": True, **QUICK, "learning_rate": 5e-3}
PUT_BACK = "put back to the weights that the run began with"


def stages(folder, count=2):
    return [
        {name: c.read(name) for name in c.tensors} for c in (Checkpoint(folder / f"stage-{i}") for i in range(count))
    ]


def alike(one, other) -> bool:
    return all(same(a, b) for a, b in zip(stages(one), stages(other), strict=True))


def frozen():
    model = tiny_image_model()
    model.timm_model.layer1.requires_grad_(False)
    return model


def tied():
    set_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=2, n_positions=8))


def adapted():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tied(), peft.LoraConfig(r=2, target_modules=["c_attn"]))
    torch.nn.init.normal_(model.base_model.model.transformer.h[0].attn.c_attn.lora_B["default"].weight)
    return model


def trainer_of(model, folder, callbacks=None, **settings):
    if isinstance(model, GPT2LMHeadModel) or hasattr(model, "peft_config"):
        words = [{"input_ids": [i % 12, (3 * i) % 12, 5, 7], "labels": [i % 12, (3 * i) % 12, 5, 7]} for i in range(64)]
        return ForgettingTrainer(
            model, ForgettingArguments(str(folder), **{**SETTINGS, **settings}), train_dataset=words,
            data_collator=default_data_collator, callbacks=callbacks,
        )  # fmt: skip
    return make(folder, callbacks, model=model, **{**SETTINGS, **settings})


@pytest.mark.parametrize("make_model", [frozen, adapted, *slow(tied, tiny_image_model)])
def test_interrupted_and_continued_with_the_same_object(tmp_path, make_model, caplog):
    trainer_of(make_model(), tmp_path / "whole").train()
    model = make_model()
    with pytest.raises(Killed):
        trainer_of(model, tmp_path / "run", [KillAt(0, 3)]).train()
    kept = RunFolder(tmp_path / "run").kept
    assert kept.is_dir() and hash_weights(model) != hash_weights(make_model())
    trainer_of(model, tmp_path / "run").train()
    assert PUT_BACK in caplog.text and not kept.exists() and not kept.parent.exists()
    assert alike(tmp_path / "whole", tmp_path / "run")


def test_the_same_trainer_goes_on(tmp_path):
    trainer_of(tiny_image_model(), tmp_path / "whole").train()
    kill = KillAt(0, 3)
    trainer = trainer_of(tiny_image_model(), tmp_path / "run", [kill])
    with pytest.raises(Killed):
        trainer.train()
    trainer.remove_callback(kill)
    trainer.train()
    assert alike(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("recipe", ["incremental", *slow("once_more", "soup")])
def test_so_do_controls(tmp_path, recipe):
    trainer_of(tiny_image_model(), tmp_path / "whole", recipe=recipe).train()
    model = tiny_image_model()
    with pytest.raises(Killed):
        trainer_of(model, tmp_path / "run", [KillAt(int(recipe == "soup"), 1)], recipe=recipe).train()
    trainer_of(model, tmp_path / "run", recipe=recipe).train()
    count = len(TrajectoryRecord.load(tmp_path / "whole").stages)
    pairs = zip(stages(tmp_path / "whole", count), stages(tmp_path / "run", count), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_continued_from_a_checkpoint_or_with_a_model_drawn_anew(tmp_path, caplog):
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tiny_image_model(), tmp_path / "whole", **saving).train()
    with pytest.raises(Killed):
        trainer_of(tiny_image_model(), tmp_path / "run", [KillAt(0, 3)], **saving).train()
    shutil.copytree(tmp_path / "run", tmp_path / "lost")
    trainer_of(tiny_image_model(seed=1), tmp_path / "run", **saving).train()
    assert PUT_BACK in caplog.text and alike(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "lost/training/stage-0")  # the step is gone, too
    trainer_of(tiny_image_model(seed=1), tmp_path / "lost", **saving).train()
    assert alike(tmp_path / "whole", tmp_path / "lost")


def test_the_same_model_goes_on_without_a_word(tmp_path, caplog):
    with pytest.raises(Killed):
        trainer_of(tiny_image_model(), tmp_path / "run", [KillAt(0, 3)]).train()
    trainer_of(tiny_image_model(), tmp_path / "run").train()
    assert PUT_BACK not in caplog.text and "trained in this process" not in caplog.text


def test_a_stage_0_that_is_lost_is_not_made_of_another_model(tmp_path):
    model, root = tiny_image_model(), tmp_path / "run"
    trainer_of(model, root).train()
    before = stages(root)
    trainer_of(model, root).train()  # finished: whatever the model holds by now
    shutil.rmtree(root / "stage-0")
    with pytest.raises(TrajectoryError, match="needs the weights again that it began with.* load the model as it was"):
        trainer_of(model, root).train()
    trainer_of(tiny_image_model(), root).train()
    assert all(same(a, b) for a, b in zip(before, stages(root), strict=True))


def test_a_model_taken_as_it_is_is_not_taken_as_another(tmp_path):
    model, root = tiny_image_model(), tmp_path / "run"
    trainer_of(model, root, train_stage_zero=False).train()
    assert not (root / "training").exists()  # stage 0 is what it began with
    shutil.rmtree(root / "stage-0")
    with pytest.raises(TrajectoryError, match="the model given holds others"):
        trainer_of(model, root, train_stage_zero=False).train()


def test_branches_do_not_begin_with_others(tmp_path):
    model, root = tiny_image_model(), tmp_path / "run"
    trainer_of(model, root, recipe="soup").train()
    shutil.rmtree(root / "start")
    shutil.rmtree(root / "stage-1")
    with pytest.raises(TrajectoryError, match="the model given holds others"):
        trainer_of(model, root, recipe="soup").train()
    trainer_of(tiny_image_model(), root, recipe="soup").train()


def test_weights_in_the_place_of_those_kept_are_refused(tmp_path):
    with pytest.raises(Killed):
        trainer_of(tiny_image_model(), tmp_path / "run", [KillAt(0, 3)]).train()
    kept = RunFolder(tmp_path / "run").kept
    tiny_image_model(seed=1).save_pretrained(kept)
    with pytest.raises(TrajectoryError, match="does not hold the weights that this run began with"):
        trainer_of(tiny_image_model(seed=2), tmp_path / "run").train()


def test_names_need_no_copy(tmp_path, image_model_folder, images):
    options = {**SETTINGS, "train_stage_zero": True}
    with pytest.raises(Killed):
        make_trainer(str(image_model_folder), images, tmp_path / "run", callbacks=[KillAt(0, 3)], **options).train()
    assert not RunFolder(tmp_path / "run").kept.exists()
    assert "start" not in TrajectoryRecord.load(tmp_path / "run").model


def test_a_run_in_another_folder_says_what_it_begins_with(tmp_path, caplog):
    model = tiny_image_model()
    trainer_of(model, tmp_path / "one").train()
    assert "trained in this process" not in caplog.text
    trainer_of(model, tmp_path / "two").train()
    assert f"trained in this process by the run in {tmp_path / 'one'}" in caplog.text


BY_TURNS = {**SETTINGS, "num_train_epochs": 2, "steps": 1, "method": "naive", "report_to": "none"}


@pytest.mark.usefixtures("with_turns")
def test_a_cell_run_again_leaves_out_what_it_says(tmp_path, images):
    model, few, root = tiny_image_model(), images.select(range(63)), tmp_path / "run"
    first = enrich_pretrained(model, few, root, **BY_TURNS)
    assert hash_weights(model) != hash_weights(tiny_image_model())
    again = enrich_pretrained(model, few, root, unscaled=True, **BY_TURNS)
    assert "fitted-unscaled" in again.choice.gains
    assert {name: again.choice.gains[name] for name in first.choice.gains} == first.choice.gains
    shutil.rmtree(RunFolder(root).kept)
    with pytest.raises(TrajectoryError, match="No copy of them is left"):
        enrich_pretrained(model, few, root, fit_on="train", unscaled=False, **BY_TURNS)
    anew = enrich_pretrained(tiny_image_model(), few, root, **BY_TURNS)
    assert anew.choice.gains == first.choice.gains


@pytest.mark.usefixtures("with_turns")
def test_runs_by_turns_are_scored_where_training_goes_by_scores(tmp_path, image_model_folder, images):
    scored = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    result = enrich_pretrained(
        str(image_model_folder), images.select(range(63)), tmp_path / "run", eval_dataset=images.select(range(63, 80)),
        callbacks=[EarlyStoppingCallback(1)], keep_candidates=True, **{**BY_TURNS, "num_train_epochs": 1, **scored},
    )  # fmt: skip
    recipes = [TrajectoryRecord.load(tmp_path / "run" / place).recipe for place in (".", "folds/0")]
    assert result.choice.how == "folds" and recipes[0] == recipes[1]


def test_a_head_that_the_first_call_fitted_is_a_new_one_still(tmp_path, images):
    model, options = tiny_image_model(problem_type="regression"), {**SETTINGS, "train_stage_zero": None}
    first = make_trainer(model, images, tmp_path / "run", **options)
    first.train()
    again = make_trainer(model, images, tmp_path / "run", **options)
    assert first.args.train_stage_zero and again.args.train_stage_zero
    again.train()


def test_arguments_that_are_used_again_are_as_they_were_given(tmp_path, text_model_folder, sentences):
    args = ForgettingArguments(str(tmp_path / "run"), stratify_by="label", num_stages=2, **QUICK)
    for _ in range(2):
        made = make_trainer(str(text_model_folder), sentences, args=args)
        assert made.args.stratify_by == "labels" and made.args.train_stage_zero is not None
        assert args.stratify_by == "label" and args.train_stage_zero is None and args.remove_unused_columns
