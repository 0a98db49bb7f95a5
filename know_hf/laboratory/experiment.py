"""Runs a recipe from nothing to its report: pre-training, forgetting, controls, retrodiction, fine-tuning."""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from know_hf.laboratory.bench import Bench
from know_hf.laboratory.checks import check_inputs, check_names
from know_hf.laboratory.comparison import COMPARISON_FOLDERS
from know_hf.laboratory.fine_tuning import FineTuning
from know_hf.laboratory.outcome import ExperimentResult, as_begun, read_recipe_record, read_wall, setting_folder
from know_hf.laboratory.recipe import Recipe
from know_hf.store import check_output, inside, locked, write_json
from know_hf.training.workers import Workers
from know_hf.trajectory import TrajectoryError
from know_hf.trajectory.identity import versions


def run_experiment(
    recipe: Recipe, output_dir: str | Path, *, predictors: Mapping[str, str | Path] | None = None
) -> ExperimentResult:
    """Runs everything that a recipe asks for and is not done yet.

    Args:
        recipe: From [`load_recipe`].
        output_dir: Folder for everything; killed and called again with the same recipe, the run continues.
        predictors: Further predictors: name for their arms → folder or Hub id.

    Returns:
        What came out; ``know_hf.report`` renders it.

    Raises:
        FileExistsError: If the folder is, or lies in, an input.
        FileNotFoundError: If data, a model or a predictor cannot be found.
        TrajectoryError: If the folder holds another experiment.
        ValueError: If the recipe does not fit its data, or a folder of the experiment is a link.

    Source: paper section 5; pairing and controls are ours.

    Example:
        >>> from know_hf.laboratory.experiment import run_experiment
        >>> from know_hf.laboratory.recipe import load_recipe
        >>> run_experiment(load_recipe("examples/recipes/table1.yaml", "cpu"), "runs/table1")  # doctest: +SKIP
    """
    output_dir = Path(output_dir)
    recipe = as_begun(recipe, output_dir / "recipe.json")
    given = [setting.pretraining.model for setting in recipe.runs]
    data = [part.dataset for s in recipe.runs for part in (s.pretraining, s.transfer) if part is not None]
    named = [*given, *(predictors or {}).values(), *map(recipe.data, data)]
    check_output(output_dir, *(source for source in named if isinstance(source, (str, Path))))
    _check_folders(output_dir, recipe)
    with ExitStack() as running:
        running.enter_context(locked(output_dir))
        _same_recipe(output_dir / "recipe.json", recipe)
        for setting in recipe.runs:  # all of them, before anything is loaded
            check_names(recipe, setting, predictors or {})
            check_inputs(recipe, setting)
        benches = [Bench(recipe, setting, output_dir, predictors or {}) for setting in recipe.runs]
        for bench in benches:  # all of them, before the first is prepared
            bench.check()
        running.enter_context(_Clock(output_dir / "wall.json"))
        workers = running.enter_context(Workers(recipe.processes))
        _note_recipe(output_dir / "recipe.json", recipe)
        for bench in benches:
            bench.prepare()
        pretrained = {run.folder: run for bench in benches for run in bench.runs.values()}
        workers.run(list(pretrained.values()), "Pre-training and forgetting")
        for bench in benches:
            bench.make_arms()
        refitted = [run for bench in benches for run in bench.refits().values()]
        workers.run(refitted, "Fine-tuning on the data of Θ⁰")
        workers.run([job for bench in benches for job in bench.tunings("grid")], "Fine-tuning")
        workers.run([job for bench in benches for job in bench.tunings("rest")], "Fine-tuning the rest")
        _run_cells([bench for bench in benches if bench.cells], workers)
        for bench in benches:
            bench.finish()
    return ExperimentResult.load(output_dir)


def _run_cells(benches: list[Bench], workers: Workers) -> None:
    """Fine-tunes cells, seed by seed over all pre-trainings: whatever cuts it short leaves pairs to report on."""
    for bench in benches:
        bench.note()
    jobs: list[FineTuning] = [job for bench in benches for job in bench.tunings("cells")]
    jobs.sort(key=lambda job: job.seed)
    workers.run(jobs, "Fine-tuning the cells", in_order=True)


def _check_folders(root: Path, recipe: Recipe) -> None:
    """Raises if a folder of the experiment that is written to is a link, before anything is made."""
    settings = [setting_folder(Path(), setting) for setting in recipe.runs]
    parts = [folder / part for folder in settings for part in ("arms", "refits", "retrodicted", *COMPARISON_FOLDERS)]
    for part in (Path("cache"), Path("pretraining"), *parts):
        inside(root, part)
    for pattern in (
        "pretraining/*",
        "pretraining/*/*",
        "settings/*/arms/*",
        "settings/*/refits/*",
        "settings/*/retrodicted/*",
    ):
        for path in root.glob(pattern):
            inside(root, path.relative_to(root))


def _same_recipe(path: Path, recipe: Recipe) -> None:
    if not path.exists():
        return
    # Read as a recipe, so that records of former versions have what was added since.
    found, asked = asdict(read_recipe_record(path)), asdict(recipe)
    different = [
        name for name in ("name", "size", "settings", "processes") if json.dumps(found[name]) != json.dumps(asked[name])
    ]
    if different:
        raise TrajectoryError(
            f"{path.parent} holds another experiment (different {', '.join(different)}); choose another output_dir."
        )


def _note_recipe(path: Path, recipe: Recipe) -> None:
    """Takes the folder for this experiment, once it is known to be sound."""
    if not path.exists():
        write_json(path, {"recipe": asdict(recipe), "versions": versions()})


class _Clock:
    """Adds the seconds of its block to a file, every few seconds, so that a killed run leaves them too."""

    def __init__(self, path: Path) -> None:
        self.path, self.stopped = path, threading.Event()
        self.before = read_wall(path) if path.exists() else 0.0
        self.thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> None:
        self.begun = time.perf_counter()
        self.thread.start()

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        with suppress(*([OSError] if error else [])):  # what ended the run is what has to be said
            self._write()

    def _tick(self) -> None:
        while not self.stopped.wait(5.0):
            with suppress(OSError):  # of a full disk others speak, whose files count
                self._write()

    def _write(self) -> None:
        seconds = self.before + time.perf_counter() - self.begun
        write_json(self.path, {"seconds": seconds}, indent=None)
