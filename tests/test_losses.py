"""Losses as Trainer reports them, taken apart: weighted, contrastive, plain, of one batch or of many."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from know_hf.choice import best
from know_hf.choice.losses import BATCHES, SLICES, WITHOUT, LossParts
from know_hf.choice.rule import judge
from know_hf.choice.scoring import Measure, answer, predict, score_of
from know_hf.training.set_aside import SetAside

LOSS = Measure("eval_loss", False)


class Line(nn.Module):
    """Logits of two classes: a multiple of what it reads, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, values, labels=None):
        logits = torch.stack([torch.zeros_like(values), self.slope * values + self.bias], -1)
        return {"loss": logits.sum() * 0, "logits": logits}


class Points(Dataset):
    """``(n, 2)``: what is read, and its class."""

    def __init__(self, size: int, rare: float = 0.5, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.labels = (draw.random(size) < rare).astype(int)
        self.values = self.labels * 1.0 - 0.5 + draw.standard_normal(size)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict:
        return {"values": torch.tensor(self.values[row]).float(), "labels": torch.tensor(self.labels[row])}


def plain(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs["logits"], labels)


def weighted(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs["logits"], labels, weight=torch.tensor([1.0, 50.0]))


def contrastive(outputs, labels, num_items_in_batch=None):
    """Which of the batch's examples is meant: each against all others."""
    found = outputs["logits"][:, 1]
    return nn.functional.cross_entropy(-((found[:, None] - found.detach()[None]) ** 2), torch.arange(len(found)))


def trainer_of(tmp_path, loss, batch: int, **options) -> Trainer:
    args = TrainingArguments(
        str(tmp_path / "out"), per_device_eval_batch_size=batch, report_to=[], disable_tqdm=True, use_cpu=True,
        dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    return Trainer(Line(), args, compute_loss_func=loss, **options)


def put(trainer: Trainer, slope: float, bias: float = 0.0) -> None:
    with torch.no_grad():
        trainer.model.slope.fill_(slope)
        trainer.model.bias.fill_(bias)


@pytest.mark.parametrize(
    ("loss", "batch", "way", "seen"),
    [
        (plain, 128, SLICES, 2),  # once in batches, once in slices
        (plain, 1, BATCHES, 1),
        (plain, 7, SLICES, 2),
        (weighted, 128, WITHOUT, 50),
        (weighted, 30, WITHOUT, 13),
        (weighted, 4, BATCHES, 1),
        (contrastive, 40, WITHOUT, 17),
        (contrastive, 2, BATCHES, 1),
    ],
)
def test_the_loss_is_that_which_trainer_reports(tmp_path, loss, batch, way, seen):
    trainer, data = trainer_of(tmp_path, loss, batch), Points(100, rare=0.1)
    parts = LossParts(trainer, data)
    for slope in (1.0, 0.3):
        put(trainer, slope)
        parts()
        counted: list[int] = []

        def counting(outputs, labels, counted=counted, **more):
            counted.append(len(labels))
            return loss(outputs, labels)

        trainer.compute_loss_func = counting
        found = parts()
        trainer.compute_loss_func = loss
        reported = trainer.evaluate(data)["eval_loss"]
        assert found.value == pytest.approx(reported, rel=1e-5)
        assert found.units.mean() == pytest.approx(reported, rel=1e-5) and found.way == way
        assert 20 <= len(found.units) <= 60 and np.isfinite(found.units).all()
        assert sum(counted) <= seen * len(data)
        assert score_of(trainer, data, LOSS) == pytest.approx(reported, rel=1e-5)


def test_slices_of_a_plain_mean_are_its_pseudo_values(tmp_path):
    trainer, data = trainer_of(tmp_path, plain, 128), Points(100)
    slices, without = LossParts(trainer, data), LossParts(trainer, data)
    without.way = WITHOUT
    assert slices().units == pytest.approx(without().units, rel=1e-3)


def test_a_weighted_loss_does_not_choose_what_is_worse(tmp_path):
    """By the mean over pairs of examples, of which few hold the rare class, the one without it is better."""
    trainer, data = trainer_of(tmp_path, weighted, 128), Points(100, rare=0.1)
    parts, found = LossParts(trainer, data), {}
    for name, bias in (("stage-0", 2.0), ("x8", -2.0)):
        put(trainer, 1.0, bias)
        found[name] = answer(trainer, data, LOSS, parts)
    pairs = LossParts(trainer, data)
    put(trainer, 1.0, 2.0)
    by_pairs = [np.mean([pairs._losses([np.arange(i, i + 2)])[0] for i in range(0, 100, 2)])]
    put(trainer, 1.0, -2.0)
    by_pairs.append(np.mean([pairs._losses([np.arange(i, i + 2)])[0] for i in range(0, 100, 2)]))
    assert by_pairs[1] < by_pairs[0]  # what the mean of parts says
    assert found["x8"].scores["eval_loss"] > found["stage-0"].scores["eval_loss"]
    assert judge("stage-0", found, LOSS)[0] == "stage-0"
    again, gains = judge("x8", {"x8": found["x8"], "stage-0": found["stage-0"]}, LOSS)
    assert again == "stage-0" and gains["stage-0"].chance < 0.05


def test_the_error_of_a_weighted_loss_is_that_of_other_draws(tmp_path):
    trainer = trainer_of(tmp_path, weighted, 256)
    differences = []
    for seed in range(60):
        data, both = Points(150, rare=0.2, seed=seed), []
        for slope in (1.0, 0.5):
            put(trainer, slope)
            both.append(score_of(trainer, data, LOSS))
        differences.append(both[1] - both[0])
    parts, units = LossParts(trainer, data), []
    for slope in (1.0, 0.5):
        put(trainer, slope)
        units.append(parts().units)
    assert (units[1] - units[0]).std() / len(units[0]) ** 0.5 == pytest.approx(np.std(differences), rel=0.4)


def test_all_candidates_are_taken_apart_in_one_way(tmp_path, monkeypatch):
    """Of a model that knows nothing every example has the same loss, whatever its weight; the next one shows it."""
    trainer, data = trainer_of(tmp_path, weighted, 128), Points(100, rare=0.1)
    trainer.task, trainer.set_aside = None, SetAside("set aside", data)
    monkeypatch.setattr(best, "load_weights", lambda model, slope: put(trainer, slope))
    parts = LossParts(trainer, data)
    put(trainer, 0.0)
    assert parts().way == SLICES
    _, found = best.answers_of(trainer, {"stage-0": 0.0, "x2": 1.0, "x4": 0.5}, data)
    assert {own.way for own in found.values()} == {WITHOUT} and len({len(own.units) for own in found.values()}) == 1


def test_a_slice_without_a_loss_of_its_own_leaves_the_others(tmp_path):
    """As of texts of which nothing is to be written."""

    def labelled_alone(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs["logits"], torch.where(labels == 0, -100, labels))

    trainer, data = trainer_of(tmp_path, labelled_alone, 128), Points(100, rare=0.2)
    found = LossParts(trainer, data)()
    assert found.way == WITHOUT and np.isfinite(found.units).all()
    assert found.value == pytest.approx(trainer.evaluate(data)["eval_loss"], rel=1e-5)


def test_what_is_random_in_the_data_is_the_same_for_every_model(tmp_path):
    def varied(rows):
        return {"values": torch.stack([row["values"] for row in rows]) + torch.randn(len(rows)),
                "labels": torch.stack([row["labels"] for row in rows])}  # fmt: skip

    trainer, data = trainer_of(tmp_path, plain, 2, data_collator=varied), Points(100)
    parts = LossParts(trainer, data)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first = parts()
    assert torch.equal(torch.randn(3), expected)
    second = parts()
    assert first.value == second.value and (first.units == second.units).all()
    trainer.compute_metrics = lambda prediction: {"mean": float(prediction.predictions[:, 1].mean())}
    measure = Measure("eval_mean", True, trainer.compute_metrics)
    assert answer(trainer, data, measure).scores["eval_mean"] == answer(trainer, data, measure).scores["eval_mean"]


def test_other_batches_of_the_whole_are_what_is_reported(tmp_path):
    """As of a trainer that draws batches in another order."""
    trainer, data = trainer_of(tmp_path, weighted, 10), Points(100, rare=0.1)
    order = np.argsort(data.labels, kind="stable")
    predict = trainer.predict

    def sorted_first(rows, **options):
        if len(rows) == len(data):
            rows = [data[int(i)] for i in order]
        return predict(rows, **options)

    trainer.predict = sorted_first
    put(trainer, 1.0)
    in_turn = LossParts(trainer_of(tmp_path, weighted, 10), data)().value
    found = LossParts(trainer, data)()
    assert found.value == score_of(trainer, data, LOSS) != pytest.approx(in_turn, rel=0.01)
    assert found.units.mean() == pytest.approx(found.value)


def test_no_predictions_are_kept_where_the_loss_decides(tmp_path):
    """Those of a language model would fill the memory."""
    trainer, data = trainer_of(tmp_path, plain, 16), Points(40)
    scores, kept = predict(trainer, data)
    assert "eval_loss" in scores and kept[0] is None
    trainer.compute_metrics = lambda p: {"mean": float(p.predictions.mean())}
    scores, kept = predict(trainer, data)
    assert kept[0].shape == (40, 2) and "eval_mean" in scores
