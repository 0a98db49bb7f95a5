"""Meta-data: drawing, collecting, continuing, reading."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import FAST_TRIALS as FAST
from huggingface_hub import DatasetCard

from know_hf import KnownConfig, KnownPredictor
from know_hf.cli.main import main
from know_hf.forgetting.trainer import ForgettingTrainer
from know_hf.hub.push import find_uploads
from know_hf.meta import collection
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.evaluation import PLAIN, compare_errors, error_tables, functional_scores, retrodiction_errors
from know_hf.meta.images import prepare_images
from know_hf.meta.networks import NETWORKS
from know_hf.meta.options import CollectionOptions
from know_hf.meta.samples import Samples, split_trials
from know_hf.meta.shards import SCHEMA
from know_hf.meta.training import KindTraining, MetaTrainingSettings, meta_train, penalty
from know_hf.meta.trials import REGIMES, draw_trial
from know_hf.retrodiction import linear_fit
from know_hf.training.prepared import open_examples
from know_hf.trajectory import TrajectoryError, kinds_of

COUNT = 3


def content(folder) -> dict[str, bytes]:
    """Files of the first trials."""
    paths = [path for part in ("data", "trials") for path in sorted((folder / part).iterdir())[:COUNT]]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}


def test_every_family_is_small_and_has_weights_of_its_kinds():
    for name, network in NETWORKS.items():
        for channels in (1, 3):
            model = network(channels, 20)
            assert sum(p.numel() for p in model.parameters()) < 3e6
            output = model(pixel_values=torch.randn(2, channels, 32, 32), labels=torch.tensor([0, 9]))
            assert output["logits"].shape == (2, 10) and output["loss"].isfinite()
            kinds = {p.kind for p in kinds_of(model).values()}
            assert {"conv", "fc", "bias"} <= kinds, name


def test_drawing():
    drawn = [draw_trial(seed, ["a", "b", "c"]) for seed in range(200)]
    assert drawn == [draw_trial(seed, ["a", "b", "c"]) for seed in range(200)]
    assert {(t.architecture, t.data_set) for t in drawn} == {(a, d) for a in NETWORKS for d in "abc"}
    ratios = np.array([t.sampling_ratio for t in drawn])
    assert 0.3 <= ratios.min() < 0.32 and 0.85 < ratios.max() <= 0.9
    assert min(t.examples * t.sampling_ratio**6 for t in drawn) >= 2
    assert {t.optimizer for t in drawn} == {"adamw_torch", "sgd"} and {t.augmented for t in drawn} == {True, False}
    apart = {regime: [t for t in drawn if t.regime == regime] for regime in REGIMES}
    assert {t.epochs for t in apart["short"]} == set(range(2, 11))
    assert max(t.width for t in apart["short"]) < min(t.width for t in apart["large"])
    assert max(t.examples for t in apart["short"]) <= 8000 < max(t.examples for t in apart["large"]) <= 24_000
    assert {t.schedule for t in apart["converged"]} == {"cosine"} and min(t.epochs for t in apart["converged"]) == 10
    # Of every pair of network and data a third of the trials converges, those that are held out included.
    whole = drawn[: 9 * 18]
    for pair in {(t.architecture, t.data_set) for t in whole}:
        own = [t for t in whole if (t.architecture, t.data_set) == pair]
        assert len(own) == 9 and sum(t.regime == "converged" for t in own) == 3
    plain = CollectionOptions(converged=0, large=0, augmented=0)
    assert all(draw_trial(seed, ["a"], plain).regime == "short" for seed in range(30))
    assert not any(draw_trial(seed, ["a"], plain).augmented for seed in range(30))


def test_a_trial_keeps_every_tensor_of_every_stage(collected, data):
    assert [note["name"] for note in collected.trials] == [f"trial-{i:06d}" for i in range(2 * len(NETWORKS))]
    note = collected.trials[1]
    assert note["settings"]["architecture"] == "resnet" and len(note["scores"]) == 7
    assert max(score for note in collected.trials for score in note["scores"]) > 0.2  # they do learn
    tensors = list(collected.read(note["name"]))
    model = NETWORKS["resnet"](1, note["settings"]["width"])
    expected = {name: p for name, p in kinds_of(model).items() if p.kind in ("conv", "fc", "bias")}
    assert {t.tensor: (t.kind, t.layer) for t in tensors} == {n: (p.kind, p.layer) for n, p in expected.items()}
    for tensor in tensors:
        assert tensor.shape == tuple(model.get_parameter(tensor.tensor).shape)
        assert tensor.values.shape == (7, np.prod(tensor.shape)) and np.isfinite(tensor.values).all()
        if tensor.kind != "bias":
            assert all((tensor.values[i] != tensor.values[i + 1]).any() for i in range(6))
    stored = {tensor.tensor: tensor.values for tensor in collected.read(note["name"], None)}
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    assert set(stored) == set(state)  # enough to run any stage as a network
    assert not (collected.folder / "work" / note["name"]).exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(collected, data, tmp_path):
    """Whether in one go, continued, or by two launched processes, each with a worker."""
    mine = content(collected.folder)
    collect(tmp_path / "again", data, trials=2, **FAST)
    kept = (tmp_path / "again" / "data" / "trial-000001.parquet").stat().st_mtime_ns
    collect(tmp_path / "again", data, trials=COUNT, **FAST)
    assert content(tmp_path / "again") == mine
    assert (tmp_path / "again" / "data" / "trial-000001.parquet").stat().st_mtime_ns == kept
    command = ["-m", "know_hf", "collect", "--data", *data, "--output-dir", tmp_path / "two", "--trials", COUNT,
               "--examples", 300, 400, "--epochs", 1, 1, "--converged", 0, "--large", 0]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*map(str, [*launch, *command])], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert content(tmp_path / "two") == mine and f"{COUNT} trials" in done.stdout


def test_the_number_of_threads_does_not_matter(collected, data, tmp_path):
    torch.set_num_threads(2)
    try:
        collect(tmp_path, data, trials=2, **FAST)
    finally:
        torch.set_num_threads(1)
    mine = content(collected.folder)
    assert all(mine[name] == found for name, found in content(tmp_path).items())


def test_a_trial_stopped_between_stages_continues(collected, data, tmp_path, monkeypatch):
    def stop(self, root, record, stage):
        if stage.index == 3:
            raise KeyboardInterrupt
        return finish(self, root, record, stage)

    finish = ForgettingTrainer._finish_stage
    monkeypatch.setattr(ForgettingTrainer, "_finish_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, data, trials=1, **FAST)
    assert (tmp_path / "work" / "trial-000000" / "stage-2").is_dir()
    monkeypatch.undo()
    collect(tmp_path, data, trials=1, **FAST)
    name = "data/trial-000000.parquet"
    assert content(tmp_path)[name] == content(collected.folder)[name]


def test_datasets_reads_and_streams_it(collected, tmp_path):
    whole = datasets.load_dataset(
        str(collected.folder), split="train", cache_dir=tmp_path
    )  # by the README's configuration
    assert len(whole) == sum(len(list(collected.read(n["name"], None))) for n in collected.trials)
    first = next(iter(datasets.load_dataset(str(collected.folder), split="train", streaming=True)))
    assert first["tensor"] == whole[0]["tensor"] and len(first["stages"]) == 7
    assert set(whole.features) == set(SCHEMA.names)


def test_the_card_says_what_is_in_it(collected):
    card = (collected.folder / "README.md").read_text()
    for words in ("| trials | 12 |", "cnn (2), densenet (2)", "first (6), second (6)", "| epochs | 1 to 1 |"):
        assert words in card, words
    assert DatasetCard(card).data.configs[0]["data_files"] == "data/*.parquet"


def test_pushing_takes_the_set_and_nothing_else(collected):
    repo_type, (upload,) = find_uploads(collected.folder)
    assert repo_type == "dataset" and len(upload.files) == 2 * 12 + 1 and "README.md" in upload.files
    assert not any(path.startswith(("cache", "work", "times")) for path in upload.files)


def test_a_diverged_trial_is_noted_and_left_out(data, tmp_path, monkeypatch):
    def wild(*args):
        return replace(draw_trial(*args), optimizer="sgd", learning_rate=1e30)

    monkeypatch.setattr(collection, "draw_trial", wild)
    with pytest.raises(TrajectoryError, match="every one of the 1 trials diverged"):
        collect(tmp_path, data, trials=1, **FAST)
    note = json.loads((tmp_path / "trials" / "trial-000000.json").read_text())
    assert "diverged" in note["diverged"] and not (tmp_path / "data").exists()


def test_damage_is_named(collected, tmp_path):
    folder = shutil.copytree(collected.folder, tmp_path / "meta")
    shard = folder / "data" / "trial-000002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrajectoryError, match="trial-000002.parquet is damaged"):
        list(MetaDataSet(folder).read("trial-000002"))
    table = pq.read_table(collected.folder / "data" / "trial-000002.parquet")
    pq.write_table(table.replace_schema_metadata({"know_hf": '{"version": 99}'}), shard)
    with pytest.raises(TrajectoryError, match="format version 99, this know-hf reads 1: upgrade"):
        list(MetaDataSet(folder).read("trial-000002"))
    pq.write_table(table.replace_schema_metadata(None), shard)
    with pytest.raises(TrajectoryError, match="is no shard of a meta-data set"):
        list(MetaDataSet(folder).read("trial-000002"))
    rows = table.to_pylist()
    rows[0]["stages"] = rows[0]["stages"][:6]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), shard)
    with pytest.raises(TrajectoryError, match="has 6 stages, expected 7"):
        list(MetaDataSet(folder).read("trial-000002"))
    shard.unlink()
    with pytest.raises(TrajectoryError, match="trial-000002.parquet is missing \\(1 trials lack theirs\\)"):
        MetaDataSet(folder)
    with pytest.raises(TrajectoryError, match="holds no finished trial"):
        MetaDataSet(tmp_path)


def test_refusals(data, collected, tmp_path, capsys):
    with pytest.raises(TrajectoryError, match="holds another trial-000000 \\(different examples, sampling_ratio\\)"):
        collect(collected.folder, data, trials=1, examples=(400, 500), epochs=(1, 1))
    with pytest.raises(ValueError, match="Unknown network 'alexnet'; .*There are cnn"):
        collect(tmp_path, data, architectures=["alexnet"])
    with pytest.raises(ValueError, match="has 10 classes and 1697 training images; trials need 10 and 24000"):
        collect(tmp_path, data, trials=1)
    with pytest.raises(ValueError, match="takes 3.* examples, the pool holds 200: raise pool or lower examples"):
        collect(tmp_path, data, trials=1, **FAST, pool=200)
    with pytest.raises(ValueError, match="share a name"):
        collect(tmp_path, [data[0], data[0]], trials=1)
    with pytest.raises(SystemExit):
        main(["collect", "--output-dir", str(tmp_path)])
    assert "missing --data" in capsys.readouterr().err


QUICK_TRAINING = MetaTrainingSettings(epochs=4, rows=20_000, batch_size=1000, learning_rate=3e-3)
HELD_OUT = {"held_out_architectures": ["vit", "mobilenet"], "held_out_data": ["second"]}


def test_the_split_holds_out_networks_and_data(collected):
    split = split_trials(collected, **HELD_OUT)
    settings = {note["name"]: note["settings"] for note in collected.trials}
    seen = [(s["architecture"] in ("vit", "mobilenet"), s["data_set"] == "second") for s in settings.values()]
    parts = (split.train, split.choice, split.report)
    assert [len(part) for part in parts] == [4, 6, 2]
    for wanted, part in enumerate(parts):
        assert {sum(seen[list(settings).index(name)]) for name in part} == {wanted}
    with pytest.raises(ValueError, match="Holding out no network and second leaves no trial to report on; the set has"):
        split_trials(collected, [], ["second"])


def test_rows_are_histories_in_the_predictors_order(collected):
    names = [note["name"] for note in collected.trials[:3]]
    batch = Samples(collected, names, "fc", KnownConfig()).draw(6000, torch.Generator().manual_seed(0))
    assert batch.history.shape == (5, 6000) and batch.statistics is None
    rows = torch.cat([batch.history, batch.target[None]]).T
    known = {tuple(column[::-1].tolist()) for name in names for tensor in collected.read(name, ["fc"])
             for t in (0, 1) for column in [tensor.values[t : t + 6].T][0]}  # fmt: skip
    assert all(tuple(row) in known for row in rows[:200].tolist())
    # Every trial as often as any other, whatever the number and size of its tensors.
    owners = []
    for name in names:
        values = torch.from_numpy(np.concatenate([t.values[:2].ravel() for t in collected.read(name, ["fc"])]))
        owners.append(torch.isin(rows[:, -1], values).float().mean().item())
    np.testing.assert_allclose(owners, 1 / 3, atol=0.03)


def test_penalties_are_on_the_first_and_last_layer_of_each_stream():
    network = KnownPredictor(KnownConfig()).network("conv")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    value = penalty(network, MetaTrainingSettings())
    value.backward()
    layers = {
        name: m for name, m in network.named_modules() if isinstance(m, torch.nn.Linear) and m.weight.grad is not None
    }
    assert set(layers) == {
        f"{stream}.{layer}" for stream in ("values", "differences") for layer in ("expand", "output")
    }
    by_hand = sum(1e-6 * m.weight.abs().sum() + 0.1 * m.bias.abs().sum() for m in layers.values())
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.slow
def test_meta_training(collected, tmp_path, monkeypatch):
    result = meta_train(collected, tmp_path / "whole", settings=QUICK_TRAINING, **HELD_OUT)
    predictor = KnownPredictor.from_pretrained(tmp_path / "whole")
    card = (tmp_path / "whole" / "README.md").read_text()
    assert (
        "4 trials of progressive" in card
        and "Not trained on: vit, mobilenet, second" in card
        and "| known " in card
        and "| shrink to known " in card
        and "| magmax " in card
    )
    assert predictor.config.history_length == 5 and set(result["errors"]["all"]["known"]) == {"conv", "fc", "bias"}
    assert set(result["errors"]["all"]) == {"known", "shrink to known", *PLAIN}
    split = result["split"]
    assert result["data"]["files"] == len({*split["train"], *split["choice"], *split["report"]})
    for kind in ("conv", "fc", "bias"):
        state = json.loads((tmp_path / "whole" / "training" / f"{kind}.json").read_text())
        assert state["epoch"] == 4 and state["best"] == min(score for _, score in state["history"])
        untrained = KnownPredictor(KnownConfig())
        first = retrodiction_errors(collected, result["split"]["report"], {"u": untrained}, steps=1)["u"][kind]["1"]
        assert result["errors"]["all"]["known"][kind]["1"]["mean"] < first["mean"]

    # Stopped in the third epoch of the second kind, and continued by two processes: the same weights.
    epoch, calls = KindTraining._epoch, []

    def stop(self, *args):
        calls.append(self.kind)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(KindTraining, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        meta_train(collected, tmp_path / "parts", settings=QUICK_TRAINING, **HELD_OUT)
    again = meta_train(collected, tmp_path / "parts", settings=QUICK_TRAINING, processes=2, **HELD_OUT)
    assert again == result and calls.count("conv") == 4
    with pytest.raises(TrajectoryError, match="another training \\(different settings\\)"):
        meta_train(collected, tmp_path / "parts", settings=replace(QUICK_TRAINING, seed=1), **HELD_OUT)


def test_meta_training_command(collected, tmp_path, capsys):
    flags = ["--history-length", "4", "--held-out-architectures", "vit", "--held-out-data", "second", "--epochs", "1",
             "--rows", "2000", "--output-dir", str(tmp_path)]  # fmt: skip
    main(["meta-train", str(collected.folder), *flags])
    text = capsys.readouterr().out
    assert "1 unseen trials" in text and "conv, 2 steps" in text and "| known " in text
    assert KnownPredictor.from_pretrained(tmp_path).config.history_length == 4
    with pytest.raises(SystemExit):
        main(["meta-train", str(tmp_path), "--output-dir", str(tmp_path / "x")])
    assert "holds no finished trial" in capsys.readouterr().err


def test_errors_of_methods(collected):
    """Against the definition, on one trial."""
    name = collected.trials[0]["name"]
    found = retrodiction_errors(collected, [name], {}, ["naive", "linear_fit"], steps=2)
    assert found["naive"]["fc"]["1"] == {"mean": 1.0, "pooled": 1.0, "trials": 1}
    for step in (1, 2):
        error = distance = 0.0
        for tensor in collected.read(name, ["fc"]):
            stages = torch.from_numpy(tensor.values)
            guess = linear_fit(stages[step : step + 5], "fc", step)[-1]
            error += (guess - stages[0]).abs().sum().item()
            distance += (stages[step] - stages[0]).abs().sum().item()
        assert found["linear_fit"]["fc"][str(step)]["mean"] == pytest.approx(error / distance, rel=1e-5)
    with pytest.raises(ValueError, match="3 steps do not fit"):
        retrodiction_errors(collected, [name], {"k": KnownPredictor.default()}, steps=3)


@pytest.mark.slow
def test_errors_apart(collected, data, tmp_path):
    """Of trials that had converged or not: their sums are those of all of them."""
    names = [note["name"] for note in collected.trials[:2]]
    assert list(compare_errors(collected, names, {"known": KnownPredictor.default()})) == ["all"]
    shutil.copytree(collected.folder, tmp_path / "meta")
    collected = collect(tmp_path / "meta", data, trials=1, first_seed=100, **FAST | {"converged": 1.0})
    converged = ["trial-000100"]
    assert collected.settings(*converged)["epochs"] == 5
    found = compare_errors(collected, names + converged, {"known": KnownPredictor.default()})
    assert list(found) == ["all", "unconverged", "converged"]
    for kind, steps in found["all"]["known"].items():
        parts = [found[part]["known"][kind]["1"] for part in ("unconverged", "converged")]
        assert sum(part["trials"] for part in parts) == steps["1"]["trials"]
        assert sum(p["mean"] * p["trials"] for p in parts) / steps["1"]["trials"] == pytest.approx(steps["1"]["mean"])
    alone = retrodiction_errors(collected, converged, {"known": KnownPredictor.default()}, ["mean"])
    assert found["converged"]["known"] == alone["known"] and found["converged"]["mean"] == alone["mean"]
    text = error_tables(found)
    assert f"Θ⁰ had converged ({len(converged)} trials)" in text and text.count("| known ") == 3


def test_functional_scores(collected, data):
    images = {name: tuple(map(open_examples, paths))
              for name, paths in prepare_images(data, collected.folder / "cache", 400).items()}  # fmt: skip
    names = [note["name"] for note in collected.trials[:2]]
    found = functional_scores(collected, names, images, {"known": KnownPredictor.default()}, ["naive", "task_vector"])
    assert list(found) == ["stage-0", "stage-1", "known", "naive", "task_vector"]
    assert found["naive"] == found["stage-1"]  # the naive guess of Θ^0 is Θ^1
    scores = {note["name"]: note["scores"] for note in collected.trials}
    assert found["stage-0"][names[0]] == pytest.approx(scores[names[0]][0])  # without BatchNorm, as it was
    assert all(0 <= value <= 1 for by in found.values() for value in by.values())
