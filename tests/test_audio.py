"""Sounds and their classes: files beside one another, or lists of samples."""

import io
import shutil
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Audio, ClassLabel, Dataset, Features, List, Value
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    set_seed,
)

from know_hf.cli.main import main
from know_hf.tasks import find_columns
from know_hf.tasks.audio import load_extractor, wave_samples
from know_hf.training.checks import split_names
from know_hf.training.data import load_split, make_preprocessing


def tone(height: float, seconds: float = 0.1, rate: int = 16000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * height * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wave_file(samples: np.ndarray, rate: int = 16000, width: int = 2) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(samples.shape[1] if samples.ndim == 2 else 1)
        file.setsampwidth(width)
        file.setframerate(rate)
        scaled = samples * 127 + 128 if width == 1 else samples * (2 ** (8 * width - 1) - 1)
        file.writeframes(scaled.astype({1: np.uint8, 2: "<i2", 4: "<i4"}[width]).tobytes())
    return content.getvalue()


def write_sounds(folder, how: str) -> None:
    """As a folder of files, one folder a class, or as the Hub stores them, which asks for nothing to be installed."""
    labels = ClassLabel(names=["high", "low"])
    stored = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": labels})
    for part, count in (("train", 12), ("test", 4)):
        rows = []
        for i in range(count):
            for label, height in enumerate((2000 + 50 * i, 200 + 10 * i)):
                sound, place = wave_file(tone(height)), folder / part / labels.names[label] / f"{i}.wav"
                rows.append({"audio": {"bytes": sound, "path": place.name}, "label": label})
                if how == "files":
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(sound)
        if how == "parquet":
            folder.mkdir(exist_ok=True)
            data = Dataset.from_list(rows, features=stored).cast_column("audio", Audio())
            data.to_parquet(folder / f"{part}.parquet")


def write_listener(folder) -> None:
    """A tiny model of sounds, with its feature extractor."""
    set_seed(0)
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=4,
        frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=16,
    )  # fmt: skip
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=16, max_length=16).save_pretrained(folder)


@pytest.mark.parametrize("how", ["parquet", "files"])
def test_from_sounds_to_loadable_weights(tmp_path, capsys, how):
    write_sounds(tmp_path / "my-sounds", how)
    write_listener(tmp_path / "my-model")
    main([
        "enrich", "--model", str(tmp_path / "my-model"), "--dataset", str(tmp_path / "my-sounds"), "--output-dir",
        str(tmp_path / "run"), "--choose", "none", "--num_stages", "2", "--max_steps", "2", "--report_to", "none",
        "--disable_tqdm", "true",
    ])  # fmt: skip
    assert "accuracy" in capsys.readouterr().out
    model = ASTForAudioClassification.from_pretrained(tmp_path / "run/enriched/x2")
    assert model.config.id2label == {0: "high", 1: "low"}
    ASTFeatureExtractor.from_pretrained(tmp_path / "run/enriched/x2")


def test_sounds_of_several_lengths_are_filled_up(tmp_path):
    rows = {"audio": [tone(300, 0.05).tolist(), tone(900, 0.1).tolist()], "label": [0, 1]}
    features = Features({"audio": List(Value("float32")), "label": ClassLabel(names=["low", "high"])})
    data = Dataset.from_dict(rows, features=features)
    assert find_columns(data).task == "audio-classification"
    numbers = data.rename_column("audio", "embedding").add_column("text", ["a", "b"])
    assert find_columns(numbers).task == "text-classification", "not every list of numbers is a sound"
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = Wav2Vec2Config(
        conv_dim=(8,), conv_stride=(80,), conv_kernel=(160,), num_feat_extract_layers=1, num_labels=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8, **size,
    )  # fmt: skip
    model = Wav2Vec2ForSequenceClassification(config)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    made = make_preprocessing(model, None, find_columns(data), processing_class=extractor)
    rows = made.apply(data)
    batch = made.collator([rows[0], rows[1]])
    assert batch["input_values"].shape == (2, 1600) and batch["attention_mask"].sum(1).tolist() == [800, 1600]
    assert batch["labels"].tolist() == [0, 1] and torch.isfinite(model(**batch).loss)
    short = make_preprocessing(model, None, find_columns(data), processing_class=extractor, max_length=400).apply(data)
    assert len(short[0]["input_values"]) == 400
    with pytest.raises(FileNotFoundError, match="No feature extractor beside"):
        make_preprocessing(model, str(tmp_path), find_columns(data))


