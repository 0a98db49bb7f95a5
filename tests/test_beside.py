"""What is trained beside a run is trained as the run was, and costs it nothing where it cannot be."""

import errno
import json

import pytest
import torch
from conftest import QUICK, tiny_image_model
from test_trainer import Pixels, same
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from transformers import AutoModelForImageClassification, TrainerCallback, default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer, enrich_pretrained
from know_hf.choice import options as choice_options
from know_hf.choice.candidates import train_control
from know_hf.choice.options import BY_DEFAULT
from know_hf.pretrained import enrich_trained
from know_hf.training.set_aside import SetAside
from know_hf.trajectory import Checkpoint

SETTINGS = {"num_stages": 2, "train_stage_zero": True, **QUICK, "learning_rate": 5e-3, "report_to": "none"}
QUICKLY = {"method": "naive", "steps": 1}


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch):
    monkeypatch.setattr(choice_options, "BY_DEFAULT", BY_DEFAULT)


class Lean(ForgettingTrainer):
    """Has an argument and a loss of its own."""

    def __init__(self, *args, weight: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight = weight

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = self.weight * outputs.loss + sum(p.abs().sum() for p in model.parameters()) * 1e-3
        return (loss, outputs) if return_outputs else loss


class Seen(TrainerCallback):
    def __init__(self):
        self.places = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.places.append(args.output_dir)


def weighted(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 9.0, 0.1]))


def falling(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))


def with_loss(folder, model, seen, **settings):
    return ForgettingTrainer(
        model, ForgettingArguments(str(folder), **{**SETTINGS, **settings}), train_dataset=Pixels(),
        data_collator=default_data_collator, compute_loss_func=weighted, optimizers=falling(model), callbacks=[seen],
    )  # fmt: skip


def with_argument(folder, model, seen, **settings):
    return Lean(
        model, ForgettingArguments(str(folder), **{**SETTINGS, **settings}), train_dataset=Pixels(),
        data_collator=default_data_collator, weight=0.5, callbacks=[seen],
    )  # fmt: skip


@pytest.mark.parametrize("make", [with_loss, with_argument])
@pytest.mark.parametrize("recipe", ["equal_compute", pytest.param("soup", marks=pytest.mark.slow)])
def test_a_control_is_trained_with_what_the_run_was_made_of(tmp_path, make, recipe):
    trainer, seen = make(tmp_path / "run", tiny_image_model(), Seen()), Seen()
    trainer.train()
    trainer.add_callback(seen)
    record, told = trainer.state, []
    trainer.on_stage_end = told.append
    folder = train_control(trainer, recipe)
    assert seen.places and all(place.startswith(str(folder)) for place in seen.places)
    assert trainer.state is record and not told and trainer.args.output_dir == str(tmp_path / "run")
    assert trainer.args.recipe == "forgetting" and trainer.keep_start == "until made"
    start = AutoModelForImageClassification.from_pretrained(tmp_path / "run/stage-0")
    make(tmp_path / "alone", start, Seen(), recipe=recipe).train()
    one, other = (Checkpoint(place / "stage-0") for place in (folder, tmp_path / "alone"))
    assert same({n: one.read(n) for n in one.tensors}, {n: other.read(n) for n in other.tensors})
    recipes = [json.loads((place / "trajectory.json").read_text())["recipe"] for place in (folder, tmp_path / "alone")]
    assert recipes[0] == recipes[1] and ("optimizer" in recipes[0]) == (make is with_loss)


def test_a_class_with_an_argument_of_its_own_ends_with_its_best(tmp_path, caplog):
    trainer = with_argument(tmp_path / "run", tiny_image_model(), Seen())
    trainer.set_aside = SetAside(Pixels(40), "given")
    trainer.train()
    result = enrich_trained(trainer, **QUICKLY)
    assert "equal_compute" in result.choice.gains and result.best.is_dir() and "is no candidate" not in caplog.text


def failing(error):
    class Failing(ForgettingTrainer):
        def training_step(self, *args, **kwargs):
            if self.args.recipe == "equal_compute":
                raise error
            return super().training_step(*args, **kwargs)

    return Failing


def enriched(images, folder, trainer_class, **options):
    return enrich_pretrained(
        tiny_image_model(), images.select(range(120)), folder, selection_split=40, trainer_class=trainer_class,
        **QUICKLY, **{**SETTINGS, **options},
    )  # fmt: skip


def test_a_candidate_that_nobody_asked_for_costs_a_run_nothing(tmp_path, images, caplog):
    odd = failing(RuntimeError("no such batch"))
    result = enriched(images, tmp_path / "run", odd)
    assert "equal_compute" not in result.choice.gains and result.best.is_dir()
    assert "equal_compute is no candidate: RuntimeError: no such batch" in caplog.text
    with pytest.raises(RuntimeError, match="no such batch"):
        enriched(images, tmp_path / "run", odd, also="equal_compute")


@pytest.mark.further_slow
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), torch.OutOfMemoryError("CUDA"), KeyboardInterrupt()]
)
def test_what_may_pass_ends_a_run_that_then_continues(tmp_path, images, error):
    with pytest.raises(type(error)):
        enriched(images, tmp_path / "run", failing(error))
    again = enriched(images, tmp_path / "run", ForgettingTrainer)
    assert "equal_compute" in again.choice.gains


class Cycling(ForgettingTrainer):
    """Makes a schedule by itself that is as long as its longest stage, and no longer."""

    def __init__(self, *, model, args, **kwargs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scheduler = OneCycleLR(optimizer, max_lr=0.05, total_steps=5)
        super().__init__(model=model, args=args, optimizers=(optimizer, scheduler), **kwargs)


def test_what_cannot_be_trained_is_known_before_anything_is(tmp_path, images, caplog):
    options = {"num_stages": 4, "sampling_ratio": 0.8, "trainer_class": Cycling}
    with pytest.raises(ValueError, match="ends after 5 steps, but a stage takes"):
        enriched(images, tmp_path / "run", also="equal_compute", **options)
    assert not (tmp_path / "run" / "trajectory.json").exists()
    result = enriched(images, tmp_path / "run", **options)
    assert "equal_compute is no candidate: The OneCycleLR given in optimizers=(…) ends after 5 steps" in caplog.text
    assert result.best.is_dir() and "equal_compute" not in result.choice.gains
