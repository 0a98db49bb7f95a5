"""What a checkpoint is chosen on and by, where nothing is chosen, and what is no candidate."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import run_cli, tiny_image_model
from datasets import Dataset
from test_choice import SETTINGS
from torch.utils.data import TensorDataset
from transformers import EvalPrediction

from know_hf import enrich_pretrained
from know_hf.retrodiction import METHODS, method
from know_hf.training.set_aside import FEWEST, FOLDS
from know_hf.trajectory import Checkpoint, TrajectoryError, TrajectoryRecord
from know_hf.trajectory.functions import fingerprint

pytestmark = pytest.mark.usefixtures("with_turns")


@pytest.fixture(scope="module")
def pictures(images) -> Dataset:
    return images.shuffle(seed=0)


@pytest.mark.slow
def test_nothing_is_chosen_when_not_asked_or_not_possible(pictures, tmp_path):
    data = pictures.select(range(FEWEST - 10))
    few = enrich_pretrained(tiny_image_model(), data, tmp_path / "few", steps=1, **SETTINGS)
    assert few.best is None and few.verdict.startswith(f"Nothing was chosen: {len(data)} training examples")
    none = enrich_pretrained(tiny_image_model(), data, tmp_path / "none", steps=1, choose="none", **SETTINGS)
    assert none.best is None and "Nothing was chosen" not in none.verdict
    assert not (tmp_path / "none" / "choice").exists()
    assert "set_aside" not in TrajectoryRecord.load(tmp_path / "none").dataset
    weights = [Checkpoint(one.checkpoints["x2"]) for one in (few, none)]
    assert all(torch.equal(weights[0].read(name), weights[1].read(name)) for name in weights[0].tensors)


def test_examples_to_choose_on_may_be_given(pictures, tmp_path):
    own = pictures.select(range(100, 140))
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(50)), tmp_path / "run", steps=1, selection_split=own, **SETTINGS
    )
    assert result.choice.how == "given" and result.choice.examples == 40


@pytest.mark.slow
def test_by_turns(pictures, tmp_path, caplog):
    own = {**SETTINGS, "steps": 1, "keep_candidates": True}
    caplog.set_level("INFO", "know_hf")
    result = enrich_pretrained(tiny_image_model(), pictures.select(range(90)), tmp_path / "run", **own)
    assert caplog.text.count("examples, less than one batch of") == 1, "once a run, not once a fold"
    assert caplog.text.count("(train_stage_zero decides otherwise)") <= 1
    assert [f"run {i} of {FOLDS}" in caplog.text for i in range(1, FOLDS + 1)] == [True] * FOLDS
    assert (
        result.choice.how == "folds" and result.choice.examples == 90 and "by a run that left it out" in result.verdict
    )
    trained = [TrajectoryRecord.load(tmp_path / "run" / "folds" / str(i)).dataset["examples"] for i in range(FOLDS)]
    assert trained == [60, 60, 60] and TrajectoryRecord.load(tmp_path / "run").dataset["examples"] == 90
    assert "on 90 examples left out by turns" in (result.best / "README.md").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    enrich_pretrained(tiny_image_model(), pictures.select(range(90)), tmp_path / "run", **own)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    del own["keep_candidates"]
    fewer = enrich_pretrained(tiny_image_model(), pictures.select(range(90)), tmp_path / "run", **own)
    assert not (tmp_path / "run" / "folds").exists() and fewer.choice.gains == result.choice.gains


def test_any_torch_data_are_chosen_on_by_their_loss(tmp_path):
    class Rows(TensorDataset):
        def __getitem__(self, index):
            pixels, label = super().__getitem__(index)
            return {"pixel_values": pixels, "labels": label}

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=generator)
    pixels = torch.randn(120, 1, 16, 16, generator=generator) + labels[:, None, None, None]
    result = enrich_pretrained(
        tiny_image_model(), Rows(pixels, labels), tmp_path / "run", steps=1, selection_split=0.25,
        data_collator=lambda rows: {k: torch.stack([row[k] for row in rows]) for k in rows[0]}, **SETTINGS,
    )  # fmt: skip
    assert result.choice.deciding.metric == "eval_loss"
    losses = {name: gain.score for name, gain in result.choice.gains.items()}
    if result.choice.candidate != "stage-0":
        assert losses[result.choice.candidate] < losses["stage-0"]


def test_fitted_by_name(pictures, tmp_path):
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(50)), tmp_path / "run", steps=1, method=["fitted", "mean"], **SETTINGS
    )
    content = json.loads((result.checkpoints["fitted/x2"] / "enrichment.json").read_text())
    assert content["parameters"]["coefficients"] == json.loads(
        (tmp_path / "run" / "choice" / "fitted.json").read_text()
    )["coefficients"]  # fmt: skip


def test_what_cannot_be_is_said_before_training(pictures, tmp_path):
    data = pictures.select(range(50))
    with pytest.raises(ValueError, match="no control that can be trained from stage 0"):
        enrich_pretrained(tiny_image_model(), data, tmp_path / "a", also=["shrink 0.5"], **SETTINGS)
    with pytest.raises(ValueError, match="needs examples set aside"):
        enrich_pretrained(tiny_image_model(), data, tmp_path / "b", fit_on="selection", **SETTINGS)
    with pytest.raises(ValueError, match="set another number"):
        enrich_pretrained(tiny_image_model(), data, tmp_path / "c", selection_split=49, **SETTINGS)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_from_the_command_line_and_with_two_processes(image_model_folder, image_data_folder, tmp_path):
    command = ["enrich", "--model", image_model_folder, "--dataset", image_data_folder, "--num_stages", 3,
               "--per_device_train_batch_size", 8, "--num_train_epochs", 1, "--save_strategy", "no", "--steps", 1,
               "--selection_split", 40, "--disable_tqdm", "True", "--train_stage_zero", "True",
               "--fit_steps", 6]  # fmt: skip
    said = run_cli(*command, "--output-dir", tmp_path / "one", "--gradient_accumulation_steps", 2).stdout
    assert "Take enriched/best" in said or "Keep Θ⁰" in said
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_cli(*command, "--output-dir", tmp_path / "two", launcher=launcher, env={"GLOO_SOCKET_IFNAME": "lo"})
    found = [json.loads((tmp_path / name / "choice" / "choice.json").read_text()) for name in ("one", "two")]
    scores = [{name: gain["score"] for name, gain in one["gains"].items()} for one in found]
    assert scores[0].keys() == scores[1].keys()
    fits = [json.loads((tmp_path / name / "choice" / "fitted.json").read_text()) for name in ("one", "two")]
    assert len(fits[0]["losses"]) == 6 and fits[0]["losses"] == pytest.approx(fits[1]["losses"], rel=2e-2)
    # Where a slope is next to nothing, rounding decides which way Adam goes.
    tables = [np.concatenate(list(one["coefficients"].values())) for one in fits]
    assert np.abs(tables[0]).max() > 0.05 and (np.abs(tables[0] - tables[1]) < 2e-2).mean() > 0.8


def scored(prediction: EvalPrediction) -> dict[str, float]:
    return {"hits": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def hit(prediction: EvalPrediction) -> dict[str, float]:
    return {"hits": float((prediction.predictions.argmax(-1) == 0).mean())}


@pytest.mark.slow
def test_the_score_that_is_named_decides_and_a_misspelt_one_is_said_first(pictures, tmp_path):
    parts = {"near": pictures.select(range(120, 150)), "far": pictures.select(range(150, 160))}
    own = {**SETTINGS, "eval_dataset": parts, "selection_split": 40, "num_train_epochs": 1}
    for name in ("acuracy", "nearr_accuracy"):
        with pytest.raises(ValueError, match=r"is not among the scores .*accuracy.*; did you mean accuracy\?"):
            enrich_pretrained(
                tiny_image_model(), pictures.select(range(120)), tmp_path / "a", metric_for_best_model=name, **own
            )
    assert not (tmp_path / "a" / "stage-0").exists()
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), tmp_path / "b", metric_for_best_model="loss", **own
    )
    assert result.choice.deciding.metric == "eval_loss"
    assert {"eval_near_accuracy", "eval_far_accuracy"} <= set(result.metrics["x2"])


@pytest.mark.slow
def test_another_function_of_the_same_name_of_score_is_another_choice(pictures, tmp_path):
    own = {**SETTINGS, "selection_split": 40, "num_train_epochs": 1, "metric_for_best_model": "hits"}
    found = [
        enrich_pretrained(
            tiny_image_model(), pictures.select(range(120)), tmp_path / "a", compute_metrics=compute,
            eval_dataset=pictures.select(range(120, 160)), **own,
        ).choice.gains["stage-0"].score
        for compute in (scored, hit, scored)
    ]  # fmt: skip
    assert found[0] == found[2] != found[1]
    assert fingerprint(scored) != fingerprint(hit) and fingerprint(None) is None


def test_why_nothing_is_chosen_and_what_is_another_run(pictures, tmp_path):
    own = {**SETTINGS, "num_train_epochs": 1, "eval_dataset": pictures.select(range(120, 160))}
    train, folder = pictures.select(range(120)), tmp_path / "a"
    assert (
        "Nothing was chosen" not in enrich_pretrained(tiny_image_model(), train, folder, choose="none", **own).verdict
    )
    result = enrich_pretrained(tiny_image_model(), train, folder, **own)
    assert result.best is None and result.verdict.startswith("Nothing was chosen: no examples were set aside when")
    with pytest.raises(TrajectoryError, match="no examples were set aside then, and 40 .* were set aside now") as found:
        enrich_pretrained(tiny_image_model(), train, folder, selection_split=40, **own)
    assert "fingerprint" not in str(found.value)


def test_epochs_chosen_on_the_evaluation_data_are_said(pictures, tmp_path):
    result = enrich_pretrained(
        tiny_image_model(), pictures.select(range(120)), tmp_path, eval_dataset=pictures.select(range(120, 160)),
        selection_split=40, load_best_model_at_end=True, eval_strategy="epoch",
        **{**SETTINGS, "save_strategy": "epoch"},
    )  # fmt: skip
    if result.choice.candidate != "stage-0":
        assert "on which load_best_model_at_end chose" in result.verdict


@pytest.fixture
def exploding():
    """A method whose first step is Θ⁰, and whose further ones are beyond every number."""

    @method
    def explodes(stages, kind, steps, *, first: float = 1.0):
        return torch.stack([stages[0].float() * (first if step == 1 else math.inf) for step in range(1, steps + 1)])

    yield "explodes"
    del METHODS["explodes"]


@pytest.mark.parametrize("first", [1.0, math.inf])
def test_a_step_that_is_not_finite_is_no_candidate(tmp_path, pictures, exploding, caplog, first):
    settings = {**SETTINGS, "num_train_epochs": 1, "also": "none", "method": exploding, "steps": 2, "self_check": True}
    data = {"eval_dataset": pictures.select(range(80, 120)), "parameters": {"first": first}}
    found = enrich_pretrained(
        tiny_image_model(), pictures.select(range(80)), tmp_path / "run", selection_split=30, **data, **settings
    )
    lost = ["x4"] if math.isfinite(first) else ["x2", "x4"]
    assert found.best is not None and Checkpoint(found.best).tensors
    assert list(found.checkpoints) == [name for name in ("x2", "x4") if name not in lost]
    assert not set(lost) & set(found.choice.gains) and "stage-1" in found.choice.gains
    assert sorted(path.name for path in (tmp_path / "run" / "enriched-explodes").glob("[!.]*")) == list(
        found.checkpoints
    )
    assert found.verdict.startswith(f"{', '.join(lost)} {'are' if len(lost) > 1 else 'is'} not finite and left out")
    assert "x4 of explodes is left out: The prediction of tensor" in caplog.text
    with pytest.raises(ValueError, match="not finite.*train with a lower learning rate"):
        enrich_pretrained(
            tiny_image_model(), pictures.select(range(80)), tmp_path / "none", choose="none", **data,
            **{**settings, "also": None},
        )  # fmt: skip
    assert not list((tmp_path / "none").glob("enriched*/x*"))
