"""What goes beyond the paper in meta-training: branches, targets, predictors of differences, the second objective."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import FAST_TRIALS

from know_hf import KnownConfig, KnownPredictor, enrich, retrodict
from know_hf.cli.main import main
from know_hf.forgetting.stages import stage_subsets, training_steps
from know_hf.hub.push import find_uploads
from know_hf.known.differences import tensor_statistics
from know_hf.meta.collection import collect
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.experimental import branches, functional
from know_hf.meta.experimental.branches import BRANCHES, BranchRun
from know_hf.meta.experimental.functional import FunctionalSettings, FunctionalTraining, LiveTrial, prepare_unseen
from know_hf.meta.images import prepare_images
from know_hf.meta.options import CollectionOptions
from know_hf.meta.samples import Samples, Window, find_target, windows_of
from know_hf.meta.training import MetaTrainingSettings, meta_train
from know_hf.meta.trials import TrialRun, draw_trial
from know_hf.training.prepared import open_examples
from know_hf.trajectory import Checkpoint, TrajectoryError, to_history

CONDITIONS = ["ratio", "fan_in", "profile", "agreement"]
HELD_OUT = {"held_out_architectures": ["vit", "mobilenet", "densenet"], "held_out_data": ["second"]}


@pytest.fixture(scope="module")
def branched(collected, data, tmp_path_factory) -> MetaDataSet:
    """The collected trials, each with its branches; made afterwards, beside trials that were there."""
    folder = shutil.copytree(collected.folder, tmp_path_factory.mktemp("branched") / "meta")
    return collect(folder, data, trials=12, branches=1, **FAST_TRIALS)


def different_predictor(conditions=CONDITIONS, stages=5, seed=0) -> KnownPredictor:
    torch.manual_seed(seed)
    predictor = KnownPredictor(KnownConfig(history_length=stages, inputs="differences", conditions=conditions))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return predictor


@pytest.mark.slow
def test_branches_start_and_end_where_they_say(branched, data, monkeypatch, tmp_path):
    trial = draw_trial(0, ["first", "second"], CollectionOptions(**FAST_TRIALS))
    folder = shutil.copytree(branched.folder, tmp_path / "meta")
    images = prepare_images(data, folder / "cache", 400)
    run = BranchRun(TrialRun(trial, folder, *images["first"]), 1)
    args, calls = run.trial_run.arguments(tmp_path), []
    monkeypatch.setattr(branches, "_train", lambda model, args, subset: calls.append((args.max_steps, len(subset))))
    for path in (folder / "branches").glob("trial-000000.*"):
        path.unlink()
    run.run()
    sizes = [len(subset) for subset in stage_subsets(run.trial_run.parts()[1], args)]
    assert calls == [(training_steps(sizes[stage], args), sizes[more]) for stage, more in BRANCHES]
    untrained = MetaDataSet(folder).read_branches("trial-000000")
    for tensor in branched.read("trial-000000"):
        for stage, more in BRANCHES:
            assert (untrained[tensor.tensor][stage, more][0] == tensor.values[stage - 1]).all()
            trained = branched.read_branches("trial-000000")[tensor.tensor][stage, more]
            assert trained.shape == (1, tensor.values.shape[1]) and (trained != tensor.values[stage - 1]).any()


def test_branches_are_the_same_again(branched, data, tmp_path):
    folder = shutil.copytree(branched.folder, tmp_path / "meta")
    kept = {path: path.read_bytes() for path in sorted((folder / "branches").iterdir())}
    assert len(kept) == 2 * 12
    for path in list(kept)[:4]:
        path.unlink()
    collect(folder, data, trials=12, branches=1, **FAST_TRIALS)
    assert {path: path.read_bytes() for path in sorted((folder / "branches").iterdir())} == kept
    assert "`branches/` holds, for 12 of the trials" in (folder / "README.md").read_text()
    with pytest.raises(TrajectoryError, match="made with 1 repetitions, not 2"):
        collect(folder, data, trials=12, branches=2, **FAST_TRIALS)


def test_damaged_branches_are_named(branched, tmp_path):
    folder = shutil.copytree(branched.folder, tmp_path / "meta")
    path = folder / "branches" / "trial-000003.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrajectoryError, match="branches/trial-000003.parquet is damaged"):
        MetaDataSet(folder).read_branches("trial-000003")
    shutil.copyfile(folder / "data" / "trial-000003.parquet", path)
    with pytest.raises(TrajectoryError, match="is no shard of a meta-data set, or of another kind"):
        MetaDataSet(folder).read_branches("trial-000003")
    table = pq.read_table(branched.folder / "branches" / "trial-000003.parquet")
    pq.write_table(table.replace_schema_metadata({"know_hf": '{"version": 99}'}), path)
    with pytest.raises(TrajectoryError, match="format version 99, this know-hf reads 1: upgrade"):
        MetaDataSet(folder).read_branches("trial-000003")


def test_targets(branched):
    tensor = next(iter(branched.read("trial-000001", ["conv"])))
    own = branched.read_branches("trial-000001")[tensor.tensor]
    stages = tensor.values
    found = find_target(tensor, Window(2), "repeated", own)
    np.testing.assert_allclose(found, (stages[1] + own[1, 1][0]) / 2, rtol=1e-6)
    found = find_target(tensor, Window(1), "same_compute", own)
    np.testing.assert_allclose(found, stages[1] + own[1, 0][0] - own[1, 1][0], rtol=1e-6)
    assert (find_target(tensor, Window(2, 2), "stage", None) == stages[0]).all()
    with pytest.raises(TrajectoryError, match="has no branches, which target='repeated' needs"):
        find_target(tensor, Window(2), "repeated", None)
    assert windows_of("stage", KnownConfig()) == [Window(1), Window(2)]
    horizons = KnownConfig(inputs="differences", conditions=["horizon"])
    assert windows_of("stage", horizons) == [Window(1), Window(2), Window(2, 2)]
    assert windows_of("repeated", KnownConfig()) == [Window(2)]
    with pytest.raises(
        ValueError, match="history_length is 6; for target='repeated' trials of 7 stages allow at most 5"
    ):
        windows_of("repeated", KnownConfig(history_length=6))
    with pytest.raises(ValueError, match="target='future' is not known"):
        windows_of("future", KnownConfig())


def test_rows_carry_their_tensors_statistics(collected):
    config = KnownConfig(inputs="differences", conditions=CONDITIONS)
    names = [note["name"] for note in collected.trials[:2]]
    batch = Samples(collected, names, "fc", config).draw(500, torch.Generator().manual_seed(0))
    known = []
    for name in names:
        for tensor in collected.read(name, ["fc"]):
            for start in (1, 2):
                history = to_history(torch.from_numpy(tensor.values[start : start + 5]).reshape(5, *tensor.shape))
                ratio = tensor.trial["sampling_ratio"]
                statistics = tensor_statistics(history, config, sampling_ratio=ratio)
                stages = tensor.values[start : start + 5]
                distance = max(
                    np.abs(stages[0] - tensor.values[start - 1]).mean(), np.abs(np.diff(stages, axis=0)).mean()
                )
                known.append((statistics, history.reshape(5, -1), distance))
    for row in range(50):
        statistics, history, distance = next(k for k in known if torch.equal(k[0], batch.statistics[row]))
        assert (history == batch.history[:, row : row + 1]).all(0).any()
        assert batch.distance[row] == pytest.approx(distance, rel=1e-5)


def test_experts_are_read_as_matrices_each():
    """Stacked in one tensor as apart: with units of their own, and the fan-in of one matrix."""
    predictor = different_predictor(conditions=["fan_in", "profile", "movement"])
    history = torch.randn(5, 3, 6, 10) * torch.tensor([1.0, 1e-2, 1e2])[:, None, None]
    assert 10 ** (3 * tensor_statistics(history[:, 0], predictor.config, sampling_ratio=None)[1]) == pytest.approx(10)
    apart = torch.stack([predictor.predict(one, "fc", 2) for one in history.unbind(1)], 1)
    assert torch.equal(predictor.predict(history, "fc", 2), apart) and apart.shape == (2, 3, 6, 10)
    pictures = predictor.predict(history, "conv", 2)  # of a convolution along one axis three dimensions are one tensor
    assert not torch.equal(pictures[:, 0], predictor.predict(history[:, 0], "conv", 2))


def test_differences_move_scale_and_turn_with_the_tensor():
    predictor, stages = different_predictor(), torch.randn(5, 6, 4, 3, 3) * 0.05
    plain = retrodict(stages, "conv", 3, predictor=predictor, sampling_ratio=0.5)
    moved = retrodict(stages + 1, "conv", 3, predictor=predictor, sampling_ratio=0.5)
    scaled = retrodict(stages * -7, "conv", 3, predictor=predictor, sampling_ratio=0.5)
    assert torch.allclose(moved - 1, plain, atol=1e-5) and torch.allclose(scaled / -7, plain, atol=1e-6)
    still = stages[:1].expand(5, -1, -1, -1, -1)
    assert torch.equal(retrodict(still, "conv", 2, predictor=predictor, sampling_ratio=0.5)[1], stages[0])
    assert not torch.equal(retrodict(stages, "conv", predictor=predictor, sampling_ratio=0.9)[0], plain[0])
    for block in (1, 7, 100):
        history = to_history(stages)
        assert torch.allclose(predictor.predict(history, "conv", 3, block, 0.5), plain, atol=1e-6)
    fresh = KnownPredictor(KnownConfig(inputs="differences", conditions=CONDITIONS))
    assert torch.equal(retrodict(stages, "fc", predictor=fresh, sampling_ratio=0.5)[0], stages[0])
    with pytest.raises(ValueError, match="told the sampling ratio"):
        retrodict(stages, "conv", predictor=predictor)
    with pytest.raises(ValueError, match="statistics are needed"):
        predictor(torch.zeros(3, 5), "fc")


def test_further_steps_may_be_predicted_directly():
    stages = torch.randn(5, 50) * 0.05
    predictor = different_predictor(["horizon"])
    direct = retrodict(stages, "fc", 2, predictor=predictor)
    statistics = tensor_statistics(to_history(stages), predictor.config, sampling_ratio=None, horizon=2)
    with torch.no_grad():
        expected = stages[0] + predictor(to_history(stages).T, "fc", statistics)
    assert torch.allclose(direct[1], expected, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"inputs": "gradients"}, {"conditions": ["ratio"]}, {"inputs": "differences", "conditions": ["mood"]}]
)
def test_config_refuses_unknown_inputs(wrong):
    with pytest.raises(Exception, match="inputs|conditions"):
        KnownConfig(**wrong)


def test_enrich_gives_whole_tensors_and_the_ratio(trajectory, tmp_path, monkeypatch):
    """Block sizes change nothing, and the trajectory's own ratio reaches the predictor."""
    predictor = different_predictor()
    predictor.save_pretrained(tmp_path / "predictor")
    monkeypatch.setattr("know_hf.enrichment.shares.BLOCK", 100)
    made = enrich(trajectory, tmp_path / "out", predictor=tmp_path / "predictor", steps=1)
    (folder,) = made.checkpoints.values()
    written = Checkpoint(folder)
    for name, parameter in trajectory.parameters.items():
        if parameter.kind in ("conv", "fc", "bias"):
            stages = trajectory.read(name).reshape(-1, *trajectory.tensors[name].shape)
            ratio = trajectory.record.sampling_ratio
            expected = retrodict(stages, parameter.kind, predictor=predictor, sampling_ratio=ratio)[0]
            assert torch.allclose(written.read(name), expected.flatten(), atol=1e-6), name


