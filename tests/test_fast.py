"""The laboratory's fast path: the same examples, in the same order, with the same numbers as the ordinary path."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import Subset
from transformers import TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from know_hf.laboratory import compiled, fast, placed, protocol
from know_hf.laboratory.fast import FastTrainer, LeanTrainer, goes_fast
from know_hf.laboratory.options import Protocol
from know_hf.laboratory.placed import OnDevice, encode, rows_of
from know_hf.laboratory.pretraining import ForgettingRun
from know_hf.laboratory.protocol import fine_tune
from know_hf.laboratory.recipe import Pretraining
from know_hf.models.resnet import SmallResNetConfig, SmallResNetForImageClassification
from know_hf.tasks import Columns
from know_hf.training.examples import Examples, as_it_is
from know_hf.training.options import Augmentation
from know_hf.training.prepared import open_examples

COLUMNS = Columns("image-classification", ["image"], "label", ["a", "b", "c"])
VARIED = {"rotation": 10, "shift": 0.15, "zoom": 0.3}


def images(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images of bytes as a model's preprocessing makes them, each channel in its own way, and classes."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (count, 3, 8, 8), generator=draw)
    scale, shift = torch.tensor([[0.2, 0.3, 0.4], [0.5, 0.4, 0.3]]).view(2, 1, 3, 1, 1)
    pixels = (codes / 255 - shift) / scale
    return {"pixel_values": pixels, "labels": torch.randint(3, (count,), generator=draw)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared training and held-out examples."""
    folder = tmp_path_factory.mktemp("prepared")
    for number, (part, count) in enumerate((("train", 90), ("eval", 40))):
        save_file(images(count, number), folder / f"{part}.safetensors")
    return {part: folder / f"{part}.safetensors" for part in ("train", "eval")}


def forgetting(folder, data, quick, mean=None, augmentation=None, **training):
    """A run of two stages and a self-check on them."""
    pretraining = Pretraining(
        dataset="-", architecture={"model_type": "know_resnet", "width": 4, "depths": [1, 1], "strides": [1, 2]},
        augmentation=augmentation, image_mean=mean,
        training={"num_stages": 2, "self_check": True, "num_train_epochs": 2, "per_device_train_batch_size": 16,
                  "per_device_eval_batch_size": 16,
                  "learning_rate": 3e-3, "seed": 5, "use_cpu": True, **training},
    )  # fmt: skip
    return ForgettingRun(folder, "forgetting", pretraining, COLUMNS, data, fast=quick)


def weights(run):
    return [load_file(path) for path in sorted(run.folder.glob("stage-*/model.safetensors"))]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


def test_bytes_lose_nothing():
    pixels = images(50)["pixel_values"]
    codes, values = encode(pixels, torch.device("cpu"))
    assert codes.dtype == torch.uint8 and values.shape == (3, 256)
    for channel in range(3):
        assert torch.equal(values[channel][codes[:, channel].long()], pixels[:, channel])
    # Values that only later images have: the bytes of those before change what they stand for.
    pixels = torch.cat((torch.zeros(5000, 1, 1, 1), torch.arange(-100.0, 100.0).view(-1, 1, 1, 1)))
    codes, values = encode(pixels, torch.device("cpu"))
    assert torch.equal(values[0][codes.long()], pixels)
    assert encode(torch.arange(257.0).view(-1, 1, 1, 1), torch.device("cpu")) is None


def test_views_are_read_from_the_device(caplog):
    whole = Examples(images(60))
    view = whole.select([5, 3, 40, 41, 7]).augmented(Augmentation())
    examples, rows = rows_of(Subset(Subset(view, [4, 2, 0]), [1, 2]))
    assert examples is view and rows.tolist() == [40, 5]
    view.vary(3, epoch=1)
    for chosen in ([0, 1, 2], [4]):
        found, expected = OnDevice(view, torch.device("cpu")).__getitems__(chosen), view.__getitems__(chosen)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(TypeError, match="list holds no prepared examples"):
        rows_of([1, 2])
    fine = Examples({"pixel_values": torch.rand(300, 1, 4, 4), "labels": torch.zeros(300, dtype=torch.int64)})
    with caplog.at_level(logging.INFO, "know_hf"):
        found = OnDevice(fine, torch.device("cpu")).__getitems__([7])
    assert "more than 256 values" in caplog.text
    assert torch.equal(found["pixel_values"], fine.__getitems__([7])["pixel_values"])


