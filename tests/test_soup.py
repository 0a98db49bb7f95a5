"""Soups: branches from one start on halves of the data, averaged uniformly, greedily, and by Model Stock's ratio."""

import json
import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from conftest import QUICK, tiny_image_model
from safetensors.torch import load_file
from test_best import make as make_scored
from test_best import named
from test_trainer import KillAt, Killed, make, same, weights
from test_weights import vit
from transformers import TrainerCallback

from know_hf import enrich, enrich_pretrained
from know_hf.choice.candidates import train_control
from know_hf.choice.options import Choosing
from know_hf.choice.scoring import Measure, answer
from know_hf.choice.soups import Soups, greedy
from know_hf.enrichment.branches import branches_of, whole_model
from know_hf.enrichment.finishing import Finisher
from know_hf.enrichment.options import Placement
from know_hf.fitting.options import Fitting
from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.controls import BESIDE, CONTROLS, TRAINED, trainings
from know_hf.forgetting.making import make_trainer
from know_hf.forgetting.stages import stage_plan, training_steps
from know_hf.forgetting.weights import load_weights
from know_hf.laboratory.pretraining import ForgettingRun
from know_hf.quickstart import digits
from know_hf.retrodiction import ALL, METHODS, model_stock, retrodict, soup_mean
from know_hf.store import LOCK_NAME
from know_hf.trajectory import Checkpoint, Trajectory, TrajectoryError, TrajectoryRecord

SOUP = {"recipe": "soup"}


def args(folder, **settings):
    return ForgettingArguments(str(folder), **{"num_stages": 3, **QUICK, **SOUP, **settings})


def test_what_is_declared():
    assert CONTROLS["soup"].branches and not any(CONTROLS[name].branches for name in TRAINED if name != "soup")
    assert BESIDE == ("equal_compute", "once_more", "soup")
    assert trainings(["soup_stock", "ema", "soup"]) == ["forgetting", "soup"]
    assert {name for name, one in METHODS.items() if one.branches} == {"soup_mean", "model_stock"}
    assert not {"soup_mean", "model_stock"} & set(ALL)


@pytest.mark.parametrize(
    ("settings", "branches"),
    [
        ({"num_stages": 5, "per_device_train_batch_size": 1}, 2),
        ({"num_stages": 5, "sampling_ratio": 0.8, "per_device_train_batch_size": 1}, 5),
        ({"num_stages": 4, "max_steps": 5}, 3),
        ({"num_stages": 2, "sampling_ratio": 0.3, "per_device_train_batch_size": 1}, 2),
        ({"num_stages": 2, "max_steps": 1}, 2),
    ],
)
def test_the_branches_take_the_steps_of_the_forgetting(tmp_path, settings, branches):
    data = range(100)
    asked = args(tmp_path, **settings)
    subsets, steps = stage_plan(data, asked)
    forgotten, _ = stage_plan(data, args(tmp_path, recipe="forgetting", train_stage_zero=True, **settings))
    assert len(subsets) == len(steps) == branches and max(steps) - min(steps) <= 1
    assert sum(steps) == max(branches, sum(training_steps(len(subset), asked) for subset in forgotten[1:]))
    rows = [set(subset.indices) for subset in subsets]
    assert all(len(part) == 50 for part in rows)
    for first, second in list(pairwise(rows))[::2]:
        assert first | second == set(data)
    assert len(set(map(frozenset, rows))) == branches  # no two pairs are split alike


def test_halves_keep_the_shares_of_classes(tmp_path):
    data = digits((0, 1, 2)).shuffle(seed=0).select(range(99))
    subsets, _ = stage_plan(data, args(tmp_path, stratify_by="label"))
    counts = [[subset["label"][:].count(label) for label in range(3)] for subset in subsets]
    assert all(abs(a - b) <= 1 for a, b in zip(*counts, strict=True))


def test_every_branch_begins_with_the_same_weights(tmp_path):
    model = tiny_image_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **kwargs):
            live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            rates = set(lr_scheduler.get_last_lr())
            seen.append((live, len(optimizer.state), rates, state.max_steps))

    make(tmp_path / "forget").train()
    trainer = make(tmp_path / "soup", model=model, callbacks=[Watch()], **SOUP)
    trainer.train()
    assert len(seen) == 2
    for live, moments, rates, _ in seen:
        assert same(live, before) and not moments and rates == {QUICK["learning_rate"]}
    assert same(load_file(tmp_path / "soup" / "start" / "model.safetensors"), before)
    record = TrajectoryRecord.load(tmp_path / "soup")
    forgotten = TrajectoryRecord.load(tmp_path / "forget").stages
    assert sum(s.steps for s in record.stages) == sum(s.steps for s in forgotten[1:]) == sum(one[3] for one in seen)
    assert [(s.examples, s.ratio) for s in record.stages] == [(32, 0.5), (32, 0.5)]
    assert not same(weights(tmp_path / "soup", 0), weights(tmp_path / "soup", 1))
    left = {path.name for path in (tmp_path / "soup").iterdir()}
    assert left - {LOCK_NAME} == {"start", "stage-0", "stage-1", "trajectory.json"}


