"""From a trajectory to folders: values, untouched bytes, storage types, faults."""

import errno
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, BertConfig, BertModel

from know_hf import KnownConfig, KnownPredictor, Trajectory, enrich, retrodict
from know_hf.enrichment import shares, writer
from know_hf.enrichment.folders import step_names
from know_hf.trajectory import Checkpoint, TrajectoryError, resolve_kinds


def bert(hidden=16) -> BertModel:
    return BertModel(
        BertConfig(vocab_size=50, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    )


def perturbed(tmp_path, model, stages=5, **save):
    """Checkpoints that drift apart, as forgetting makes them."""
    torch.manual_seed(0)
    folders = []
    for stage in range(stages):
        folders.append(tmp_path / f"checkpoint{stage}")
        model.save_pretrained(folders[-1], **save)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.002)
    return Trajectory.from_checkpoints(folders, model=model, sampling_ratio=0.5)


def test_folders_hold_the_predictions(trajectory, tmp_path):
    result = enrich(trajectory, tmp_path, steps=3)
    assert list(result.checkpoints) == ["x2", "x4", "x8"]
    predicted, copied = resolve_kinds(trajectory.parameters)
    assert {trajectory.parameters[name].kind for name in predicted} == {"conv", "fc", "bias"}
    stored = [load_file(folder / "model.safetensors") for folder in result.checkpoints.values()]
    zero = load_file(trajectory.checkpoints[0].folder / "model.safetensors")
    for name, kind in predicted.items():
        stages = torch.stack([c.read(name).reshape(trajectory.tensors[name].shape) for c in trajectory.checkpoints])
        expected = retrodict(stages, kind, steps=3)
        assert all(torch.allclose(stored[i][name], expected[i], rtol=0, atol=1e-6) for i in range(3))
        assert not torch.equal(stored[0][name], zero[name])
    for name in copied:
        assert all(torch.equal(tensors[name], zero[name]) for tensors in stored)


def test_only_predicted_bytes_change(trajectory, tmp_path):
    folder = enrich(trajectory, tmp_path, steps=1).checkpoints["x2"]
    source = trajectory.checkpoints[0]
    before = bytearray((source.folder / "model.safetensors").read_bytes())
    after = bytearray((folder / "model.safetensors").read_bytes())
    assert len(before) == len(after)
    assert before != after
    for name in resolve_kinds(trajectory.parameters)[0]:
        spec = source.tensors[name]
        before[spec.offset : spec.offset + spec.nbytes] = bytes(spec.nbytes)
        after[spec.offset : spec.offset + spec.nbytes] = bytes(spec.nbytes)
    assert before == after


def test_result_loads_plainly_and_inputs_stay(trajectory, tmp_path):
    before = {p: p.read_bytes() for c in trajectory.checkpoints for p in c.folder.iterdir()}
    folder = enrich(trajectory, tmp_path, steps=1).checkpoints["x2"]
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md", "enrichment.json"}
    assert before == {p: p.read_bytes() for c in trajectory.checkpoints for p in c.folder.iterdir()}


def test_block_size_and_sharding_change_nothing(tmp_path, monkeypatch):
    whole = perturbed(tmp_path / "whole", bert())
    first = enrich(whole, tmp_path / "a", steps=2).checkpoints["x4"]
    monkeypatch.setattr(shares, "BLOCK", 37)
    sharded = perturbed(tmp_path / "sharded", bert(), max_shard_size="10KB")
    for a, b in zip(whole.checkpoints, sharded.checkpoints, strict=True):
        for path in b.files:
            tensors = load_file(path)
            flat = {n: a.read(n).reshape(t.shape) for n, t in tensors.items()}
            save_file(flat, path, metadata={"format": "pt"})
    sharded = Trajectory.from_checkpoints([c.folder for c in sharded.checkpoints], model=bert(), sampling_ratio=0.5)
    second = enrich(sharded, tmp_path / "b", steps=2).checkpoints["x4"]
    one, many = Checkpoint(first), Checkpoint(second)
    assert len(many.files) > 1 and one.tensors.keys() == many.tensors.keys()
    assert all(torch.allclose(one.read(n), many.read(n), rtol=0, atol=1e-6) for n in one.tensors)
    BertModel.from_pretrained(second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_storage_type_is_kept(tmp_path, dtype):
    trajectory = perturbed(tmp_path, bert().to(dtype))
    folder = enrich(trajectory, tmp_path / "out", steps=1).checkpoints["x2"]
    name = "encoder.layer.0.output.dense.weight"
    stages = torch.stack([c.read(name).float() for c in trajectory.checkpoints])
    stored = Checkpoint(folder).read(name)
    assert stored.dtype == dtype
    assert torch.allclose(stored.float(), retrodict(stages, "fc")[0].to(dtype).float(), atol=1e-6)


def test_statistics_are_of_what_was_stored(trajectory, tmp_path):
    result = enrich(trajectory, tmp_path, steps=2)
    predicted = [n for n, k in resolve_kinds(trajectory.parameters)[0].items() if k == "conv"]
    old = torch.cat([trajectory.checkpoints[0].read(n) for n in predicted]).double()
    new = torch.cat([Checkpoint(result.checkpoints["x4"]).read(n) for n in predicted]).double()
    found = result.statistics["x4"]["conv"]
    assert found["relative_change"] == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-6)
    assert found["norm_ratio"] == pytest.approx((new.norm() / old.norm()).item(), rel=1e-6)
    assert found["weights"] == old.numel()


