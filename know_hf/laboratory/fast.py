"""The laboratory's Trainers: lean steps for all, and for images a fast path with the data on the device."""

import os
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.utils import is_torch_bf16_available_on_device

from know_hf.forgetting.trainer import ForgettingMixin
from know_hf.laboratory.compiled import CompiledSteps
from know_hf.laboratory.placed import Direct, OnDevice
from know_hf.tasks import get_task
from know_hf.tasks.images import IMAGES

if TYPE_CHECKING:
    from transformers import Trainer as _Mixin
else:  # mixins for any subclass of it
    _Mixin = object


def goes_fast(asked: bool | None, task: str, use_cpu: bool = False) -> bool:
    """Whether a training takes the fast path.

    Args:
        asked: What ``fast`` says; None for the fast path wherever there is an accelerator.
        task: Name of the task.
        use_cpu: Whether an accelerator is left alone.

    Raises:
        ValueError: If it is asked for where there are no images, or several processes or devices train together.

    Example:
        >>> from know_hf.laboratory.fast import goes_fast
        >>> goes_fast(True, "image-classification"), goes_fast(None, "text-classification")
        (True, False)
    """
    images = get_task(task).inputs.name == IMAGES.name
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accelerated = torch.accelerator.is_available() and not use_cpu
    devices = torch.accelerator.device_count() if accelerated else 1
    if asked is None:
        return accelerated and images and processes == 1 and devices == 1
    if asked and not images:
        raise ValueError(f"fast keeps images on the device; the task is {task}: leave it out.")
    if asked and processes > 1:
        raise ValueError(
            f"fast keeps all examples on the device of one process, and {processes} were launched to train together: "
            "leave it out, or start one process (processes: 2 of a recipe runs whole trainings side by side)."
        )
    if asked and devices > 1:
        raise ValueError(
            f"fast keeps all examples on one device, and there are {devices}: show this process one of them "
            "(CUDA_VISIBLE_DEVICES=0), or leave it out."
        )
    return asked


def fast_settings(stated: dict[str, Any]) -> dict[str, Any]:
    """Training arguments of the fast path: bfloat16 on an accelerator that has it, unless a precision is stated.

    Args:
        stated: The training arguments that were asked for.
    """
    if stated.get("use_cpu") or not torch.accelerator.is_available() or {"bf16", "fp16"} & stated.keys():
        return {}
    device = torch.accelerator.current_accelerator()
    return {"bf16": True} if device is not None and is_torch_bf16_available_on_device(device.type) else {}


#: Training arguments of every training in the laboratory: what is logged of the loss is read by no one, and a look
#: whether it is finite would wait for the device at every step.
LEAN: dict[str, Any] = {"logging_nan_inf_filter": False}


def is_accelerator(device: torch.device) -> bool:
    """Whether a device is any but the processor."""
    return device.type != "cpu"


class LeanMixin(_Mixin):
    """Counts the parameters once, not at every step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._operations: dict[int, int] = {}
        super().__init__(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Floating point operations of a step, as Trainer reckons them."""
        main = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        size = main.numel() if torch.is_tensor(main) else 0
        if size not in self._operations:
            self._operations[size] = super().floating_point_ops(inputs)
        return self._operations[size]


class FastMixin(LeanMixin):
    """Reads its [`Examples`](know_hf.training.examples) from the device, and compiles its steps on an accelerator.

    Batches, their order and what each image is varied by are those of the ordinary path. On an accelerator images and
    kernels lie channels-last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accelerated = is_accelerator(self.args.device)
        if self.accelerated:
            self.model.to(memory_format=torch.channels_last)
            self.add_callback(CompiledSteps(self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as Trainer does; the device's library looks for the fastest convolutions meanwhile."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = before or self.accelerated
        try:
            return super().train(*args, **kwargs)
        finally:
            torch.backends.cudnn.benchmark = before

    def get_train_dataloader(self) -> DataLoader:
        """The batches of the ordinary path, from the device."""
        return self._direct(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Likewise, of held-out examples."""
        return self._direct(super().get_eval_dataloader(eval_dataset))

    def _direct(self, loader: DataLoader) -> DataLoader:
        return Direct(loader, OnDevice(loader.dataset, self.args.device, self.accelerated))


class LeanTrainer(LeanMixin, Trainer):
    """The laboratory's ``Trainer``."""


class LeanForgettingTrainer(ForgettingMixin, LeanMixin, Trainer):
    """The laboratory's ``ForgettingTrainer``."""


class FastTrainer(FastMixin, Trainer):
    """A ``Trainer`` on the fast path."""


class FastForgettingTrainer(ForgettingMixin, FastMixin, Trainer):
    """A ``ForgettingTrainer`` on the fast path."""
