"""READMEs on the Hub: with the address that they are found at, and never over what somebody else wrote."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from know_hf.checkpoints.checkpoint import WEIGHT_FILES
from know_hf.hub.cards import plain_predictor_card
from know_hf.store import write_text

if TYPE_CHECKING:
    from know_hf.known import KnownPredictor

_WITHOUT_US = (
    "Where know-hf is not installed, transformers alone loads it with the code in this repository:\n"
    '`AutoModel.from_pretrained("path/or/hub-id", trust_remote_code=True)`.\n'
)


def _signed(text: str) -> str:
    """A card that tells later pushes whether it was edited since: with the hash of its text in a comment."""
    return f"{text.rstrip()}\n\n<!-- know-hf {hashlib.sha256(text.strip().encode()).hexdigest()[:16]} -->\n"


def untouched(text: str) -> bool:
    """Whether a README is a card as we pushed it, or the empty one that the Hub begins with."""
    body, _, rest = text.rpartition("<!-- know-hf ")
    return len(text.strip()) < 60 or (bool(rest) and _signed(body.rstrip()) == text.rstrip() + "\n")


def addressed(card: str, repo_id: str, revision: str, steps: list[str], main: str = "") -> str:
    """A card whose code loads from the Hub, and which names the other steps."""
    where = f'"{repo_id}"' if revision == "main" else f'"{repo_id}", revision="{revision}"'
    card = card.replace('"path/to/this/folder"', where).replace('"path/or/hub-id"', f'"{repo_id}"')
    names = ", ".join(f"`{step}`" for step in steps)
    said = (
        f"The steps of this run are revisions of this repository: {names}; `main` is `{main or steps[0]}`.\n\n"
        if steps
        else ""
    )
    return _signed(card.replace("## How it was made\n", f"{said}## How it was made\n", 1))


def add_predictor_card(predictor: "KnownPredictor", folder: Path) -> None:
    """Puts the card of a predictor, and the record of its training, beside its saved weights.

    Args:
        predictor: A [`KnownPredictor`]. The card of the folder that it was loaded from is taken if its weights are
            still the same; other weights get one that claims nothing.
        folder: Where it was just saved.
    """
    source = Path(predictor.name_or_path or "")
    weights = (source / WEIGHT_FILES[0], folder / WEIGHT_FILES[0])
    if predictor.name_or_path and all(path.is_file() for path in weights):
        old, new = map(load_file, weights)
        if old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old):
            for name in ("README.md", "meta_training.json"):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else plain_predictor_card(predictor.config)
    loading = 'KnownPredictor.from_pretrained("path/or/hub-id")'
    text = re.sub(r"KnownPredictor\.default\(\d*\)", lambda _: loading, text)
    if "trust_remote_code" not in text:
        text = re.sub(r"(```python\n.*?\n```\n)", lambda found: f"{found[1]}\n{_WITHOUT_US}", text, count=1, flags=re.S)
    write_text(card, text)
