"""The class that a checkpoint names: built from its configuration, matched with its files, named for its loaders."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    BlipConfig,
    BlipForConditionalGeneration,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    SpeechEncoderDecoderModel,
    T5Config,
    T5ForConditionalGeneration,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
)

from know_hf.models.skeleton import loader_in, loader_of, skeleton
from know_hf.plan import make_plan
from know_hf.trajectory import Checkpoint, TrajectoryError
from know_hf.trajectory.kinds import described_by
from know_hf.trajectory.names import match_names

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
GPT = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
IMAGE = {**SMALL, "image_size": 32, "patch_size": 8}
SOUND = {
    **SMALL, "vocab_size": 20, "conv_dim": (8, 8), "conv_stride": (2, 2), "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def gpt2(**more) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**GPT, bos_token_id=2, eos_token_id=3, **more))


def bert_decoder() -> BertLMHeadModel:
    return BertLMHeadModel(BertConfig(vocab_size=50, **SMALL, is_decoder=True, add_cross_attention=True))


def blip() -> BlipForConditionalGeneration:
    text = {**SMALL, "vocab_size": 50, "encoder_hidden_size": 16, "max_position_embeddings": 16}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=IMAGE, projection_dim=8))


MODELS = {
    "AutoModelForCausalLM": gpt2,
    "AutoModelForCausalLM ": lambda: OpenAIGPTLMHeadModel(OpenAIGPTConfig(**GPT)),
    "AutoModelForCausalLM  ": bert_decoder,
    "GPT2DoubleHeadsModel": lambda: GPT2DoubleHeadsModel(GPT2Config(**GPT)),
    "AutoModelForSeq2SeqLM": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ),
    "AutoModelForImageTextToText": lambda: VisionEncoderDecoderModel(
        encoder=ViTModel(ViTConfig(**IMAGE)), decoder=gpt2(add_cross_attention=True)
    ),
    "AutoModelForImageTextToText ": blip,
    "AutoModelForSpeechSeq2Seq": lambda: SpeechEncoderDecoderModel(
        encoder=Wav2Vec2Model(Wav2Vec2Config(**SOUND)), decoder=bert_decoder()
    ),
    "AutoModelForCTC": lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**SOUND)),
    "AutoModel": lambda: ViTModel(ViTConfig(**IMAGE)),
}


@pytest.mark.parametrize("loader", MODELS)
def test_the_class_that_was_saved_is_built_and_named(loader, tmp_path):
    model = MODELS[loader]()
    model.save_pretrained(tmp_path)
    built = skeleton(tmp_path)
    assert type(built) is type(model)
    assert sum(p.numel() for p in built.parameters() if p.device.type != "meta") <= 16  # a mask that some fill at once
    tensors = Checkpoint(tmp_path).tensors
    assert described_by(built, tensors).keys() == tensors.keys()
    assert loader_of(model) == loader_in(tmp_path)["auto_class"] == loader.strip()
    again = getattr(transformers, loader.strip()).from_pretrained(tmp_path)
    assert type(again) is type(model)


def renamed(folder, change) -> None:
    """Saves a folder's tensors under other names."""
    tensors = load_file(folder / "model.safetensors")
    save_file({change(n): t for n, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("know_hf.plan._SECONDS", 0.02)


def test_files_without_the_prefix_of_their_model(tmp_path):
    """As the first GPT-2 files are, and whatever a bare model was saved as beside a head's configuration."""
    gpt2().save_pretrained(tmp_path)
    renamed(tmp_path, lambda name: name.removeprefix("transformer."))
    assert "h.0.attn.c_attn.weight" in Checkpoint(tmp_path).tensors
    plan = make_plan(tmp_path, steps=1)
    assert len(plan.predicted) == 8 and "name not found on the live module" not in plan.copied.values()


def test_files_with_a_head_that_their_configuration_does_not_name(tmp_path):
    BertForSequenceClassification(BertConfig(vocab_size=50, **SMALL)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    plan = make_plan(tmp_path, steps=1)
    unknown = [name for name, why in plan.copied.items() if why == "name not found on the live module"]
    assert unknown == ["classifier.bias", "classifier.weight"] and "bert.pooler.dense.weight" in plan.predicted


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ),
        lambda n: n.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ),
    ],
    ids=["hooks", "parametrisations"],
)
def test_both_names_of_weight_normalisation(change, tmp_path):
    Wav2Vec2ForCTC(Wav2Vec2Config(**SOUND)).save_pretrained(tmp_path)
    renamed(tmp_path, change)
    plan = make_plan(tmp_path, steps=1)
    kernel = [n for n in plan.tensors if n.endswith(("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv."
                                                     "parametrizations.weight.original1"))]  # fmt: skip
    assert [plan.predicted[name] for name in kernel] == ["conv"]
    assert "name not found on the live module" not in plan.copied.values()


