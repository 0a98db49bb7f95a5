"""The ResNet18 of the authors and the common one: their sizes, their padding, and their way through the package."""

from pathlib import Path

import pytest
import torch
from conftest import QUICK
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from know_hf import enrich
from know_hf.forgetting.making import make_trainer
from know_hf.models import resnet
from know_hf.models.building import build_network, load_with_new_head
from know_hf.models.resnet import Block, SmallResNetConfig, SmallResNetForImageClassification
from know_hf.models.skeleton import skeleton
from know_hf.tasks import Columns
from know_hf.training.data import make_preprocessing
from know_hf.training.prepared import open_examples, prepare
from know_hf.trajectory.kinds import kinds_of

COMMON = {
    "stem_kernel": 3, "stem_padding": 0, "strides": [1, 2, 2, 2], "bias": False, "keras_padding": False,
    "batch_norm_eps": 1e-5, "batch_norm_momentum": 0.1,
}  # fmt: skip
CLASSES = [str(i) for i in range(100)]


def built(**fields) -> SmallResNetForImageClassification:
    return build_network({"model_type": "know_resnet", **fields}, "image-classification", CLASSES)


def looked_at(model: nn.Module) -> tuple[list[int], float]:
    """Sides of the maps that every stage makes, and 10⁹ multiply-adds of an image of 32 pixels."""
    work, sides = [], []

    def count(layer, inputs, output):
        places = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        work.append(places * layer.weight.numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks += [s.register_forward_hook(lambda m, i, maps: sides.append(maps.shape[-1])) for s in model.stages]
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return sides, sum(work) / 1e9


@pytest.mark.parametrize(
    ("fields", "sides", "work", "parameters"),
    [
        ({}, [34, 34, 17, 9], 2.07, 11_232_612),
        (COMMON, [32, 16, 8, 4], 0.56, 11_220_132),
        ({"width": 16}, [34, 34, 17, 9], 0.13, None),
    ],
    ids=["authors", "common", "quarter"],
)
def test_maps_and_work(fields, sides, work, parameters):
    model = built(**fields)
    found, count = looked_at(model)
    assert found == sides and round(count, 2) == work
    if parameters:
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    else:
        whole = sum(p.numel() for p in built().parameters())
        assert 15 < whole / sum(parameter.numel() for parameter in model.parameters()) < 16


def test_layers_are_those_of_the_authors():
    model = built()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(norms) == len(convolutions) == 20  # stem, 2 for each of 8 blocks, 3 shortcuts
    assert all(m.bias is not None and not m.bias.any() for m in convolutions)
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    kernel = convolutions[-2].weight
    assert kernel.std().item() == pytest.approx((2 / kernel[0].numel()) ** 0.5, rel=0.01)
    assert kernel.abs().max() <= 2.0 / 0.8796 * (2 / kernel[0].numel()) ** 0.5
    assert isinstance(model.stages[0][0].shortcut, nn.Identity)
    assert [stage[0].shortcut[0].stride for stage in model.stages[1:]] == [(1, 1), (2, 2), (2, 2)]
    assert model.classifier.weight.abs().max() <= (6 / 612) ** 0.5
    assert not [m for m in built(**COMMON).modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    with pytest.raises(ValueError, match="depths has 4 stages, strides 2; give as many of both"):
        SmallResNetConfig(strides=(1, 2))


@pytest.mark.parametrize(("side", "pad"), [(34, (0, 1, 0, 1)), (17, (1, 1, 1, 1))], ids=["even", "odd"])
def test_padding_is_that_of_keras(side, pad):
    """Keras pads to ceil(side / 2) places, and puts the odd one of its zeros at the end."""
    torch.manual_seed(0)
    block, maps = Block(2, 4, 2, SmallResNetConfig()).eval(), torch.randn(1, 2, side, side)
    seen = []
    block.norm1.register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    assert block(maps).shape[-1] == -(-side // 2)
    torch.testing.assert_close(
        seen[0], F.conv2d(F.pad(maps, pad), block.conv1.weight, block.conv1.bias, stride=2)
    )  # fmt: skip


def test_a_stage_is_loaded_forgets_and_is_predicted_by_its_folder(images, tmp_path):
    config = {"model_type": "know_resnet", "width": 4, "depths": [1, 1], "strides": [1, 2], "num_channels": 1}
    network = build_network(config, "image-classification", ["0", "1", "2"])
    network.save_pretrained(tmp_path / "model")
    trainer = make_trainer(
        str(tmp_path / "model"),
        images.select(range(32)),
        tmp_path / "run",
        num_stages=2,
        train_stage_zero=True,
        **QUICK,
    )
    trainer.train()
    record = trainer.trajectory.record
    assert record.model["auto_class"] == "AutoModelForImageClassification"
    assert record.model["task"] == "image-classification"
    kinds = {name: parameter.kind for name, parameter in record.parameters.items()}
    assert kinds["stem.0.weight"] == "conv" and kinds["stem.0.bias"] == "bias" and kinds["classifier.weight"] == "fc"
    assert kinds["stem.1.weight"] == "norm" and kinds["stem.1.running_mean"] == "buffer"
    enriched = enrich(tmp_path / "run", tmp_path / "enriched", method="known", steps=1)
    folder = enriched.checkpoints["x2"] if "x2" in enriched.checkpoints else next(iter(enriched.checkpoints.values()))
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    assert isinstance(loaded, SmallResNetForImageClassification) and loaded.config.strides == [1, 2]
    assert isinstance(skeleton(folder), SmallResNetForImageClassification)
    assert {n: p.kind for n, p in kinds_of(skeleton(folder)).items()}.items() <= kinds.items()
    columns = Columns("image-classification", ["image"], "label", ["a", "b"])
    assert load_with_new_head(folder, columns, 0).classifier.out_features == 2
    # Without know-hf the code beside the weights is what loads them.
    assert loaded.config.auto_map["AutoModelForImageClassification"] == "resnet.SmallResNetForImageClassification"
    assert (folder / "resnet.py").read_text() == Path(resnet.__file__).read_text()


def test_the_mean_of_every_pixel_is_subtracted(images, tmp_path):
    model = build_network(
        {"model_type": "know_resnet", "width": 4, "num_channels": 1}, "image-classification", ["0", "1"]
    )
    columns = Columns("image-classification", ["image"], "label", ["0", "1", "2"])
    rows = make_preprocessing(model, None, columns).apply(images)[:]
    assert torch.stack(rows["pixel_values"]).min() == 0 and torch.stack(rows["pixel_values"]).max() == 1  # as v / 255
    paths = [prepare(images.select(part), tmp_path, model, None, columns) for part in (range(100), range(100, 160))]
    train, test = (open_examples(path, paths[0]) for path in paths)
    mean = torch.stack(rows["pixel_values"][:100]).mean(0)
    torch.testing.assert_close(train.inputs["pixel_values"].mean(0), 0 * mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(test[3]["pixel_values"], rows["pixel_values"][103] - mean)