def test_naive_and_shrink(trajectory, tmp_path):
    known = Checkpoint(enrich(trajectory, tmp_path / "k", steps=2).checkpoints["x4"])
    shrunk = Checkpoint(enrich(trajectory, tmp_path / "s", steps=2, method="shrink").checkpoints["x4"])
    naive = Checkpoint(enrich(trajectory, tmp_path / "n", steps=1, method="naive").checkpoints["x2"])
    zero = trajectory.checkpoints[0]
    for name in zero.tensors:
        assert torch.equal(naive.read(name), zero.read(name))
    for name in resolve_kinds(trajectory.parameters)[0]:
        assert shrunk.read(name).norm().item() == pytest.approx(known.read(name).norm().item(), rel=1e-5)
        if zero.read(name).any():
            cosine = torch.cosine_similarity(shrunk.read(name), zero.read(name), dim=0)
            assert cosine.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "steps", "names"),
    [
        (0.5, 3, ["x2", "x4", "x8"]),
        (0.33, 3, ["x3", "x9", "x28"]),
        (0.7, 3, ["x1.4", "x2", "x2.9"]),
        (0.97, 3, ["x1.03", "x1.06", "x1.1"]),
        (None, 2, ["x2", "x4"]),
    ],
)
def test_folder_names(ratio, steps, names):
    assert step_names(ratio, steps) == names


def test_cards_name_their_method(trajectory, tmp_path):
    folders = enrich(trajectory, tmp_path, method=["known", "naive", "tsv"], steps=1).checkpoints
    cards = {name: (folder / "README.md").read_text() for name, folder in folders.items()}
    assert " KNOW x2\n" in cards["known/x2"] and "reversed beyond its beginning" in cards["known/x2"]
    assert " naive x2\n" in cards["naive/x2"] and "the control\n`naive`" in cards["naive/x2"]
    assert " tsv x2\n" in cards["tsv/x2"] and "| method | tsv |" in cards["tsv/x2"]


def test_second_run_leaves_what_is_there(trajectory, tmp_path):
    folder = enrich(trajectory, tmp_path, steps=2).checkpoints["x2"]
    before = (folder / "model.safetensors").stat()
    shutil.rmtree(tmp_path / "x4")
    again = enrich(trajectory, tmp_path, steps=2)
    after = (folder / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert (again.checkpoints["x4"] / "model.safetensors").exists()


def test_other_results_are_not_overwritten(trajectory, tmp_path):
    enrich(trajectory, tmp_path, steps=1)
    torch.manual_seed(1)
    with pytest.raises(FileExistsError, match="another result \\(different predictor\\)"):
        enrich(trajectory, tmp_path, steps=1, predictor=KnownPredictor(KnownConfig()))
    (tmp_path / "mine" / "x2").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="not written by know-hf"):
        enrich(trajectory, tmp_path / "mine", steps=1)
    with pytest.raises(FileExistsError, match="lies in, an input checkpoint"):
        enrich(trajectory, trajectory.checkpoints[0].folder, steps=1)
    assert not (trajectory.checkpoints[0].folder / "x2").exists()


