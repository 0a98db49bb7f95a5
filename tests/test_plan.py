"""The plan: complete, from headers alone, and the same decisions as the prediction."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_kinds import small_clip, small_detr

from know_hf import KnownConfig, KnownPredictor
from know_hf.forgetting.cost import ForgettingCost
from know_hf.known import native
from know_hf.plan import make_plan
from know_hf.trajectory import Checkpoint, Trajectory, TrajectoryError, resolve_kinds


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("know_hf.plan._SECONDS", 0.05)


def test_plan_of_a_trajectory_lists_everything(trajectory):
    plan = make_plan(trajectory.root, steps=2)
    assert (plan.predicted, plan.copied) == resolve_kinds(trajectory.parameters)
    assert plan.predicted.keys() | plan.copied.keys() == trajectory.tensors.keys()
    assert plan.output_bytes == 2 * sum(spec.nbytes for spec in trajectory.tensors.values())
    assert 1e-9 < plan.seconds_per_weight < 1e-3
    text = str(plan)
    for expected in ("predict (conv)", "predict (bias)", "normalisation parameter (BatchNorm2d)", "MB", "2 steps",
                     "BatchNorm statistics of 6 checkpoints"):  # fmt: skip
        assert expected in text


def test_plan_of_a_model_agrees_with_its_trajectory(trajectory, image_model_folder, text_model_folder):
    assert make_plan(image_model_folder).predicted == make_plan(trajectory.root).predicted
    text = make_plan(text_model_folder, embeddings="fc")
    assert "BatchNorm" not in str(text)
    assert text.predicted["embeddings.word_embeddings.weight"] == "fc"
    assert text.copied["embeddings.LayerNorm.weight"] == "normalisation parameter"


def test_plan_says_what_forgetting_costs(trajectory, image_model_folder):
    text = str(make_plan(trajectory.root))
    assert "in 5 stages (0–4) with r = 0.5 takes 0.5 + 0.25 + 0.12 + 0.062 = 0.94 trainings on all the data" in text
    extras = "fitting at most 0.094 (0.19 with stage 0); training on for as long as the forgetting\ntakes 0.94"
    assert f"--self_check 0.031 (a stage of its own, 5); {extras}" in text
    assert "a step back stands for 2 times the data" in text and "every stage takes as many, 4 in all" in text
    other = make_plan(image_model_folder, num_stages=3, sampling_ratio=0.33)
    assert other.stages == 3 and other.cost.further == pytest.approx(0.33 + 0.33**2)
    assert "r = 0.33 takes 0.33 + 0.11 = 0.44 trainings" in str(other)
    assert make_plan(trajectory.root, num_stages=2).cost.parts == [0.5]
    assert "takes 0.5 trainings" in str(make_plan(trajectory.root, num_stages=2))
    assert ForgettingCost(9, 0.9).further == pytest.approx(sum(0.9**i for i in range(1, 9)))


def test_the_cost_is_that_of_a_run(trajectory):
    steps, parts = [stage.steps for stage in trajectory.record.stages], make_plan(trajectory.root).cost.parts
    assert steps[1:4] == [steps[0] * part for part in parts[:3]]
    assert steps[4] == 1 > steps[0] * parts[3]  # a stage takes a step at least


def test_the_page_says_what_was_measured_and_what_it_costs():
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "ratio.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (0\.\d+) \| ×([\d.]+) \| (.+) \|$", page, re.M)
    assert len(rows) == 4
    for ratio, back, costs in rows:
        made = [ForgettingCost(stages, float(ratio)) for stages in (2, 3, 4, 5)]
        assert back == f"{1 / float(ratio):.1f}"
        assert costs.split(" | ") == [*(f"{one.further:.2f}" for one in made), f"{made[-1].self_check:.3f}"]
    said = page.partition("## What r does")[2].partition("## Train")[0]
    sweep, stages = ((docs / "results" / name).read_text(encoding="utf-8") for name in ("ratios.md", "table6.md"))
    numbers = re.findall(r"-\d\.\d\d \[-[\d.]+, [+-][\d.]+\]|\d\.\d{3}", said)
    assert len(numbers) == 24 and all(number in sweep + stages for number in numbers)


def test_without_a_ratio_nothing_is_said_of_costs(trajectory, tmp_path):
    shutil.copytree(trajectory.root, tmp_path / "run")
    replace(trajectory.record, sampling_ratio=None).save(tmp_path / "run")
    plan = make_plan(tmp_path / "run")
    assert plan.cost is None and "Forgetting in" not in str(plan)
    assert make_plan(tmp_path / "run", sampling_ratio=0.3).cost.parts[0] == 0.3


def test_plan_counts_whole_tensors_where_they_are_needed(trajectory, monkeypatch):
    predictor = KnownPredictor(KnownConfig(inputs="differences", conditions=["ratio"]))
    monkeypatch.setattr("know_hf.plan.BLOCK", 10)
    largest = max(trajectory.tensors[name].numel for name in make_plan(trajectory.root).predicted)
    assert make_plan(trajectory.root).working_bytes == 23 * 10 * 4
    assert make_plan(trajectory.root, predictor=predictor).working_bytes == 23 * largest * 4


def test_plan_says_what_computes(trajectory, monkeypatch):
    assert "folded network (so few that compiling a kernel would not repay)" in str(make_plan(trajectory.root))
    monkeypatch.setattr(native, "REPAYS", 1000)
    native.compile_kernel.cache_clear()
    if native.compiler():
        plan = make_plan(trajectory.root)
        assert "by a kernel compiled for this processor in" in str(plan) and 0.05 < plan.preparation < plan.seconds
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.compile_kernel.cache_clear()
    assert "with a C++ compiler, about three times as fast" in str(make_plan(trajectory.root))
    native.compile_kernel.cache_clear()


def test_plan_reads_no_weights(trajectory, monkeypatch):
    from know_hf.trajectory import Checkpoint

    def refuse(*_):
        raise AssertionError("read weights")

    monkeypatch.setattr(Checkpoint, "read", refuse)
    monkeypatch.setattr(Trajectory, "read", refuse)
    make_plan(trajectory.root)


def test_plan_of_nothing(tmp_path):
    with pytest.raises(TrajectoryError, match="no safetensors weights"):
        make_plan(tmp_path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(TrajectoryError, match="neither a trajectory nor a model"):
        make_plan(tmp_path)


@pytest.mark.parametrize("build", [small_detr, small_clip], ids=["detection", "two towers"])
def test_plan_of_models_with_several_heads_leaves_nothing_out(build, tmp_path):
    build().save_pretrained(tmp_path)
    plan = make_plan(tmp_path)
    assert plan.predicted.keys() | plan.copied.keys() == Checkpoint(tmp_path).tensors.keys()
    assert not plan.predicted.keys() & plan.copied.keys()
    assert "name not found on the live module" not in plan.copied.values()
    matrices = [n for n, spec in plan.tensors.items() if len(spec.shape) == 2 and not n.endswith("embedding.weight")]
    left = [n for n in matrices if n not in plan.predicted and "embed" not in n and "position" not in n]
    assert not left, left
    kernels = [n for n, spec in plan.tensors.items() if len(spec.shape) == 4]
    assert kernels and all(plan.predicted[n] == "conv" for n in kernels)
