"""Models that are put around one of transformers and write it as its own class does, as sentence-transformers' are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from know_hf.models.adapters import is_pretrained
from know_hf.store import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Lists the modules of such a model: for each its name, and the folder that it lies in.
MODULES_FILE = "modules.json"
_WEIGHTS = "model.safetensors"


def inner_model(model: nn.Module) -> tuple[str, PreTrainedModel] | None:
    """Finds the model that another one holds and saves under the names that it has alone.

    Args:
        model: A live module.

    Returns:
        Its name on the module, with a dot at its end, and itself; None where nothing is put around a model, or the
        whole saves its tensors under the names that they have in it.

    Example:
        >>> from torch import nn
        >>> from know_hf.models.wrapping import inner_model
        >>> inner_model(nn.Linear(2, 2)) is None
        True
    """
    if is_pretrained(model) or not hasattr(model, "save_pretrained"):
        return None
    found: dict[str, PreTrainedModel] = {}
    for name, module in model.named_modules():
        if is_pretrained(module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    if len(found) != 1 or hasattr(model, "peft_config"):
        return None
    (name, inner), *_ = found.items()
    return f"{name}.", inner


def load_further_modules(model: nn.Module, folder: Path) -> set[str]:
    """Puts the weights of modules beside the inner model, which lie in sub-folders, into the live ones.

    Args:
        model: A model for which [`inner_model`] finds one; changed in place.
        folder: Its checkpoint.

    Returns:
        Names of the tensors that were loaded, on the whole model.

    Raises:
        RuntimeError: If they do not fit.
    """
    from safetensors.torch import load_file

    if not (folder / MODULES_FILE).is_file():
        return set()
    listed: Any = read_json(folder / MODULES_FILE)
    children, loaded = dict(model.named_children()), set()
    for entry in listed:
        path = folder / str(entry.get("path", "")) / _WEIGHTS
        if entry.get("path") and entry.get("name") in children and path.is_file():
            weights = load_file(path)
            children[entry["name"]].load_state_dict(weights)
            loaded |= {f"{entry['name']}.{name}" for name in weights}
    return loaded
