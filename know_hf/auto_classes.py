"""``AutoConfig`` and ``AutoModel`` know a predictor once know_hf is imported, which imports neither of them.

transformers has no place where packages say what they bring, and registering needs the very modules that are slow to
import. So it is done when somebody imports these for his own ends.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_CONFIGURATIONS, _MODELS = (f"transformers.models.auto.{name}_auto" for name in ("configuration", "modeling"))


def register_when_asked() -> None:
    """Registers the predictor's classes as soon as the Auto classes are there, which may be now."""
    waiting = {name: then for name, then in _STEPS.items() if name not in sys.modules}
    for name, then in _STEPS.items():
        if name not in waiting:
            then(sys.modules[name])
    if waiting and not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting(waiting))


def _configuration(module: ModuleType) -> None:
    kind: Any = import_module("know_hf.known.configuration_known")
    module.AutoConfig.register(kind.KnownConfig.model_type, kind.KnownConfig, exist_ok=True)


def _model(module: ModuleType) -> None:
    import_module("know_hf.known.registered")


_STEPS: dict[str, Callable[[ModuleType], None]] = {_CONFIGURATIONS: _configuration, _MODELS: _model}


class _Waiting(MetaPathFinder):
    """Finds the modules that are waited for as they would be found without, and has them do one thing more."""

    def __init__(self, steps: dict[str, Callable[[ModuleType], None]]) -> None:
        self._steps = steps

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._steps:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._steps.pop(fullname))
        return spec


class _Then(Loader):
    """A module's own loader, and a step when it has run."""

    def __init__(self, loader: Loader, step: Callable[[ModuleType], None]) -> None:
        self._loader, self._step = loader, step

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._step(module)
