"""Kinds from live modules: torch, timm and transformers layers."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from transformers import (
    CLIPConfig,
    CLIPModel,
    DetrConfig,
    DetrForObjectDetection,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    ViTConfig,
    ViTForImageClassification,
)

from know_hf import kinds_of
from know_hf.trajectory import Checkpoint, Parameter, resolve_kinds
from know_hf.trajectory.kinds import stored_names


def kinds(model: nn.Module) -> dict[str, str]:
    return {name: parameter.kind for name, parameter in kinds_of(model).items()}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 3, 3),
        nn.Conv2d(2, 3, 1),
        nn.Conv3d(2, 3, 3),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(2, 3, 2),
    ],
    ids=["1d", "1x1", "3d", "depthwise", "transposed"],
)
def test_convolutions(layer):
    assert kinds(layer) == {"weight": "conv", "bias": "bias"}


def test_bias_free_convolution_is_predicted():
    assert kinds(nn.Conv2d(2, 3, 3, bias=False)) == {"weight": "conv"}


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.RMSNorm(3)])
def test_norms_and_their_buffers(norm):
    found = kinds(norm)
    assert found["weight"] == "norm"
    assert all(found[name] == "buffer" for name in found if name.startswith(("running", "num")))


def test_attention_embedding_and_bare_parameters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.table = nn.Embedding(5, 8)
            self.cls_token = nn.Parameter(torch.zeros(1, 8))
            self.register_buffer("steps", torch.zeros(1, dtype=torch.long))

    assert kinds(Net()) == {
        "attention.in_proj_weight": "fc",
        "attention.in_proj_bias": "bias",
        "attention.out_proj.weight": "fc",
        "attention.out_proj.bias": "bias",
        "table.weight": "embedding",
        "cls_token": "other",
        "steps": "buffer",
    }


def test_parametrised_weights():
    found = kinds(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), nn.ReLU()))
    assert found == {
        "0.bias": "bias",
        "0.parametrizations.weight.original0": "other",  # the magnitude
        "0.parametrizations.weight.original1": "conv",
    }
    found = kinds(parametrizations.orthogonal(nn.Linear(3, 3)))
    assert found["parametrizations.weight.original"] == "fc"
    hooked = kinds(spectral_norm(nn.Linear(3, 4)))
    assert hooked["weight_orig"] == "fc" and hooked["weight_u"] == "buffer"


def test_gpt2_projections_and_tied_head():
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=True)
    found = kinds(GPT2LMHeadModel(config))
    assert found["transformer.h.0.attn.c_attn.weight"] == "fc"
    assert found["transformer.h.0.mlp.c_proj.bias"] == "bias"
    assert found["transformer.h.0.ln_1.weight"] == "norm"
    assert found["transformer.wte.weight"] == found["lm_head.weight"] == "embedding"


def test_untied_head_is_linear():
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        found = kinds(LlamaForCausalLM(config))
    assert found["lm_head.weight"] == "fc" and found["model.norm.weight"] == "norm"
    assert found["model.embed_tokens.weight"] == "embedding"


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_050", "vit_tiny_patch16_224", "pvt_v2_b0", "convnext_atto"])
def test_timm_networks_leave_no_kernel_out(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    found = kinds(model)
    assert set(found) == set(model.state_dict())
    shapes = {key: tensor.ndim for key, tensor in model.state_dict().items()}
    assert all(found[key] == "conv" for key, ndim in shapes.items() if ndim == 4)
    assert all(found[key] == "fc" for key, ndim in shapes.items() if ndim == 2 and key.endswith("weight"))


def small_clip() -> CLIPModel:
    config = CLIPConfig(
        text_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": 20},
        vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 8, "patch_size": 4},
        projection_dim=4,
    )  # fmt: skip
    return CLIPModel(config)


def test_two_towers():
    found = kinds(small_clip())
    assert found["visual_projection.weight"] == "fc" and found["logit_scale"] == "other"
    assert found["vision_model.embeddings.patch_embedding.weight"] == "conv"


PARAMETERS = {
    "conv.weight": Parameter("conv", "Conv2d"),
    "norm.weight": Parameter("norm", "LayerNorm"),
    "table.weight": Parameter("embedding", "Embedding"),
    "experts.up": Parameter("other", "Experts"),
}


def test_options_decide_what_is_predicted():
    assert resolve_kinds(PARAMETERS)[0] == {"conv.weight": "conv"}
    predicted, copied = resolve_kinds(
        PARAMETERS, norms="bias", embeddings="fc", kinds={"experts.*": "fc", "conv*": "copy"}
    )
    assert predicted == {"norm.weight": "bias", "table.weight": "fc", "experts.up": "fc"}
    assert copied == {"conv.weight": "matches 'conv*'"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norms": "predict"}, "norms='predict'"),
        ({"embeddings": "bias"}, "embeddings='bias'"),
        ({"kinds": {"*": "matrix"}}, "'matrix' is not known"),
        ({"kinds": {"head.*": "fc"}}, "no parameter matches 'head"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        resolve_kinds(PARAMETERS, **options)


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BACKBONE = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])


def small_detr() -> nn.Module:
    sizes = {"d_model": 16, "num_queries": 4} | {f"{p}_{n}": 2 for p in ("encoder", "decoder") for n in ("layers",)}
    sizes |= {f"{p}_{n}": v for p in ("encoder", "decoder") for n, v in (("ffn_dim", 16), ("attention_heads", 2))}
    options = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return DetrForObjectDetection(DetrConfig(backbone_config=BACKBONE, **options, **sizes))


@pytest.mark.parametrize(
    "build",
    [
        lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8)),
        small_detr,
        lambda: MixtralForCausalLM(MixtralConfig(**SMALL, num_key_value_heads=2, vocab_size=50, num_local_experts=2)),
    ],
    ids=["vit", "detr", "mixtral"],
)
def test_kinds_are_known_by_the_names_of_the_file(build, tmp_path):
    """Whatever names, or pieces, transformers saves a model under."""
    model = build()
    model.save_pretrained(tmp_path)
    found, tensors = kinds_of(model), Checkpoint(tmp_path).tensors
    assert not [name for name in tensors if name not in found]
    live, names = model.state_dict(), stored_names(model)
    for name in tensors:
        if names[name] in live and live[names[name]].shape == tensors[name].shape:
            assert torch.equal(Checkpoint(tmp_path).read(name), live[names[name]].flatten()), name


def test_every_matrix_of_a_vision_transformer_is_predicted(tmp_path):
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8))
    model.save_pretrained(tmp_path)
    predicted, copied = resolve_kinds({n: kinds_of(model)[n] for n in Checkpoint(tmp_path).tensors})
    assert sum(kind == "fc" for kind in predicted.values()) == 4 + 2 + 1  # attention, its MLP, the head
    assert set(copied.values()) == {
        "normalisation parameter", "not the weight or bias of a convolution or linear layer"
    }  # fmt: skip
