"""PEFT models: the adapter alone is trained, stored, predicted and loaded; the base model stays what it is."""

import json
import shutil

import pytest
import torch
from conftest import QUICK
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel, default_data_collator

from know_hf import Trajectory, enrich, enrich_pretrained, kinds_of
from know_hf.hub.push import check_files, find_uploads
from know_hf.models.adapters import check_adapter
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


def test_scores_plan_card_and_push(run, tmp_path):
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
    # A base model in a folder of this machine is none for others.
    with pytest.raises(ValueError, match="adapter_config.json holds .*; put the base model's Hub id in its place"):
        check_files(uploads[0])
    shutil.copytree(run.checkpoints["x2"], tmp_path / "x2")
    config = json.loads((tmp_path / "x2" / "adapter_config.json").read_text())
    (tmp_path / "x2" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "me/base"}))
    check_files(find_uploads(tmp_path / "x2")[1][0])


def test_kinds_of_an_adapter_are_those_of_its_layers(text_model_folder):
    kinds = kinds_of(adapted(text_model_folder))
    assert all("lora_" in name or "classifier" in name for name in kinds) and len(kinds) >= 10


def low_rank(**options):
    return peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], **options)


def base(folder):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


def tiny_gpt():
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, **sizes))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["pooler"]}])
@pytest.mark.further_slow
def test_the_active_adapter_is_trained_stored_predicted_and_pushed(text_model_folder, sentences, tmp_path, options):
    def two():
        model = peft.get_peft_model(base(text_model_folder), low_rank())
        model.add_adapter("mine", low_rank())
        model.set_adapter("mine")
        return model

    def one():
        return peft.get_peft_model(base(text_model_folder), low_rank(**options), adapter_name="mine")

    model = one() if options else two()
    idle = {n: t.clone() for n, t in model.state_dict().items() if ".default." in n}
    result = enrich_pretrained(
        model, sentences, tmp_path, eval_dataset=sentences, steps=1, num_stages=2, **{**QUICK, "learning_rate": 1e-2}
    )
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in idle.items())
    folders = [checkpoint.folder for checkpoint in result.trajectory.checkpoints]
    for folder in (*folders, result.checkpoints["x2"]):
        assert not [path for path in folder.iterdir() if path.is_dir()]
        assert not [name for name in Checkpoint(folder).tensors if "mine" in name or "default" in name]
        loaded = peft.PeftModel.from_pretrained(base(text_model_folder), folder)
        stored = load_file(folder / "adapter_model.safetensors")
        live = peft.get_peft_model_state_dict(loaded)
        assert stored.keys() <= live.keys() and all(torch.equal(live[name], stored[name]) for name in stored)
    first, last = (load_file(f / "adapter_model.safetensors") for f in folders)
    assert all(not torch.equal(first[name], last[name]) for name in first if "lora_A" in name)
    uploads = find_uploads(tmp_path)[1]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(uploads[0].files)
    moved = load_file(result.checkpoints["x2"] / "adapter_model.safetensors")
    assert any(not torch.equal(first[name], moved[name]) for name in first if "lora_" in name)


def several_active(folder):
    config = peft.LoraConfig(r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(base(folder), config)
    model.add_adapter("mine", config)
    model.base_model.set_adapter(["default", "mine"])
    return model


def base_trained_too(folder):
    model = peft.get_peft_model(base(folder), low_rank())
    model.get_base_model().bert.pooler.requires_grad_(True)
    return model


def injected(folder):
    return peft.inject_adapter_in_model(low_rank(), base(folder))


def prompts(config):
    return lambda folder: peft.get_peft_model(tiny_gpt(), config(task_type="CAUSAL_LM", num_virtual_tokens=2))


def scales(folder):
    layers = {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}
    return peft.get_peft_model(tiny_gpt(), peft.IA3Config(task_type="CAUSAL_LM", **layers))


def tokens(folder):
    return peft.get_peft_model(tiny_gpt(), peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[1, 2]))


def frozen_but_norms(folder):
    model = base(folder).requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "LayerNorm" in name
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (several_active, r"2 active adapters \(default, mine\)"),
        (base_trained_too, "pooler.* is trained but not stored with the adapter"),
        (injected, "not stored as one plain adapter folder"),
        (prompts(peft.PromptTuningConfig), "PROMPT_TUNING adapter stores nothing|nothing to predict"),
        (prompts(peft.PrefixTuningConfig), "PREFIX_TUNING adapter stores nothing|nothing to predict"),
        (scales, "There would be nothing to predict: no parameter that is trained"),
        (tokens, "There would be nothing to predict: no parameter that is trained"),
        (frozen_but_norms, "There would be nothing to predict: no parameter that is trained"),
    ],
)
def test_what_has_nothing_to_predict_is_refused(text_model_folder, tmp_path, model, message):
    data = [{"input_ids": torch.tensor([1, 2]), "labels": 0} for _ in range(8)]
    with pytest.raises(ValueError, match=message):
        enrich_pretrained(
            model(text_model_folder), data, tmp_path, data_collator=default_data_collator, num_stages=2, **QUICK
        )
    assert not list(tmp_path.glob("stage-*"))


def test_norms_may_be_what_is_predicted(text_model_folder, sentences, tmp_path):
    result = enrich_pretrained(
        frozen_but_norms(text_model_folder), sentences, tmp_path, norms="bias", steps=1, num_stages=2, **QUICK
    )
    assert result.checkpoints


@pytest.mark.parametrize("model", [prompts(peft.PromptTuningConfig), scales])
def test_a_bare_trainer_refuses_or_warns(tmp_path, caplog, model):
    from know_hf import ForgettingArguments, ForgettingTrainer

    data = [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2])} for _ in range(8)]
    trainer = ForgettingTrainer(
        model=model(None), args=ForgettingArguments(str(tmp_path), num_stages=2, **QUICK), train_dataset=data
    )
    if model is scales:
        trainer.train()
        assert "there will be nothing to predict, unless" in caplog.text
    else:
        with pytest.raises(ValueError, match="PROMPT_TUNING adapter stores nothing"):
            trainer.train()


def test_a_bank_that_layers_share_is_stored(text_model_folder):
    config = peft.VBLoRAConfig(task_type="SEQ_CLS", target_modules=["query", "value"], num_vectors=8, vector_length=4)
    model = peft.get_peft_model(base(text_model_folder), config)
    check_adapter(model)
    model.get_base_model().bert.pooler.requires_grad_(True)
    with pytest.raises(ValueError, match="pooler.* is trained but not stored with the adapter"):
        check_adapter(model)
