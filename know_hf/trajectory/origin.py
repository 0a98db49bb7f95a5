"""Where a model comes from, as far as what lies with it says so: for the cards of what is made of it."""

import os
from pathlib import Path
from typing import Any

from know_hf.model_config import ADAPTER_FILE, CONFIG_FILE
from know_hf.store import read_json
from know_hf.text import hub_name


def base_license(name: str) -> str | None:
    """Licence of a model's folder or repository, as its README states it; None if it cannot be learnt."""
    return hub_name(_card_says(name, "license"))


def base_of(name: str) -> str | None:
    """The model on the Hub that a model was made of.

    Args:
        name: A folder; anything else is on the Hub itself, and needs no other name.

    Returns:
        The one base that its README, its adapter's settings or its configuration names, as it stands there; None if
        that cannot be learnt, is several, or is a folder of this or another machine.

    Example:
        >>> from know_hf.trajectory.origin import base_of
        >>> base_of("user/model") is None
        True
    """
    if not os.path.isdir(name):
        return None
    said = _card_says(name, "base_model")
    said = said[0] if isinstance(said, list) and len(said) == 1 else said
    named = [said, _setting(Path(name, ADAPTER_FILE), "base_model_name_or_path"),
             _setting(Path(name, CONFIG_FILE), "_name_or_path")]  # fmt: skip
    return next((base for base in named if isinstance(base, str) and _could_be_on_the_hub(base)), None)


def origin_in(folder: str | Path) -> dict[str, Any]:
    """What a record says of a folder that others trained: nothing, if no base is known."""
    base = base_of(str(folder))
    return {} if base is None else {"local": True, "base_model": base, "license": base_license(str(folder))}


def _could_be_on_the_hub(name: str) -> bool:
    user, slash, rest = name.partition("/")
    return bool(user and slash and rest) and "/" not in rest and user not in (".", "..") and not os.path.exists(name)


def _setting(path: Path, name: str) -> Any:
    try:
        return read_json(path).get(name)
    except Exception:  # no such file, or one that says nothing
        return None


def _card_says(name: str, what: str) -> Any:
    from huggingface_hub import ModelCard

    from know_hf.remote import bounded

    if not name:
        return None
    try:
        path = os.path.join(name, "README.md")
        with bounded():
            card = ModelCard.load(path if os.path.isdir(name) else name)
    except Exception:  # no README, no network, no metadata: whatever stands in the way, the card then says nothing
        return None
    return card.data.get(what)