@pytest.mark.slow
def test_meta_training_of_variants(branched, tmp_path):
    """Whatever the target, the network learns, and its folder says what it is."""
    for target in ("stage", "same_compute", "repeated"):
        settings = MetaTrainingSettings(
            epochs=3, rows=30_000, batch_size=1000, learning_rate=3e-3, objective="relative", target=target
        )
        config = KnownConfig(inputs="differences", conditions=CONDITIONS)
        result = meta_train(branched, tmp_path / target, config=config, settings=settings, **HELD_OUT)
        assert ("branches" in result) == (target != "stage")
        for kind in ("conv", "fc"):
            history = result["epochs"][kind]["history"]
            assert history[-1][0] < history[0][0]
        loaded = KnownPredictor.from_pretrained(tmp_path / target)
        assert loaded.config.inputs == "differences" and list(loaded.config.conditions) == CONDITIONS
        assert "weighs the differences" in (tmp_path / target / "README.md").read_text()
    with pytest.raises(TrajectoryError, match="another training \\(different config"):
        meta_train(branched, tmp_path / "stage", settings=settings, **HELD_OUT)


def test_targets_of_branches_need_branches(collected, tmp_path):
    settings = MetaTrainingSettings(target="repeated")
    with pytest.raises(ValueError, match="leaves no trial to train on that has branches"):
        meta_train(collected, tmp_path, settings=settings, **HELD_OUT)
    with pytest.raises(TrajectoryError, match="has no branches; `know-hf collect --branches 1` makes them"):
        collected.read_branches("trial-000000")


