"""Whole weights out of a live model and into it, whether each process holds all of them or a shard."""

import copy
import gc
import re
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer

from know_hf.checkpoints.checkpoint import DTYPES, PREDICTABLE
from know_hf.models.adapters import is_adapted, load_adapter_weights
from know_hf.models.wrapping import inner_model, load_further_modules
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.names import as_saved


def is_sharded(model: nn.Module) -> bool:
    """Whether a process holds a part of the parameters only (FSDP2 and what else is made of ``DTensor``)."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def complete_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Gathers the weights of a sharded model on the CPU of the main process; every process has to call it.

    Returns:
        Name → whole tensor on the main process, nothing elsewhere.
    """
    state: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return state


def not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter whose part on this process holds NaN or infinite values."""
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not torch.isfinite(local).all():
            return name
    return None


def save_stage(trainer: Trainer, folder: Path) -> None:
    """Saves a trainer's model as a complete plain folder; every process has to call it.

    Trainer itself saves nothing under FSDP with sharded state.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not (getattr(trainer, "is_fsdp_enabled", False) or is_sharded(model)) or not isinstance(model, PreTrainedModel):
        trainer.save_model(str(folder))
        return
    if trainer.is_fsdp_enabled:
        weights = trainer.accelerator.get_state_dict(trainer.model)
    else:
        weights = complete_state_dict(model)
    if trainer.is_world_process_zero():
        model.save_pretrained(folder, state_dict=weights)
        if trainer.processing_class is not None:
            trainer.processing_class.save_pretrained(folder)


def plain_model(model: nn.Module) -> nn.Module:
    """Takes off what ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel`` put around a model.

    Their prefixes (``_orig_mod.``, ``module.``) would get into names of tensors, which no ``from_pretrained`` knows.

    Raises:
        ValueError: If only a part of the model is wrapped.
    """
    while True:
        inner = extract_model_from_parallel(model, keep_torch_compile=False)
        if inner is model:
            break
        model = inner
    wrapped = (OptimizedModule, nn.DataParallel, nn.parallel.DistributedDataParallel)
    if part := next((name for name, module in model.named_modules() if isinstance(module, wrapped)), None):
        raise ValueError(
            f"The model's part {part!r} is wrapped by torch.compile or for parallel training, which changes the names "
            "of its tensors: pass the model without, and torch_compile=True in the training arguments to compile it."
        )
    return model


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Puts the weights and buffers of a checkpoint folder into a live model.

    Every tensor keeps the live tensor's type; what is stored in that type arrives bit by bit.

    Args:
        model: A model of the same class; changed in place, on its device. If it is sharded, every process has to call.
        folder: A plain checkpoint folder.

    Raises:
        RuntimeError: If the checkpoint does not fit the model.
    """
    model, checkpoint = plain_model(model), Checkpoint(folder)
    if is_adapted(model):
        load_adapter_weights(model, checkpoint.weight_file)
        return
    if (held := inner_model(model)) is not None:
        load_weights(held[1], folder)
        others = {name for name in model.state_dict() if not name.startswith(held[0])}
        _check(folder, others - load_further_modules(model, Path(folder)), "has no value there")
        return
    live = model.state_dict()
    names = _live_names(model, live)
    if checkpoint.tensors.keys() <= names.keys():
        parts: Iterable[dict[str, Any]] = _read(checkpoint, names, live)
    else:  # names or pieces of which only the model's class knows what becomes of them
        parts = [_load_anew(model, checkpoint)]
    loaded: set[str] = set()
    for weights in parts:
        if is_sharded(model):
            set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
        else:
            _check(folder, model.load_state_dict(weights, strict=False).unexpected_keys, "is not part of it")
        loaded |= weights.keys()
    _check(folder, _expected(model, live.keys() - loaded), "has no value there")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check(folder: str | Path, names: Iterable[str], problem: str) -> None:
    if names := sorted(names):
        raise RuntimeError(f"{folder} does not fit the model: {names[0]} {problem}.")


def _expected(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """Those of the tensors that a file lacks which its model does not leave out on purpose."""
    left_out = getattr(model, "_keys_to_ignore_on_save", None) or []
    return [name for name in missing if not any(re.search(pattern, name) for pattern in left_out)]


def _live_names(model: nn.Module, live: dict[str, Tensor]) -> dict[str, list[str]]:
    """Name in a file → names on the module, for what is stored as it is, whatever it is called there."""
    aliases: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        aliases.setdefault(id(tensor), []).append(name)
    shared = {name: names for names in aliases.values() for name in names}
    stand_ins = {name: torch.empty_like(tensor, device="meta") for name, tensor in live.items()}
    owners = {id(tensor): name for name, tensor in stand_ins.items()}
    saved = as_saved(model, stand_ins) if isinstance(model, PreTrainedModel) else stand_ins
    return {name: shared[owners[id(tensor)]] for name, tensor in saved.items() if id(tensor) in owners}


def _read(checkpoint: Checkpoint, names: dict[str, list[str]], live: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yields the tensors of each file by live name, a shared one under all its names."""
    for file in checkpoint.files:
        weights = {name: tensor for stored, tensor in load_file(file).items() for name in names[stored]}
        misfits = [name for name, tensor in weights.items() if tensor.shape != live[name].shape]
        _check(file, misfits, "has another shape")
        yield weights


def _load_anew(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Lets the model's class read a folder, in a type that holds every stored value."""
    if not isinstance(model, PreTrainedModel):
        _check(checkpoint.folder, checkpoint.tensors.keys() - model.state_dict().keys(), "is not part of it")
    # A sharded model's class was changed beneath it; the one that it was made from loads.
    plain: Any = next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))
    stored = {DTYPES[spec.dtype] for spec in checkpoint.tensors.values() if spec.dtype in PREDICTABLE}
    loaded, info = plain.from_pretrained(
        checkpoint.folder, config=copy.deepcopy(model.config), output_loading_info=True,
        dtype=reduce(torch.promote_types, stored) if stored else model.dtype,
    )  # fmt: skip
    _check(checkpoint.folder, _expected(model, info["missing_keys"]), "has no value there")
    _check(checkpoint.folder, info["unexpected_keys"], "is not part of it")
    weights = loaded.state_dict()
    del loaded
    gc.collect()  # a model refers to itself
    return weights
