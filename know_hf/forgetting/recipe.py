"""What identifies a run: the settings, model and data that a continued run must share."""

import hashlib
import os
from importlib import metadata
from typing import Any

import numpy as np
from torch import nn

from know_hf.adapters import is_adapted
from know_hf.architecture import loader_of
from know_hf.tasks import TASKS

# Settings that change the weights. Others (logging, saving, workers …) may differ when a run is continued.
_SETTINGS = (
    "recipe num_stages sampling_ratio subset_seed stratify_by train_stage_zero carry_optimizer self_check "
    "num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay optim "
    "optim_args adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor seed data_seed bf16 fp16 "
    "neftune_noise_alpha"
).split()
_PACKAGES = ("know-hf", "torch", "transformers", "accelerate", "datasets", "timm", "safetensors")


def describe_recipe(args) -> dict[str, Any]:
    """The settings of a run that decide its weights, as plain data; tokens and paths are not among them."""
    values = args.to_dict()
    recipe = {name: values[name] for name in _SETTINGS if values.get(name) is not None}
    recipe["batch_size"] = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return recipe


# Auto class → the Hub's name of its task.
_TASKS = {task.auto_class: task.name for task in TASKS.values()}
_TASKS["AutoModelForTokenClassification"] = "token-classification"


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Class, the class that loads it (an Auto class, where it has one), task, size and origin of a model."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    auto_class = loader_of(model)
    return {
        "class": type(model).__name__,
        "auto_class": auto_class,
        "task": _TASKS.get(auto_class),
        "id": portable_name(name),
        "local": os.path.exists(name),
        "license": base_license(name),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({"adapter": model.active_peft_config.peft_type.value} if is_adapted(model) else {}),
    }


def base_license(name: str) -> str | None:
    """Licence of a model's folder or repository, as its README states it; None if it cannot be learnt."""
    from huggingface_hub import ModelCard

    if not name:
        return None
    try:
        path = os.path.join(name, "README.md")
        card = ModelCard.load(path if os.path.isdir(name) else name)
    except Exception:  # no README, no network, no metadata: whatever stands in the way, the card then says nothing
        return None
    return card.data.get("license")


def portable_name(name: str) -> str:
    """A Hub id as it is; of a local path only the last part, which says nothing about the machine."""
    return os.path.basename(os.path.abspath(name)) if name and os.path.exists(name) else name


def describe_dataset(dataset) -> dict[str, Any]:
    """Size and, for a ``datasets.Dataset``, columns and a fingerprint of evenly spread raw rows."""
    import datasets

    described: dict[str, Any] = {"examples": len(dataset)}
    if isinstance(dataset, datasets.Dataset):
        described["columns"] = dataset.column_names
        rows = np.unique(np.linspace(0, len(dataset) - 1, num=min(64, len(dataset))).astype(int))
        table = dataset.with_format("arrow").select(rows)[:]
        digest = hashlib.sha256()
        for column in table.columns:
            digest.update(repr(column.to_pylist()).encode())
        described["fingerprint"] = digest.hexdigest()[:16]
    return described


def versions() -> dict[str, str]:
    """Versions of the libraries that made the run."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
