"""Prediction by compiled kernels: the plain network's values, whatever the pieces, and without a compiler, too."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from know_hf import KnownConfig, KnownPredictor
from know_hf.known import inference, native
from know_hf.known.inference import FoldedNetwork

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
ENOUGH = native.REPAYS
CPU = (torch.backends.cpu.get_cpu_capability() or "").upper()
#: What the kernel is compiled for: the processor at hand, and less of it.
TARGETS = {
    "native": native.TARGET,
    "avx2": pytest.param(["-mavx2", "-mfma"], marks=pytest.mark.skipif("AVX" not in CPU, reason="needs AVX2")),
    "x86-64": pytest.param(
        ["-march=x86-64"],
        marks=pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 processor"),
    ),
}


def random_predictor(**sizes) -> KnownPredictor:
    torch.manual_seed(1)
    predictor = KnownPredictor(KnownConfig(**sizes))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return predictor


def plain(predictor: KnownPredictor, history: torch.Tensor, steps: int) -> torch.Tensor:
    """The network as it is written down, in float64."""
    exact = KnownPredictor(predictor.config).double()
    exact.load_state_dict(predictor.state_dict())
    window, rows = history.T.double(), []
    for _ in range(steps):
        rows.append(window[:, -1] + exact(window, "fc"))
        window = torch.cat((window[:, 1:], rows[-1][:, None]), dim=1)
    return torch.stack(rows).detach().float()


@pytest.fixture(autouse=True)
def fresh():
    native.compile_kernel.cache_clear()
    yield
    native.compile_kernel.cache_clear()


@needs_compiler
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"history_length": 5},
        {"history_length": 2, "bottleneck_size": 5, "output_size": 12},
        {"history_length": 7, "hidden_size": 9, "bottleneck_size": 1, "output_size": 7},
    ],
)
def test_the_kernel_computes_the_plain_network(sizes, target, monkeypatch):
    monkeypatch.setattr(native, "TARGET", target)
    predictor = random_predictor(**sizes)
    history = torch.randn(sizes["history_length"], 3001) * 0.1
    assert predictor.networks["fc"].head.in_features == 2 * predictor.config.output_size
    with predictor.frozen(ENOUGH):
        assert isinstance(predictor._folded["fc"].kernel(history.device, ENOUGH), native.Kernel)
        found = predictor.predict(history, "fc", 3)
    assert torch.allclose(found, plain(predictor, history, 3), rtol=0, atol=1e-6)


@needs_compiler
def test_pieces_and_threads_change_no_bit():
    predictor = random_predictor()
    whole = torch.randn(5, 9007) * 0.1
    with predictor.frozen(ENOUGH):
        expected = predictor.predict(whole, "fc", 3)
        for block_size in (1, 7, 100):
            assert torch.equal(predictor.predict(whole, "fc", 3, block_size), expected)
        for start, stop in ((0, 1), (3, 40), (8990, 9007)):
            assert torch.equal(predictor.predict(whole[:, start:stop], "fc", 3), expected[:, start:stop])
        torch.set_num_threads(2)
        try:
            assert torch.equal(predictor.predict(whole, "fc", 3, 64), expected)
        finally:
            torch.set_num_threads(1)


@needs_compiler
@pytest.mark.parametrize("bfloat16", [False, True])
def test_out_of_range_values(bfloat16):
    if bfloat16 and not native.has_bfloat16():
        pytest.skip("needs a processor with bfloat16 products")
    predictor = random_predictor()
    history = torch.randn(5, 40) * 0.1
    history[2, 7], history[:, 9], history[:, 11] = torch.nan, 10, -10
    precision = "bfloat16" if bfloat16 else "float32"
    with predictor.frozen(ENOUGH):
        found = predictor.predict(history, "fc", precision=precision)[0]
    folded = predictor.predict(history, "fc")[0]
    assert found[7].isnan() and found[[i for i in range(40) if i != 7]].isfinite().all()
    ordinary = [i for i in range(40) if i not in (7, 9, 11)]
    assert torch.allclose(found[ordinary], folded[ordinary], rtol=0, atol=0.05 if bfloat16 else 1e-6)
    assert (found[[9, 11]] - history[-1, [9, 11]]).abs().max() <= 1.001


@pytest.mark.skipif(native.compiler() is None or not native.has_bfloat16(), reason="needs bfloat16 products")
def test_bfloat16_is_as_near_as_it_says():
    predictor = KnownPredictor.default()
    history = torch.randn(1, 20000) * 0.05 + torch.randn(5, 20000) * 0.005
    for kind in predictor.config.kinds:
        exact = predictor.predict(history, kind) - history[-1]
        rounded = predictor.predict(history, kind, precision="bfloat16") - history[-1]
        error = (rounded - exact).norm() / exact.norm()
        assert 1e-4 < error < 0.03, kind


def test_bfloat16_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(native, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="precision='bfloat16' needs a GPU with Triton, or a processor"):
        random_predictor().predict(torch.zeros(5, 3), "fc", precision="bfloat16")
    with pytest.raises(ValueError, match="precision='half' is not known; use one of float32, bfloat16"):
        random_predictor().predict(torch.zeros(5, 3), "fc", precision="half")


def test_without_a_compiler_the_folded_form_does_it(monkeypatch, caplog):
    predictor, history = random_predictor(), torch.randn(5, 50) * 0.1
    monkeypatch.setenv("CXX", "no-such-compiler")
    with predictor.frozen(ENOUGH):
        assert predictor._folded["fc"].kernel(history.device, ENOUGH) is None
        assert torch.allclose(predictor.predict(history, "fc", 2), plain(predictor, history, 2), rtol=0, atol=1e-6)
    assert "$CXX is 'no-such-compiler', which is not there" in caplog.text


def test_a_failing_compiler_is_named_once(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'error: no space left' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    predictor, history = random_predictor(), torch.randn(5, 50) * 0.1
    with predictor.frozen(ENOUGH):
        for _ in range(2):
            assert torch.allclose(predictor.predict(history, "fc"), plain(predictor, history, 1), rtol=0, atol=1e-6)
    said = caplog.text
    assert said.count("cannot compile the prediction kernel (error: no space left); predicting without it") == 1


def test_small_jobs_do_not_wait_for_a_compiler(monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(inference, "compile_kernel", refuse)
    predictor, history = random_predictor(), torch.randn(5, 50) * 0.1
    small = predictor.predict(history, "fc", 3)
    with predictor.frozen(ENOUGH - 1):
        assert torch.equal(predictor.predict(history, "fc", 3), small)
    with predictor.frozen(ENOUGH), pytest.raises(AssertionError, match="compiled"):
        predictor.predict(history, "fc", 3)


def test_changed_weights_are_seen():
    predictor, history = random_predictor(), torch.randn(5, 50) * 0.1
    with predictor.frozen(0):
        before = predictor.predict(history, "fc")
    with torch.no_grad():
        predictor.networks["fc"].head.bias += 0.5
    assert (predictor.predict(history, "fc") - before).abs().max() > 0.01


@pytest.mark.slow
def test_kernel_for_graphics_processors_in_the_interpreter():
    pytest.importorskip("triton")
    script = Path(__file__).with_name("interpret_fused.py")
    done = subprocess.run(
        [sys.executable, script, "5"], capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["5", "0"], ["5", "1"]]
    for _, bfloat16, error, moved in lines:
        assert float(error) < (0.03 * float(moved) if bfloat16 == "1" else 2e-6)


def test_sizes_that_the_gpu_kernel_cannot_take_fall_back():
    from know_hf.known import fused

    assert fused.kernel(torch.device("cpu"), native.Sizes(5, 64, 8, 32)) is None
    odd = FoldedNetwork.of(random_predictor(hidden_size=9).networks["fc"])
    assert fused.kernel(torch.device("cuda"), odd.sizes) is None
