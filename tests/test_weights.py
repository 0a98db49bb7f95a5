"""Weights put back into a live model: every tensor as it was stored, in the live tensor's type."""

import pytest
import torch
from conftest import slow
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from know_hf.forgetting.weights import load_weights, plain_model
from know_hf.trajectory import Checkpoint

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert():
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **SMALL))


def tied():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    )


def vit():
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **SMALL))


def resnet():
    return ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))


def experts():
    """Its files hold the experts one by one, the live model all in one tensor."""
    sizes = {"num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}
    return MixtralForCausalLM(MixtralConfig(vocab_size=50, **SMALL, **sizes))


def own_head():
    """A head that the configuration does not know."""
    model = bert()
    model.classifier = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 2))
    return model


def mixed_types(model: nn.Module) -> nn.Module:
    """A half-precision body, the last parameters and all buffers in single precision."""
    for parameter in list(model.parameters())[:-2]:
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def drawn(make, seed: int, change=lambda model: model) -> nn.Module:
    torch.manual_seed(seed)
    model = change(make())
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape))
    return model


def assert_same(model: nn.Module, other: nn.Module) -> None:
    a, b = model.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert not [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("shards", ["20KB", *slow("50GB")])
@pytest.mark.parametrize("change", [lambda model: model, mixed_types], ids=["one type", "two types"])
@pytest.mark.parametrize("make", [tied, resnet, experts, *slow(bert, vit, own_head)])
@pytest.mark.further_slow
def test_what_was_stored_is_there_again(tmp_path, make, change, shards):
    stored = drawn(make, 1, change)
    stored.save_pretrained(tmp_path, max_shard_size=shards)
    live = drawn(make, 2, change)
    load_weights(live, tmp_path)
    assert_same(live, stored)


def test_live_types_stay_where_others_are_stored(tmp_path):
    drawn(bert, 1).save_pretrained(tmp_path / "single")
    half = drawn(bert, 2, lambda model: model.to(torch.bfloat16))
    load_weights(half, tmp_path / "single")
    assert_same(half, drawn(bert, 1).to(torch.bfloat16))
    half.save_pretrained(tmp_path / "half")
    single = drawn(bert, 3)
    load_weights(single, tmp_path / "half")
    assert_same(single, half.float())


def test_configuration_and_ties_stay(tmp_path):
    stored = drawn(tied, 1, lambda model: model.to(torch.bfloat16))
    stored.save_pretrained(tmp_path)
    live = drawn(tied, 2)
    before = live.config.to_dict()
    load_weights(live, tmp_path)
    assert live.config.to_dict() == before and live.lm_head.weight is live.transformer.wte.weight


def test_a_module_of_ones_own(tmp_path):
    def make():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double())

    stored, live = drawn(make, 1), drawn(make, 2)
    stored[1].num_batches_tracked += 7
    save_file(stored.state_dict(), tmp_path / "model.safetensors")
    load_weights(live, tmp_path)
    assert_same(live, stored)


@pytest.mark.parametrize("make", [bert, vit, experts])
def test_what_does_not_fit_is_refused(tmp_path, make):
    model = drawn(make, 1)
    model.save_pretrained(tmp_path)
    file, names = tmp_path / "model.safetensors", list(Checkpoint(tmp_path).tensors)
    weights = {name: Checkpoint(tmp_path).read(name).view(s.shape) for name, s in Checkpoint(tmp_path).tensors.items()}
    save_file({name: weights[name] for name in names[1:]}, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="does not fit the model: .* has no value there"):
        load_weights(model, tmp_path)
    save_file({**weights, "extra.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"does not fit the model: extra.weight is not part of it"):
        load_weights(model, tmp_path)
    save_file({**weights, names[0]: torch.ones(1, 2)}, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="has another shape|mismatch"):
        load_weights(model, tmp_path)


def test_wrappers_are_taken_off(tmp_path):
    model = bert()
    compiled = torch.compile(model, backend="eager")
    assert plain_model(compiled) is model and plain_model(nn.DataParallel(compiled)) is model
    drawn(bert, 1).save_pretrained(tmp_path)
    load_weights(compiled, tmp_path)
    assert_same(model, drawn(bert, 1))
    model.bert = torch.compile(model.bert, backend="eager")
    with pytest.raises(ValueError, match="part 'bert' is wrapped"):
        plain_model(model)
