"""What a caller may hand to a ForgettingTrainer by mistake: said in words, before anything is trained."""

from pathlib import Path

import datasets
import pytest
import torch
from conftest import QUICK, tiny_image_model
from datasets import Dataset
from safetensors.torch import load_file
from test_trainer import Pixels
from test_weights import bert, vit
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments, default_data_collator

from know_hf import ForgettingArguments, ForgettingTrainer, enrich_pretrained
from know_hf.pretrained import forget_pretrained

ROWS = Dataset.from_dict({"input_ids": [[i % 50, i % 7] for i in range(32)], "labels": [i % 2 for i in range(32)]})
RAW = Dataset.from_dict({"sentence": ["good", "bad"] * 16, "label": [1, 0] * 16})


def make(folder, **given):
    settings = {"num_stages": 2, "train_stage_zero": True, **QUICK, **given.pop("settings", {})}
    given = {"model": bert, "args": ForgettingArguments(str(folder), **settings), "train_dataset": ROWS, **given}
    given["model"] = given["model"]() if given["model"] in (bert, vit, tiny_image_model) else given["model"]
    return ForgettingTrainer(**given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"args": TrainingArguments("out")}, TypeError, "TrainingArguments without num_stages.*ForgettingArguments"),
        ({"args": None}, TypeError, "args is nothing: pass ForgettingArguments"),
        ({"model": "some/model"}, TypeError, "model is the name 'some/model': load it first"),
        ({"model": Path("folder")}, TypeError, "model is the name 'folder': load it first"),
        ({"model": nn.Linear}, TypeError, "model is the class Linear, not a live model"),
        ({"model": None}, ValueError, "one model from start to end"),
        ({"model": None, "model_init": bert}, ValueError, "model_init is not supported"),
        ({"train_dataset": {"train": ROWS}}, TypeError, r"dictionary of splits \(train\)"),
        ({"train_dataset": datasets.DatasetDict(train=ROWS)}, TypeError, r"dictionary of splits \(train\)"),
        ({"train_dataset": ROWS.to_iterable_dataset()}, TypeError, "no map-style data set with a length"),
        ({"train_dataset": DataLoader(ROWS)}, TypeError, "DataLoader"),
        ({"train_dataset": "glue"}, TypeError, "train_dataset is 'glue': pass a data set"),
        ({"eval_dataset": "glue"}, TypeError, "eval_dataset is 'glue', a str"),
        ({"eval_dataset": DataLoader(ROWS)}, TypeError, "eval_dataset is .*DataLoader"),
        ({"eval_dataset": ROWS.select([])}, ValueError, "eval_dataset is empty"),
        ({"eval_dataset": {"a": ROWS, "b": ROWS.select([])}}, ValueError, "eval_dataset is empty"),
    ],
)
def test_refused_when_the_trainer_is_made(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path, **given)


KEEP = {"remove_unused_columns": False}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_dataset": RAW}, r"batch of train_dataset \(sentence, label\) holds labels, but .* takes input_ids"),
        ({"train_dataset": RAW.remove_columns("label")}, r"No batch can be made of train_dataset \(sentence\)"),
        ({"eval_dataset": RAW}, r"batch of eval_dataset \(sentence, label\) holds labels"),
        ({"eval_dataset": {"a": ROWS, "b": RAW}}, "batch of eval_dataset .* holds labels"),
        ({"model": vit, "train_dataset": "images"}, r"\(image, label\) holds labels, but ViT.* takes pixel_values"),
        ({"model": tiny_image_model, "train_dataset": "images"}, "but TimmWrapper.* takes pixel_values"),
        ({"model": vit, "train_dataset": "images", "settings": KEEP}, r"No batch can be made .*\(image, label\)"),
        ({"model": vit, "train_dataset": ROWS.rename_column("input_ids", "pixels"), "settings": KEEP}, "holds pixels"),
        ({"train_dataset": ROWS.to_pandas()}, "No batch can be made of train_dataset: KeyError"),
    ],
)
def test_data_that_the_model_does_not_take(tmp_path, images, given, message):
    given = {key: images if isinstance(value, str) else value for key, value in given.items()}
    with pytest.raises(ValueError, match=f"(?s){message}.*data_collator"):
        make(tmp_path, **given).train()
    assert not list(tmp_path.glob("stage-*")) and not (tmp_path / "trajectory.json").exists()


def test_no_training_data(tmp_path):
    with pytest.raises(TypeError, match="train_dataset is missing"):
        make(tmp_path, train_dataset=None).train()
    with pytest.raises(ValueError, match="0 examples .* leave stage 0 without data"):
        make(tmp_path, train_dataset=ROWS.select([])).train()
    with pytest.raises(ValueError, match="All parameters of the model are frozen"):
        make(tmp_path, model=bert().requires_grad_(False)).train()