def test_only_plain_companions_travel(tmp_path):
    trajectory = perturbed(tmp_path, bert())
    source = trajectory.checkpoints[0].folder
    (source / "tokenizer.json").write_text("{}")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    for unwanted in (
        "training_args.bin",
        "optimizer.pt",
        "README.md",
        "other.safetensors",
        ".secret",
        "trainer_state.json",
    ):
        (source / unwanted).write_bytes(b"secret")
    folder = enrich(trajectory, tmp_path / "out", steps=1).checkpoints["x2"]
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json", "README.md", "enrichment.json",
    }  # fmt: skip
    assert "secret" not in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "Unknown retrodiction method 'magic'; known methods: known"),
        ({"steps": 0}, "steps is 0"),
        ({"kinds": {"nothing*": "fc"}}, "no parameter matches"),
        ({"kinds": {"*running_mean": "fc"}}, "is a buffer"),
    ],
)
def test_bad_options(trajectory, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        enrich(trajectory, tmp_path / "out", **options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_predictor_of_another_length(trajectory, tmp_path):
    with pytest.raises(ValueError, match="reads 3 stages, the trajectory has 5"):
        enrich(trajectory, tmp_path, predictor=KnownPredictor(KnownConfig(history_length=3)))


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.is_dir() or p.suffix == ".safetensors"]


def test_nan_in_a_stage_leaves_nothing(tmp_path):
    trajectory = perturbed(tmp_path / "in", bert())
    path = trajectory.checkpoints[3].folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["pooler.dense.weight"][0, 0] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TrajectoryError, match="'pooler.dense.weight' holds NaN or infinite values in stage 3"):
        enrich(trajectory, tmp_path / "out")
    assert not leftovers(tmp_path / "out")


def test_prediction_that_overflows_storage_is_named(tmp_path):
    model = bert().to(torch.float16)
    with torch.no_grad():
        model.pooler.dense.bias.fill_(65504.0)
    trajectory = perturbed(tmp_path / "in", model)
    for stage, checkpoint in enumerate(trajectory.checkpoints):  # at the type's largest value, all but one weight
        tensors = {n: t.clone() for n, t in load_file(checkpoint.weight_file).items()}
        tensors["pooler.dense.bias"].fill_(65504.0)
        tensors["pooler.dense.bias"][0] -= 32.0 * stage
        save_file(tensors, checkpoint.weight_file, metadata={"format": "pt"})
    predictor = KnownPredictor(KnownConfig())
    with torch.no_grad():
        predictor.network("bias").head.bias.fill_(50.0)
    big = {"bias": predictor}
    monkey = big["bias"].predict
    predictor.predict = lambda history, kind, steps=1, **given: monkey(history, kind, steps) * 2
    with pytest.raises(ValueError, match="'pooler.dense.bias' is not finite in F16|is not finite"):
        enrich(trajectory, tmp_path / "out", predictor=predictor, steps=1)
    assert not leftovers(tmp_path / "out")


def test_full_disk_while_writing(trajectory, tmp_path, monkeypatch):
    write, calls = shares.CheckpointPatch.write, []

    def full(self, *args):
        calls.append(args)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args)

    monkeypatch.setattr(shares.CheckpointPatch, "write", full)
    with pytest.raises(OSError, match="disk is full; nothing was left half-written"):
        enrich(trajectory, tmp_path)
    assert not leftovers(tmp_path)
    monkeypatch.undo()
    assert len(enrich(trajectory, tmp_path).checkpoints) == 3


def test_too_little_space_is_seen_before_writing(trajectory, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="3 checkpoints need .* MB, 0.0 MB are free"):
        enrich(trajectory, tmp_path)
    assert not leftovers(tmp_path)


def test_interruption_leaves_nothing(trajectory, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.PartialFolder, "describe", stop)
    with pytest.raises(KeyboardInterrupt):
        enrich(trajectory, tmp_path)
    assert not leftovers(tmp_path)


def test_enrichment_file(trajectory, tmp_path):
    folder = enrich(trajectory, tmp_path, steps=2).checkpoints["x4"]
    content = json.loads((folder / "enrichment.json").read_text())
    assert content["step"] == 2 and content["scale"] == 4 and content["method"] == "known"
    assert len(content["sources"]) == 5 and content["predictor"]["source"] == "bundled"
    assert str(tmp_path) not in (folder / "enrichment.json").read_text()


