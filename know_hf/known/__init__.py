"""The hyper-model KNOWN. Its arithmetic needs torch alone; classes taken from here are registered as Auto ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from know_hf.known.configuration_known import KnownConfig
    from know_hf.known.modeling_known import KnownPredictor

__all__ = ["KnownConfig", "KnownPredictor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        registered = import_module(f"{__name__}.registered")
        globals().update({own: getattr(registered, own) for own in __all__})
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
