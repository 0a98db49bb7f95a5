"""The model's own image processor decides what becomes of pictures and masks."""

import pickle

import numpy as np
import pytest
import torch
from conftest import QUICK
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as Pillow
from PIL import ImageOps
from test_tasks import segmenter
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BeitImageProcessor,
    ConvNextImageProcessor,
    DPTImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from know_hf import enrich_pretrained
from know_hf.forgetting.making import make_trainer
from know_hf.models.building import timm_from_scratch
from know_hf.models.loading import load_model
from know_hf.tasks import Columns, find_columns
from know_hf.tasks.images import image_reader
from know_hf.tasks.remembering import Remembering
from know_hf.training.data import check_part, make_preprocessing

random = np.random.default_rng(0)
PICTURES = Columns("image-classification", ["image"], "label", [])


def noise(mode: str, height: int = 24, width: int = 40) -> Pillow.Image:
    bands = len(Pillow.new(mode, (1, 1)).getbands())
    values = random.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Pillow.frombytes(mode, (width, height), values.tobytes())


def sixteen_bit() -> Pillow.Image:
    return Pillow.fromarray(random.integers(0, 65536, (24, 40), dtype=np.uint16))


def eight_bit(path, colours: bool = True) -> Pillow.Image:
    """What is on a file, upright, in the 8 bits and (unless the processor sees to it) 3 colours of processors."""
    picture = ImageOps.exif_transpose(Pillow.open(path))
    if picture.mode.startswith("I"):  # older Pillow reads 16 bits of a PNG as 32
        picture = Pillow.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    return picture.convert("RGB") if colours else picture


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A folder as people have them."""
    root = tmp_path_factory.mktemp("messy")
    for name in ("Käfer", "zwei", "leer"):
        (root / name).mkdir()
    for mode in ("L", "RGBA", "LA", "RGB"):
        noise(mode).save(root / "Käfer" / f"größe {mode}.png")
    noise("RGB").quantize(16).save(root / "Käfer" / "palette.gif")
    noise("CMYK").save(root / "Käfer" / "druck.jpg")
    noise("L").convert("1").save(root / "Käfer" / "fax.png")
    sixteen_bit().save(root / "Käfer" / "röntgen.png")
    sixteen_bit().save(root / "Käfer" / "röntgen.tiff")
    for orientation in (3, 6):
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        noise("RGB").save(root / "zwei" / f"gedreht {orientation}.jpg", exif=exif)
    (root / "Käfer" / "notes.txt").write_text("stray")
    (root / "Käfer" / ".DS_Store").write_bytes(b"stray")
    (root / "Thumbs.db").write_bytes(b"stray")
    return root


def model_beside(processor, folder, channels=3):
    config = ResNetConfig(
        num_channels=channels, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=2
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


PROCESSORS = {
    "square": ViTImageProcessor(size={"height": 16, "width": 16}),
    "cropped": ConvNextImageProcessor(size={"shortest_edge": 16}, crop_pct=0.8),
    "converts": ViTImageProcessor(size={"height": 16, "width": 16}, do_convert_rgb=True),
    "other scale": ViTImageProcessor(size={"height": 16, "width": 16}, rescale_factor=1 / 127.5, do_normalize=False),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_messy_folder_gives_the_processors_pixels(messy, tmp_path, kind):
    folder = model_beside(PROCESSORS[kind], tmp_path)
    data = load_dataset(str(messy), split="train")
    assert data.features["label"].names == ["Käfer", "zwei"] and len(data) == 11
    model = ResNetForImageClassification.from_pretrained(folder)
    rows = make_preprocessing(model, str(folder), find_columns(data)).apply(data)
    files = data.cast_column("image", Image(decode=False))["image"]
    for row, file in zip(rows, files, strict=True):
        picture = eight_bit(file["path"], colours=kind != "converts")
        expected = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
        assert torch.equal(row["pixel_values"], expected["pixel_values"][0]), file["path"]
    live = make_preprocessing(model, None, find_columns(data)).apply(data)
    assert torch.equal(live[0]["pixel_values"], rows[0]["pixel_values"]), "a live model knows where it came from"


def test_timm_reads_as_timm_does(messy):
    model = timm_from_scratch("resnet10t", image_size=16, model_args={"channels": [8, 8, 8, 8]}, num_labels=2)
    model.config.pretrained_cfg.update(crop_pct=0.8, interpolation="bilinear")
    data = load_dataset(str(messy), split="train")
    rows = make_preprocessing(model, None, find_columns(data)).apply(data)
    own = TimmWrapperImageProcessor(pretrained_cfg=model.config.pretrained_cfg)
    for row, raw in zip(rows, data.cast_column("image", Image(decode=False))["image"], strict=True):
        assert torch.equal(row["pixel_values"], own(eight_bit(raw["path"]))["pixel_values"][0])


def test_one_channel(tmp_path):
    data = Dataset.from_dict({"image": [noise("RGB"), noise("L"), sixteen_bit()], "label": [0, 1, 0]})
    data = data.cast_column("image", Image())
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, do_convert_rgb=True)
    model = ResNetForImageClassification.from_pretrained(model_beside(processor, tmp_path / "one", channels=1))
    rows = make_preprocessing(model, tmp_path / "one", find_columns(data)).apply(data)
    assert [row["pixel_values"].shape for row in rows] == [(1, 16, 16)] * 3
    assert -1 < rows[2]["pixel_values"].mean() < 1, "16 bits are no near-white"
    model(pixel_values=torch.stack([row["pixel_values"] for row in rows]))
    coloured = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3])
    folder = model_beside(coloured, tmp_path / "coloured", channels=1)
    with pytest.raises(ValueError, match="reads one channel, its image processor states image_mean .0.1, 0.2, 0.3"):
        make_preprocessing(model, folder, find_columns(data))
    model.config.num_channels = 5
    with pytest.raises(ValueError, match="reads 5 channels.*data_collator"):
        make_preprocessing(model, None, find_columns(data))


def test_pictures_of_unknown_range_are_refused(tmp_path):
    model = ResNetForImageClassification.from_pretrained(model_beside(PROCESSORS["square"], tmp_path))
    for values in (random.random((8, 8), dtype=np.float32), random.integers(0, 9, (8, 8), dtype=np.int32)):
        data = Dataset.from_dict({"image": [Pillow.fromarray(values)], "label": [0]}).cast_column("image", Image())
        with pytest.raises(ValueError, match="whose range is not known"):
            make_preprocessing(model, None, find_columns(data)).apply(data)[0]


@pytest.mark.parametrize("kind", ["square", "cropped"])
def test_another_size_is_the_processors_own_at_that_size(messy, tmp_path, kind):
    folder = model_beside(PROCESSORS[kind], tmp_path / "model")
    data = load_dataset(str(messy), split="train").select(range(2))
    model = ResNetForImageClassification.from_pretrained(folder)
    made = make_preprocessing(model, str(folder), find_columns(data), image_size=12)
    pixels = made.apply(data)[0]["pixel_values"]
    assert pixels.shape == (3, 12, 12)
    made.processing_class.save_pretrained(tmp_path / "stage")
    again = AutoImageProcessor.from_pretrained(tmp_path / "stage")(data[0]["image"].convert("RGB"), return_tensors="pt")
    assert torch.equal(again["pixel_values"][0], pixels), "what is saved with the model reads as it was trained"


def test_the_callers_processor_is_used(messy, tmp_path):
    model = ResNetForImageClassification.from_pretrained(model_beside(PROCESSORS["square"], tmp_path))
    data = load_dataset(str(messy), split="train").select(range(2))
    own = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.9] * 3)
    made = make_preprocessing(model, str(tmp_path), find_columns(data), processing_class=own)
    expected = own(data[0]["image"].convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(made.apply(data)[0]["pixel_values"], expected) and made.processing_class is own


def masks(values, count: int = 8, mode=np.uint8) -> Dataset:
    """Pictures of two by two patches, and their masks of these values, every one of which occurs."""
    found = [np.resize(np.roll(values, i), (2, 2)).astype(mode).repeat(16, 0).repeat(16, 1) for i in range(count)]
    rows = {"image": [noise("RGB", 32, 32) for _ in found], "mask": [Pillow.fromarray(m) for m in found]}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image()}))


def segmenter_beside(folder, classes: int, **processor):
    segmenter(classes).save_pretrained(folder)
    SegformerImageProcessor(**{"size": {"height": 32, "width": 32}, **processor}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("processor", [{}, {"do_reduce_labels": True}, {"size": {"height": 20, "width": 12}}])
def test_masks_are_what_the_processor_makes_of_them(tmp_path, processor):
    data = masks([0, 1, 2, 255])
    folder = segmenter_beside(tmp_path, 3, **processor)
    columns = find_columns(data)
    row = make_preprocessing(segmenter(3), str(folder), columns).apply(data)[0]
    own = AutoImageProcessor.from_pretrained(folder)(data[0]["image"], data[0]["mask"], return_tensors="pt")
    assert torch.equal(row["labels"], own["labels"][0]) and torch.equal(row["pixel_values"], own["pixel_values"][0])


@pytest.mark.parametrize("processor", [BeitImageProcessor, DPTImageProcessor, SegformerImageProcessor])
def test_masks_hold_no_classes_but_their_own(tmp_path, processor):
    """Whatever filter a processor resizes pictures by."""
    data = masks([0, 2, 2, 255])
    segmenter(3).save_pretrained(tmp_path)
    processor(size={"height": 20, "width": 20}, do_center_crop=False).save_pretrained(tmp_path)
    rows = make_preprocessing(segmenter(3), str(tmp_path), find_columns(data)).apply(data)
    assert {int(value) for row in rows for value in row["labels"].unique()} == {0, 2, 255}


def test_a_segmenters_named_classes_are_not_those_of_any_masks(tmp_path, caplog):
    model = segmenter(5)
    model.config.id2label = dict(enumerate(["wall", "building", "sky", "floor", "tree"]))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, "image-segmentation", ["0", "1", "2"])
    assert loaded.new_head and loaded.model.config.num_labels == 3 and "wall, building" in caplog.text
    segmenter(5).save_pretrained(tmp_path / "nameless")
    assert load_model(tmp_path / "nameless", "image-segmentation", ["0", "255"]).new_head


def test_the_size_that_was_asked_for_is_recorded():
    model = timm_from_scratch("resnet10t", image_size=16, model_args={"channels": [8, 8, 8, 8]}, num_labels=2)
    data = Dataset.from_dict({"image": [noise("RGB")], "label": [0]}).cast_column("image", Image())
    for given in (None, TimmWrapperImageProcessor(pretrained_cfg=model.config.pretrained_cfg)):
        made = make_preprocessing(model, None, find_columns(data), image_size=8, processing_class=given).apply(data)
        assert made[0]["pixel_values"].shape == (3, 8, 8) and model.config.pretrained_cfg["input_size"] == [3, 8, 8]


def test_another_value_for_no_class():
    model = segmenter(3)
    model.config.semantic_loss_ignore_index = -100
    data = masks([0, 1, 2, 255])
    row = make_preprocessing(model, None, find_columns(data), image_size=16).apply(data)[0]
    assert torch.isfinite(model(row["pixel_values"][None], labels=row["labels"][None]).loss)


@pytest.mark.parametrize("values", [[0, 255], [255, 0, 0, 255]])
def test_masks_of_0_and_255_have_a_foreground(tmp_path, values):
    data = masks(values)
    assert find_columns(data).class_names == ["0", "255"]
    run = {**QUICK, "num_stages": 2, "per_device_train_batch_size": 4, "image_size": 32}
    folder = segmenter_beside(tmp_path / "model", 2)
    trainer = make_trainer(str(folder), data, tmp_path / "out", eval_dataset=data, **run)
    expected = np.asarray(data[0]["mask"]) == 255
    assert np.array_equal(trainer.eval_dataset[0]["labels"].numpy(), expected)


def test_a_background_that_is_reduced_is_no_class(tmp_path):
    data = masks([0, 1, 2, 3])
    folder = segmenter_beside(tmp_path / "model", 7, do_reduce_labels=True)
    segmenter(2).segformer.save_pretrained(folder)  # a base model: its head is made for the data
    SegformerImageProcessor(size={"height": 32, "width": 32}, do_reduce_labels=True).save_pretrained(folder)
    run = {**QUICK, "num_stages": 2, "per_device_train_batch_size": 4}
    result = enrich_pretrained(str(folder), data, tmp_path / "out", eval_dataset=data, steps=1, **run)
    trained = AutoImageProcessor.from_pretrained(result.checkpoints["x2"])
    assert trained.do_reduce_labels and result.trajectory.tensors["decode_head.classifier.weight"].shape[0] == 3
    with pytest.raises(ValueError, match="drops the first .do_reduce_labels"):
        make_trainer(str(folder), masks([0, 1]), tmp_path / "two", **run)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (masks([0, 128, 255]), "holds the values 0, 128, 255: grey levels"),
        (masks([0, 100, 200, 250]), "grey levels"),
        (masks([0]), "two classes or more"),
        (masks([255]), "two classes or more"),
    ],
)
def test_masks_that_are_none(data, message):
    with pytest.raises(ValueError, match=message):
        find_columns(data)


def test_evaluation_masks_are_looked_at_before():
    columns = find_columns(masks([0, 1, 2, 255]))
    check_part(masks([0, 1, 255], mode=np.int32), columns, 3, "evaluation data")
    for data, message in (
        (masks([0, 3]), "evaluation data holds the values 3; the classes are 0, 1, 2"),
        (masks([0, 255]), "255 means no class in the training masks"),
        (masks([255]), "hold no class at all"),
    ):
        with pytest.raises(ValueError, match=message):
            check_part(data, columns, 3, "evaluation data")
    with pytest.raises(ValueError, match="holds the values 1; the classes are 0, 255"):
        check_part(masks([0, 1]), find_columns(masks([0, 255])), 2, "evaluation data")


def test_a_picture_is_made_into_pixels_once(image_model_folder, images):
    model = AutoModelForImageClassification.from_pretrained(image_model_folder)
    reader = image_reader(model.config, image_model_folder, None)
    seen: list[int] = []

    def read(pictures):
        seen.append(len(pictures))
        return reader(pictures)

    remembering, pictures = Remembering(read, most=3 * 16 * 16 * 4), images[:4]["image"]
    first, again = remembering(pictures), remembering(pictures[::-1])
    assert seen == [4, 1]  # three of them fit
    assert all(torch.equal(a, b) for a, b in zip(first, again[::-1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, reader(pictures), strict=True))
    turned = pictures[0].copy()
    turned.info["exif"] = b"whatever"
    remembering([turned, turned])
    assert seen[-1] == 2  # its pixels alone do not tell what it looks like
    assert not pickle.loads(pickle.dumps(Remembering(reader)))._kept
