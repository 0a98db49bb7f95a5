"""Whole weights out of a live model and into it, whether each process holds all of them or a shard."""

import gc
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from know_hf.adapters import is_adapted, load_adapter_weights
from know_hf.trajectory import Checkpoint


def is_sharded(model: nn.Module) -> bool:
    """Whether a process holds a part of the parameters only (FSDP2 and what else is made of ``DTensor``)."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def complete_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Gathers the weights of a sharded model on the CPU of the main process; every process has to call it.

    Returns:
        Name → whole tensor on the main process, nothing elsewhere.
    """
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter whose part on this process holds NaN or infinite values."""
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not torch.isfinite(local).all():
            return name
    return None


def save_stage(trainer, folder: Path) -> None:
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


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Puts the weights and buffers of a checkpoint folder into a live model.

    Args:
        model: A model of the same class; changed in place, on its device. If it is sharded, every process has to call.
        folder: A plain checkpoint folder.

    Raises:
        RuntimeError: If the checkpoint does not fit the model.

    Source: ours.
    """
    if is_adapted(model):
        load_adapter_weights(model, Checkpoint(folder).weight_file)
        return
    if isinstance(model, PreTrainedModel):
        # A sharded model's class was changed beneath it; the one that it was made from loads.
        plain = next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))
        weights = plain.from_pretrained(folder, config=model.config, dtype=model.dtype).state_dict()
    elif is_sharded(model):
        from safetensors.torch import load_file

        weights = load_file(Checkpoint(folder).weight_file)
    else:
        from safetensors.torch import load_model

        load_model(model, Checkpoint(folder).weight_file)
        return
    if is_sharded(model):
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(weights)
    del weights
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
