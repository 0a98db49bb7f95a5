"""Which class a model is of: built without memory for weights from what a folder says, and named for its loaders."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import meta_device_safe_creation_ops
from transformers.models import auto

from know_hf.model_config import ADAPTER_FILE, brief, read_config
from know_hf.models import adapters, own  # noqa: F401 (own registers)
from know_hf.remote import bounded
from know_hf.tasks import TASKS

# The Auto class that says least about a model, where several load it.
_LAST = "AutoModelForPreTraining"


@bounded()
def skeleton(folder: str | Path, trust_remote_code: bool = False, auto_class: str = "") -> nn.Module:
    """Builds the model that a folder's configuration names, on the meta device.

    Args:
        folder: Folder or Hub id of a transformers or timm model or of a PEFT adapter.
        trust_remote_code: Whether the folder's own code may run.
        auto_class: Auto class whose head to build, where it has one for such a model; otherwise the class that the
            weights were saved from.

    Returns:
        The model; no memory is taken for its weights.

    Raises:
        ImportError: If it is an adapter and peft is not installed, or a timm model and timm is not.
        ValueError: If transformers cannot build it.

    Example:
        >>> from know_hf.models.skeleton import skeleton
        >>> type(skeleton("path/to/gpt2")).__name__  # doctest: +SKIP
        'GPT2LMHeadModel'
    """
    if (Path(folder) / ADAPTER_FILE).exists():
        return adapters.skeleton(Path(folder), lambda base, head: skeleton(base, trust_remote_code, head))
    try:
        config = read_config(folder, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(f"{folder} is not a model that transformers knows: {brief(error)}") from error
    name = _architecture(config)
    try:
        with torch.device("meta"), meta_device_safe_creation_ops():
            model_class = _class_named(config, name)
            chosen = auto_class and _has_class_for(config, auto_class, trust_remote_code)
            if model_class is not None and not chosen and not (trust_remote_code and getattr(config, "auto_map", None)):
                return model_class(config)
            builder = getattr(auto, auto_class if chosen else _auto_class_for(config, name))
            return builder.from_config(config, trust_remote_code=trust_remote_code)
    except ImportError:
        raise
    except Exception as error:  # every model's own code may raise here
        raise ValueError(f"{folder}: {name or 'it'} cannot be built of its config.json: {brief(error)}") from error


def loader_of(model: nn.Module) -> str | None:
    """Names the class that loads a model with its head: its Auto class, or its own where it has none.

    Args:
        model: A live model.

    Returns:
        A name in ``transformers`` (of a PEFT model, ``AutoModel…`` for ``AutoPeftModel…``); None for classes of
        other packages.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from know_hf.models.skeleton import loader_of
        >>> loader_of(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2)))
        'AutoModelForCausalLM'
    """
    # A sharded model's class was changed beneath it.
    name = next(c.__name__ for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))
    if adapters.is_adapted(model):
        return f"AutoModel{name.removeprefix('PeftModel')}"
    config = getattr(model, "config", None)
    return loader_named(config, name, type(model)) if isinstance(config, PreTrainedConfig) else None


def loader_named(config: PreTrainedConfig, name: str, live: type | None = None) -> str | None:
    """Names the class that loads a model of a configuration saved from the class ``name``; as [`loader_of`]."""
    for loader, reference in _remote_classes(config).items():
        if reference.rpartition(".")[2] == name:
            return loader
    model_class = _class_named(config, name)
    if model_class is None or (live is not None and not issubclass(live, model_class)):
        return None
    first = [*(task.auto_class for task in TASKS.values()), "AutoModelForSeq2SeqLM", "AutoModel"]
    others = sorted(n for n in dir(auto) if n.startswith("AutoModelFor") and n not in (*first, _LAST))
    return next((loader for loader in [*first, *others, _LAST] if model_class in _classes(config, loader)), name)


def loader_in(folder: str | Path) -> dict[str, Any]:
    """What a folder's own configuration says about its class, for the record: as far as it can be learnt."""
    try:
        config = read_config(folder)
    except Exception:  # no configuration, or one of a stranger: there is nothing to say then
        return {}
    name = _architecture(config)
    return {"class": name, "auto_class": loader_named(config, name)} if name else {}


def _architecture(config: PreTrainedConfig) -> str:
    """Name of the class that the weights were saved from, or nothing."""
    names = config.architectures
    return names[0] if isinstance(names, (list, tuple)) and names and isinstance(names[0], str) else ""


def _class_named(config: PreTrainedConfig, name: str) -> Any:
    """The model class of that name in transformers or registered with it, if it is one for such a configuration."""
    model_class: Any = getattr(transformers, name, None) if name.isidentifier() else None
    if model_class is None:
        registered = [found for task in TASKS.values() for found in _classes(config, task.auto_class)]
        return next((found for found in registered if found.__name__ == name), None)
    is_model = isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)
    return model_class if is_model and isinstance(config, model_class.config_class or ()) else None


def _remote_classes(config: PreTrainedConfig) -> dict[str, str]:
    """Auto class → class in the code that a model brings along."""
    named = getattr(config, "auto_map", None)
    named = named if isinstance(named, dict) else {}
    return {n: r for n, r in named.items() if n.startswith("AutoModel") and hasattr(auto, n) and isinstance(r, str)}


def _classes(config: PreTrainedConfig, auto_class: str) -> tuple[type, ...]:
    mapping = getattr(auto, auto_class)._model_mapping
    classes = mapping[type(config)] if type(config) in mapping else ()
    return classes if isinstance(classes, tuple) else (classes,)


def _has_class_for(config: PreTrainedConfig, auto_class: str, trust_remote_code: bool) -> bool:
    return bool(_classes(config, auto_class)) or (trust_remote_code and auto_class in _remote_classes(config))


def _auto_class_for(config: PreTrainedConfig, name: str) -> str:
    """The Auto class for a class that transformers does not have under its name."""
    remote = _remote_classes(config)
    exact = [loader for loader, reference in remote.items() if reference.rpartition(".")[2] == name]
    head = name.partition("For")[2]
    wanted = [*exact, f"AutoModelFor{head}"] if head else exact
    if config.model_type == "timm_wrapper":
        wanted.append("AutoModelForImageClassification")
    return next((loader for loader in [*wanted, *remote] if hasattr(auto, loader)), "AutoModel")
