"""Audio classification."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from know_hf.remote import bounded
from know_hf.tasks.classification import accuracy
from know_hf.tasks.labels import CLASSES, encode, is_list, label_lookup
from know_hf.tasks.shared import last_layer_of, load_beside, naming
from know_hf.tasks.task import Columns, Inputs, Preprocessing, Score, Source, task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

#: Names that tell lists of samples from other lists of numbers.
NAMES = ("audio", "sound", "speech", "input_values")
#: By any of these a folder has a feature extractor, damaged perhaps.
EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")
#: What a Wave file's samples of so many bytes are divided by, and whether they begin at 0.
_SCALES: dict[int, tuple[Any, int]] = {1: (np.uint8, 128), 2: (np.dtype("<i2"), 2**15), 4: (np.dtype("<i4"), 2**31)}


def is_audio(feature: Any) -> bool:
    """Whether a column is of type ``Audio``."""
    from datasets import Audio

    return isinstance(feature, Audio)


def is_sound(feature: Any) -> bool:
    """Whether a column holds sounds: ``Audio``, or lists of samples."""
    return is_audio(feature) or (is_list(feature) and "float" in getattr(feature.feature, "dtype", ""))


def _told(name: str, feature: Any) -> bool:
    """Whether a column is told to be sounds, by type or, of lists of numbers, by name."""
    return is_audio(feature) or (is_sound(feature) and name in NAMES)


@task(
    "audio-classification",
    matches=lambda candidates: (
        bool(candidates.answers)
        and any(_told(name, feature) for name, feature in candidates.features.items() if name not in candidates.answers)
    ),
    inputs=Inputs("sounds", is_sound, "Audio()"),
    labels=CLASSES,
    auto_class="AutoModelForAudioClassification",
    score=Score("accuracy"),
    metrics=lambda classes: accuracy,
    head=last_layer_of,
)
def preprocessing(
    model: PreTrainedModel, source: Source, columns: Columns, processing_class: Any, *, max_length: int | None = None
) -> Preprocessing:
    """What the model's feature extractor makes of sounds at its own rate, and labels, ``(n,)`` int64.

    Args:
        model: The model.
        source: As for other tasks.
        columns: What is read. Lists of samples are taken to be at the extractor's sampling rate.
        processing_class: The feature extractor, if it is given.
        max_length: Longest sound in samples.

    Raises:
        FileNotFoundError: If there is no feature extractor.
    """
    extractor = processing_class or load_extractor(model, source)
    rate, name = extractor.sampling_rate, columns.inputs[0]
    limit: dict[str, Any] = {} if max_length is None else {"max_length": max_length, "truncation": True}

    def apply(dataset: Dataset) -> Dataset:
        from datasets import Audio

        lookup, read = label_lookup(dataset, columns), _reader(dataset, name, rate)
        if is_audio(dataset.features[name]):
            dataset = dataset.cast_column(name, Audio(decode=False))

        def transform(batch: dict[str, list]) -> dict[str, Any]:
            sounds = [read(sound) for sound in batch[name]]
            made = [extractor(sound, sampling_rate=rate, **limit) for sound in sounds]
            values = {key: [np.asarray(one[key][0]) for one in made] for key in made[0]}
            return {**values, "labels": encode(batch[columns.label], lookup)}

        return dataset.select_columns([name, columns.label]).with_transform(transform)

    def collate(rows: list[dict]) -> dict[str, Tensor]:
        labels = [row["labels"] for row in rows]
        sounds = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
        together = extractor.pad(sounds, padding=True, return_tensors="pt")
        return {**together, "labels": Tensor(labels).long()}

    return Preprocessing(apply, collate, extractor)


@bounded()
def load_extractor(model: PreTrainedModel, source: Source) -> Any:
    """The feature extractor beside a model.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    from transformers import AutoFeatureExtractor

    return load_beside(
        AutoFeatureExtractor.from_pretrained, model, source, "feature extractor", EXTRACTOR_FILES,
        "save one into the model's folder, or pass one as processing_class.",
    )  # fmt: skip


@cache
def has_decoder() -> bool:
    """Whether torchcodec is installed and finds the libraries that it stands on, which only decoding shows."""
    from datasets import config

    if not config.TORCHCODEC_AVAILABLE:
        return False
    silence = io.BytesIO()
    with wave.open(silence, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(320))
    try:
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(silence.getvalue())
    except (ImportError, OSError, RuntimeError):  # another torch than it was made for, no FFmpeg
        return False
    return True


def _reader(dataset: Dataset, name: str, rate: int) -> Callable[[Any], np.ndarray]:
    """From a row's sound to its samples, ``(n,)`` float32."""
    if not is_audio(dataset.features[name]):
        return lambda sound: np.asarray(sound, dtype=np.float32)
    if has_decoder():
        from datasets import Audio

        feature = Audio(sampling_rate=rate, num_channels=1)

        def samples(sound: dict[str, Any]) -> np.ndarray:
            return feature.decode_example(sound).get_all_samples().data.mean(0).numpy()
    else:

        def samples(sound: dict[str, Any]) -> np.ndarray:
            return wave_samples(sound["bytes"] or Path(sound["path"]).read_bytes(), rate)

    def named(sound: dict[str, Any]) -> np.ndarray:
        with naming("sound", sound):
            return samples(sound)

    return named


def wave_samples(content: bytes, rate: int) -> np.ndarray:
    """Reads a Wave file where nothing else is installed that could.

    Args:
        content: The file.
        rate: Samples a second that it has to have.

    Returns:
        Its samples, ``(n,)`` float32 from -1 to 1, the mean of its channels.

    Raises:
        ImportError: If it is of another kind or rate, for which torchcodec is needed.
    """
    needed = "torchcodec, on FFmpeg, reads every kind of sound at any rate: pip install torchcodec."
    try:
        with wave.open(io.BytesIO(content)) as file:
            width, channels, found = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ImportError(f"A sound is no plain Wave file ({error}). {needed}") from error
    if found != rate or width not in _SCALES:
        raise ImportError(f"A sound has {found} samples a second of {width} bytes, the model reads {rate}. {needed}")
    kind, scale = _SCALES[width]
    samples = np.frombuffer(frames, dtype=kind).astype(np.float32) / scale - (width == 1)
    return samples.reshape(-1, channels).mean(1, dtype=np.float32)
