"""Captioners of encoders of any kind: joined, trained, saved, predicted, and loaded by transformers alone."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MobileNetV2Config,
    MobileNetV2Model,
    PvtV2Config,
    PvtV2ForImageClassification,
    PvtV2Model,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    dynamic_module_utils,
    set_seed,
)

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.models.building import load_with_new_head, timm_from_scratch
from know_hf.models.joining import decoder_config, join, join_start
from know_hf.models.map_captioner import MapCaptioner
from know_hf.models.skeleton import loader_of, skeleton
from know_hf.tasks import find_columns
from know_hf.tasks.words import word_tokenizer
from know_hf.trajectory.kinds import kinds_of

WORDS = ["red", "green", "blue"]
TINY_PVT = {
    "hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "num_attention_heads": [1, 2],
    "mlp_ratios": [1, 1], "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "image_size": 16,
}  # fmt: skip
TINY_VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
GPT = {"model_type": "gpt2", "n_embd": 12, "n_layer": 1, "n_head": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([" ".join(WORDS), "red"])


def swin():
    return SwinModel(SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2, mlp_ratio=1.0
    ))  # fmt: skip


def timm_model(name: str, **model_args):
    wrapper = timm_from_scratch(name, image_size=32, model_args=model_args)
    wrapper.timm_model.reset_classifier(0)
    from transformers import TimmWrapperModel

    model = TimmWrapperModel(wrapper.config)
    model.timm_model.load_state_dict(wrapper.timm_model.state_dict(), strict=False)
    return model


#: Encoder → the class of the captioner, and the width of what the decoder reads.
ENCODERS = {
    "pvt_v2": (lambda: PvtV2Model(PvtV2Config(**TINY_PVT)), "MapCaptioner", 16),
    "resnet": (
        lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")),
        "MapCaptioner", 12,
    ),
    "mobilenet_v2": (
        lambda: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1, image_size=32)), "MapCaptioner", 1280
    ),
    "timm pvt_v2": (
        lambda: timm_model("pvt_v2_b0", depths=(1, 1), embed_dims=(8, 16), num_heads=(1, 2), mlp_ratios=(1, 1),
                           sr_ratios=(2, 1)),
        "MapCaptioner", 16,
    ),
    "swin": (swin, "VisionEncoderDecoderModel", 16),
    "vit": (lambda: ViTModel(ViTConfig(image_size=16, patch_size=8, **TINY_VIT)), "VisionEncoderDecoderModel", 8),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_joined_trained_saved_and_loaded(name, tokenizer, tmp_path):
    make, kind, width = ENCODERS[name]
    set_seed(0)
    side = 16 if name in ("swin", "vit") else 32
    model = join(make(), decoder_config(GPT, tokenizer), image_size=side)
    assert type(model).__name__ == kind and model.config.encoder.hidden_size == width
    assert hasattr(model, "enc_to_dec_proj") == (width != GPT["n_embd"])
    assert loader_of(model) == "AutoModelForImageTextToText"
    pixels, labels = torch.randn(2, 3, side, side), torch.tensor([[4, 5, 3], [6, 3, -100]])
    loss = model(pixel_values=pixels, labels=labels).loss
    loss.backward()
    moved = [parameter for parameter in model.encoder.parameters() if parameter.grad is not None]
    assert moved and any(parameter.grad.abs().sum() > 0 for parameter in moved), "the decoder looks at the picture"
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        both = [one(pixel_values=pixels, labels=labels).logits for one in (model, again)]
        torch.testing.assert_close(*both)
        tuples = model(pixel_values=pixels, labels=labels, return_dict=False)
        torch.testing.assert_close(tuples[1], both[0])
    assert kinds_of(skeleton(tmp_path)).keys() == kinds_of(model).keys(), "built again of its configuration alone"
    words = again.generate(pixels, max_new_tokens=3, num_beams=2, do_sample=False)
    assert words.shape[0] == 2


def test_places_of_a_map_keep_their_order(tokenizer):
    model = join(PvtV2Model(PvtV2Config(**TINY_PVT)), decoder_config(GPT, tokenizer)).eval()
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        plain = PvtV2Model(model.encoder.config).eval()
        plain.load_state_dict(model.encoder.state_dict())
        places, maps = model.encoder(pixels).last_hidden_state, plain(pixels).last_hidden_state
    assert maps.shape == (1, 16, 2, 2) and places.shape == (1, 4, 16)
    assert torch.equal(places[0, 1], maps[0, :, 0, 1]) and torch.equal(places[0, 2], maps[0, :, 1, 0])


@pytest.mark.slow
def test_transformers_alone_loads_it(tokenizer, tmp_path):
    join(PvtV2Model(PvtV2Config(**TINY_PVT)), decoder_config(GPT, tokenizer)).save_pretrained(tmp_path / "model")
    program = f"""
