"""Retrodiction: from a trajectory to the weights that more data would have given.

A method is a plain function of one tensor's stages, registered by [`method`]; every one of them can be imported from
here by its name. ``RETRODICTION.md`` beside this file describes them all.
"""

from importlib import import_module
from typing import Any

from know_hf.retrodiction.predict import check_method, check_parameters, retrodict
from know_hf.retrodiction.registry import METHODS, Method, PredictorFamily, get_method, method

# In the order in which methods are listed; a module registers its own in the order of its lines.
for _family in ("know", "curve_fits", "task_vectors", "merging", "controls", "subspace", "soups", "learned"):
    import_module(f"{__name__}.{_family}")
#: The package's methods of a forgetting that need neither weights of a user's own nor data.
ALL = [
    name
    for name, one in METHODS.items()
    if (one.predictor is None or one.predictor.bundled) and not (one.needs_data or one.branches)
]
#: The method that is taken where none is named.
DEFAULT = next(name for name, one in METHODS.items() if one.reference)
_OURS = dict(METHODS)

__all__ = [
    "ALL",
    "DEFAULT",
    "METHODS",
    "Method",
    "PredictorFamily",
    "check_method",
    "check_parameters",
    "get_method",
    "method",
    "retrodict",
]
__all__ += _OURS


def __getattr__(name: str) -> Any:
    if name in _OURS:
        return _OURS[name].function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
