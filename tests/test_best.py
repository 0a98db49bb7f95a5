"""``load_best_model_at_end`` and checkpoints of Trainer's: what is recorded as a stage is what was scored best."""

import json
from pathlib import Path

import pytest
import torch
from conftest import QUICK, tiny_image_model
from datasets import Dataset
from safetensors.torch import load_file, save_file
from test_trainer import KillAt, Killed, Pixels
from test_weights import bert, tied, vit
from transformers import TrainerCallback, default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer
from know_hf.forgetting.resume import last_complete_checkpoint

BEST = 2  # step of every stage that gets the best score


class Scored(ForgettingTrainer):
    def evaluate(self, *args, **kwargs):
        return {**super().evaluate(*args, **kwargs), "eval_score": float(self.state.global_step == BEST)}


class Keep(TrainerCallback):
    """Notes what the best checkpoint of each stage holds while it is there."""

    def __init__(self):
        self.kept = {}

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == BEST:
            (file,) = Path(args.output_dir).glob(f"*-{BEST}/*model.safetensors")
            self.kept[int(args.output_dir[-1])] = {name: t.clone() for name, t in load_file(file).items()}


def adapted(name: str = "default"):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    return peft.get_peft_model(bert(), config, adapter_name=name)


def named():
    return adapted("mine")


def make(folder, model, *callbacks, **settings):
    settings = {
        **QUICK, "num_stages": 2, "train_stage_zero": True, "per_device_train_batch_size": 2, "eval_strategy": "steps",
        "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True,
        "metric_for_best_model": "score", "greater_is_better": True, "save_total_limit": 1, "learning_rate": 0.05,
        **settings,
    }  # fmt: skip
    data = Dataset.from_dict({"input_ids": [[i % 50, i % 7] for i in range(16)], "labels": [i % 2 for i in range(16)]})
    if model is vit:
        pixels = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        data = Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": [i % 2 for i in range(16)]})
    elif model is tied:
        data = data.remove_columns("labels").add_column("labels", data["input_ids"])
    elif model is tiny_image_model:
        data = Pixels(16)
    torch.manual_seed(0)
    return Scored(
        model=model(), args=ForgettingArguments(str(folder), **settings), train_dataset=data, eval_dataset=data,
        data_collator=default_data_collator, callbacks=list(callbacks),
    )  # fmt: skip


def stages(folder) -> list[dict[str, torch.Tensor]]:
    return [load_file(next((folder / f"stage-{i}").glob("*model.safetensors"))) for i in range(2)]


SLOW = pytest.mark.slow


@pytest.mark.parametrize("model", [bert, vit, pytest.param(tied, marks=SLOW), tiny_image_model, adapted, named])
@pytest.mark.slow
def test_the_best_weights_become_the_stage(tmp_path, model):
    keep = Keep()
    make(tmp_path / "whole", model, keep).train()
    recorded = stages(tmp_path / "whole")
    for i, stage in enumerate(recorded):
        assert stage.keys() == keep.kept[i].keys()
        assert not [name for name in stage if not torch.equal(stage[name], keep.kept[i][name])]
    assert any(not torch.equal(recorded[0][name], recorded[1][name]) for name in recorded[0])
    with pytest.raises(Killed):
        make(tmp_path / "killed", model, KillAt(0, 4)).train()
    make(tmp_path / "killed", model).train()
    for stage, other in zip(recorded, stages(tmp_path / "killed"), strict=True):
        assert not [name for name in stage if not torch.equal(stage[name], other[name])]


def test_the_best_may_not_be_lost_between_scoring_and_saving(tmp_path):
    with pytest.raises(ValueError, match="eval_steps=1 and save_steps=2 loses the best weights"):
        make(tmp_path / "a", bert, save_steps=2).train()
    keep = Keep()
    make(tmp_path / "b", bert, keep, save_strategy="best").train()
    assert all(torch.equal(stages(tmp_path / "b")[0][name], keep.kept[0][name]) for name in keep.kept[0])


def test_a_stage_without_a_best_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Scored, "evaluate", lambda *_, **__: {"eval_score": float("nan")})
    make(tmp_path, bert).train()
    assert caplog.text.count("it ends with its last weights") == 2


@pytest.mark.parametrize(("model", "only"), [(vit, True), (vit, False), pytest.param(named, False, marks=SLOW)])
@pytest.mark.slow
def test_weights_alone_are_not_continued_from(tmp_path, caplog, model, only):
    settings = {"load_best_model_at_end": False, "save_total_limit": None, "save_only_model": only}
    make(tmp_path / "whole", model, **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", model, KillAt(0, 6), **settings).train()
    make(tmp_path / "killed", model, **settings).train()
    assert ("checkpoint-5 cannot be continued from" in caplog.text) is only
    for stage, other in zip(stages(tmp_path / "whole"), stages(tmp_path / "killed"), strict=True):
        assert not [name for name in stage if not torch.equal(stage[name], other[name])]


def test_what_a_checkpoint_needs(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, bert, KillAt(0, 4), save_total_limit=None).train()
    work = tmp_path / "training" / "stage-0"

    def newest(**needs) -> int | None:
        found = last_complete_checkpoint(work, **needs)
        return found and int(found.rsplit("-", 1)[1])

    assert newest() == 3 and newest(best=True) == 3
    assert newest(scaler=True) is None and newest(processes=2) is None
    for i in (1, 2):
        for rank in (0, 1):
            target = work / f"checkpoint-{i}" / f"rng_state_{rank}.pth"
            target.write_bytes((work / f"checkpoint-{i}" / "rng_state.pth").read_bytes())
    assert newest(processes=2) == 2
    (work / "checkpoint-2" / "rng_state_1.pth").unlink()
    assert newest(processes=2) == 1
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        path = work / "checkpoint-3" / file
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert newest() == 2
        path.write_bytes(content)
    assert newest() == 3
    (work / "checkpoint-2" / "model.safetensors").unlink()  # the best
    assert newest() == 3 and newest(best=True) == 1
    state = work / "checkpoint-1" / "trainer_state.json"
    state.write_text(json.dumps([]))
    assert newest(best=True) is None


def test_forms_of_other_engines_are_left_to_them(tmp_path):
    for name, files in {
        "checkpoint-1": ["pytorch_model_fsdp_0/x", "optimizer_0/x", "scheduler.pt"],
        "checkpoint-2": ["global_step2/x", "model.safetensors"],
    }.items():
        for file in [*files, "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"]:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".pth" or path.name == "scheduler.pt":
                torch.save({}, path)
            elif path.suffix == ".safetensors":
                save_file({"a": torch.ones(1)}, path)
            else:
                path.write_text("{}")
    assert last_complete_checkpoint(tmp_path, 2).endswith("checkpoint-2")
    (tmp_path / "checkpoint-2" / "rng_state_0.pth").unlink()
    assert last_complete_checkpoint(tmp_path, 2).endswith("checkpoint-1")