def branches(folder) -> list[bytes]:
    files = [folder / name / "model.safetensors" for name in ("start", "stage-0", "stage-1", "stage-2")]
    return [file.read_bytes() for file in files]


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.slow
def test_killed_and_continued_gives_the_same_bytes(tmp_path, stage):
    settings = {**SOUP, "num_stages": 4, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    make(tmp_path / "whole", **settings).train()
    with pytest.raises(Killed):
        make(tmp_path / "killed", callbacks=[KillAt(stage, 2)], **settings).train()
    # Whatever model is passed: a run goes on from what it began with.
    make(tmp_path / "killed", model=tiny_image_model(seed=1), **settings).train()
    assert branches(tmp_path / "whole") == branches(tmp_path / "killed")


def test_a_lost_branch_alone_is_trained_again(tmp_path):
    settings = {**SOUP, "num_stages": 4, "max_steps": 2}
    make(tmp_path, **settings).train()
    whole, kept = branches(tmp_path), (tmp_path / "stage-2" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "stage-1")
    make(tmp_path, **settings).train()
    assert branches(tmp_path) == whole
    assert (tmp_path / "stage-2" / "model.safetensors").stat().st_mtime_ns == kept


def test_a_half_without_a_batch_is_said_early(tmp_path):
    settings = {"num_stages": 2, "sampling_ratio": 0.9, "dataloader_drop_last": True, "per_device_train_batch_size": 40}
    with pytest.raises(ValueError, match="Stage 0 has 32 examples, less than one batch of 40"):
        make(tmp_path, **SOUP, **settings).train()
    assert not (tmp_path / "start").exists()


def test_the_uniform_soup_is_the_mean_of_the_branches():
    stages = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(soup_mean(stages, "fc")[0], stages[1:].mean(0), rtol=1e-6, atol=1e-7)
    assert torch.equal(soup_mean(stages, "fc", members=[2])[0], stages[2])
    assert torch.allclose(soup_mean(stages, "fc", members=[3, 1])[0], stages[[1, 3]].mean(0), rtol=1e-6, atol=1e-7)
    alike = stages[:1].expand(3, -1, -1)
    assert torch.equal(soup_mean(alike, "fc", 2), alike[:2])
    for wrong in ([], [0], [4], [1, 1]):
        with pytest.raises(ValueError, match="some of the branches 1 to 3"):
            soup_mean(stages, "fc", members=wrong)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_by_its_formula(count):
    generator = torch.Generator().manual_seed(count)
    origin, shared = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    moved = [shared + 0.7 * torch.randn(6, 4, generator=generator) for _ in range(count)]
    cosines = [
        torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
        for i, a in enumerate(moved)
        for b in moved[i + 1 :]
    ]
    cosine = sum(cosines) / len(cosines)
    ratio = count * cosine / (1 + (count - 1) * cosine)
    assert 0 < ratio < 1
    expected = ratio * torch.stack([origin + one for one in moved]).double().mean(0) + (1 - ratio) * origin.double()
    made = retrodict(torch.stack([origin, *(origin + one for one in moved)]), "fc", 1, "model_stock")[0]
    assert torch.allclose(made.double(), expected, rtol=1e-5, atol=1e-6)


def test_model_stock_where_branches_agree_or_do_not():
    origin, way = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25])
    assert torch.allclose(model_stock(torch.stack([origin, origin + way, origin + way]), "fc")[0], origin + way)
    assert torch.equal(model_stock(torch.stack([origin, origin + way, origin - way]), "fc")[0], origin)
    assert torch.equal(model_stock(torch.stack([origin] * 3), "fc")[0], origin)
    assert torch.equal(model_stock(torch.stack([origin, origin, origin + way]), "fc")[0], origin)  # one stood still
    with pytest.raises(ValueError, match="at least two branches"):
        model_stock(torch.stack([origin, origin + way]), "fc")


