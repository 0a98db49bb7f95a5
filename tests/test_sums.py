"""Sums of stages: how exact they are, and that they do not depend on the pieces in which they are made."""

import pytest
import torch

from know_hf.retrodiction import exp_fit, mean


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mean_of_half_precision_is_the_nearest_there_is(dtype):
    torch.manual_seed(0)
    stages = (torch.randn(10_000) * 0.02 + torch.randn(5, 10_000) * 1e-3).to(dtype)
    for first in (2, 3, 4, 5):  # fifths and thirds of steps of the type, of which many lie halfway between two values
        exact = (stages[:first].double().sum(0) / first).to(dtype)
        assert torch.equal(mean(stages.float(), "fc", first=first)[0].to(dtype), exact), first


def test_exponentials_do_not_depend_on_pieces():
    torch.manual_seed(0)
    stages = torch.randn(3, 70_000).sign() * torch.rand(5, 3, 70_000)
    made = exp_fit(stages, "fc", 2)
    assert made.shape == (2, 3, 70_000)
    assert torch.equal(made[:, 1, 5:900], exp_fit(stages[:, 1, 5:900], "fc", 2))
