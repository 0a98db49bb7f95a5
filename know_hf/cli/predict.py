"""``know-hf predict``: from a finished run, or from checkpoints that are there already."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from know_hf.cli.options import PROGRAM
from know_hf.cli.recipe import Call
from know_hf.cli.surroundings import quiet, save_recipe
from know_hf.settings import check_names, conform, read_recipe

# What only checkpoints have, as a run's own record says it.
_OF_CHECKPOINTS = ("sampling_ratio", "examples", "trust_remote_code")


def run_predict(call: Call) -> None:
    """Predict enriched checkpoints from a finished trajectory, or from checkpoints of your own."""
    settings = _settings(call)
    given: Sequence[str] = settings.pop("checkpoints")
    about = {name: settings.pop(name) for name in _OF_CHECKPOINTS if name in settings}
    run = len(given) == 1
    _check_inputs(given, about, settings)
    from know_hf.store import check_output, inside, write_text

    if settings.get("output_dir") is not None:  # before checkpoints are fetched
        check_output(settings["output_dir"])
    quiet()
    from know_hf.enrichment.stream import enrich
    from know_hf.report import change_rows, table
    from know_hf.trajectory import Trajectory

    trajectory = given[0] if run else Trajectory.from_checkpoints(given, **about)
    result = enrich(trajectory, **settings)
    if int(os.environ.get("RANK", 0)) == 0:
        changes = change_rows(result.statistics)
        text = table(changes) if changes else "No tensor was predicted: all are copies."
        write_text(inside(result.output_dir, "report") / "retrodiction.md", f"# Retrodiction methods\n\n{text}\n")
        if not run:
            save_recipe({"checkpoints": list(given), **about, **settings}, result.output_dir)
        print(text)
        for name, folder in result.checkpoints.items():
            print(f"{name}: {folder}")


def _settings(call: Call) -> dict[str, Any]:
    """What was given, a recipe's settings where a flag says nothing."""
    settings = call.settings()
    (first, *more) = settings["checkpoints"]
    if more or Path(first).suffix.lower() not in (".yaml", ".yml"):
        return settings
    recipe = {name: value for name, value in read_recipe(Path(first)).items() if value is not None}
    check_names(recipe, call.options, first)
    recipe = conform(recipe, call.options, first)
    named = recipe.get("checkpoints")
    if not named:
        raise ValueError(f"{first} names no checkpoints: a list of folders or Hub ids, the one of most data first.")
    return {**recipe, **settings, "checkpoints": [named] if isinstance(named, str) else named}


def _check_inputs(given: Sequence[str], about: dict[str, Any], settings: dict[str, Any]) -> None:
    if len(given) > 1:
        if settings.get("output_dir") is None:
            raise ValueError("missing --output-dir: checkpoints have no folder of a run to write into.")
        return
    if (Path(given[0]) / "trajectory.json").exists():
        if about:
            raise ValueError(f"--{min(about).replace('_', '-')} is of checkpoints; the record of {given[0]} says it.")
    elif any((Path(given[0]) / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ValueError(
            f"{given[0]} is one checkpoint; a prediction needs at least two, the one trained on most data first: "
            f"{PROGRAM} predict CHECKPOINT0 CHECKPOINT1 … --output-dir OUT."
        )
