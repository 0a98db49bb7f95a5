"""What was not trained, or did not move, stays what it is, bit for bit, and is listed with its reason."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import QUICK
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer, Trajectory, enrich, enrich_pretrained, kinds_of
from know_hf.enrichment import selection
from know_hf.plan import make_plan
from know_hf.pretrained import enrich_trained
from know_hf.report.run import report_markdown
from know_hf.retrodiction import ALL, retrodict
from know_hf.trajectory import Checkpoint, TrajectoryError, TrajectoryRecord, resolve_kinds


def bert(layers=1) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
                   intermediate_size=32, max_position_embeddings=32, num_labels=2)
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> Dataset:
    ids = torch.randint(0, 100, (64, 8), generator=torch.Generator().manual_seed(1)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": [i % 2 for i in range(64)]})


def is_frozen(name: str) -> bool:
    return name.startswith("bert.encoder") and not name.endswith("output.dense.bias")


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    """A run with a frozen encoder, but for two biases of frozen matrices; and the trainer of it."""
    model = bert()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(name))
    args = ForgettingArguments(
        str(tmp_path_factory.mktemp("frozen")), num_stages=3, train_stage_zero=True, self_check=True, **QUICK
    )
    trainer = ForgettingTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    return trainer


def stored(folder) -> dict[str, torch.Tensor]:
    return load_file(Checkpoint(folder).weight_file)


def moved(a, b) -> set[str]:
    a, b = stored(a), stored(b)
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.slow
def test_the_record_says_what_was_trained(run):
    parameters = run.trajectory.parameters
    assert {n for n, parameter in parameters.items() if not parameter.trained} == set(filter(is_frozen, parameters))
    plan = make_plan(run.args.output_dir, steps=1)
    frozen = {name for name, reason in plan.copied.items() if reason == "not trained"}
    assert frozen == {name for name in parameters if is_frozen(name) and "LayerNorm" not in name}
    assert "bert.encoder.layer.0.output.dense.bias" in plan.predicted and "not trained" in str(plan)


def test_no_method_changes_what_was_frozen(run, tmp_path):
    result = enrich(run.trajectory, tmp_path, method=ALL, steps=2)
    zero = run.trajectory.checkpoints[0].folder
    for name, folder in result.checkpoints.items():
        changed = moved(zero, folder)
        assert not set(filter(is_frozen, changed)), name
        assert changed or name.startswith("naive")
    folder = result.checkpoints["known/x2"]
    content = json.loads((folder / "enrichment.json").read_text())
    assert set(content["unmoved"]) >= {"not trained"}
    assert set(content["unmoved"]["not trained"]) == {n for n in stored(zero) if is_frozen(n) and "LayerNorm" not in n}
    counted = sum(values["weights"] for values in content["statistics"].values())
    kept = {name for names in content["unmoved"].values() for name in names}
    predicted = resolve_kinds(run.trajectory.parameters)[0].keys() - kept
    assert counted == sum(run.trajectory.tensors[name].numel for name in predicted)
    assert content["copied"] + len(predicted) == len(run.trajectory.tensors)
    assert "could have been predicted but were not trained" in (folder / "README.md").read_text()
    assert f"{len(content['unmoved']['not trained'])} tensors that could have been predicted were not trained and" in (
        report_markdown(result)
    )


def test_the_self_check_is_of_what_moved(run):
    result = enrich_trained(run, steps=1)
    checked = run.trajectory.root / "self-check" / "known"
    assert not set(filter(is_frozen, moved(run.trajectory.checkpoints[1].folder, checked)))
    window = run.trajectory.self_check_window()
    names = [n for n, k in resolve_kinds(window.parameters)[0].items() if k == "fc"]
    guess, truth, start = (stored(f) for f in (checked, *(c.folder for c in run.trajectory.checkpoints[:2])))
    error = sum((guess[n] - truth[n]).abs().double().sum() for n in names)
    distance = sum((start[n] - truth[n]).abs().double().sum() for n in names)
    assert result.self_check["ratios"]["fc"] == pytest.approx((error / distance).item(), rel=1e-4)


def test_kinds_for_frozen_parameters(run, tmp_path):
    with pytest.raises(ValueError, match=r"'\*attention.self.\*' matches only what was not trained"):
        enrich(run.trajectory, tmp_path, steps=1, kinds={"*attention.self.*": "fc"})
    with pytest.raises(ValueError, match="matches only what was not trained"):
        resolve_kinds(run.trajectory.parameters, kinds={"*attention.self.*": "fc"})
    folder = enrich(run.trajectory, tmp_path, steps=1, kinds={"*": "bias"}).checkpoints["x2"]
    assert not set(filter(is_frozen, moved(run.trajectory.checkpoints[0].folder, folder)))


def test_records_from_before_are_read(run, tmp_path):
    """They do not say what was trained; the stages do."""
    content = json.loads((run.trajectory.root / "trajectory.json").read_text())
    for stage in content["stages"]:
        stage["folder"] = str(run.trajectory.root / stage["folder"])
    for parameter in content["parameters"].values():
        del parameter["trained"]
    (tmp_path / "trajectory.json").write_text(json.dumps(content))
    assert all(parameter.trained for parameter in TrajectoryRecord.load(tmp_path).parameters.values())
    folder = enrich(tmp_path, steps=1).checkpoints["x2"]
    assert not set(filter(is_frozen, moved(run.trajectory.checkpoints[0].folder, folder)))
    unmoved = json.loads((folder / "enrichment.json").read_text())["unmoved"]
    assert any(is_frozen(name) for name in unmoved["equal in all stages"]) and "not trained" not in unmoved
    content["parameters"]["classifier.bias"]["trained"] = "yes"
    (tmp_path / "trajectory.json").write_text(json.dumps(content))
    with pytest.raises(TrajectoryError, match="parameters: classifier.bias.trained must be true or false, found 'yes'"):
        Trajectory.load(tmp_path)


def test_kinds_know_what_is_trained():
    layer = nn.Conv2d(2, 3, 3)
    layer.weight.requires_grad_(False)
    assert {name: parameter.trained for name, parameter in kinds_of(layer).items()} == {"weight": False, "bias": True}
    tied = bert()
    tied.get_input_embeddings().weight.requires_grad_(False)
    assert not kinds_of(tied)["bert.embeddings.word_embeddings.weight"].trained


@pytest.fixture
def stages(tmp_path) -> list:
    """Stages of which one tensor never moves, one moves in its last weight, and one only in the last stage."""
    made, generator = [], torch.Generator().manual_seed(0)
    still, last, late = (torch.randn(300, 40, generator=generator) for _ in range(3))
    for stage in range(5):
        made.append(tmp_path / f"stage{stage}")
        made[-1].mkdir()
        (made[-1] / "config.json").write_text("{}")
        last, late = last.clone(), late + (0.01 if stage == 4 else 0)
        last[-1, -1] += 0.01
        tensors = {"still": still, "last": last, "late": late, "scalar": torch.tensor(1.0 + stage / 100),
                   "empty": torch.zeros(0, 4)}  # fmt: skip
        save_file(tensors, made[-1] / "model.safetensors", metadata={"format": "pt"})
    return made


KINDS = {"still": "fc", "last": "fc", "late": "fc", "scalar": "bias", "empty": "fc"}


def test_a_tensor_is_predicted_as_a_whole_or_not_at_all(stages, tmp_path):
    trajectory = Trajectory.from_checkpoints(stages, kinds=KINDS)
    folder = enrich(trajectory, tmp_path / "out", steps=1).checkpoints["x2"]
    assert moved(stages[0], folder) == {"last", "late", "scalar"}
    assert (stored(folder)["last"][:10] != stored(stages[0])["last"][:10]).float().mean() > 0.9
    unmoved = json.loads((folder / "enrichment.json").read_text())["unmoved"]
    assert unmoved == {"equal in all stages": ["empty", "still"]}


def test_scalars_and_empty_tensors_of_every_method(stages, tmp_path):
    methods = {"method": ALL, "iterate": True}
    result = enrich(Trajectory.from_checkpoints(stages, kinds=KINDS), tmp_path / "out", steps=2, **methods)
    for folder in result.checkpoints.values():
        assert stored(folder)["scalar"].shape == () and stored(folder)["empty"].shape == (0, 4)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 4), (4, 0)])
def test_tensors_of_no_or_one_value(shape):
    for method in ALL:
        found = retrodict(torch.randn(5, *shape), "fc", 2, method)
        assert found.shape == (2, *shape) and found.isfinite().all()


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_the_reading_and_agree(stages, processes, monkeypatch):
    trajectory = Trajectory.from_checkpoints(stages, kinds=KINDS)
    alone = selection.select(trajectory, SimpleNamespace(process_index=0, num_processes=1))
    states = [SimpleNamespace(process_index=i, num_processes=processes) for i in range(processes)]
    shares = []
    monkeypatch.setattr(selection, "gather_object", lambda share: shares.append(share[0]) or share)
    for state in states:
        selection.select(trajectory, state)
    assert sorted(name for share, _ in shares for name in share) == ["empty", "still"]
    monkeypatch.setattr(selection, "gather_object", lambda share: shares)
    assert all(selection.select(trajectory, state) == alone for state in states)


def test_nothing_that_moved_is_said(stages, tmp_path, caplog):
    trajectory = Trajectory.from_checkpoints(stages, kinds={"still": "fc", "empty": "fc"})
    made = enrich(trajectory, tmp_path / "out", steps=1).checkpoints["x2"]
    assert "the stages are all equal, nothing was forgotten: every step is a copy of stage 0" in caplog.text
    assert (made / "model.safetensors").read_bytes() == (stages[0] / "model.safetensors").read_bytes()


def test_a_model_with_nothing_to_predict_is_not_trained(rows, tmp_path):
    model = bert()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("LayerNorm" in name)
    options = {"data_collator": default_data_collator, "num_stages": 3, **QUICK}
    with pytest.raises(ValueError, match="no parameter that is trained has kind conv, fc or bias"):
        enrich_pretrained(model, rows, tmp_path / "run", **options)
    assert not list(tmp_path.rglob("stage-*"))
