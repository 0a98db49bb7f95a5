"""What an experiment was begun with: its data and model as they were, so that others are noticed and not mixed in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from know_hf.laboratory.depending import depends_on
from know_hf.model_config import CONFIG_FILE
from know_hf.records import TrajectoryError, read_record
from know_hf.store import hash_file, write_json
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.identity import as_told, describe_dataset

_REMEDY = "choose another output_dir"


def begun_with(path: Path, model: str | None, data: Mapping[str, Any]) -> None:
    """Notes what a setting is begun with, or raises if it was begun with something else.

    Args:
        path: The file of the record; what a former version began has none, and is noted as it is now.
        model: Folder or Hub id of the network that is trained on, loaded once; None for one that is trained from new.
        data: Part → data.

    Raises:
        TrajectoryError: If data or model are others than those that are recorded.

    Example:
        >>> from pathlib import Path
        >>> from know_hf.laboratory.inputs import begun_with
        >>> begun_with(Path("out/settings/all/inputs.json"), None, {"train": train})  # doctest: +SKIP
    """
    found = {"model": _weights(model), **{part: describe_dataset(rows) for part, rows in data.items()}}
    if not path.exists():
        write_json(path, {"inputs": found})
        return
    recorded = read_record(path, {"inputs": dict}, _REMEDY)["inputs"]
    now = as_told(recorded, found)
    changed = [name for name in found if name in recorded and recorded[name] is not None is not now[name]]
    changed = [name if name == "model" else f"{name} data" for name in changed if recorded[name] != now[name]]
    if changed:
        raise TrajectoryError(
            f"{path.parent} was begun with another {' and '.join(changed)} than there is now: what it holds and what "
            f"would be added are of different things. {_REMEDY.capitalize()}, or put back what was there."
        )


def _weights(model: str | None) -> str | list[str] | None:
    """Hashes of a folder's files, or the commit of a model on the Hub; None where there is no telling."""
    if model is None:
        return None
    if (folder := Path(model)).is_dir():
        files = [hash_file(path) for path in Checkpoint(folder).files]
        return [*files, *depends_on({"model": folder}).beside.values()]
    cached = try_to_load_from_cache(model, CONFIG_FILE)
    return Path(cached).parent.name if isinstance(cached, str) else None
