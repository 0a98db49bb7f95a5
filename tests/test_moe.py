"""Mixtures of experts: their stacked matrices are predicted, under whatever names and in whatever pieces they lie."""

import pytest
import torch
from safetensors.torch import load_file
from test_given import drifting
from torch import nn
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, Qwen3MoeConfig

from know_hf import Trajectory, enrich, kinds_of
from know_hf.cli.main import main
from know_hf.plan import make_plan
from know_hf.retrodiction import retrodict, tsv

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "num_experts_per_tok": 2, "head_dim": 8}  # fmt: skip
CONFIGS = {
    "mixtral": MixtralConfig(**SIZES, intermediate_size=32, num_local_experts=4),
    "qwen": Qwen3MoeConfig(**SIZES, intermediate_size=32, moe_intermediate_size=16, num_experts=4),
    "gpt-oss": GptOssConfig(**SIZES, intermediate_size=16, num_local_experts=4),
}


def mixture(name: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_kinds_live_and_saved(name, tmp_path):
    model = mixture(name)
    live = kinds_of(model)
    experts = {n: p for n, p in model.named_parameters() if ".experts." in n}
    assert {n: live[n].kind for n in experts} == {n: "bias" if n.endswith("bias") else "fc" for n in experts}
    assert all(p.ndim == (2 if n.endswith("bias") else 3) for n, p in experts.items())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    pieces = {n: t for n, t in saved.items() if ".experts." in n}
    assert {n: live[n].kind for n in pieces} == {n: "bias" if n.endswith("bias") else "fc" for n in pieces}
    assert (name == "gpt-oss") == (pieces.keys() == experts.keys())  # the others are saved expert by expert
    assert sum(t.numel() for t in pieces.values()) == sum(p.numel() for p in experts.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_experts_of_checkpoints_are_predicted(name, tmp_path):
    folders = drifting(tmp_path, mixture(name), stages=5)
    main(["predict", *map(str, folders), "--method", "linear_fit", "--steps", "1", "--output-dir", str(tmp_path / "o")])
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "o" / "x2")
    stages = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders]
    for full, value in made.state_dict().items():
        if ".experts." in full:
            expected = retrodict(torch.stack([stage[full] for stage in stages]), "fc", 1, "linear_fit")[0]
            assert torch.allclose(value, expected, atol=1e-6)
    live = enrich(
        Trajectory.from_checkpoints(folders, model=mixture(name), sampling_ratio=0.5), tmp_path / "live", steps=1,
        method="linear_fit",
    )  # fmt: skip
    assert (live.checkpoints["x2"] / "model.safetensors").read_bytes() == (
        tmp_path / "o" / "x2" / "model.safetensors"
    ).read_bytes()
    assert made(torch.arange(6)[None]).logits.isfinite().all()


def test_plan_and_card_say_what_is_not_predicted(tmp_path):
    folders = drifting(tmp_path, mixture("mixtral"), stages=5)
    plan = make_plan(folders[0], steps=1)
    total = sum(spec.numel for spec in plan.tensors.values())
    share = 1 - plan.predicted_weights / total
    assert 0.1 < share < 0.2  # the tables of a model as small as this
    assert f"{share:.0%} of all weights will not be predicted: embedding table (Embedding) " in str(plan)
    assert "(MixtralTopKRouter)" in str(plan)
    made = enrich(Trajectory.from_checkpoints(folders), tmp_path / "o", steps=1, method="mean")
    card = (made.checkpoints["x2"] / "README.md").read_text()
    assert f"They hold {100 * share:.0f} % of all weights, which were not predicted: embedding table" in card
    whole = enrich(Trajectory.from_checkpoints(folders), tmp_path / "w", steps=1, method="mean", embeddings="fc")
    assert "of all weights" not in (whole.checkpoints["x2"] / "README.md").read_text()
    assert "will not be predicted" not in str(make_plan(folders[0], steps=1, embeddings="fc"))


def test_singular_directions_of_each_expert():
    stages = torch.randn(3, 4, 6, 5)
    made = tsv(stages, "fc", 2)
    for expert in range(4):
        assert torch.allclose(made[:, expert], tsv(stages[:, expert], "fc", 2), atol=1e-6)
    assert not torch.allclose(made, tsv(stages, "conv", 2))
