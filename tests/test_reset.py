"""norms="reset": predictions that begin with the normalisation of a new network, as the authors' do."""

import json

import pytest
import torch
from conftest import QUICK, tiny_image_model
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from know_hf import Trajectory, enrich, enrich_pretrained
from know_hf.cli.main import main
from know_hf.plan import make_plan
from know_hf.trajectory import kinds_of, resolve_kinds
from know_hf.trajectory.kinds import Parameter, fresh_norms

LAYERS = [name for name, module in tiny_image_model().named_modules() if isinstance(module, _BatchNorm)]


def stored(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def is_fresh(weights: dict[str, torch.Tensor], layer: str) -> bool:
    new = nn.BatchNorm2d(len(weights[f"{layer}.weight"])).state_dict()
    return all(torch.equal(weights[f"{layer}.{role}"], new[role]) for role in new)


def test_what_is_reset():
    bn = {f"bn.{role}": Parameter("buffer", "BatchNorm2d") for role in ("running_mean", "running_var")}
    bn |= {f"bn.{role}": Parameter("norm", "BatchNorm2d") for role in ("weight", "bias")}
    counted = {**bn, "bn.num_batches_tracked": Parameter("buffer", "BatchNorm2d")}
    others = {"ln.weight": Parameter("norm", "LayerNorm"), "ln.bias": Parameter("norm", "LayerNorm")}
    values = {"bn.running_mean": 0, "bn.running_var": 1, "bn.num_batches_tracked": 0, "bn.weight": 1, "bn.bias": 0}
    assert fresh_norms({**counted, **others, "head.bias": Parameter("bias", "Linear")}) == values
    predicted, copied = resolve_kinds({**counted, **others}, norms="reset")
    assert not predicted and copied == dict.fromkeys(others, "normalisation parameter")
    # A pattern wins; a layer without weight and bias has statistics all the same.
    assert fresh_norms(counted, {"bn.weight": "bias", "bn.run*": "copy"}).keys() == {
        "bn.bias",
        "bn.num_batches_tracked",
    }
    plain = {name: parameter for name, parameter in counted.items() if parameter.kind == "buffer"}
    assert fresh_norms(plain).keys() == plain.keys()
    frozen = {**counted, "bn.bias": Parameter("norm", "BatchNorm2d", trained=False)}
    # Of DETR's frozen layers, of LayerNorm and of what was not trained there is nothing to reset.
    for without in (bn, others, frozen, {}):
        with pytest.raises(ValueError, match="norms='reset' is about layers with running statistics"):
            resolve_kinds(without, norms="reset")
    stateless = kinds_of(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="that are trained, and the BatchNorm2d here are frozen or keep none"):
        resolve_kinds(stateless, norms="reset")


@pytest.mark.parametrize("method", ["known", "naive"])
def test_every_step_begins_with_new_normalisation(trajectory, tmp_path, method):
    kept = enrich(trajectory, tmp_path / "kept", method=method, steps=2)
    made = enrich(trajectory, tmp_path / "made", method=method, steps=2, norms="reset")
    for name, folder in made.checkpoints.items():
        weights, before = stored(folder), stored(kept.checkpoints[name])
        assert LAYERS and all(is_fresh(weights, layer) and not is_fresh(before, layer) for layer in LAYERS)
        rest = [n for n in weights if n.rpartition(".")[0] not in LAYERS]
        assert rest and all(torch.equal(weights[n], before[n]) for n in rest)
        content = json.loads((folder / "enrichment.json").read_text())
        assert (
            content["reset"] == sorted(LAYERS)
            and content["copied"] + 5 * len(LAYERS)
            == (json.loads((kept.checkpoints[name] / "enrichment.json").read_text())["copied"])
        )
        card = (folder / "README.md").read_text()
        assert f"{len(LAYERS)} layers with running statistics" in card and "| those of a new network |" in card
    assert "reset" not in json.loads((kept.checkpoints["x2"] / "enrichment.json").read_text())
    enrich(trajectory, tmp_path / "made", method=method, steps=2, norms="reset")  # is there already
    with pytest.raises(FileExistsError, match="different copied, reset"):
        enrich(trajectory, tmp_path / "kept", method=method, steps=2, norms="reset")


def test_from_given_checkpoints(trajectory, tmp_path):
    folders = [checkpoint.folder for checkpoint in trajectory.checkpoints]
    given = Trajectory.from_checkpoints(folders, kinds={"timm_model.conv1.0.weight": "conv"})
    weights = stored(enrich(given, tmp_path, steps=1, norms="reset").checkpoints["x2"])
    assert all(is_fresh(weights, layer) for layer in LAYERS)


def test_the_command_line_and_the_plan(trajectory, tmp_path, capsys):
    main(["predict", str(trajectory.root), "--norms", "reset", "--steps", "1", "--output-dir", str(tmp_path)])
    assert all(is_fresh(stored(tmp_path / "x2"), layer) for layer in LAYERS)
    capsys.readouterr()
    plan = make_plan(trajectory.root, steps=1, norms="reset")
    assert len(plan.fresh) == 5 * len(LAYERS) and not plan.fresh.keys() & plan.copied.keys()
    assert "as of a new BatchNormAct2d" in str(plan) or "as of a new BatchNorm2d" in str(plan)


@pytest.mark.slow
def test_statistics_are_estimated_and_the_rest_stays_new(images, tmp_path):
    """And a layer that was frozen stays as it is."""
    model = tiny_image_model()
    frozen = LAYERS[0]
    model.get_submodule(frozen).requires_grad_(False)
    result = enrich_pretrained(
        model, images.select(range(64)), tmp_path, eval_dataset=images.select(range(64, 96)), norms="reset", steps=1,
        num_stages=5, train_stage_zero=True, **QUICK,
    )  # fmt: skip
    weights, zero = stored(result.checkpoints["x2"]), stored(tmp_path / "stage-0")
    for layer in LAYERS[1:]:
        assert (weights[f"{layer}.weight"] == 1).all() and not weights[f"{layer}.bias"].any()
        assert weights[f"{layer}.running_mean"].any()
    assert torch.equal(weights[f"{frozen}.weight"], zero[f"{frozen}.weight"])
    assert f"begin with {len(LAYERS) - 1} normalisation layers of a new network" in result.verdict
    assert "Do not use" not in result.verdict
    assert "re-estimated on 64 training examples" in (result.checkpoints["x2"] / "README.md").read_text()


def test_models_without_are_refused_before_training(text_model_folder, sentences, tmp_path):
    with pytest.raises(ValueError, match="norms='reset' is about layers with running statistics"):
        enrich_pretrained(str(text_model_folder), sentences, tmp_path, norms="reset", num_stages=5, **QUICK)
    assert not (tmp_path / "stage-0").exists()


def test_normalisation_without_statistics_is_refused_before_training(images, tmp_path):
    model = tiny_image_model()
    for name in LAYERS:
        layer = model.get_submodule(name)
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    with pytest.raises(ValueError, match="here are frozen or keep none"):
        enrich_pretrained(model, images.select(range(64)), tmp_path, norms="reset", num_stages=5, **QUICK)
    assert not (tmp_path / "stage-0").exists()
