"""A task that lives outside the package: its module is all that it takes."""

import json

import numpy as np
import pytest
import torch
from conftest import QUICK
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import ASTConfig, ASTForAudioClassification, set_seed

from know_hf import enrich_pretrained
from know_hf.tasks import TASKS, Inputs, Preprocessing, Score, find_columns, get_task, task
from know_hf.tasks.classification import accuracy
from know_hf.tasks.labels import CLASSES, encode, label_lookup
from know_hf.tasks.shared import last_layer_of, on_reading, stack


def is_spectrogram(feature) -> bool:
    return isinstance(feature, List) and isinstance(feature.feature, List)


SPECTROGRAMS = Inputs("spectrograms", is_spectrogram, "List(List(Value('float32')))")


@pytest.fixture(scope="module", autouse=True)
def audio_task():
    @task(
        "spectrogram-classification",
        matches=lambda candidates: any(map(is_spectrogram, candidates.features.values())),
        inputs=SPECTROGRAMS,
        labels=CLASSES,
        auto_class="AutoModelForAudioClassification",
        hub_name="audio-classification",
        score=Score("accuracy"),
        metrics=lambda classes: accuracy,
        head=last_layer_of,
    )
    def spectrograms(model, source, columns, processing_class, *, max_length: int | None = None):
        def apply(dataset):
            lookup = label_lookup(dataset, columns)

            def transform(batch):
                values = [torch.tensor(one)[:max_length] for one in batch[columns.inputs[0]]]
                return {"input_values": values, "labels": encode(batch[columns.label], lookup)}

            return on_reading(columns, transform)(dataset)

        return Preprocessing(apply, stack, processing_class)

    yield
    del TASKS["spectrogram-classification"]


@pytest.fixture(scope="module")
def sounds() -> Dataset:
    """Noise that is louder in one class."""
    labels = [i % 2 for i in range(64)]
    values = np.random.default_rng(0).normal(size=(64, 16, 8)).astype(np.float32)
    values *= 1 + np.array(labels, dtype=np.float32)[:, None, None]
    features = Features(sound=List(List(Value("float32"))), label=ClassLabel(names=["quiet", "loud"]))
    return Dataset.from_dict({"sound": values.tolist(), "label": labels}, features=features)


def test_it_is_found_trained_scored_and_enriched(sounds, tmp_path):
    assert find_columns(sounds).task == "spectrogram-classification" and find_columns(sounds).inputs == ["sound"]
    assert get_task("spectrogram-classification").settings == ["max_length"]
    set_seed(0)
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=4,
        frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=8, num_labels=2,
    )  # fmt: skip
    ASTForAudioClassification(config).save_pretrained(tmp_path / "model")
    result = enrich_pretrained(
        str(tmp_path / "model"), sounds.select(range(48)), tmp_path / "run", eval_dataset=sounds.select(range(48, 64)),
        max_length=16, steps=1, **QUICK,
    )  # fmt: skip
    folder = result.checkpoints["x2"]
    assert 0 <= result.metrics["x2"]["eval_accuracy"] <= 1
    record = json.loads((tmp_path / "run" / "trajectory.json").read_text())["model"]
    assert record["task"] == "spectrogram-classification"
    card = (folder / "README.md").read_text()
    assert "AutoModelForAudioClassification.from_pretrained" in card
    assert "pipeline_tag: audio-classification" in card
    assert ASTForAudioClassification.from_pretrained(folder).config.id2label == {0: "quiet", 1: "loud"}


def test_what_is_no_task_is_refused():
    declared = {name: getattr(get_task("image-classification"), name) for name in (
        "matches", "inputs", "labels", "auto_class", "score", "metrics", "head")}  # fmt: skip
    with pytest.raises(TypeError, match=r"takes \(model, columns\), not \(model, source, columns, processing_class\)"):
        task("mine", **declared)(lambda model, columns: None)
    with pytest.raises(ValueError, match="There is a task 'image-classification' already, of know_hf.tasks.class"):
        task("image-classification", **declared)(lambda model, source, columns, processing_class: None)
    assert "mine" not in TASKS
