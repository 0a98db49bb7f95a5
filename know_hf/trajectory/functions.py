"""Functions that people pass: whether one is what it was, as far as its own code tells."""

import hashlib
from functools import partial
from types import CellType, CodeType
from typing import Any

from transformers import Trainer


def fingerprint(compute: Any) -> str | None:
    """Tells whether a function was changed, where its own code says so."""
    if compute is None:
        return None
    return hashlib.sha256(repr(_content(compute)).encode()).hexdigest()[:16]


def _content(found: Any, depth: int = 4) -> Any:
    """What a function does, wherever its file lies: its code, and the plain values that it was made with."""
    if isinstance(found, str | int | float | bool | bytes | None):
        return found
    if depth == 0:
        return type(found).__qualname__
    if isinstance(found, tuple | list):
        return [_content(one, depth) for one in found]
    if isinstance(found, CodeType):
        return [found.co_code.hex(), found.co_names, [_content(one) for one in found.co_consts]]
    if isinstance(found, partial):
        return [_content(one, depth - 1) for one in (found.func, found.args, sorted(found.keywords.items()))]
    own = [getattr(found, "__module__", ""), getattr(found, "__qualname__", type(found).__qualname__)]
    code = getattr(found, "__code__", getattr(type(found).__call__, "__code__", None))
    cells = [cell.cell_contents for cell in getattr(found, "__closure__", None) or () if cell != CellType()]
    return [
        own,
        _content(code, depth),
        *(_content(one, depth - 1) for one in (*cells, getattr(found, "__defaults__", None) or ())),
    ]


def describe_loss(trainer: Trainer) -> dict[str, Any]:
    """What determines the loss of a trainer beside the model and the data, as plain data."""
    args, own = trainer.args, type(trainer).compute_loss
    return {
        "function": fingerprint(trainer.compute_loss_func),
        # Trainer's own is another in other versions of it, and the same loss.
        "method": None if own is Trainer.compute_loss else fingerprint(own),
        "label_smoothing_factor": args.label_smoothing_factor,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
    }
