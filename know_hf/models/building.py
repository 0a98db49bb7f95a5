"""Networks with their initial values, and checkpoints with the head that a new task needs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.models import auto
from transformers.utils import logging as logging_of_models

import know_hf.models.own  # noqa: F401 (registers)
from know_hf.model_config import require_timm
from know_hf.models.adapters import base_of, load_adapted
from know_hf.models.architecture import check_architecture
from know_hf.tasks import Columns, get_task


def auto_class_of(task: str) -> Any:
    """The Auto class of transformers that loads a task's models."""
    return getattr(auto, get_task(task).auto_class)


def label_settings(class_names: list[str], task: str) -> dict[str, Any]:
    """What a model's configuration says of its classes; empty where there are none.

    A head left from regression or from several labels an example would else be trained by its own loss.
    """
    if not class_names:
        return {}
    return {
        "num_labels": len(class_names),
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: i for i, name in enumerate(class_names)},
        **({"problem_type": problem} if (problem := get_task(task).labels.problem) else {}),
    }


def agree_on_classes(config: Any) -> None:
    """Lets a configuration that keeps its classes a second time, as a loaded timm network's, keep the same ones.

    Those are what is read when it is loaded again, whatever classes the model was given in between.
    """
    if getattr(config, "label_names", None) is not None:
        config.label_names = list(config.id2label.values())


def build_network(
    architecture: Mapping[str, Any], task: str, class_names: Sequence[str], image_size: int | None = None
) -> PreTrainedModel:
    """Builds a network with its initial values, with one output a class.

    Args:
        architecture: ``timm: name`` with further arguments of [`timm_from_scratch`], or ``model_type: type`` with
            fields of its transformers configuration; ``convolutions: he_normal`` draws the kernels of the latter's
            convolutions, its head's excepted, from He's normal distribution (fan out) instead of transformers' own,
            which may be so narrow that the signal of a deep network dies.
        task: A key of [`TASKS`](know_hf.tasks).
        class_names: Names of the classes in the order of the outputs; none where there are no classes.
        image_size: Of a timm network: side of the square images in pixels.

    Returns:
        The network; the random numbers are those that torch has come to.

    Raises:
        ValueError: If the description names no network, one that is unknown, or a field that the network does not have.

    Example:
        >>> from know_hf.models.building import build_network
        >>> network = build_network({"timm": "resnet10t"}, "image-classification", ["cat", "dog"])
        >>> network.config.num_labels
        2
    """
    check_architecture(architecture)
    described, labels = dict(architecture), label_settings(list(class_names), task)
    if name := described.pop("timm", None):
        return timm_from_scratch(name, image_size=image_size, **labels, **described)
    kernels = described.pop("convolutions", None)
    if kernels not in (None, "he_normal"):
        raise ValueError(f"architecture: convolutions is {kernels!r}; it may be he_normal, or be left out.")
    config = AutoConfig.for_model(described.pop("model_type"), **labels, **described)
    network = auto_class_of(task).from_config(config)
    if kernels is not None:
        head = get_task(task).head(network, len(class_names))
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module is not head:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def timm_from_scratch(
    architecture: str,
    *,
    image_size: int | None = None,
    model_args: dict[str, Any] | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    **labels: Any,
) -> PreTrainedModel:
    """Builds an untrained timm network as a transformers model, with timm's own initial values.

    Args:
        architecture: Name that ``timm.create_model`` knows.
        image_size: Side of the square input images in pixels; by default the architecture's.
        model_args: Further arguments of ``timm.create_model``.
        mean: Mean of each channel, in units of the full range of values.
        std: Standard deviation of each channel, likewise.
        **labels: ``num_labels``, ``id2label`` and ``label2id`` for the configuration.

    Returns:
        A ``TimmWrapperForImageClassification`` whose folder also carries the preprocessing.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm does not know the architecture, or its network a field of ``model_args``.
    """
    timm = require_timm()
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    check_timm(architecture)
    try:
        network = timm.create_model(architecture, num_classes=labels.get("num_labels", 2), **(model_args or {}))
    except TypeError as error:
        raise ValueError(f"architecture.model_args: timm's {architecture} does not take them: {error}") from error
    side = image_size or network.default_cfg["input_size"][-1]
    channels = (model_args or {}).get("in_chans", 3)
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args=model_args,
        pretrained_cfg={
            "input_size": [channels, side, side],
            "mean": list(mean),
            "std": list(std),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
        },
        **labels,
    )
    model = TimmWrapperForImageClassification(config)
    # The wrapper's constructor draws every kernel from N(0, 0.02), which kills the signal of deep networks.
    model.timm_model.load_state_dict(network.state_dict())
    return model


def check_timm(architecture: str) -> None:
    """Raises if timm does not know an architecture.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If it does not.
    """
    timm = require_timm()
    if architecture not in timm.list_models():
        near = timm.list_models(f"*{architecture.split('_')[0][:6]}*")[:5]
        raise ValueError(f"timm has no architecture {architecture!r}; similar: {', '.join(near) or 'none'}.")


def load_with_new_head(folder: Path, columns: Columns, seed: int, new_head: bool = True) -> PreTrainedModel:
    """Loads a checkpoint with a head that the seed alone decides, also where the old one would fit.

    Args:
        folder: The checkpoint.
        columns: Task and classes.
        seed: What the new head is drawn from.
        new_head: False keeps the checkpoint's own head.

    Raises:
        ValueError: If the model has no linear head of as many outputs as there are classes, or none to keep.
    """
    task, classes = get_task(columns.task), len(columns.class_names)
    labels = {**label_settings(columns.class_names, task.name), "ignore_mismatched_sizes": True} if classes else {}
    torch.manual_seed(seed)  # an adapter's base model gets its head here
    with unremarked():
        base, info = auto_class_of(task.name).from_pretrained(
            base_of(folder), dtype=torch.float32, output_loading_info=True, **labels
        )
    agree_on_classes(base.config)
    whole = base_of(folder) == folder
    if whole and not new_head and (drawn := [*info["missing_keys"], *info["mismatched_keys"]]):
        raise ValueError(f"{folder} has no head of {classes} outputs to keep: {drawn[0]} would be drawn at random.")
    model = base if whole else load_adapted(folder, base)
    torch.manual_seed(seed)
    head = task.head(model, classes)
    if new_head and task.renews_head:
        renew(head)
    return model


@contextmanager
def unremarked() -> Iterator[None]:
    """Lets transformers load without its bars and reports: that the head of every start is new is meant to be."""
    loudness, bars = logging_of_models.get_verbosity(), logging_of_models.is_progress_bar_enabled()
    logging_of_models.set_verbosity_error()
    logging_of_models.disable_progress_bar()
    try:
        yield
    finally:
        logging_of_models.set_verbosity(loudness)
        if bars:
            logging_of_models.enable_progress_bar()


def renew(module: nn.Module) -> None:
    """Draws a part of a model, or several, anew, as its model or its layer does it."""
    if isinstance(module, nn.ModuleList):
        for part in module:
            renew(part)
    elif isinstance(module, PreTrainedModel):
        module.load_state_dict(type(module)(module.config).state_dict())
    else:
        reset: Any = module.reset_parameters
        reset()