def test_own_batches_are_the_callers_business(tmp_path):
    """A loss of one's own may take what the model's forward does not."""

    class Own(ForgettingTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            output = model(input_ids=inputs["first"], labels=inputs["labels"])
            return (output.loss, output) if return_outputs else output.loss

    data = ROWS.rename_column("input_ids", "first")
    args = ForgettingArguments(str(tmp_path), num_stages=2, **KEEP, **QUICK)
    Own(bert(), args, default_data_collator, data, ROWS.rename_column("input_ids", "first")).train()
    assert (tmp_path / "stage-1").is_dir()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_stages": 4},
        {"num_stages": 3, "self_check": True},
        {"num_stages": 4, "recipe": "incremental"},
        {"num_stages": 4, "recipe": "equal_compute"},
        {"num_stages": 2, "per_device_train_batch_size": 17},
        {"num_stages": 4, "train_stage_zero": False, "max_steps": 2},
    ],
)
def test_a_stage_without_a_batch_is_seen_before_the_first(tmp_path, settings):
    settings = {"per_device_train_batch_size": 8, "dataloader_drop_last": True, **settings}
    with pytest.raises(ValueError, match=r"Stage \d has (4|16) examples, less than one batch of (8|17)"):
        make(tmp_path, settings=settings).train()
    assert not list(tmp_path.glob("stage-*")) and not (tmp_path / "trajectory.json").exists()


def test_fewer_batches_than_are_accumulated_make_one_step(tmp_path):
    settings = {"per_device_train_batch_size": 8, "dataloader_drop_last": True, "gradient_accumulation_steps": 8}
    trainer = make(tmp_path, settings=settings)
    trainer.train()
    assert [stage.steps for stage in trainer.trajectory.record.stages] == [1, 1]
    first, second = (load_file(tmp_path / f"stage-{i}" / "model.safetensors") for i in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel, "torch_compile"])
@pytest.mark.further_slow
def test_wrapped_models_leave_plain_names(tmp_path, wrap):
    settings = {"save_strategy": "epoch"}
    if wrap == "torch_compile":
        settings |= {"torch_compile": True, "torch_compile_backend": "eager"}
    model = bert() if wrap == "torch_compile" else wrap(bert())
    trainer = make(tmp_path, model=model, eval_dataset=ROWS, settings=settings)
    trainer.train()
    record = trainer.trajectory.record
    names = load_file(tmp_path / "stage-1" / "model.safetensors").keys() | record.parameters.keys()
    assert not [name for name in names if "_orig_mod" in name or name.startswith("module.")]
    assert record.model["class"] == "BertForSequenceClassification" and "eval_loss" in record.stages[1].metrics
    assert {parameter.kind for parameter in record.parameters.values()} >= {"fc", "bias"}


def test_a_compiled_model_is_a_live_model(tmp_path, images, image_model_folder):
    from transformers import AutoModelForImageClassification

    model = torch.compile(AutoModelForImageClassification.from_pretrained(image_model_folder), backend="eager")
    forget_pretrained(model, images.select(range(32)), tmp_path, num_stages=2, **QUICK)
    assert not [name for name in load_file(tmp_path / "stage-1" / "model.safetensors") if "_orig_mod" in name]


def test_names_where_the_trainer_wants_live_models(tmp_path):
    with pytest.raises(ValueError, match="pass a live model"):
        enrich_pretrained("some/model", Pixels(), tmp_path, data_collator=default_data_collator)


class Two(torch.nn.Module):
    """A plain module of two matrices, which may be stored in ways that no file has."""

    def __init__(self, how: str):
        super().__init__()
        self.a, self.b, self.conv = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Conv2d(2, 2, 3)
        if how == "tied":
            self.b.weight = self.a.weight
        elif how == "view":
            self.b.weight = torch.nn.Parameter(self.a.weight.data.view(16)[:16].view(4, 4))
        elif how == "transposed":
            self.a.weight = torch.nn.Parameter(torch.randn(4, 4).t())
        elif how == "channels_last":
            self.to(memory_format=torch.channels_last)

    def forward(self, x, labels=None):
        logits = self.b(self.a(x))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(
    ("how", "message"),
    [("tied", "'a.weight', 'b.weight' of the Two share memory.*_tied_weights_keys"), ("view", "share memory"),
     ("transposed", "'a.weight' of the Two cannot be stored, as they are not contiguous"),
     ("channels_last", "'conv.weight' of the Two cannot be stored.*contiguous()"), ("plain", None)],
)  # fmt: skip
def test_modules_that_cannot_be_stored_are_refused_beforehand(tmp_path, how, message):
    rows = [{"x": torch.randn(4), "labels": i % 2} for i in range(16)]
    args = ForgettingArguments(str(tmp_path), num_stages=2, train_stage_zero=True, **QUICK)
    trainer = ForgettingTrainer(model=Two(how), args=args, train_dataset=rows)
    if message is None:
        trainer.train()
        return
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0 and not (tmp_path / "trajectory.json").exists()
