"""A file among many that cannot be read is named."""

import io

import numpy as np
import pytest
from conftest import tiny_image_model
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from PIL import Image as Pictures
from test_audio import tone, wave_file

from know_hf.tasks import find_columns
from know_hf.tasks.audio import _reader
from know_hf.tasks.shared import naming
from know_hf.training.data import make_preprocessing


def picture(size: int = 16) -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Pictures.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def test_a_picture_that_was_cut_off_in_a_folder(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture()[: 300 if name == "a/2.png" else None])
    data = load_dataset(str(tmp_path), split="train")
    rows = make_preprocessing(tiny_image_model(), None, find_columns(data)).apply(data)
    assert rows[0]["pixel_values"].shape == (1, 16, 16)
    with pytest.raises(ValueError, match=r"Picture .*a/2\.png cannot be read: .*[Tt]runcated"):
        rows[1]


def test_a_picture_without_a_name():
    stored = [{"bytes": content, "path": None} for content in (picture(), picture()[:300])]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"image": stored, "label": [0, 1]}, features=features)
    rows = make_preprocessing(tiny_image_model(), None, find_columns(data)).apply(data)
    with pytest.raises(ValueError, match=r"A picture of 300 bytes without a name cannot be read"):
        rows[1]


def test_pictures_are_those_that_the_library_reads():
    stored = [{"bytes": picture(), "path": None}] * 2
    features = Features({"image": Image(mode="L"), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"image": stored, "label": [0, 1]}, features=features)
    made = make_preprocessing(tiny_image_model(), None, find_columns(data))
    expected = np.asarray(data[0]["image"], dtype=np.float32) / 255
    found = made.apply(data)[0]["pixel_values"][0].numpy()
    np.testing.assert_allclose(found * 0.4 + 0.3, expected, atol=1e-5)


def test_a_sound_of_another_kind(tmp_path):
    (tmp_path / "ill.mp3").write_bytes(b"ID3 nothing")
    data = Dataset.from_dict({"audio": [{"path": str(tmp_path / "ill.mp3"), "bytes": None}], "label": [0]})
    from datasets import Audio

    data = data.cast_column("audio", Audio(decode=False))
    with pytest.raises((ImportError, ValueError), match=r"Sound .*ill\.mp3 cannot be read"):
        _reader(data, "audio", 16000)(data[0]["audio"])
    with naming("sound", {"path": "x.wav"}):
        wave_file(tone(440))