import sys
sys.path = [path for path in sys.path if "wt-" not in path]
sys.modules["know_hf"] = None
import torch
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
print(type(model).__name__, model(torch.zeros(1, 3, 16, 16), labels=torch.tensor([[4, 3]])).logits.shape)
"""
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout.split()[0] == "MapCaptioner", done.stderr[-3000:]


def test_the_code_in_its_folder_is_all_that_it_needs(tokenizer, tmp_path, monkeypatch):
    model = join(PvtV2Model(PvtV2Config(**TINY_PVT)), decoder_config(GPT, tokenizer)).eval()
    model.save_pretrained(tmp_path / "model")
    assert "know_hf" not in re.findall(
        r"^\s*(?:from|import) (\w+)", (tmp_path / "model" / "map_captioner.py").read_text(), re.M
    )
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    from_folder = dynamic_module_utils.get_class_from_dynamic_module("map_captioner.MapCaptioner", tmp_path / "model")
    assert from_folder is not MapCaptioner
    again = from_folder.from_pretrained(tmp_path / "model").eval()
    pixels, labels = torch.randn(1, 3, 16, 16), torch.tensor([[4, 3]])
    with torch.no_grad():
        assert torch.equal(again(pixels, labels=labels).logits, model(pixels, labels=labels).logits)


def test_what_cannot_be_joined_is_said(tokenizer, tmp_path):
    encoder, decoder = PvtV2Model(PvtV2Config(**TINY_PVT)), decoder_config(GPT, tokenizer)
    with pytest.raises(ValueError, match="GPT2LMHeadModel writes text itself"):
        join(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2)), decoder)
    with pytest.raises(ValueError, match="PvtV2ForImageClassification makes \\(1, 2\\) of a picture"):
        join(PvtV2ForImageClassification(PvtV2Config(**TINY_PVT)), decoder)
    text = BertModel(BertConfig(vocab_size=9, **TINY_VIT))
    with pytest.raises(ValueError, match="BertModel is no encoder of pictures"):
        join(text, decoder)
    with pytest.raises(ValueError, match="'gpt9' with these fields is no decoder"):
        decoder_config({"model_type": "gpt9"}, tokenizer)
    with pytest.raises(ValueError, match="needs model_type"):
        decoder_config({"n_embd": 8}, tokenizer)
    llama = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 8}  # fmt: skip
    with pytest.raises(ValueError, match="LlamaForCausalLM cannot look at pictures"):
        join(encoder, decoder_config(llama, tokenizer))
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="is no encoder of pictures"):
        join_start(tmp_path / "text", tmp_path / "out", decoder, tokenizer, None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [
    lambda: PvtV2ForImageClassification(PvtV2Config(**TINY_PVT)),
    lambda: ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **TINY_VIT)),
    lambda: timm_from_scratch("pvt_v2_b0", image_size=16, model_args={
        "depths": (1, 1), "embed_dims": (8, 16), "num_heads": (1, 2), "mlp_ratios": (1, 1), "sr_ratios": (2, 1)}),
], ids=["pvt_v2", "vit", "timm"])  # fmt: skip
def test_a_classifier_becomes_a_captioner_that_keeps_its_weights(make, tokenizer, tmp_path):
    for seed in (0, 1):
        set_seed(seed)
        make().save_pretrained(tmp_path / f"start-{seed}")
        join_start(
            tmp_path / f"start-{seed}", tmp_path / f"joined-{seed}", decoder_config(GPT, tokenizer), tokenizer, 16
        )
    start, first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("start-0", "joined-0", "joined-1")
    )
    own = [value for name, value in start.items() if "classifier" not in name and ".head." not in name]
    encoder = {name: value for name, value in first.items() if name.startswith("encoder.") and "pooler" not in name}
    assert len(own) == len(encoder) and {v.sum().item() for v in own} == {v.sum().item() for v in encoder.values()}
    rest = [name for name in first if not name.startswith("encoder.")]
    assert rest and all(torch.equal(first[name], second[name]) for name in rest), "one decoder for every start"
    assert json.loads((tmp_path / "joined-0" / "tokenizer_config.json").read_text())["eos_token"] == "[EOS]"
    columns = find_columns(Dataset.from_dict(
        {"image": [Pillow.new("RGB", (16, 16))], "caption": ["red"]},
        features=Features({"image": Image(), "caption": Value("string")}),
    ))  # fmt: skip
    one, two, other = (
        load_with_new_head(tmp_path / name, columns, seed).state_dict()
        for name, seed in (("joined-0", 3), ("joined-1", 3), ("joined-0", 4))
    )
    for name in ("enc_to_dec_proj.weight", "decoder.transformer.h.0.attn.c_attn.weight"):
        assert torch.equal(one[name], two[name]) and not torch.equal(one[name], other[name]), "the seed decides it"
        assert not torch.equal(one[name], first[name])
    kept = [value for name, value in one.items() if name.startswith("encoder.") and "pooler" not in name]
    assert {value.sum().item() for value in kept} == {value.sum().item() for value in own}


@pytest.mark.slow
def test_a_captioner_with_maps_forgets_and_is_predicted(tokenizer, tmp_path):
    rows = {"image": [Pillow.new("RGB", (16, 16), WORDS[i % 3]) for i in range(16)],
            "caption": [f"{WORDS[i % 3]} red" for i in range(16)]}  # fmt: skip
    data = Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))
    set_seed(0)
    model = join(PvtV2Model(PvtV2Config(**TINY_PVT)), decoder_config(GPT, tokenizer))
    args = ForgettingArguments(
        str(tmp_path / "run"), num_stages=3, train_stage_zero=True, num_train_epochs=1, per_device_train_batch_size=4,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    result = enrich_pretrained(
        model,
        data,
        eval_dataset=data,
        args=args,
        steps=1,
        task="image-to-text",
        method="linear_fit",
        processing_class=tokenizer,
    )
    predicted = result.checkpoints["x2"]
    loaded = AutoModelForImageTextToText.from_pretrained(predicted)
    kinds = {name: found.kind for name, found in kinds_of(loaded).items()}
    assert kinds["enc_to_dec_proj.weight"] == "fc" and "conv" in {
        kind for name, kind in kinds.items() if name.startswith("encoder.")
    }
    before, after = (load_file(folder / "model.safetensors") for folder in
                     (result.trajectory.checkpoints[0].folder, predicted))  # fmt: skip
    assert all(not torch.equal(before[n], after[n]) for n in before if kinds[n] == "conv")
    card = (predicted / "README.md").read_text()
    assert "AutoModelForImageTextToText" in card and "trust_remote_code=True" in card
    assert (predicted / "map_captioner.py").is_file() and result.metrics["x2"]["eval_masked_accuracy"] >= 0
