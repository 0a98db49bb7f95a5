"""Runs the GPU kernel in Triton's interpreter, which has to be chosen before Triton is imported."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import sys

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from know_hf import KnownConfig, KnownPredictor
from know_hf.known.fused import FusedKernel
from know_hf.known.inference import FoldedNetwork

_create_dot = InterpreterBuilder.create_dot


def create_dot(self, a, b, d, *args):
    """The interpreter keeps bfloat16 as integers, and would multiply those."""
    for operand in (a, b):
        if operand.data.dtype == np.uint16:
            operand.data = (operand.data.astype(np.uint32) << 16).view(np.float32)
    return _create_dot(self, a, b, d, *args)


InterpreterBuilder.create_dot = create_dot
CPU = torch.device("cpu")


def predictions(stages: int, bfloat16: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Three steps by the kernel and by the folded form, and how far the weights moved."""
    torch.manual_seed(stages)
    predictor = KnownPredictor(KnownConfig(history_length=stages))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network = FoldedNetwork.of(predictor.network("fc"))
    history = torch.randn(stages, 150) * 0.1  # two full blocks and a part of one
    predicted, expected = torch.full((2, 3, 150), torch.nan)
    kernel = network.kernel(CPU, 0, "float32")
    assert isinstance(kernel, FusedKernel), "the interpreter is not on"
    kernel = FusedKernel(stages, 64, 32, bfloat16)
    kernel.predict(kernel.pack((network.values, network.differences), network.head), history, predicted)
    network._slide(history, expected, 64)
    return predicted, expected, (expected - history[-1]).abs().max()


with torch.no_grad():
    for stages in map(int, sys.argv[1:]):
        for bfloat16 in (False, True):
            predicted, expected, moved = predictions(stages, bfloat16)
            print(stages, int(bfloat16), (predicted - expected).abs().max().item(), moved.item())
