"""Whether every arm of a comparison can be fine-tuned at all, seen before the first is."""

from collections.abc import Mapping
from pathlib import Path

import torch

from know_hf.model_config import brief
from know_hf.models.building import load_with_new_head
from know_hf.store import hash_file
from know_hf.tasks import Columns
from know_hf.training.prepared import open_examples

_DESCRIBED = ("config.json", "adapter_config.json")


def look_at_arms(
    folders: Mapping[str, Path], prepared: Mapping[str, Mapping[str, Path]], columns: Columns, new_head: bool = True
) -> None:
    """Loads every kind of arm with its head, and lets it do two examples, without gradients.

    Args:
        folders: Name → checkpoint. Of those with the same configuration and data the first stands for all.
        prepared: Arm → part → file of the prepared data.
        columns: Task and classes.
        new_head: Whether heads are made anew.

    Raises:
        ValueError: If one cannot be loaded for the task, or fails at the examples; the message names it.
    """
    seen = set()
    for name, folder in folders.items():
        files = (Path(folder) / file for file in _DESCRIBED)
        kind = (*(hash_file(path) for path in files if path.is_file()), str(prepared[name]["train"]))
        if kind in seen:
            continue
        seen.add(kind)
        examples = open_examples(prepared[name]["train"])
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                model = load_with_new_head(folder, columns, 0, new_head).cpu().eval()
                model(**examples.__getitems__(list(range(min(2, len(examples))))))
        except ImportError:
            raise
        except Exception as error:  # every model's own code may raise here
            raise ValueError(
                f"Arm {name!r} ({folder}) cannot be fine-tuned for {columns.task} on these data: {brief(error)} "
                "Leave it out, or save a model there that can; nothing has been fine-tuned."
            ) from error