def test_names_match_where_only_one_prefix_fits():
    known = ["bert.layer.weight", "bert.pooler.weight", "head.weight"]
    assert match_names(known, ["layer.weight", "head.weight", "odd"], "bert") == {
        "layer.weight": "bert.layer.weight", "head.weight": "head.weight"
    }  # fmt: skip
    assert match_names(["layer.weight"], ["bert.layer.weight", "head.weight"], "bert") == {
        "bert.layer.weight": "layer.weight"
    }
    assert match_names(["module.a", "module.b"], ["a", "b"]) == {"a": "module.a", "b": "module.b"}
    # Two towers would both do for one; a name that fits as it is shows that the others are something else.
    assert match_names(["a"], ["encoder.a", "decoder.a"]) == {}
    assert match_names(["a", "b"], ["a", "teacher.b"]) == {"a": "a"}
    assert match_names(["LayerNorm.weight", "x"], ["LayerNorm.gamma", "x"]) == {
        "LayerNorm.gamma": "LayerNorm.weight", "x": "x"
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["Trainer"]},
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": ["BertForNothing"]},
        {"architectures": "BertModel"},
        {"architectures": [3]},
        {"architectures": None},
    ],
    ids=lambda changes: str(changes["architectures"]),
)
def test_architectures_that_are_none(changes, tmp_path):
    BertModel(BertConfig(vocab_size=50, **SMALL)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    try:
        assert make_plan(tmp_path, steps=1).predicted
    except TrajectoryError as error:
        assert "\n" not in str(error) and len(str(error)) < 500


def test_errors_about_models_are_short(tmp_path):
    """transformers lists hundreds of models in some of its own."""
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    for config in ({"model_type": "no-such-model"}, {}, {"model_type": "bert", "hidden_size": "many"}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(TrajectoryError) as found:
            make_plan(tmp_path)
        assert "\n" not in str(found.value) and len(str(found.value)) < 700


def test_a_class_of_ones_own_has_no_auto_class():
    class Own(BertForSequenceClassification):
        pass

    config = BertConfig(vocab_size=50, **SMALL)
    assert loader_of(Own(config)) is None
    assert loader_of(nn.Linear(2, 2)) is None
    assert loader_of(BertForSequenceClassification(config)) == "AutoModelForSequenceClassification"


def test_code_of_a_model_folder_is_built_when_trusted(tmp_path):
    (tmp_path / "own.py").write_text(
        "from transformers import PreTrainedConfig, PreTrainedModel\nfrom torch import nn\n\n\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n\n\n"
        "class OwnLM(PreTrainedModel):\n    config_class = OwnConfig\n\n    def __init__(self, config):\n"
        "        super().__init__(config)\n        self.fc = nn.Linear(2, 3)\n        self.post_init()\n"
    )
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnLM"}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "architectures": ["OwnLM"], "auto_map": names})
    )
    save_file({"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(TrajectoryError, match="trust_remote_code"):
        make_plan(tmp_path)
    assert make_plan(tmp_path, trust_remote_code=True).predicted == {"fc.bias": "bias", "fc.weight": "fc"}
    assert loader_of(skeleton(tmp_path, trust_remote_code=True)) == "AutoModelForCausalLM"
