"""The plain network of our own: recipes name it, Auto classes save and load it, KNOWN predicts all of it."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification

from know_hf.meta.networks import NETWORKS
from know_hf.models.building import build_network
from know_hf.models.skeleton import loader_of, skeleton
from know_hf.trajectory import kinds_of

TASK = "image-classification"


def test_it_is_built_saved_and_loaded(tmp_path):
    classes = [str(i) for i in range(10)]
    network = build_network({"model_type": "plain_cnn"}, TASK, classes, 32)
    assert 24_000 < network.num_parameters() < 26_000 and loader_of(network) == "AutoModelForImageClassification"
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    found = network(pixel_values=images, labels=labels)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits, labels))
    network.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(again(images).logits, found.logits) and again.config.id2label == dict(enumerate(classes))
    assert AutoConfig.from_pretrained(tmp_path / "saved").hidden_sizes == [16, 32, 32]
    assert type(skeleton(tmp_path / "saved")) is type(network)
    assert {parameter.kind for parameter in kinds_of(network).values()} == {"conv", "fc", "bias"}


@pytest.mark.slow
def test_its_folder_loads_in_a_process_that_only_reads_it(tmp_path):
    build_network({"model_type": "plain_cnn", "hidden_sizes": [4, 8]}, TASK, ["a", "b"]).save_pretrained(tmp_path)
    code = (
        f"from know_hf.models.skeleton import loader_in; import json; print(json.dumps(loader_in({str(tmp_path)!r})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == {
        "class": "PlainCnnForImageClassification",
        "auto_class": "AutoModelForImageClassification",
    }


def test_initial_values_are_drawn_by_torch_whichever_way_it_is_built():
    """The same seed gives the same network here and where KNOWN learns from it."""
    torch.manual_seed(0)
    network = build_network(
        {"model_type": "plain_cnn", "hidden_sizes": [4, 8, 8], "hidden_size": 16}, TASK, list("0123456789")
    )
    values = torch.cat([p.flatten() for n, p in network.named_parameters() if n == "layers.0.0.weight"])
    assert 0.8 / 27**0.5 < values.abs().max() <= 1 / 27**0.5  # uniform up to 1/√(fan in)
    assert set(network.state_dict()) == set(NETWORKS["cnn"](3, 4).state_dict())


@pytest.mark.slow
def test_its_folder_brings_its_code(tmp_path):
    """A machine without know-hf loads it, when it is trusted."""
    network = build_network({"model_type": "plain_cnn", "hidden_sizes": [4, 8]}, TASK, ["a", "b"])
    network.save_pretrained(tmp_path / "saved")
    code = (
        "import sys; sys.modules['know_hf'] = None\n"
        "from transformers import AutoModelForImageClassification as Auto\n"
        f"print(Auto.from_pretrained({str(tmp_path / 'saved')!r}, trust_remote_code=True).num_parameters())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) == network.num_parameters()
