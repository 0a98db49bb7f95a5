"""What a saved model calls its classes is what it was trained for."""

import pytest
from conftest import tiny_image_model
from transformers import AutoConfig, AutoModelForImageClassification

from know_hf.models.building import load_with_new_head
from know_hf.models.loading import load_model
from know_hf.tasks import Columns

NAMES = ["flower", "temple"]


def saved(folder, names):
    """A timm network of other classes, saved as transformers does: the configuration keeps their names by itself."""
    labels = dict(enumerate(names))
    model = tiny_image_model(classes=len(names), id2label=labels, label2id={name: i for i, name in labels.items()})
    model.save_pretrained(folder)
    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(folder)
    return folder


def classes_of(model, folder):
    model.save_pretrained(folder)
    return AutoConfig.from_pretrained(folder).id2label


@pytest.mark.parametrize("old", [["cat", "dog"], ["cat", "dog", "cow"]])
def test_a_timm_network_loses_the_names_of_its_former_classes(tmp_path, old):
    folder = saved(tmp_path / "old", old)
    loaded = load_model(str(folder), "image-classification", NAMES)
    assert loaded.new_head and classes_of(loaded.model, tmp_path / "new") == dict(enumerate(NAMES))
    columns = Columns("image-classification", ["image"], "label", NAMES)
    assert classes_of(load_with_new_head(folder, columns, 0), tmp_path / "other") == dict(enumerate(NAMES))


def test_a_live_timm_network_without_names_takes_those_of_the_data(tmp_path):
    live = AutoModelForImageClassification.from_pretrained(saved(tmp_path / "old", ["LABEL_0", "LABEL_1"]))
    loaded = load_model(live, "image-classification", NAMES)
    assert classes_of(loaded.model, tmp_path / "new") == dict(enumerate(NAMES))