def test_greedy_takes_what_does_not_lower_the_score():
    scores = {(1,): 0.6, (2,): 0.9, (3,): 0.7, (2, 3): 0.8, (1, 2): 0.9, (4,): float("nan"), (1, 2, 4): float("nan")}
    seen = []

    def score(members):
        seen.append(tuple(sorted(members)))
        return scores[seen[-1]]

    assert greedy(4, score) == [2, 1]
    assert seen == [(1,), (2,), (3,), (4,), (2, 3), (1, 2), (1, 2, 4)]


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory):
    data = digits((0, 1, 2)).shuffle(seed=0)
    made = make_trainer(
        tiny_image_model(), data.select(range(300)), tmp_path_factory.mktemp("soup") / "run", selection_split=120,
        train_stage_zero=True, **{**QUICK, "num_train_epochs": 2, "learning_rate": 5e-3}, num_stages=4,
        sampling_ratio=0.7,
    )  # fmt: skip
    made.train()
    return made


@pytest.fixture(scope="module")
def soups(forgotten, tmp_path_factory):
    folder = train_control(forgotten, "soup")
    root = tmp_path_factory.mktemp("made")
    finisher = Finisher(forgotten, forgotten.train_dataset, renew=True)
    data = [SimpleNamespace(suffix="", dataset=forgotten.train_dataset)]
    asked = Soups(
        forgotten, folder, root, finisher, Placement(device="cpu"), data, forgotten.set_aside.dataset,
        Fitting(fit_steps=5),
    )  # fmt: skip
    return asked, asked.make()


@pytest.mark.slow
def test_a_soup_beside_its_forgetting(forgotten, soups):
    asked, found = soups
    alone = ["soup-branch-1", "soup-branch-2", "soup-branch-3"]
    assert list(found) == ["soup", "soup-stock", *alone, "soup-greedy", "soup-fitted"]
    assert {path.name for path in asked.root.iterdir() if path.is_dir()} == set(found)
    trajectory = branches_of(asked.folder)
    assert len(trajectory) == 4  # (0.7 + 0.49 + 0.343) / 0.5
    zero = forgotten.trajectory
    assert sum(s.steps for s in trajectory.record.stages[1:]) == sum(s.steps for s in zero.record.stages[1:])
    assert [s.examples for s in TrajectoryRecord.load(asked.folder).stages] == [90] * 3
    for name, parameter in trajectory.parameters.items():
        stages = trajectory.read(name)
        assert torch.equal(stages[0], zero.checkpoints[0].read(name).to(stages))
        if parameter.kind != "buffer":
            uniform = Checkpoint(found["soup"]).read(name)
            assert torch.allclose(uniform, stages[1:].mean(0), rtol=1e-6, atol=1e-7)
            whole = stages.reshape(4, *trajectory.tensors[name].shape)
            expected = retrodict(whole, parameter.kind, 1, "model_stock")[0].reshape(-1)
            assert torch.equal(Checkpoint(found["soup-stock"]).read(name), expected)
    kinds = {parameter.kind for parameter in trajectory.parameters.values()}
    assert "norm" in kinds


def test_the_greedy_soup_is_never_below_the_best_branch(forgotten, soups):
    asked, found = soups
    selection = forgotten.set_aside.dataset
    measure = Measure("eval_accuracy", True, forgotten.compute_metrics)

    def score(folder):
        load_weights(forgotten.model, folder)
        return answer(forgotten, selection, measure).scores["eval_accuracy"]

    alone = [score(found[f"soup-branch-{branch}"]) for branch in (1, 2, 3)]
    assert score(found["soup-greedy"]) >= max(alone)
    members = json.loads((found["soup-greedy"] / "enrichment.json").read_text())["parameters"]["members"]
    assert alone.index(max(alone)) + 1 in members


def test_any_checkpoints_can_be_souped(soups, forgotten, tmp_path):
    asked, found = soups
    places = [asked.folder / name for name in ("start", "stage-0", "stage-1", "stage-2")]
    given = Trajectory.from_checkpoints(places, model=forgotten.model)
    made = enrich(given, tmp_path / "out", method=["soup_mean", "model_stock"], steps=1, **whole_model(given))
    for method, name in (("soup_mean", "soup"), ("model_stock", "soup-stock")):
        one, other = Checkpoint(made.checkpoints[f"{method}/x2"]), Checkpoint(found[name])
        assert all(torch.equal(one.read(n), other.read(n)) for n, p in given.parameters.items() if p.kind != "buffer")


