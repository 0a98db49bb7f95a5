"""Columns by type, labels, preprocessing."""

import datasets
import numpy as np
import pytest
import torch
from conftest import tiny_image_model
from datasets import ClassLabel, Dataset, Features, Value
from hub_server import Repository

from know_hf.tasks import find_columns
from know_hf.tasks.classification import accuracy
from know_hf.training.data import load_split, make_preprocessing


def texts(**columns) -> Dataset:
    features = {n: ClassLabel(names=["a", "b"]) if n.endswith("label") else Value("string") for n in columns}
    return Dataset.from_dict(columns, features=Features(features))


def test_columns_by_type(images, sentences):
    found = find_columns(images)
    assert (found.task, found.inputs, found.label, found.class_names) == (
        "image-classification", ["image"], "label", ["0", "1", "2"],
    )  # fmt: skip
    assert find_columns(sentences).task == "text-classification"


def test_several_candidates_are_listed():
    data = texts(headline=["x"], body=["y"], label=[0])
    with pytest.raises(ValueError, match="Several columns could be the input.*headline.*body"):
        find_columns(data)
    assert find_columns(data, inputs=["headline", "body"]).inputs == ["headline", "body"]
    pair = texts(premise=["x"], hypothesis=["y"], label=[0])
    assert find_columns(pair).inputs == ["premise", "hypothesis"], "two that belong together by their names"
    two = texts(text=["x"], fine_label=[0], coarse_label=[1])
    with pytest.raises(ValueError, match="Several columns could be the label"):
        find_columns(two)
    assert find_columns(two, label="fine_label").label == "fine_label"


def test_integer_labels_and_text_labels():
    data = Dataset.from_dict({"text": ["x", "y", "z"], "label": [0, 2, 1]})
    assert find_columns(data).class_names == ["0", "1", "2"]
    words = Dataset.from_dict({"text": ["x", "y"], "mood": ["good", "bad"]})
    assert find_columns(words, label="mood").class_names == ["bad", "good"]


def test_load_split(image_data_folder):
    assert len(load_split(str(image_data_folder), "test")) == 32
    with pytest.raises(ValueError, match="nosuch"):
        load_split(str(image_data_folder), "nosuch")
    data = Dataset.from_dict({"x": [1]})
    assert load_split(data) is data
    with pytest.raises(TypeError, match="pass one"):
        load_split(datasets.DatasetDict(train=data))


def test_data_on_the_hub(hub, image_data_folder, tmp_path, monkeypatch):
    """From the stand-in, by the client of `datasets`: a split, and one of several configurations."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    files = {path.name: path.read_bytes() for path in (image_data_folder / "data").iterdir()}
    small = {"small.csv": b"text,label\ngood,0\nbad,1\n"}
    about = (
        "---\nconfigs:\n- config_name: small\n  data_files: small.csv\n- config_name: none\n  data_files: no.csv\n---\n"
    )
    for name, held in (("tester/digits", files), ("tester/several", {**small, "README.md": about.encode()})):
        commit = {"id": f"{len(hub.repositories)}" * 40, "files": held, "message": "upload"}
        hub.repositories["datasets", name] = Repository({"main": [commit]})
    assert len(load_split("tester/digits", "test")) == 32
    assert load_split("tester/several", config="small")["text"][:] == ["good", "bad"]
    with pytest.raises(ValueError, match="tester/several.*choose one by dataset_config: 'small', 'none'"):
        load_split("tester/several")


def test_images_are_scaled_normalised_and_resized(images):
    model = tiny_image_model()
    columns = find_columns(images)
    batch = make_preprocessing(model, None, columns).apply(images)[:4]
    pixels = torch.stack(batch["pixel_values"])
    assert pixels.shape == (4, 1, 16, 16)
    raw = np.asarray(images[0]["image"].convert("L").resize((16, 16), 3), dtype=np.float32) / 255
    assert np.allclose(pixels[0, 0].numpy(), (raw - 0.3) / 0.4, atol=1e-6)
    smaller = make_preprocessing(model, None, columns, image_size=8).apply(images)[:1]
    assert smaller["pixel_values"][0].shape == (1, 8, 8)


def test_accuracy():
    from transformers import EvalPrediction

    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert accuracy(EvalPrediction(scores, np.array([1, 1, 1]))) == {"accuracy": pytest.approx(2 / 3)}