def test_an_example_varies_by_seed_and_epoch_alone():
    view = Examples(images(40)).augmented(Augmentation(flip=True))
    view.vary(3, epoch=1)
    both = view.__getitems__([2, 9])["pixel_values"]
    torch.manual_seed(1)
    assert torch.equal(view.__getitems__([9])["pixel_values"][0], both[1]), "neither batch nor generator matter"
    for seed, epoch in ((3, 2), (4, 1)):
        view.vary(seed, epoch)
        assert not torch.allclose(view.__getitems__([9])["pixel_values"][0], both[1])
    view.vary(None)
    assert not torch.equal(view[9]["pixel_values"], view[9]["pixel_values"]), "anew whenever it is read"


@pytest.mark.parametrize("mean", [None, "pixel"])
@pytest.mark.parametrize("augmentation", [None, VARIED], ids=["plain", "varied"])
@pytest.mark.slow
def test_fast_forgetting_is_the_ordinary_one(tmp_path, data, mean, augmentation):
    runs = [forgetting(tmp_path / str(quick), data, quick, mean, augmentation) for quick in (False, True)]
    for run in runs:
        run.run()
        assert run.done
    assert_equal(*map(weights, runs))
    records = [(run.folder / "trajectory.json").read_text() for run in runs]
    assert records[0] == records[1], "scores, settings and costs are the same, too"


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.slow
def test_a_continued_stage_varies_as_one_that_was_not_interrupted(tmp_path, data, quick, monkeypatch):
    whole = forgetting(tmp_path / "whole", data, quick, augmentation=VARIED, save_strategy="steps", save_steps=4)
    whole.run()
    cut = replace(whole, folder=tmp_path / "cut")
    steps = 0
    told = protocol.Advance.on_step_end

    def dies(*args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 11:  # in the second epoch of stage 0, three steps after it was saved
            raise RuntimeError("died")
        return told(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(protocol.Advance, "on_step_end", dies)
        with pytest.raises(RuntimeError, match="died"):
            cut.run()
    assert (cut.folder / "training" / "stage-0" / "checkpoint-8").is_dir() and not cut.done
    cut.run()
    assert_equal(weights(whole), weights(cut))


@pytest.mark.slow
def test_fast_fine_tuning_is_the_ordinary_one(tmp_path, data):
    set_seed(0)
    SmallResNetForImageClassification(SmallResNetConfig(width=4, num_labels=2)).save_pretrained(tmp_path / "start")
    how = Protocol(
        head_epochs=1, epochs=2, batch_size=16, examples=50, validation_examples=30, evaluations=2,
        augmentation=Augmentation(), training_arguments=(("use_cpu", True),),
    )  # fmt: skip
    pool, test = (open_examples(data[part]) for part in ("train", "eval"))
    found = [
        fine_tune(tmp_path / "start", pool, test, COLUMNS, 1e-3, 7, how, tmp_path / "scratch", fast=quick)
        for quick in (False, True)
    ]
    for name in ("test", "validation", "curve"):
        assert found[0][name] == found[1][name]
    assert math.isfinite(found[0]["test"])


class Losses(TrainerCallback):
    """What a training loses at each step."""

    def __init__(self):
        self.found = []

    def on_log(self, args, state, control, logs, **_):
        self.found += [logs["loss"]] if "loss" in logs else []


@pytest.mark.slow
def test_what_an_accelerator_adds_changes_no_more_than_rounding(tmp_path, data, monkeypatch):
    # Adam would make large what is rounding alone: biases before BatchNorm have no gradient.
    plain = {"optim": "sgd", "learning_rate": 0.05}
    ordinary, quick = (forgetting(tmp_path / str(quick), data, quick, None, VARIED, **plain) for quick in (False, True))
    ordinary.run()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiled, "BACKEND", counter)
    monkeypatch.setattr(fast, "is_accelerator", lambda device: True)  # channels-last and compiled, on the processor
    seen = []
    told = placed.OnDevice.batches

    def watched(*args):
        for batch in told(*args):
            seen.append(batch["pixel_values"].is_contiguous(memory_format=torch.channels_last))
            yield batch

    monkeypatch.setattr(placed.OnDevice, "batches", watched)
    quick.run()
    assert quick.done and all(seen) and 0 < counter.frame_count <= 2, "once for all stages"
    for one, other in zip(weights(ordinary), weights(quick), strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-4, msg=name)


def vit(kind, folder, **args):
    """A trainer of a network that draws random numbers itself, and what it loses at each step."""
    set_seed(0)
    model = ViTForImageClassification(ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        hidden_dropout_prob=0.3, num_labels=3,
    ))  # fmt: skip
    settings = TrainingArguments(
        str(folder), per_device_train_batch_size=16, num_train_epochs=2, learning_rate=1e-3, logging_steps=1,
        save_strategy="no", report_to="none", use_cpu=True, remove_unused_columns=False, disable_tqdm=True, **args,
    )  # fmt: skip
    losses = Losses()
    data = Examples(images(90))
    trainer = kind(model=model, args=settings, train_dataset=data, data_collator=as_it_is, callbacks=[losses])
    return trainer, losses


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.slow
def test_losses_are_the_same_where_the_network_draws_numbers_too(tmp_path, accumulated):
    found = []
    for kind in (LeanTrainer, FastTrainer):
        trainer, losses = vit(kind, tmp_path, gradient_accumulation_steps=accumulated)
        trainer.train()
        found.append((losses.found, trainer.state.total_flos, trainer.model.state_dict()))
    assert len(found[0][0]) == 2 * math.ceil(6 / accumulated) and found[0][:2] == found[1][:2]
    assert found[0][1] > 0
    assert_equal([found[0][2]], [found[1][2]])