def test_what_is_no_run_of_branches(forgotten, tmp_path):
    with pytest.raises(TrajectoryError, match="run of 'forgetting', whose stages are no branches"):
        branches_of(forgotten.args.output_dir)
    with pytest.raises(Killed):
        make(tmp_path, callbacks=[KillAt(1, 1)], **SOUP).train()
    with pytest.raises(TrajectoryError, match="unfinished branches"):
        branches_of(tmp_path)


@pytest.mark.parametrize("also", ["sop", ["soup", "ema"], "incremental", "forgetting"])
def test_unknown_controls_are_refused_before_anything_is_trained(tmp_path, also):
    with pytest.raises(
        ValueError, match="no control that can be trained from stage 0; .*[uU]se equal_compute, once_more, soup"
    ):
        enrich_pretrained(tiny_image_model(), digits((0, 1, 2)), tmp_path / "run", also=also)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="choose='none' makes none"):
        Choosing(also="soup", choose="none")
    assert Choosing(also="soup").also == ("soup",)


@pytest.mark.slow
def test_also_soup_end_to_end(tmp_path):
    data = digits((0, 1, 2)).shuffle(seed=0)
    settings = {
        **QUICK, "num_train_epochs": 2, "learning_rate": 5e-3, "num_stages": 3, "train_stage_zero": True,
        "fit_steps": 4, "selection_split": 100, "eval_dataset": data.select(range(400, 500)), "steps": 1,
        "also": ["soup"], "fit_on": "both",
    }  # fmt: skip
    result = enrich_pretrained(tiny_image_model(), data.select(range(300)), tmp_path / "run", **settings)
    soups = [name for name in result.choice.gains if name.startswith("soup")]
    assert soups == [
        "soup",
        "soup-stock",
        "soup-branch-1",
        "soup-branch-2",
        "soup-greedy",
        "soup-fitted",
        "soup-fitted-held-out",
    ]
    assert not [path for path in (tmp_path / "run" / "choice").iterdir() if path.is_dir()]
    assert (result.best / "model.safetensors").is_file() and result.choice.words in result.verdict
    record = TrajectoryRecord.load(tmp_path / "run" / "also" / "soup")
    assert record.recipe["recipe"] == "soup" and len(record.stages) == 2
    before = (tmp_path / "run" / "choice" / "choice.json").read_bytes()
    again = enrich_pretrained(tiny_image_model(), data.select(range(300)), tmp_path / "run", **settings)
    assert again.choice == result.choice
    assert (tmp_path / "run" / "choice" / "choice.json").read_bytes() == before
    for steps in (4, 5):  # what was kept is in nobody's way
        kept = enrich_pretrained(
            tiny_image_model(), data.select(range(300)), tmp_path / "run",
            **{**settings, "fit_steps": steps, "keep_candidates": True},
        )  # fmt: skip
        assert list(kept.choice.gains) == list(result.choice.gains)


def test_cost_in_the_laboratory(tmp_path, monkeypatch):
    from know_hf.laboratory import pretraining

    monkeypatch.setattr(pretraining, "open_examples", lambda *_: range(100))
    costs = {}
    for control in ("soup", "equal_compute"):
        source = pretraining.Pretraining(dataset="any", model="any", training={"num_stages": 3, "num_train_epochs": 2})
        columns = SimpleNamespace(task="image-classification")
        costs[control] = ForgettingRun(tmp_path, control, source, columns, {"train": tmp_path}).cost
    assert costs["soup"] == costs["equal_compute"] == 2 * (50 + 25)


@pytest.mark.parametrize("model", [vit, named])
def test_a_soup_is_one_of_all_that_was_trained(tmp_path, model):
    make_scored(
        tmp_path, model, recipe="soup", load_best_model_at_end=False, eval_strategy="no", save_strategy="no"
    ).train()
    trajectory = branches_of(tmp_path)
    made = enrich(trajectory, tmp_path / "out", method="soup_mean", steps=1, **whole_model(trajectory))
    soup = Checkpoint(made.checkpoints["x2"])
    kinds = {parameter.kind for parameter in trajectory.parameters.values() if parameter.trained}
    assert kinds >= ({"fc"} if model is named else {"conv", "fc", "bias", "norm", "other"})
    for name, spec in trajectory.tensors.items():
        stages = trajectory.read(name)
        assert spec.dtype == "F32" and torch.allclose(soup.read(name), stages[1:].mean(0), rtol=1e-6, atol=1e-7)
        assert not torch.equal(stages[0], stages[1])