def test_nan_and_too_little_are_named(collected, tmp_path, monkeypatch):
    folder = shutil.copytree(collected.folder, tmp_path / "meta")
    shard = folder / "data" / "trial-000002.parquet"
    table = pq.read_table(shard)
    rows = table.to_pylist()
    position = next(i for i, row in enumerate(rows) if row["kind"] == "conv")
    rows[position]["stages"][3][0] = float("nan")
    pq.write_table(table.from_pylist(rows, schema=table.schema), shard)
    with pytest.raises(TrajectoryError, match=f"trial-000002.parquet: tensor '{rows[position]['tensor']}' holds NaN"):
        Samples(MetaDataSet(folder), ["trial-000002"], "conv", KnownConfig())
    monkeypatch.setattr("know_hf.meta.training.FEWEST_VALUES", 10**9)
    with pytest.raises(ValueError, match="values of kind conv; at least 1000000000 are needed: collect more"):
        meta_train(collected, tmp_path / "out", settings=MetaTrainingSettings(epochs=1, rows=10), **HELD_OUT)


@pytest.fixture
def few_unseen(monkeypatch):
    monkeypatch.setattr(functional, "UNSEEN_EXAMPLES", 200)


@pytest.mark.parametrize("predictor", [KnownPredictor.default(), different_predictor()], ids=["values", "differences"])
def test_live_trials_predict_what_retrodict_does(collected, data, few_unseen, predictor):
    images = open_examples(prepare_unseen(data, collected.folder / "cache")["first"])
    trial = LiveTrial(collected, "trial-000001", images)
    state = trial.retrodict(predictor, 1)
    for tensor in collected.read("trial-000001", None):
        found = state[tensor.tensor].detach().numpy().ravel()
        if tensor.kind not in ("conv", "fc", "bias"):
            assert (found == tensor.values[1]).all()
            continue
        stages = torch.from_numpy(tensor.values[1:6]).reshape(5, *tensor.shape)
        ratio = {"sampling_ratio": trial.ratio} if predictor.reads_whole_tensors else {}
        expected = retrodict(stages, tensor.kind, predictor=predictor, **ratio)[0].numpy().ravel()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    batch = trial.batch(64, torch.Generator().manual_seed(0))
    trial.loss(state, batch).backward()
    assert all(p.grad.abs().sum() > 0 for p in predictor.network("conv").parameters() if p.ndim > 1)
    predictor.zero_grad()
    # A few steps on other images of the task lower the loss.
    start, generator = trial.state(6), torch.Generator().manual_seed(1)
    tuned = trial.tuned(start, 5, 100, generator)
    with torch.no_grad():
        assert trial.loss(tuned, trial.batch(200, generator)) < trial.loss(start, trial.batch(200, generator))


