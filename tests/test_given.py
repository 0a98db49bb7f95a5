"""Checkpoints of the caller's own: names that nearly match, values that are not finite, words for what does not fit."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel

from know_hf import Trajectory, TrajectoryError, enrich, kinds_of
from know_hf.plan import make_plan
from know_hf.trajectory import Checkpoint

CONFIG = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)


def drifting(tmp_path, model, stages=3) -> list:
    torch.manual_seed(0)
    folders = []
    for stage in range(stages):
        folders.append(tmp_path / f"given{stage}")
        model.save_pretrained(folders[-1])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.002)
    return folders


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel], ids=["plain", "wrapped"])
@pytest.mark.parametrize(("saved", "live"), [(BertForSequenceClassification, BertModel), (BertModel,) * 2,
                                             (BertModel, BertForSequenceClassification)])  # fmt: skip
def test_names_with_and_without_their_prefix(saved, live, wrap, tmp_path, caplog):
    folders = drifting(tmp_path, saved(CONFIG))
    with caplog.at_level(logging.WARNING, "know_hf"):
        trajectory = Trajectory.from_checkpoints(folders, model=wrap(live(CONFIG)))
    kinds = {name: parameter.kind for name, parameter in trajectory.parameters.items()}
    head = {name for name in kinds if name.startswith("classifier.")}
    assert {name for name, kind in kinds.items() if kind == "unknown"} == (head if live is BertModel else set())
    assert ("'classifier.weight'" in caplog.text) == bool(head and live is BertModel)
    assert sum(kind == "fc" for kind in kinds.values()) >= 7


def test_a_model_of_something_else_is_refused(tmp_path):
    folders = drifting(tmp_path, BertModel(CONFIG))
    with pytest.raises(ValueError, match=r"Linear has no tensor of the checkpoints: they hold 'emb.* and \d+ more"):
        Trajectory.from_checkpoints(folders, model=nn.Linear(2, 2))


def test_kinds_that_name_nothing_are_refused(tmp_path):
    folders = drifting(tmp_path, BertForSequenceClassification(CONFIG))
    with pytest.raises(ValueError, match="checkpoints hold no 'clasifier.weight'; they hold"):
        Trajectory.from_checkpoints(folders, kinds={"classifier.weight": "fc", "clasifier.weight": "fc"})
    with pytest.raises(ValueError, match="kinds: 'dense' of 'classifier.weight' is not known; use one of"):
        Trajectory.from_checkpoints(folders, kinds={"classifier.weight": "dense"})
    # What a live module says of more than is stored is no mistake, and names without the prefix of all are known.
    bare = kinds_of(BertModel(CONFIG))
    found = Trajectory.from_checkpoints(folders, kinds={**bare, "pooler.more": next(iter(bare.values()))})
    assert found.parameters["bert.pooler.dense.weight"].kind == "fc"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda f: f[0], TypeError, "give a list of folders, one for each stage"),
        (lambda f: str(f[0]), TypeError, "give a list of folders"),
        (lambda f: None, TypeError, "give a list of folders"),
        (lambda f: [f[0], None], TypeError, "None is not the path of a folder"),
        (lambda f: [], TrajectoryError, "at least 2 checkpoints.*found 0"),
        (lambda f: f[:1], TrajectoryError, "at least 2 checkpoints.*found 1"),
        (lambda f: [*f, f[0]], TrajectoryError, "given0 is given twice, as stage 0 and as stage 3"),
        (lambda f: [f[0], f"{f[1]}/../given0"], TrajectoryError, "twice, as stage 0 and as stage 1"),
        (lambda f: [f[0], "nowhere"], TrajectoryError, "'nowhere', given as stage 1, is not a folder"),
        (lambda f: ["user/model", f[0]], TrajectoryError, "given as stage 0.*neither a folder nor a model reachable"),
        (lambda f: [f[0] / "model.safetensors", f[1]], TrajectoryError, "is a file; give the folder that it lies in"),
        (lambda f: set(f), TypeError, "give a list of folders"),
        (lambda f: dict.fromkeys(f, "stage"), TypeError, "give a list of folders"),
    ],
)
def test_lists_of_checkpoints_that_are_none(tmp_path, given, error, message):
    folders = drifting(tmp_path, BertModel(CONFIG))
    with pytest.raises(error, match=message):
        Trajectory.from_checkpoints(given(folders), model=BertModel(CONFIG))


def changed(folder, change) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_values_that_are_not_finite_in_given_checkpoints(tmp_path):
    """-inf is what masks are made of: nobody reads what is only copied. Elsewhere no training of ours is blamed."""
    folders = drifting(tmp_path, BertModel(CONFIG))
    for folder in folders:
        changed(folder, lambda t: t.update(mask=torch.full((4, 4), -torch.inf)))
    made = enrich(Trajectory.from_checkpoints(folders, model=BertModel(CONFIG)), tmp_path / "out", steps=1)
    assert Checkpoint(made.checkpoints["x2"]).read("mask").isinf().all()
    changed(folders[1], lambda t: t["pooler.dense.weight"][0, :2].fill_(-torch.inf))
    with pytest.raises(TrajectoryError, match=r"stage 1 \(.*given1\)") as found:
        enrich(Trajectory.from_checkpoints(folders, model=BertModel(CONFIG)), tmp_path / "again", steps=1)
    assert "diverged" not in str(found.value) and "learning rate" not in str(found.value)


def test_cards_of_given_checkpoints_load_the_head(tmp_path):
    folders = drifting(tmp_path, BertForSequenceClassification(CONFIG))
    trajectory = Trajectory.from_checkpoints(folders, model=BertForSequenceClassification(CONFIG))
    folder = enrich(trajectory, tmp_path / "out", steps=1).checkpoints["x2"]
    assert "from transformers import AutoModelForSequenceClassification" in (folder / "README.md").read_text()
    assert AutoModelForSequenceClassification.from_pretrained(folder).classifier.weight.shape == (2, 16)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"kinds": []}, TypeError, r"kinds is \[\]; give a dictionary"),
        ({"kinds": ["pooler.dense.weight"]}, TypeError, "give a dictionary, name of the tensor"),
        ({"kinds": "fc"}, TypeError, "kinds is 'fc'; give a dictionary"),
        ({"kinds": {}}, ValueError, "kinds is empty, so that nothing would be predicted"),
        ({"kinds": {1: "fc"}}, TypeError, "kinds: 1 is not the name of a tensor"),
        ({"model": "bert"}, TypeError, "model is 'bert', a str, not a live module"),
        ({"model": BertModel}, TypeError, "model is the class BertModel, not a live module"),
        ({"model": CONFIG}, TypeError, "a BertConfig, not a live module"),
        ({"sampling_ratio": 2.0}, ValueError, "sampling_ratio is 2.0; .* strictly between 0 and 1"),
        ({"sampling_ratio": 0}, ValueError, "sampling_ratio is 0;"),
        ({"sampling_ratio": float("nan")}, ValueError, "sampling_ratio is nan;"),
        ({"sampling_ratio": "0.5"}, TypeError, "sampling_ratio is '0.5'; give a number"),
        ({"sampling_ratio": True}, TypeError, "sampling_ratio is True; give a number"),
    ],
)
def test_arguments_of_another_kind(tmp_path, given, error, message):
    folders = drifting(tmp_path, BertModel(CONFIG), stages=2)
    given = given if "kinds" in given or "model" in given else {"kinds": {"pooler.dense.weight": "fc"}, **given}
    with pytest.raises(error, match=message):
        Trajectory.from_checkpoints(folders, **given)


class Net(nn.Module):
    def __init__(self, first: nn.Module):
        super().__init__()
        self.first, self.head = first, nn.Linear(4, 2)


def test_tensors_of_another_shape_are_not_the_models(tmp_path, caplog):
    """A 1×1 convolution is no matrix, whatever its name is."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        save_file(Net(nn.Conv2d(3, 4, 1)).state_dict(), folder / "model.safetensors")
    found = Trajectory.from_checkpoints(folders, model=Net(nn.Conv2d(3, 4, 1))).parameters
    assert found["first.weight"].kind == "conv" and not caplog.records
    found = Trajectory.from_checkpoints(folders, model=Net(nn.Linear(3, 4)).to("meta")).parameters
    assert found["first.weight"].kind == "unknown" and found["first.bias"].kind == "bias"
    assert "has another shape of 'first.weight [4, 3, 1, 1] as [4, 3]', which will be copied" in caplog.text
    other = BertModel(BertConfig(**{**CONFIG.to_dict(), "hidden_size": 8, "intermediate_size": 4, "vocab_size": 9,
                                    "max_position_embeddings": 3, "type_vocab_size": 1}))  # fmt: skip
    with pytest.raises(ValueError, match=r"BertModel fits none of the tensors of the checkpoints: it has '.* as \["):
        Trajectory.from_checkpoints(drifting(tmp_path, BertModel(CONFIG)), model=other)


def test_a_plan_for_a_configuration_of_another_shape(tmp_path, caplog):
    (folder, *_) = drifting(tmp_path, BertModel(CONFIG))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    plan = make_plan(folder, steps=1)
    assert "intermediate.dense.weight" not in " ".join(plan.predicted) and "pooler.dense.weight" in plan.predicted
    assert "encoder.layer.0.intermediate.dense.weight [32, 16] as [64, 16]" in caplog.text
