"""The configuration of a model that anyone may have written, read before anything is built or loaded by it."""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from know_hf.installing import missing
from know_hf.reading import LARGEST, shown
from know_hf.store import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_FILE = "config.json"
#: What a PEFT adapter's folder has in its place.
ADAPTER_FILE = "adapter_config.json"
#: More layers, and more classes, than any model has: they are made, or named, one by one.
MOST_LAYERS, MOST_CLASSES = 2000, 1_000_000
_LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks|stages)$")
_DEPTHS = {"depths", "layers", "num_layers", "blocks", "num_blocks"}  # how many layers each of several parts has
# Names of classes are no settings; depths in metres and longest texts count nothing that is built.
_NO_COUNTS = {"label2id", "id2label", "min_depth", "max_depth", "max_length", "model_max_length"}
_CLASSES = ("num_labels", "num_classes")
# An error of transformers may list every model that it knows.
_LONGEST = 300


def read_config(
    source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedConfig":
    """Reads the configuration of a model.

    Args:
        source: Folder or Hub id.
        revision: Revision on the Hub.
        trust_remote_code: Whether the repository's own code may run.

    Raises:
        ImportError: If it is one of timm, and timm is not installed.
        OSError: If there is none.
        ValueError: If it cannot be read, describes no model that transformers knows, or one that nothing could hold.
    """
    from transformers import AutoConfig, PreTrainedConfig

    file = Path(source) / CONFIG_FILE
    if file.is_file():
        check_config(read_json(file), str(file))
    elif (adapter := Path(source) / ADAPTER_FILE).is_file():
        raise ValueError(_adapter_words(source, adapter))
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if not os.path.isdir(source):
            check_config(PreTrainedConfig.get_config_dict(source, revision=revision)[0], str(source))
        config = AutoConfig.from_pretrained(source, **options)
    except (OSError, ImportError):
        raise
    except Exception as error:  # a configuration's fields have checks of their own
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise ValueError(f"{source} brings its own code; read it, then allow it (trust_remote_code).") from error
        raise ValueError(f"{source} is not a model that transformers knows: {brief(error)}") from error
    if config.model_type == "timm_wrapper":
        require_timm()
    return config


def require_timm() -> ModuleType:
    """The package timm, which only its own models need.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise missing("Models of timm need", "timm", "timm") from error
    return timm


def _adapter_words(source: str | Path, adapter: Path) -> str:
    described = read_json(adapter)
    base = described.get("base_model_name_or_path") if isinstance(described, dict) else None
    return (
        f"{source} is a PEFT adapter of {shown(base)}, no model by itself. In Python, put it on that model "
        "(PeftModel.from_pretrained(base, folder, is_trainable=True)) and pass the result as model; or merge the two "
        "(merge_and_unload), save that, and name its folder."
    )


def check_config(content: Any, where: str) -> None:
    """Raises ``ValueError`` for a configuration that no model has, and whose model could not even be begun."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold name: value pairs, found {shown(content)}.")
    for name, value in content.items():
        if name in _NO_COUNTS:
            continue
        parts = value if isinstance(value, list) else [value]
        if _LAYERS.search(name) and isinstance(value, list):  # a number for each of several layers
            limit, parts = MOST_LAYERS, [len(value), *(sum(n for n in value if _count(n)) for _ in _DEPTHS & {name})]
        else:
            limit = MOST_CLASSES if name in _CLASSES else MOST_LAYERS if _LAYERS.search(name) else LARGEST
        for one in parts:
            if _count(one) and abs(one) > limit:
                raise ValueError(f"{where}: {name[:80]} is {shown(value)}; no model has so many.")
            if isinstance(one, dict):
                check_config(one, where)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def brief(error: Exception) -> str:
    """The beginning of an error's text, or its type where it has none."""
    text = " ".join(str(error).split())
    named = text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__} {text}".strip()
    return named if len(named) <= _LONGEST else f"{named[:_LONGEST]} …"