def test_all_methods_in_one_pass(trajectory, tmp_path, monkeypatch):
    from know_hf.retrodiction import ALL

    reads = []
    read = Trajectory.read
    monkeypatch.setattr(Trajectory, "read", lambda self, name, *span: reads.append(name) or read(self, name, *span))
    result = enrich(trajectory, tmp_path, method="all", steps=3)
    assert len(reads) == len(set(reads)) == len(resolve_kinds(trajectory.parameters)[0])
    assert list(result.checkpoints) == [f"{method}/{step}" for method in ALL for step in ("x2", "x4", "x8")]
    monkeypatch.undo()
    for name, folder in result.checkpoints.items():
        AutoModelForImageClassification.from_pretrained(folder)
        method, step = name.split("/")
        if method in ("tsv", "magmax", "known", "shrink"):
            alone = enrich(trajectory, tmp_path / "alone" / method, method=method, steps=3).checkpoints[step]
            a, b = ((f / "model.safetensors").read_bytes() for f in (folder, alone))
            assert a == b
    statistics = result.statistics
    assert -1 <= statistics["linear_fit/x2"]["conv"]["cosine_to_known"] <= 1
    for method in ("known", "naive"):
        assert "cosine_to_known" not in statistics[f"{method}/x2"]["conv"]
    for step in ("x2", "x4", "x8"):
        for kind in ("conv", "fc", "bias"):
            ratio = statistics[f"shrink/{step}"][kind]["norm_ratio"] / statistics[f"known/{step}"][kind]["norm_ratio"]
            assert ratio == pytest.approx(1, abs=1e-5)


def test_cosine_by_hand(trajectory, tmp_path):
    result = enrich(trajectory, tmp_path, method=["linear_fit", "known"], steps=1)
    name = "timm_model.fc.weight"
    zero = trajectory.checkpoints[0].read(name)
    moves = [Checkpoint(result.checkpoints[f"{m}/x2"]).read(name) - zero for m in ("linear_fit", "known")]
    expected = torch.cosine_similarity(*moves, dim=0).item()
    assert result.statistics["linear_fit/x2"]["fc"]["cosine_to_known"] == pytest.approx(expected, abs=1e-4)


def test_parameters_reach_their_method(trajectory, tmp_path):
    strong = enrich(
        trajectory, tmp_path, method=["task_vector", "magmax"], steps=1, parameters={"task_vector.lam": 0.4}
    )
    change = {n: s["conv"]["relative_change"] for n, s in strong.statistics.items()}
    assert change["task_vector/x2"] == pytest.approx(2 * change["magmax/x2"], rel=1e-4)
    content = json.loads((strong.checkpoints["task_vector/x2"] / "enrichment.json").read_text())
    assert content["parameters"] == {"lam": 0.4}
    with pytest.raises(FileExistsError, match="different parameters"):
        enrich(trajectory, tmp_path, method=["task_vector", "magmax"], steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "task_vector", "steps": 5}, "take at most 4 steps"),
        ({"method": "tsv", "parameters": {"rank": 3}}, "tsv has no parameter 'rank'; its parameters: lam, frac"),
        ({"method": ["tsv", "naive"], "parameters": {"frac": 0.3}}, "say whose parameter it is: tsv.frac"),
        ({"method": "tsv", "parameters": {"magmax.lam": 0.3}}, "is of no method of this run"),
        ({"method": "wnn"}, "wnn has no weights of its own here"),
        ({"method": []}, "at least one"),
        ({"method": "known", "parameters": {"lam": 1}}, "known has no parameter 'lam'"),
    ],
)
def test_method_errors_come_before_writing(trajectory, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        enrich(trajectory, tmp_path / "out", **options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_learned_relatives_with_weights_of_ones_own(trajectory, tmp_path):
    from know_hf.retrodiction.learned import NinoMLP

    torch.manual_seed(0)
    KnownPredictor(KnownConfig()).save_pretrained(tmp_path / "wnn-weights")
    result = enrich(trajectory, tmp_path / "w", method="wnn", predictor=tmp_path / "wnn-weights", steps=2)
    content = json.loads((result.checkpoints["x4"] / "enrichment.json").read_text())
    assert content["predictor"]["source"] == "wnn-weights"
    (tmp_path / "nino-weights").mkdir()
    save_file(NinoMLP(hidden=8).state_dict(), tmp_path / "nino-weights" / "model.safetensors")
    both = enrich(
        trajectory,
        tmp_path / "b",
        method=["known", "nino"],
        parameters={"nino.predictor": tmp_path / "nino-weights"},
        steps=1,
    )
    assert set(both.checkpoints) == {"known/x2", "nino/x2"}
