"""The hyper-model: golden values, folding, blocks, storage."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from know_hf import KnownConfig, KnownPredictor, retrodict
from know_hf.known.bundled import BUNDLED
from know_hf.known.inference import FoldedNetwork
from know_hf.retrodiction.conversion import convert_keras
from know_hf.store import hash_file, read_json
from know_hf.trajectory import to_history

KINDS = ("conv", "fc", "bias")


@pytest.fixture(scope="module")
def random_predictor() -> KnownPredictor:
    torch.manual_seed(0)
    predictor = KnownPredictor(KnownConfig())
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return predictor


@pytest.fixture(scope="module")
def official(shared) -> KnownPredictor:
    return convert_keras(shared / "reference" / "known_keras")


@pytest.mark.parametrize("kind", KINDS)
def test_golden_values(official, shared, kind):
    golden = np.load(shared / "reference" / "known_parity.npz")
    history = torch.from_numpy(golden["history_oldest_first"])
    residual = official(history, kind).detach().numpy()
    np.testing.assert_allclose(residual, golden[f"residual_{kind}"], rtol=0, atol=1e-6)
    steps = official.predict(history.T, kind, steps=3).T.numpy()
    np.testing.assert_allclose(steps, golden[f"three_steps_{kind}"], rtol=0, atol=2e-6)


def test_orientation_of_the_whole_path(official):
    # Θ^0 = 0.050 … Θ^4 = 0.046; read the wrong way round the result is 0.0374.
    stages = torch.tensor([0.050, 0.049, 0.048, 0.047, 0.046])[:, None]
    assert retrodict(stages, "bias", predictor=official).item() == pytest.approx(0.0411, abs=5e-5)


@pytest.mark.parametrize("length", BUNDLED)
def test_bundled_records_are_small_and_of_these_weights(length):
    folder = Path(resources.files("know_hf.known") / "weights" / f"stages-{length}")
    record = folder / "meta_training.json"
    assert read_json(record)["weights"] == hash_file(folder / "model.safetensors")
    content = read_json(record)
    assert content["config"]["history_length"] == length
    # With one table of errors as small as ever; converged trials and the others have one each beside it.
    assert len(json.dumps({**content, "errors": content["errors"]["all"]})) < 16_000
    assert len(content["errors"]) == 3 and record.stat().st_size < 2 * 16_000


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_count(kind):
    network = KnownPredictor(KnownConfig()).network(kind)
    assert sum(parameter.numel() for parameter in network.parameters()) == 9425


@pytest.mark.parametrize("stages", [2, 3, 5, 7])
@pytest.mark.further_slow
def test_folding_and_blocks_change_nothing(stages):
    torch.manual_seed(stages)
    predictor = KnownPredictor(KnownConfig(history_length=stages))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    history = torch.randn(stages, 3000) * 0.1
    plain, window = [], history.T.double()
    exact = KnownPredictor(predictor.config).double()
    exact.load_state_dict(predictor.state_dict())
    for _ in range(3):
        newest = window[:, -1:] + exact(window, "fc")[:, None]
        window = torch.cat((window[:, 1:], newest), dim=1)
        plain.append(newest[:, 0])
    plain = torch.stack(plain).detach().float()
    for block in (1, 7, 1000, None):
        assert torch.allclose(predictor.predict(history, "fc", 3, block), plain, rtol=0, atol=2e-6)


def test_the_folded_form_has_the_plain_forms_gradients(random_predictor):
    network, history = random_predictor.network("conv"), torch.randn(200, 5) * 0.1
    network.zero_grad()
    network(history).square().sum().backward()
    plain = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    FoldedNetwork.of(network).residual(history.T.contiguous()).square().sum().backward()
    for name, p in network.named_parameters():
        assert torch.allclose(p.grad, plain[name], rtol=1e-4, atol=1e-5 * plain[name].abs().max()), name
    network.zero_grad()


def test_predict_keeps_shape_and_agrees_with_forward(random_predictor):
    history = torch.randn(5, 4, 3, 2) * 0.1
    predicted = random_predictor.predict(history, "conv", steps=2)
    assert predicted.shape == (2, 4, 3, 2)
    expected = history[-1] + random_predictor(history.movedim(0, -1), "conv")
    assert torch.allclose(predicted[0], expected, atol=1e-6)
    assert random_predictor.predict(torch.zeros(5, 0), "fc").shape == (1, 0)


def test_forward_is_differentiable(random_predictor):
    random_predictor(torch.randn(10, 5), "bias").sum().backward()
    assert all(p.grad is not None for p in random_predictor.network("bias").parameters())
    random_predictor.zero_grad()


def test_save_and_load_are_bit_equal(random_predictor, tmp_path):
    random_predictor.save_pretrained(tmp_path)
    for loaded in (KnownPredictor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(loaded, KnownPredictor)
        for name, tensor in random_predictor.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name])
    assert AutoConfig.from_pretrained(tmp_path).history_length == 5
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values_are_those_of_the_released_code(kind):
    """Layer by layer: two scaled ones a stream, Keras' Glorot values elsewhere, no bias anywhere."""
    torch.manual_seed(0)
    network = KnownPredictor(KnownConfig()).network(kind)
    scaled = {f"{stream}.{layer}" for stream in ("values", "differences") for layer in ("expand", "output")}
    layers = {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert len(layers) == 13 and scaled < layers.keys()
    for name, layer in layers.items():
        fan_in, fan_out = layer.in_features, layer.out_features
        bound = (3 * 0.1 / fan_in) ** 0.5 if name in scaled else (6 / (fan_in + fan_out)) ** 0.5
        weight = layer.weight.detach()
        largest = weight.abs().max().item()
        assert 0.9 * bound < largest <= bound, name
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15), name
        assert not layer.bias.any(), name


