"""Checkpoints of the caller's own: names that nearly match, values that are not finite, words for what does not fit."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel

from know_hf import Trajectory, TrajectoryError, enrich, kinds_of
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
        (lambda f: ["user/model", f[0]], TrajectoryError, "given as stage 0.*snapshot_download"),
        (lambda f: [f[0] / "model.safetensors", f[1]], TrajectoryError, "is a file; give the folder that it lies in"),
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
