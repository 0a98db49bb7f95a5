"""What tensors are called: on the live module, in the files that transformers writes, and in older ones."""

import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from know_hf.models.adapters import adapter_names, is_adapted, is_pretrained
from know_hf.models.wrapping import inner_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Ends of names that transformers renames in whatever it loads: weight normalisation before torch's parametrisations,
# layer normalisation before PyTorch had its own.
_MODERN = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
}


def match_names(known: Collection[str], stored: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Finds which known name a stored tensor has, as ``from_pretrained`` does.

    A file of a bare model has names without the prefix that they have in a model with a head, and the other way round;
    wrappers add one of their own. Where several prefixes would do, nothing is guessed.

    Args:
        known: Names on a live module.
        stored: Names in a checkpoint.
        prefix: The prefix of the module's bare model (``base_model_prefix``); another is tried only if no name fits.

    Returns:
        Stored name → known name, for those that match.

    Example:
        >>> from know_hf.trajectory.names import match_names
        >>> match_names(["bert.pooler.weight", "head.weight"], ["pooler.weight"], "bert")
        {'pooler.weight': 'bert.pooler.weight'}
    """
    stored = list(stored)
    modern = {_modern(name): name for name in known}
    matches = {name: name if name in known else modern[_modern(name)] for name in stored if _modern(name) in modern}
    left = {_modern(name): name for name in stored if name not in matches}
    for name in matches.values():
        modern.pop(_modern(name), None)
    ways: dict[tuple[str, bool], dict[str, str]] = {}  # prefix and whether the file has it → stored name → known name
    for name, original in left.items():
        first, _, inner = name.partition(".")
        if inner in modern:
            ways.setdefault((first, True), {})[original] = modern[inner]
    for name, original in modern.items():
        first, _, inner = name.partition(".")
        if inner in left:
            ways.setdefault((first, False), {})[left[inner]] = original
    usual = {way: names for way, names in ways.items() if way[0] == prefix}
    ways = usual or ({} if matches else ways)
    return matches | next(iter(ways.values())) if len(ways) == 1 else matches


def _modern(name: str) -> str:
    for old, new in _MODERN.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def stored_names(model: nn.Module) -> dict[str, str]:
    """Finds the names that a model's checkpoints have for its tensors.

    transformers saves many models as they were first published, under names (and sometimes in pieces) that the live
    module no longer has.

    Args:
        model: A live module, on any device including ``meta``.

    Returns:
        Name in a checkpoint → name on the live module. Several names may lead to one tensor that is saved in pieces.

    Example:
        >>> from torch import nn
        >>> from know_hf.trajectory.names import stored_names
        >>> stored_names(nn.Linear(2, 3))
        {'weight': 'weight', 'bias': 'bias'}
    """
    live = {name: torch.empty_like(tensor, device="meta") for name, tensor in model.state_dict().items()}
    if is_adapted(model):
        return adapter_names(model, live)
    found = {name: name for name in live}
    if (held := inner_model(model)) is not None:
        prefix, inner = held
        others = {name: name for name in live if not name.startswith(prefix)}
        return others | {name: f"{prefix}{own}" for name, own in stored_names(inner).items()}
    if not is_pretrained(model):
        return found
    owners = {id(tensor): name for name, tensor in live.items()}
    saved = {name: owners.get(id(tensor)) for name, tensor in as_saved(model, live).items()}
    renamed = {name: owner for name, owner in saved.items() if owner is not None}
    # What is put together or taken apart on the way to the file is no longer the same tensor: ask one by one.
    for name in live.keys() - renamed.values():
        renamed |= {part: name for part in as_saved(model, {name: live[name]})}
    return renamed


def stored_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Finds the shapes of what a model's checkpoints hold as it is on the live module.

    Args:
        model: A live module, on any device including ``meta``.

    Returns:
        Name in a checkpoint, or on the live module, → shape. What is saved in pieces, put together or otherwise
        converted is not among them, nor is what the module holds packed (quantized) or elsewhere.
    """
    state = model.state_dict()
    live = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    if is_adapted(model):
        whole = adapter_names(model, live)
    elif inner_model(model) is not None:
        whole = stored_names(model)
    else:
        owners = {id(tensor): name for name, tensor in live.items()}
        saved = as_saved(model, live) if is_pretrained(model) else live
        whole = {name: owners[id(tensor)] for name, tensor in saved.items() if id(tensor) in owners}
        whole |= {name: name for name in whole.values()}
    shapes = {name: tuple(t.shape) for name, t in state.items() if t.is_floating_point() and t.numel()}
    return {name: shapes[owner] for name, owner in whole.items() if owner in shapes}


def as_saved(model: "PreTrainedModel", state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gives a state the names and pieces that it has in checkpoints; what only gets another name stays the object."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # a transformers that saves live names
        return state
    try:
        return revert_weight_conversion(model, state)
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        # Pieces that make sense only together; under their live names they are at worst reported as not known.
        logger.debug("%s does not convert alone: %s", ", ".join(list(state)[:3]), error)
        return state
