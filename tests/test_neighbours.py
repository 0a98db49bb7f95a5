"""What people bring along from the libraries beside this one works here, too: options and loaders."""

import socket

import numpy as np
import pytest
import torch
from conftest import QUICK
from datasets import Dataset
from safetensors.torch import load_file
from test_adapters import adapted
from test_inputs import ROWS
from test_trainer import Seq2SeqArguments
from test_weights import bert
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Seq2SeqTrainer,
    default_data_collator,
    pipeline,
)

from know_hf import ForgettingArguments, ForgettingMixin, ForgettingTrainer, enrich, enrich_trained

SMALL = {"num_stages": 2, "train_stage_zero": True, **QUICK}


def forgotten(folder, **given) -> dict[str, torch.Tensor]:
    """The last stage of a small BERT that forgot with these settings or arguments of its trainer."""
    settings = {name: given.pop(name) for name in list(given) if hasattr(ForgettingArguments, name)}
    torch.manual_seed(0)
    model, args = given.pop("model", None) or bert(), ForgettingArguments(str(folder), **SMALL, **settings)
    ForgettingTrainer(model, args, default_data_collator, ROWS, **given).train()
    return load_file(folder / "stage-1" / "model.safetensors")


def test_gradient_checkpointing_changes_nothing(tmp_path):
    passes: dict[bool, int] = {}
    found = []
    for saving in (False, True):
        torch.manual_seed(0)
        model, passes[saving] = bert(), 0

        def count(*_, saving=saving):
            passes[saving] += 1

        model.bert.encoder.layer[0].attention.self.query.register_forward_hook(count)
        found.append(forgotten(tmp_path / str(saving), model=model, gradient_checkpointing=saving))
    plain, saving = found
    assert passes[True] == 2 * passes[False], "what was not kept is computed again"
    assert all(torch.allclose(plain[name], saving[name], rtol=0, atol=1e-6) for name in plain)


def test_a_loss_function_of_ones_own(tmp_path):
    """Weights of classes, say."""
    asked = []

    def weighted(outputs, labels, num_items_in_batch=None):
        asked.append(len(labels))
        return torch.nn.functional.cross_entropy(outputs["logits"], labels, weight=torch.tensor([0.1, 10.0]))

    plain = forgotten(tmp_path / "plain")
    weighed = forgotten(tmp_path / "weighed", compute_loss_func=weighted)
    assert sum(asked) >= 32 + 16 and not torch.equal(plain["classifier.bias"], weighed["classifier.bias"])


@pytest.mark.slow
def test_a_batch_size_that_fits_is_found(tmp_path):
    """``auto_find_batch_size``; what was found in one stage is where the next begins."""
    sizes = []

    class Crowded(ForgettingTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            sizes.append(len(inputs["labels"]))
            if sizes[-1] > 4:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args, **kwargs)

    args = ForgettingArguments(str(tmp_path), auto_find_batch_size=True, **SMALL)
    trainer = Crowded(bert(), args, default_data_collator, ROWS)
    trainer.train()
    assert sizes[0] == 16 and sizes[-12:] == [4] * 12
    assert [stage.steps for stage in trainer.trajectory.record.stages] == [8, 4]


def test_scores_of_texts_that_are_written(tmp_path):
    """``predict_with_generate``, for every stage and every prediction."""

    class Forgetting(ForgettingMixin, Seq2SeqTrainer):
        pass

    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1}
    sizes |= {"decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16}
    model = BartForConditionalGeneration(BartConfig(vocab_size=12, forced_eos_token_id=2, **sizes))
    rows = Dataset.from_list([{"input_ids": [0, 4 + i % 8, 2], "labels": [0, 4 + i % 8, 2]} for i in range(16)])
    written = []

    def score(found):
        written.append(found.predictions.shape)
        return {"equal": float(np.mean(found.predictions[:, 1:2] == found.label_ids[:, 1:2]))}

    trainer = Forgetting(
        model=model, train_dataset=rows, eval_dataset=rows.select(range(4)), compute_metrics=score,
        args=Seq2SeqArguments(str(tmp_path), predict_with_generate=True, generation_max_length=5, **SMALL),
        data_collator=default_data_collator,
    )  # fmt: skip
    trainer.train()
    result = enrich_trained(trainer, steps=1, choose="none", method="mean")
    stages = trainer.trajectory.record.stages
    assert all("eval_equal" in stage.metrics for stage in stages) and "eval_equal" in result.metrics["x2"]
    assert len(written) >= 3 and {rows for rows, _ in written} == {4}


def test_results_load_in_a_pipeline(tmp_path, text_model_folder, sentences):
    from know_hf import enrich_pretrained

    result = enrich_pretrained(
        text_model_folder, sentences, tmp_path, steps=1, num_stages=2, choose="none", method="mean", **QUICK
    )
    (answer,) = pipeline("text-classification", model=str(result.checkpoints["x2"]))("a good film")
    assert answer["label"] in ("negative", "positive") and 0 < answer["score"] < 1


def test_results_load_in_timm_itself(trajectory, tmp_path):
    """Transformers' wrapper puts a prefix before timm's names, and nothing else."""
    timm = pytest.importorskip("timm")
    made = enrich(trajectory, tmp_path, steps=1, method="mean").checkpoints["x2"]
    held = load_file(made / "model.safetensors")
    model = timm.create_model("resnet10t", channels=(8, 8, 16, 16), stem_width=8, in_chans=1, num_classes=3)
    model.load_state_dict({name.removeprefix("timm_model."): tensor for name, tensor in held.items()})
    assert torch.equal(model.fc.weight, held["timm_model.fc.weight"])


def test_a_predicted_adapter_is_merged_into_its_base(tmp_path, text_model_folder, sentences):
    from know_hf import enrich_pretrained

    peft = pytest.importorskip("peft")
    result = enrich_pretrained(
        adapted(text_model_folder), sentences, tmp_path, steps=1, num_stages=2, choose="none", method="linear_fit",
        **{**QUICK, "learning_rate": 1e-2},
    )  # fmt: skip
    model = peft.AutoPeftModelForSequenceClassification.from_pretrained(result.checkpoints["x2"]).eval()
    asked = torch.tensor([[2, 4, 6, 3]])
    with torch.no_grad():
        before = model(input_ids=asked).logits
        after = model.merge_and_unload()(input_ids=asked).logits
    assert torch.allclose(before, after, atol=1e-5)


def test_nothing_is_sent_anywhere(trajectory, tmp_path, monkeypatch):
    """A prediction from local files opens no connection: there is no telemetry."""

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert enrich(trajectory, tmp_path, steps=1).checkpoints["x2"].is_dir()
