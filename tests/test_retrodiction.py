"""Every method against vectors, an independent oracle's numbers and the properties that define it."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from know_hf import KnownConfig, KnownPredictor
from know_hf.retrodiction import (
    ALL,
    METHODS,
    check_method,
    consensus_ta,
    exp_fit,
    extra_merge,
    known,
    linear_fit,
    log_fit,
    magmax,
    mean,
    naive,
    retrodict,
    shrink,
    shrink_perturb,
    task_vector,
    tsv,
    wnn,
)
from know_hf.retrodiction.curve_fits import ols_coefficients
from know_hf.retrodiction.learned import NinoMLP, nino
from know_hf.retrodiction.task_vectors import merge_singular

VECTORS = json.loads((Path(__file__).parent / "retrodiction_vectors.json").read_text())
TENSORS = VECTORS.pop("_tensor")
TASK = {"task_vector": task_vector, "magmax": magmax, "consensus_ta": consensus_ta}
TYPES = [torch.float32, torch.float64]


def close(result, expected, rel=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    error = (result.double() - expected).abs() / expected.abs().clamp_min(1e-6)
    assert error.max() <= rel, (result, expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize(
    "method", ["linear_fit", "log_fit", "exp_fit", "exp_fit_hold", "task_vector", "magmax", "consensus"]
)
def test_scalar_vectors(name, method, dtype):
    case = VECTORS[name]
    stages = torch.tensor(case["traj"], dtype=dtype)
    options = {"fallback": "hold"} if method.endswith("_hold") else {}
    function = {"consensus": "consensus_ta"}.get(method, method.removesuffix("_hold"))
    result = retrodict(stages, "fc", 3, function, **options)
    assert result.dtype == dtype
    close(result, case[method])


@pytest.mark.parametrize("dtype", TYPES)
def test_tensor_vectors(dtype):
    case = TENSORS["eighths"]
    stages = torch.tensor(case["traj"], dtype=dtype)
    for method, function in {"task_vector": task_vector, "magmax": magmax, "consensus": consensus_ta}.items():
        close(function(stages, "fc", 3), case[method])
    for aggregate in ("mean", "last"):
        close(consensus_ta(stages, "fc", 3, aggregate=aggregate)[2], case[f"consensus_{aggregate}_x8"])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["tsv_diag", "tsv_2x3", "tsv_depthwise_2122", "tsv_1d"])
def test_singular_vectors(name, dtype):
    stages = torch.tensor(TENSORS[name]["traj"], dtype=dtype)
    result = tsv(stages, "conv", len(TENSORS[name]["tsv"]))
    assert torch.allclose(
        result.double(), torch.tensor(TENSORS[name]["tsv"], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_singular_vectors_of_the_specification():
    update = torch.zeros(20, 30)
    update[range(20), range(20)] = torch.arange(20, 0, -1.0)
    out = tsv(torch.stack([torch.zeros(20, 30), -update]), "fc")[0]
    expected = torch.zeros(20, 30)
    expected[0, 0], expected[1, 1] = 4.0, 3.8
    assert torch.allclose(out, expected, atol=1e-5)
    assert not tsv(torch.zeros(2, 3, 4), "fc").any()
    matrix = torch.arange(1.0, 7.0).reshape(2, 3)
    as_kernel = tsv(torch.stack([torch.zeros(2, 3, 1, 1), -matrix[..., None, None]]), "conv")
    assert torch.allclose(as_kernel[0, ..., 0, 0], tsv(torch.stack([torch.zeros(2, 3), -matrix]), "fc")[0])


def test_merged_singular_vectors():
    case = TENSORS["tsvm_2x2"]
    first, second = (torch.tensor(u, dtype=torch.float64) for u in case["us"])
    stages = torch.stack([torch.zeros(2, 2, dtype=torch.float64), -first, -second])
    merged = tsv(stages, "fc", 2, lam=1.0, frac=1.0, merge=True)[1]
    assert torch.allclose(merged, torch.tensor(case["out"], dtype=torch.float64))
    zero = torch.zeros(3, 2, 2)
    assert not tsv(zero, "fc", 2, merge=True).any()
    parts = [torch.linalg.svd(torch.randn(6, 9), full_matrices=False) for _ in range(1)]
    u, s, vh = parts[0]
    assert torch.allclose(merge_singular([(u, s, vh)]), u @ torch.diag(s) @ vh, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "row"),
    [
        (float, {1: [0.8, 0.5, 0.2, -0.1, -0.4], 2: [1, 0.6, 0.2, -0.2, -0.6], 3: [1.2, 0.7, 0.2, -0.3, -0.8]}),
        (math.log, {1: [0.53667071, 0.42143626, 0.27287321, 0.06348536, -0.29446555],
                    3: [0.65276641, 0.49779514, 0.29800242, 0.01641039, -0.46497436]}),
    ],
)  # fmt: skip
def test_fit_coefficients(function, row):
    for step, expected in row.items():
        assert ols_coefficients(5, step, function) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("stages", [2, 3, 5, 9])
def test_coefficients_sum_to_one(stages):
    for step in (1, 2, 7):
        for f in (float, math.log):
            assert sum(ols_coefficients(stages, step, f)) == pytest.approx(1, abs=1e-12)


def test_edges_of_the_specification():
    close(log_fit(torch.tensor([1.0, 0.8]), "fc", 3), [1.1169925, 1.2, 1.26438562])
    close(exp_fit(torch.tensor([1.0, 0.8]), "fc", 3), [1.25, 1.5625, 1.953125])
    steep = torch.tensor([1e4, 1e-4, 1e-7, 2e-8, 1.1e-8], dtype=torch.float64)
    close(exp_fit(steep, "fc", 3), [5666.8266, 3273093.3, 1.8905007e9])
    near_zero = torch.tensor([0.1, 0.05, 1e-9, 0.02, 0.01], dtype=torch.float64)
    close(exp_fit(near_zero, "fc", 3), [0.0990000002, 0.1200000002, 0.1410000002])
    arithmetic = torch.tensor([1, 0.8, 0.6, 0.4, 0.2])
    close(task_vector(arithmetic, "fc", 4)[3], 1.16)
    assert torch.equal(task_vector(arithmetic, "fc", 4, lam=0.0), arithmetic[0].expand(4))
    mixed = torch.tensor([0.3, -0.1, 0.2, 0.05, -0.15])
    close(retrodict(mixed, "fc", 3, "linear_fit", iterate=True), [0.285, 0.318, 0.3869])
    ties = torch.stack([torch.zeros(2), torch.tensor([2.0, -3]), torch.tensor([2.0, 3]), torch.tensor([-1.0, 0])])
    close(magmax(ties, "fc", 3, lam=1.0)[2], [-2.0, -3.0])


def test_exponential_never_leaves_the_range_of_its_type():
    explosive = torch.tensor([[3e4, -3e4], [1e-6, -1e-6], [1e-7, -1e-7], [1e-7, -1e-7], [1e-7, -1e-7]])
    result = exp_fit(explosive, "fc", 30)
    assert torch.isfinite(result).all() and (result[:, 0] > 0).all() and (result[:, 1] < 0).all()
    assert exp_fit(explosive, "fc", 3, growth_cap=4.0).abs().max() <= 4 * 3e4


finite = st.floats(-10, 10, allow_nan=False, width=32)
histories = st.lists(finite, min_size=5, max_size=5).map(lambda values: torch.tensor(values, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(value=finite, stages=st.integers(4, 7))
def test_constants_come_back_bit_for_bit(value, stages):
    for dtype in TYPES:
        constant = torch.full((stages, 3, 2), value, dtype=dtype)
        for method in (
            "linear_fit",
            "log_fit",
            "exp_fit",
            "task_vector",
            "magmax",
            "consensus_ta",
            "tsv",
            "mean",
            "naive",
            "extra_merge",
        ):
            assert torch.equal(retrodict(constant, "fc", 3, method), constant[:3]), method


@settings(deadline=None, max_examples=60)
@given(history=histories)
def test_fits_scale_with_the_trajectory(history):
    for fit in (linear_fit, log_fit):
        assert torch.allclose(fit(3 * history, "fc", 3), 3 * fit(history, "fc", 3), rtol=1e-9, atol=1e-12)
        assert torch.allclose(fit(history + 1, "fc", 3), fit(history, "fc", 3) + 1, rtol=1e-9, atol=1e-9)
    assert torch.allclose(exp_fit(-history, "fc", 3), -exp_fit(history, "fc", 3))


@settings(deadline=None, max_examples=60)
@given(history=histories, step=st.integers(1, 4))
def test_line_through_two_stages_is_a_task_vector(history, step):
    pair = history[:2]
    assert torch.allclose(linear_fit(pair, "fc", step)[-1], task_vector(pair, "fc", lam=float(step))[0], rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(history=histories)
def test_task_vectors_agree_where_they_must(history):
    plain = task_vector(history, "fc", 3)
    assert torch.equal(magmax(history, "fc", 1)[0], plain[0])
    assert torch.equal(consensus_ta(history, "fc", 3)[:2], plain[:2])
    assert torch.equal(task_vector(history[:1].expand(5), "fc", 3), history[:1].expand(3))


def test_all_directions_are_the_whole_update():
    torch.manual_seed(0)
    for shape in ((6, 4), (5, 3, 3, 3), (8, 1, 3, 3), (3, 7, 2)):
        stages = torch.randn(5, *shape)
        assert torch.allclose(tsv(stages, "conv", 3, frac=1.0), task_vector(stages, "conv", 3), atol=1e-5)
        one = tsv(stages, "conv", 1, lam=1.0)[0] - stages[0]
        assert torch.linalg.matrix_rank(one.reshape(shape[0], -1), atol=1e-4) == 1
    vector = torch.randn(5, 7)
    assert torch.equal(tsv(vector, "bias", 3), task_vector(vector, "bias", 3))


def test_magmax_of_all_candidates():
    stages = torch.tensor([0.0, -1.0, -2.0, 3.0, -1.0])
    assert torch.equal(magmax(stages, "fc", 2, candidates="all"), torch.full((2,), 0.2 * -3))


def test_mean():
    stages = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert mean(stages, "fc", 2).tolist() == [2.0, 2.0]
    assert mean(stages, "fc", first=4).item() == 1.5


def test_shrink_by_factors_and_to_other_norms():
    torch.manual_seed(0)
    stages = torch.randn(5, 6, 4)
    halved = shrink(stages, "fc", 2, factors={"fc": 0.5})
    assert torch.allclose(halved, torch.stack([stages[0] / 2, stages[0] / 4]))
    assert torch.equal(shrink(stages, "bias", factors={"fc": 0.5})[0], stages[0])
    for method in ("known", "linear_fit", "tsv"):
        norms = retrodict(stages, "fc", 3, method).flatten(1).norm(dim=1)
        assert torch.allclose(shrink(stages, "fc", 3, to=method).flatten(1).norm(dim=1), norms, rtol=1e-5)
    assert not shrink(torch.zeros(5, 3), "fc").any()


def test_shrink_perturb_by_hand():
    stages = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
    assert torch.equal(shrink_perturb(stages, "fc", lam=0.25, sigma=0.0)[0], stages[0] / 4)
    # Of the noise that the values of Θ^0 seed: its size is sigma times rms(3, -4), and nothing else enters.
    unit = (shrink_perturb(stages, "fc", lam=0.0, sigma=1.0)[0].double()) / math.sqrt(12.5)
    made = shrink_perturb(stages, "bias", 2, lam=0.25, sigma=0.1)
    assert torch.allclose(made[0].double(), stages[0].double() / 4 + 0.1 * math.sqrt(12.5) * unit, atol=1e-6)
    assert torch.equal(made[0], made[1]) and torch.equal(
        made[0], shrink_perturb(stages[:1], "fc", lam=0.25, sigma=0.1)[0]
    )
    assert not torch.equal(made[0], shrink_perturb(stages, "fc", lam=0.25, sigma=0.1, seed=1)[0])
    many = torch.randn(2, 200, 100, generator=torch.Generator().manual_seed(0)) * 3
    noise = shrink_perturb(many, "fc", lam=0.5, sigma=0.2)[0] - many[0] / 2
    size = 0.2 * many[0].square().mean().sqrt()
    assert noise.std().item() == pytest.approx(size.item(), rel=0.02) and abs(noise.mean().item()) < 0.02 * size
    assert not shrink_perturb(torch.zeros(2, 5), "fc").any()


def test_extra_merge_by_hand():
    stages = torch.tensor([1.0, 0.6, 0.4, 0.1], dtype=torch.float64)
    # Averages of two: 0.8, 0.5, 0.25; of three: 2/3 and 1.1/3.
    assert torch.allclose(extra_merge(stages, "fc", 2), torch.tensor([1.1, 1.4], dtype=torch.float64))
    assert extra_merge(stages, "fc", alpha=0.5).item() == pytest.approx(0.95)
    assert extra_merge(stages, "fc", window=3).item() == pytest.approx(2 / 3 + 0.3)
    # Averages of one are the stages: a task vector.
    assert torch.allclose(extra_merge(stages, "fc", window=1), task_vector(stages, "fc", lam=1.0))


def test_16_bit_stages_are_computed_in_32_bits():
    stages = torch.tensor([0.05, 0.0499]).bfloat16()
    for method in ("task_vector", "linear_fit", "mean"):
        options = {"first": 2} if method == "mean" else {}
        assert retrodict(stages, "fc", 1, method, **options).dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "stages", "steps", "parameters", "message"),
    [
        ("task_vector", 5, 5, {}, "step 5 needs stage 5, and 5 stages end at 4"),
        ("tsv", 3, 3, {}, "take at most 2 steps here"),
        ("consensus_ta", 2, 2, {}, "take at most 1 steps here"),
        ("linear_fit", 1, 1, {}, "at least 2 stages"),
        ("task_vector", 5, 1, {"lam": math.nan}, "must be finite"),
        ("magmax", 5, 1, {"lam": math.inf}, "must be finite"),
        ("task_vector", 5, 1, {"lambda_": 1}, "has no parameter 'lambda_'; did you mean lam\\? Its parameters: lam"),
        ("naive", 5, 1, {"lam": 1}, "its parameters: none"),
        ("tsv", 5, 1, {"frac": 0.0}, "frac is 0.0"),
        ("magmax", 5, 1, {"candidates": "some"}, "'upto_s' or 'all'"),
        ("consensus_ta", 5, 1, {"aggregate": "max"}, "'sum', 'mean' or 'last'"),
        ("exp_fit", 5, 1, {"fallback": "none"}, "'linear' or 'hold'"),
        ("exp_fit", 5, 1, {"eps": 0.0}, "must be positive"),
        ("log_fit", 5, 1, {"shift": -1.0}, "1 \\+ shift must be positive"),
        ("mean", 2, 1, {"first": 3}, "first is 3"),
        ("extra_merge", 2, 1, {}, "window is 2; it must lie between 1 and 1"),
        ("extra_merge", 3, 1, {"alpha": math.nan}, "alpha is nan"),
        ("shrink_perturb", 2, 1, {"sigma": -1.0}, "sigma -1.0"),
        ("shrink_perturb", 2, 1, {"lam": math.inf}, "lam is inf"),
        ("shrink", 5, 1, {"to": "shrink"}, "its own norms"),
        ("shrink", 5, 1, {"to": "nothing"}, "Unknown retrodiction method 'nothing'"),
        ("shrink", 5, 1, {"factors": {"fc": math.inf}}, "is not finite"),
        ("nothing", 5, 1, {}, "known methods: known, linear_fit"),
        ("linear_fit", 5, 0, {}, "steps is 0"),
    ],
)
def test_what_a_method_cannot_do_is_said_beforehand(method, stages, steps, parameters, message):
    with pytest.raises(ValueError, match=message):
        check_method(method, stages, ["fc"], steps, parameters)


def test_iterating_lifts_the_limit_of_steps():
    stages = torch.tensor([1.0, 0.8, 0.6])
    result = retrodict(stages, "fc", 4, "task_vector", iterate=True)
    assert result[1].item() == pytest.approx(1.04 + 0.2 * 0.04)


def test_every_method_keeps_the_shape():
    torch.manual_seed(0)
    for shape in ((), (7,), (3, 4), (4, 2, 3, 3), (0,)):
        stages = torch.randn(5, *shape) * 0.1
        for name in ALL:
            assert retrodict(stages, "fc", 3, name).shape == (3, *shape), name


@pytest.fixture(scope="module")
def random_network() -> KnownPredictor:
    torch.manual_seed(3)
    predictor = KnownPredictor(KnownConfig())
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return predictor


def test_wnn_follows_shift_and_scale(random_network):
    torch.manual_seed(0)
    stages = torch.randn(5, 200)
    plain = wnn(stages, "bias", 2, predictor=random_network)
    shifted = wnn(2 * stages + 3, "bias", 2, predictor=random_network)
    assert torch.allclose(shifted, 2 * plain + 3, atol=2e-3)
    constant = torch.full((5, 4), 0.05)
    assert torch.allclose(wnn(constant, "conv", predictor=random_network)[0], constant[0], atol=3e-5)
    # By hand, in float64, for one weight.
    x = stages.flip(0)[:, 0].double()
    span = x.max() - x.min() + 1e-8 + 1e-5
    scaled = (x - x[0]) / span / 2
    newest = (scaled[-1] + random_network.double()(scaled[None], "bias")[0]) * span * 2 + x[0]
    random_network.float()
    assert newest.item() == pytest.approx(plain[0, 0].item(), abs=1e-5)


def test_nino_by_hand():
    torch.manual_seed(0)
    model = NinoMLP(hidden=16)
    assert sum(p.numel() for p in NinoMLP().parameters()) == 57_384
    assert sum(p.numel() for p in NinoMLP(hidden=32).parameters()) == 5_160
    stages = torch.randn(5, 6, 3) * 0.1 + 0.2
    result = nino(stages, "conv", 3, predictor=model, block_size=4)
    flat = stages.flip(0).reshape(5, -1)
    scaled = (flat - flat.mean()) / (flat.std() + 1e-6)
    hidden = scaled.T @ model.edge_proj["fc"][0].weight.T + model.edge_proj["fc"][0].bias + model.layer_embed.weight[3]
    moves = model.edge_mlp["fc"](hidden)
    for step in range(3):
        expected = (scaled[-1] + moves[:, step]) * flat.std() + flat.mean()
        assert torch.allclose(result[step].flatten(), expected, atol=1e-6)
    assert torch.allclose(nino(torch.full((5, 3), 0.7), "fc", predictor=model), torch.full((1, 3), 0.7))


def test_nino_refusals(tmp_path):
    model = NinoMLP(hidden=8)
    with pytest.raises(ValueError, match="reads 5 stages, the trajectory has 3"):
        nino(torch.zeros(3, 2), "fc", predictor=model)
    with pytest.raises(ValueError, match="1 to 40 steps"):
        nino(torch.zeros(5, 2), "fc", 41, predictor=model)
    with pytest.raises(ValueError, match="no type for kind 'norm'"):
        nino(torch.zeros(5, 2), "norm", predictor=model)
    with pytest.raises(ValueError, match="is not safetensors; `know-hf convert"):
        NinoMLP.from_file(tmp_path / "nino_mlp.pt")
    with pytest.raises(ValueError, match="not a NiNo MLP"):
        NinoMLP.from_state({"x": torch.zeros(1)}, "x")


def test_known_and_naive_are_what_they_say(random_network):
    stages = torch.randn(5, 10)
    assert torch.equal(
        known(stages, "fc", 2, predictor=random_network), random_network.predict(stages.flip(0), "fc", 2)
    )
    copies = naive(stages, "fc", 2)
    copies.add_(1)
    assert not torch.equal(copies[0], stages[0])
    assert set(ALL) == set(METHODS) - {"wnn", "nino", "fitted", "damped", "soup_mean", "model_stock"}