@pytest.mark.slow
def test_the_second_objective(collected, data, few_unseen, tmp_path, monkeypatch):
    """It keeps the best epoch, the start included; stopped and continued it ends the same."""
    functional = FunctionalSettings(epochs=2, images=100, inner_steps=1, learning_rate=3e-3)
    settings = MetaTrainingSettings(epochs=1, rows=5000, functional=functional)
    config = KnownConfig(inputs="differences", conditions=CONDITIONS)
    with pytest.raises(ValueError, match="name the data sets of the trials"):
        meta_train(collected, tmp_path / "x", settings=settings, **HELD_OUT)
    job = {"config": config, "settings": settings, "data": data, **HELD_OUT}
    result = meta_train(collected, tmp_path / "whole", **job)
    state = json.loads((tmp_path / "whole" / "training" / "functional.json").read_text())
    scores = [score for _, score in state["history"]]
    assert len(scores) == 3 and state["best"] == min(scores) and len(set(scores)) == 3
    epoch, calls = FunctionalTraining._epoch, []

    def stop(self):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return epoch(self)

    monkeypatch.setattr(FunctionalTraining, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        meta_train(collected, tmp_path / "parts", **job)
    assert meta_train(collected, tmp_path / "parts", **job)["weights"] == result["weights"]
    with pytest.raises(ValueError, match="was run on second, which is not among the data first"):
        meta_train(collected, tmp_path / "other", **{**job, "data": data[:1]})


def test_meta_evaluate(collected, data, tmp_path, capsys):
    different_predictor().save_pretrained(tmp_path / "mine")
    flags = [
        "--predictors",
        f"mine={tmp_path / 'mine'}",
        "--held-out-architectures",
        "cnn",
        "--held-out-data",
        "second",
    ]
    main(["meta-evaluate", str(collected.folder), *flags, "--data", *data, "--output-dir", str(tmp_path / "out")])
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["trials"] == ["trial-000006"] and {"mine", "shrink to mine", "tsv"} <= set(content["errors"]["all"])
    assert {"stage-0", "stage-1", "mine"} <= set(content["scores"])
    assert "| mine " in text and "trials better than Θ¹" in text
    assert text.startswith("# 1 trials of ")


def test_pushing_a_branched_set_takes_branches(branched):
    _, (upload,) = find_uploads(branched.folder)
    assert len([path for path in upload.files if path.startswith("branches/")]) == 24