def test_folders_of_sounds_are_read_alike_with_and_without_a_decoder(tmp_path, monkeypatch):
    write_sounds(tmp_path / "sounds", "files")
    monkeypatch.setattr("know_hf.training.sounds.has_decoder", lambda: False)
    found = load_split(tmp_path / "sounds", "test[:3]").cast_column("audio", Audio(decode=False))
    assert found.features["label"].names == ["high", "low"] and found["label"][:] == [0, 0, 0]
    for row, name in zip(found, ("0.wav", "1.wav", "2.wav"), strict=True):
        assert row["audio"]["path"] == str(tmp_path / "sounds/test/high" / name) and row["audio"]["bytes"] is None
    assert split_names(str(tmp_path / "sounds")) == ["train", "test"]
    shutil.copytree(tmp_path / "sounds/train/high", tmp_path / "told")
    (tmp_path / "told/metadata.csv").write_text("file_name,kind\n0.wav,bell\n1.wav,horn\n")
    with pytest.raises(ImportError, match=r"metadata.csv lies beside sounds.*torchcodec.*a folder for each class"):
        load_split(tmp_path / "told")
    pytest.importorskip("torchcodec", reason="that reads them on the other way")
    monkeypatch.undo()
    whole = load_split(tmp_path / "sounds", "test[:3]").cast_column("audio", Audio(decode=False))
    assert whole[:] == found[:] and whole.features == found.features


@pytest.mark.parametrize("width", [1, 2, 4])
def test_plain_wave_files_are_read_as_they_are(width):
    samples = tone(440)
    found = wave_samples(wave_file(samples, width=width), 16000)
    assert found.dtype == np.float32 and np.abs(found - samples).max() < 2 / 2 ** (8 * width - 1) + 1e-4
    stereo = wave_samples(wave_file(np.stack([samples, -samples], 1)), 16000)
    assert np.abs(stereo).max() < 1e-4


def test_other_sounds_say_what_reads_them():
    with pytest.raises(ImportError, match="has 8000 samples a second of 2 bytes, the model reads 16000.*torchcodec"):
        wave_samples(wave_file(tone(440), rate=8000), 16000)
    with pytest.raises(ImportError, match="no plain Wave file .*pip install torchcodec"):
        wave_samples(b"ID3 an mp3", 16000)


def test_a_configuration_of_a_data_set(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: english\n  data_files: en.csv\n"
        "- config_name: german\n  data_files: de.csv\n---\n"
    )
    (folder / "en.csv").write_text("text,label\ngood,1\n")
    (folder / "de.csv").write_text("text,label\ngut,1\nschlecht,0\n")
    assert load_split(folder, config="german")["text"][:] == ["gut", "schlecht"]
    for ask in (load_split, split_names):
        with pytest.raises(ValueError, match="choose one by dataset_config: 'english', 'german'"):
            ask(str(folder))
    (tmp_path / "poem.txt").write_text("one line\nanother\n")
    assert load_split(tmp_path / "poem.txt")["text"][:] == ["one line", "another"]
    assert find_columns(load_split(tmp_path / "poem.txt")).task == "text-generation"


def test_a_damaged_extractor_is_not_called_missing(tmp_path):
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="No feature extractor beside"):
        load_extractor(model, None)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match="The feature extractor in .* cannot be loaded"):
        load_extractor(model, None)