@pytest.mark.parametrize("length", BUNDLED)
def test_default_predictors_need_no_network(length):
    predictor = KnownPredictor.default(length)
    assert tuple(predictor.config.kinds) == KINDS and predictor.config.history_length == length
    assert f"that read {length} stages" in card(length) and "by `know-hf meta-train`" in card(length)
    torch.manual_seed(0)
    steps = torch.randn(length, 1000) * torch.tensor([0.05] + [0.005] * (length - 1))[:, None]
    stages = steps.cumsum(0)
    for kind in KINDS:
        # About as far as the stages lie from each other.
        change = (predictor.predict(to_history(stages), kind)[0] - stages[0]).norm() / (stages[1] - stages[0]).norm()
        assert 0.2 < change < 2


def test_a_predictor_that_does_not_come_with_the_package_is_named():
    with pytest.raises(ValueError, match="No predictor for 9 stages comes with know-hf, only for 2, 3, 4, 5"):
        KnownPredictor.default(9)


def card(length: int) -> str:
    folder = resources.files("know_hf.known") / "weights" / f"stages-{length}"
    return (folder / "README.md").read_text(encoding="utf-8")


def test_wrong_input_is_named(random_predictor):
    with pytest.raises(ValueError, match="has 4 stages.*reads 5"):
        random_predictor(torch.zeros(3, 4), "fc")
    with pytest.raises(ValueError, match="has 3 stages.*reads 5"):
        random_predictor.predict(torch.zeros(3, 4), "fc")
    with pytest.raises(ValueError, match="no network for kind 'norm'"):
        random_predictor(torch.zeros(3, 5), "norm")
    with pytest.raises(ValueError, match="steps is 0"):
        random_predictor.predict(torch.zeros(5, 4), "fc", steps=0)


@pytest.mark.parametrize("settings", [{"history_length": 1}, {"hidden_size": 0}, {"kinds": ["fc", "fc"]}])
def test_config_refuses_nonsense(settings):
    with pytest.raises(Exception, match="history_length|hidden_size|kinds"):
        KnownConfig(**settings)


def test_conversion_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks KNOWN_Conv.h5"):
        convert_keras(tmp_path)
    for name in ("KNOWN_Conv.h5", "KNOWN_FC.h5", "KNOWN_Bias.h5"):
        (tmp_path / name).write_bytes(b"not hdf5")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        convert_keras(tmp_path)


def test_conversion_reads_layers_by_order_not_by_number(tmp_path):
    h5py = pytest.importorskip("h5py")
    torch.manual_seed(1)
    source = KnownPredictor(KnownConfig())
    order = ("expand", "squeeze", "shift", "gain", "rate", "output")
    for kind, name in zip(KINDS, ("KNOWN_Conv.h5", "KNOWN_FC.h5", "KNOWN_Bias.h5"), strict=True):
        network = source.network(kind)
        layers = [getattr(s, n) for s in (network.values, network.differences) for n in order] + [network.head]
        with h5py.File(tmp_path / name, "w") as file:
            for i, layer in enumerate(layers, start=14):  # a session that had built fourteen layers before
                file[f"dense_{i}/dense_{i}/kernel:0"] = layer.weight.detach().numpy().T
                file[f"dense_{i}/dense_{i}/bias:0"] = layer.bias.detach().numpy()
    converted = convert_keras(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), converted.parameters(), strict=True))
