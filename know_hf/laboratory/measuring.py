"""One training step of a recipe's network, measured on a batch of the right shape."""

import json
import time
from collections.abc import Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from know_hf.laboratory.declared import Data
from know_hf.laboratory.pretraining import build_model
from know_hf.laboratory.setting import Pretraining
from know_hf.training.data import make_preprocessing
from know_hf.training.prepared import as_rows

#: Examples of the first step on a processor, where a whole batch of a large network takes minutes.
CPU_ROWS = 4
#: Seconds that the step of a whole batch may take there to be measured, too.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Step:
    """One training step, measured.

    Args:
        rows: Its examples.
        parameters: Of the network.
        fixed: Bytes of weights, gradients and AdamW's moments.
        activations: Bytes that an example's forward pass keeps for the backward pass.
        seconds: For an example.
    """

    rows: int
    parameters: int
    fixed: int
    activations: float
    seconds: float

    def memory(self, batch: int) -> float:
        """Bytes of a step of so many examples, in proportion."""
        return self.fixed + batch * self.activations


def step_of(
    source: Pretraining,
    data: Data,
    batch: int,
    rows: int | None,
    device: torch.device,
    measured: MutableMapping[str, Step],
) -> Step:
    """One step of the network of a pre-training, unless one of the same network and shape was taken before."""
    half = source.training.get("bf16", False) and device.type != "cpu"
    shape = [source.model, source.architecture, source.image_size, source.max_length, data.side]
    few = rows or (CPU_ROWS if device.type == "cpu" else batch)
    described = [
        *shape,
        data.columns.class_names,
        data.rows is None,
        batch,
        rows,
        str(device),
        half,
    ]
    key = json.dumps(described, sort_keys=True)
    if key not in measured:
        model: Any = build_model(source, data.columns, 0).model
        model.to(device)

        def taken(count: int) -> Step:
            made = _batch(model, source, data, count)
            return measure(model, {name: values.to(device) for name, values in made.items()}, half)

        step = taken(min(few, batch))
        # A step of few examples is mostly overhead where a network is small.
        if rows is None and step.rows < batch and step.seconds * batch < _PATIENCE:
            step = taken(batch)
        measured[key] = step
    return measured[key]


def _batch(model: Any, source: Pretraining, data: Data, rows: int) -> dict[str, Tensor]:
    """The first examples, or images of noise of the same shape."""
    if data.rows is not None:
        preprocessing = make_preprocessing(
            model, source.model, data.columns, image_size=source.image_size, max_length=source.max_length
        )
        first = data.rows.select(range(min(rows, len(data.rows))))
        return dict(preprocessing.collator(as_rows(preprocessing.apply(first)[:])))
    timm = (getattr(model.config, "pretrained_cfg", None) or {}).get("input_size")
    side = source.image_size or data.side or (timm[-1] if timm else model.config.image_size)
    channels = timm[0] if timm else getattr(model.config, "num_channels", 3)
    labels = torch.arange(rows) % len(data.columns.class_names)
    if data.columns.task == "image-segmentation":  # a class for every pixel
        labels = labels.view(-1, 1, 1).expand(rows, side, side).contiguous()
    return {"pixel_values": torch.randn(rows, channels, side, side), "labels": labels}


def measure(model: nn.Module, batch: Mapping[str, Tensor], half: bool = False) -> Step:
    """Takes one training step with AdamW, after one that warms up unless that took long.

    Args:
        model: On its device.
        batch: What it takes, with labels.
        half: Whether to compute in bfloat16, as Trainer's ``bf16`` does.

    Returns:
        What it took.
    """
    device = next(iter(batch.values())).device
    optimizer = torch.optim.AdamW(model.parameters())
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    seconds = 0.0
    for turn in range(2):
        if turn and device.type == "cpu" and seconds > 1:
            break
        kept.clear()
        begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            with saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for an accelerator
        seconds = time.perf_counter() - begun
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    rows = len(next(iter(batch.values())))
    count = sum(parameter.numel() for parameter in model.parameters())
    return Step(rows, count, weights + 3 * trained, sum(kept.values()) / rows, seconds / rows)
