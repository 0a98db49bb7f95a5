"""PEFT models: the adapter alone is trained, stored, predicted and loaded; the base model stays what it is."""

import json

import pytest
import torch
from conftest import QUICK
from transformers import AutoModelForSequenceClassification

from know_hf import Trajectory, enrich, enrich_pretrained, kinds_of
from know_hf.hub.push import check_files, find_uploads
from know_hf.plan import make_plan
from know_hf.trajectory import Checkpoint

peft = pytest.importorskip("peft")


def adapted(folder, seed: int = 0):
    """The tiny BERT with low-rank adapters on its attention, and a new head."""
    torch.manual_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    return peft.get_peft_model(base, config)


@pytest.fixture(scope="module")
def run(text_model_folder, sentences, tmp_path_factory):
    """An enriched adapter."""
    return enrich_pretrained(
        adapted(text_model_folder), sentences, tmp_path_factory.mktemp("adapter"), eval_dataset=sentences, steps=2,
        self_check=True, num_stages=4, **{**QUICK, "learning_rate": 1e-2},
    )  # fmt: skip


def test_only_the_adapter_is_stored(run):
    for checkpoint in run.trajectory.checkpoints:
        assert checkpoint.weight_file.name == "adapter_model.safetensors"
        names = set(checkpoint.tensors)
        assert names and all("lora_" in name or "classifier" in name for name in names)
        assert checkpoint.nbytes < 20_000
    assert set(run.trajectory.record.parameters) == set(run.trajectory.tensors)
    kinds = {name: parameter.kind for name, parameter in run.trajectory.parameters.items()}
    assert all(kind == "fc" for name, kind in kinds.items() if "lora_" in name) and "bias" in kinds.values()


def test_steps_load_with_peft_and_carry_the_prediction(run, text_model_folder):
    for name, folder in run.checkpoints.items():
        model = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder)
        stored = {n: Checkpoint(folder).read(n) for n in Checkpoint(folder).tensors}
        live = peft.get_peft_model_state_dict(model)
        assert all(torch.equal(live[n].flatten(), value) for n, value in stored.items()), name
    before, after = (Checkpoint(f) for f in (run.trajectory.checkpoints[0].folder, run.checkpoints["x4"]))
    moved = [n for n in before.tensors if not torch.equal(before.read(n), after.read(n))]
    assert any("lora_A" in n for n in moved) and any("lora_B" in n for n in moved)
    base = AutoModelForSequenceClassification.from_pretrained(text_model_folder, num_labels=2).bert.state_dict()
    kept = model.base_model.model.bert.state_dict()
    assert all(torch.equal(kept[n.replace(".query.", ".query.base_layer.").replace(".value.", ".value.base_layer.")], v)
               for n, v in base.items())  # fmt: skip


def test_predicting_again_gives_the_same(run, tmp_path):
    again = enrich(Trajectory.load(run.output_dir), tmp_path, steps=2)
    for name, folder in again.checkpoints.items():
        file = "adapter_model.safetensors"
        assert (folder / file).read_bytes() == (run.checkpoints[name] / file).read_bytes()


def test_continuing_a_run_gives_the_same(run, text_model_folder, sentences, tmp_path):
    args = {"eval_dataset": sentences, "steps": 2, "num_stages": 4, **{**QUICK, "learning_rate": 1e-2}}

    class Stop(Exception):
        pass

    def stop(record):
        if record.index == 1:
            raise Stop

    from know_hf import ForgettingTrainer

    class Stopping(ForgettingTrainer):
        on_stage_end = staticmethod(stop)

    with pytest.raises(Stop):
        enrich_pretrained(
            adapted(text_model_folder), sentences, tmp_path, trainer_class=Stopping, self_check=True, **args
        )
    result = enrich_pretrained(adapted(text_model_folder), sentences, tmp_path, self_check=True, **args)
    for name, folder in result.checkpoints.items():
        file = "adapter_model.safetensors"
        assert (folder / file).read_bytes() == (run.checkpoints[name] / file).read_bytes()


def test_scores_plan_card_and_push(run):
    assert {"stage-0", "x2", "x4"} <= set(run.metrics) and run.self_check["ratios"]
    plan = make_plan(run.trajectory.checkpoints[0].folder)
    assert plan.predicted.keys() | plan.copied.keys() == run.trajectory.tensors.keys()
    assert plan.predicted == make_plan(run.output_dir).predicted
    card = (run.checkpoints["x2"] / "README.md").read_text()
    assert "AutoPeftModelForSequenceClassification.from_pretrained" in card and "LORA adapter" in card
    assert "library_name: peft" in card
    uploads = find_uploads(run.output_dir)[1]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(uploads[0].files)
    record = json.loads((run.output_dir / "trajectory.json").read_text())
    assert record["model"]["adapter"] == "LORA"
    check_files(uploads[0])


def test_kinds_of_an_adapter_are_those_of_its_layers(text_model_folder):
    kinds = kinds_of(adapted(text_model_folder))
    assert all("lora_" in name or "classifier" in name for name in kinds) and len(kinds) >= 10