def test_where_the_fast_path_is_taken(monkeypatch):
    assert goes_fast(None, "image-classification") is torch.accelerator.is_available()
    assert not goes_fast(None, "image-classification", use_cpu=True)
    assert not goes_fast(False, "image-classification") and goes_fast(True, "image-to-text", use_cpu=True)
    with pytest.raises(ValueError, match="keeps images on the device; the task is text-classification"):
        goes_fast(True, "text-classification")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not goes_fast(None, "image-classification")
    with pytest.raises(ValueError, match="2 were launched to train together"):
        goes_fast(True, "image-classification")


def test_what_does_not_fit_is_said(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(placed, "Placed", full)
    with pytest.raises(ValueError, match=r"40 examples \(0.0 GiB as they are\) do not fit on cpu .* fast: false"):
        OnDevice(Examples(images(40)), torch.device("cpu"))


def steps_compiled(tmp_path, monkeypatch, backend):
    """Trains the network above twice, compiled by a backend; returns losses and the trainers' callbacks."""
    monkeypatch.setattr(compiled, "BACKEND", backend)
    found = []
    for _ in range(2):
        trainer, losses = vit(FastTrainer, tmp_path)
        steps = compiled.CompiledSteps(trainer)
        trainer.add_callback(steps)
        trainer.train()
        found.append((losses.found, steps))
    return found


@pytest.mark.slow
def test_compiled_steps_serve_all_models_of_a_class(tmp_path, monkeypatch):
    torch._dynamo.reset()
    plain, losses = vit(FastTrainer, tmp_path)
    plain.train()
    counter = CompileCounterWithBackend("eager")
    (first, steps), (second, _) = steps_compiled(tmp_path, monkeypatch, counter)
    assert steps.on and first == second
    assert first == pytest.approx(losses.found, rel=1e-5), "the step that was tried left no trace"
    assert 0 < counter.frame_count <= 2, "neither the smaller batch nor the second model was compiled anew"


@pytest.mark.slow
def test_what_cannot_be_compiled_goes_on_uncompiled(tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no compiler on this machine")

    torch._dynamo.reset()
    plain, losses = vit(FastTrainer, tmp_path)
    plain.train()
    with caplog.at_level(logging.WARNING, "know_hf"):
        (first, steps), _ = steps_compiled(tmp_path, monkeypatch, fails)
    assert "could not be compiled" in caplog.text and "it runs uncompiled" in caplog.text and not steps.on
    assert first == losses.found
