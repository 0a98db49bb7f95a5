"""Runs a recipe from nothing to its report: pre-training, forgetting, controls, retrodiction, fine-tuning."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from know_hf.data import check_part, load_split, open_parts
from know_hf.enrichment.methods import load_predictor, predictor_parameters
from know_hf.enrichment.stream import enrich
from know_hf.forgetting.recipe import versions
from know_hf.forgetting.subsets import subset_sizes
from know_hf.locking import locked
from know_hf.retrodiction import METHODS, check_method
from know_hf.tasks import get_task
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.plane import Plane, principal_plane
from know_hf.trajectory.record import write_atomically
from know_hf.transfer.landscape import Landscape, accuracy_landscape
from know_hf.transfer.metrics import load_metric
from know_hf.transfer.prepared import open_examples, prepare
from know_hf.transfer.pretraining import ForgettingRun, build_model, read_logs
from know_hf.transfer.recipe import Recipe, Setting
from know_hf.transfer.result import TransferResult
from know_hf.transfer.run import Comparison
from know_hf.transfer.workers import Workers


@dataclass(frozen=True)
class SettingResult:
    """What came out of one setting.

    Args:
        setting: The setting.
        folder: Its folder.
        trajectory: Θ^0 … as the methods read it.
        runs: ``forgetting`` and the trained controls → their folders.
        arms: Name → folder of every start.
        retrodicted: Method → folder of Θ^0 as retrodicted from the stages after it, where there is one stage more.
        seconds: Method → seconds for all its steps, reading and writing included.
        comparison: The fine-tunings, or None without a downstream task.
        landscape: Accuracy over the plane, or None.
    """

    setting: Setting
    folder: Path
    trajectory: Trajectory
    runs: dict[str, Path]
    arms: dict[str, Path]
    retrodicted: dict[str, Path]
    seconds: dict[str, float]
    comparison: TransferResult | None
    landscape: Landscape | None

    @classmethod
    def load(cls, setting: Setting, root: Path) -> "SettingResult":
        """Reads what a finished setting left."""
        folder = setting_folder(root, setting)
        found = json.loads((folder / "setting.json").read_text())
        paths = {part: {n: root / p for n, p in found[part].items()} for part in ("runs", "arms", "retrodicted")}
        drawn = folder / "landscape.json"
        return cls(
            setting=setting,
            folder=folder,
            trajectory=_stages(paths["runs"]["forgetting"], setting),
            seconds=found["seconds"],
            comparison=None if setting.transfer is None else TransferResult.load(folder),
            landscape=Landscape(**{k: np.array(v) for k, v in json.loads(drawn.read_text()).items()})
            if drawn.exists()
            else None,
            **paths,
        )

    @property
    def plane(self) -> Plane:
        """The plane of the trajectory, with the retrodicted Θ̂^0 and the predictions of KNOWN on it."""
        names = {"Θ̂⁰": self.retrodicted.get("known"), "Θ̂⁻¹": self.arms.get("known x2") or self.arms.get("known")}
        return principal_plane(self.trajectory, {name: folder for name, folder in names.items() if folder})


@dataclass(frozen=True)
class LaboratoryResult:
    """What came out of a recipe.

    Args:
        recipe: The recipe.
        output_dir: Folder of everything.
        settings: One result a setting.
        wall: Seconds that the runs took, waiting included.
        training: Seconds within training steps, over all processes.
    """

    recipe: Recipe
    output_dir: Path
    settings: list[SettingResult]
    wall: float
    training: float

    @classmethod
    def load(cls, output_dir: str | Path) -> "LaboratoryResult":
        """Reads a finished experiment.

        Raises:
            TrajectoryError: If the folder is not one, or not finished.
        """
        root = Path(output_dir)
        try:
            recipe = Recipe.from_dict(json.loads((root / "recipe.json").read_text())["recipe"])
            settings = [SettingResult.load(setting, root) for setting in recipe.settings]
            wall = json.loads((root / "wall.json").read_text())["seconds"]
        except FileNotFoundError as error:
            raise TrajectoryError(f"{root} is no finished experiment: {error.filename} is missing.") from error
        folders = {folder for result in settings for folder in result.runs.values()}
        training = sum(log["training"] for folder in folders for log in read_logs(folder))
        training += sum(r["training"] for s in settings if s.comparison for r in s.comparison.runs.values())
        return cls(recipe, root, settings, wall, training)

    @property
    def share_in_steps(self) -> float:
        """Share of the processes' wall time that was spent inside training steps."""
        return self.training / max(self.recipe.processes * self.wall, 1e-9)


def setting_folder(root: Path, setting: Setting) -> Path:
    """Where a setting keeps its arms and fine-tunings."""
    return root / "settings" / re.sub(r"[^\w.-]+", "_", setting.name)


def _stages(folder: Path, setting: Setting) -> Trajectory:
    """The stages that the methods read."""
    trajectory = Trajectory.load(folder)
    stages = setting.read_stages or len(trajectory)
    if not 2 <= stages <= len(trajectory):
        raise ValueError(f"{setting.name}: read_stages is {stages}, the run has {len(trajectory)} stages.")
    if stages < len(trajectory):
        trajectory.record.num_stages = stages
    return trajectory


def run_recipe(
    recipe: Recipe,
    output_dir: str | Path,
    *,
    predictor=None,
    predictors: Mapping[str, str | Path] | None = None,
) -> LaboratoryResult:
    """Runs everything that a recipe asks for and is not done yet.

    Args:
        recipe: From [`load_recipe`].
        output_dir: Folder for everything; killed and called again with the same recipe, the run continues.
        predictor: Predictor of the arms ``known``; the bundled one by default.
        predictors: Further predictors: name for their arms → folder or Hub id.

    Returns:
        What came out; ``know_hf.report`` renders it.

    Raises:
        FileNotFoundError: If data, a model or a predictor cannot be found.
        TrajectoryError: If the folder holds another experiment.
        ValueError: If the recipe does not fit its data.

    Source: paper section 5; pairing and controls are ours.

    Example:
        >>> from know_hf.transfer.laboratory import run_recipe
        >>> from know_hf.transfer.recipe import load_recipe
        >>> run_recipe(load_recipe("examples/recipes/table1.yaml", "cpu"), "runs/table1")  # doctest: +SKIP
    """
    output_dir = Path(output_dir)
    with locked(output_dir), _Clock(output_dir / "wall.json"), Workers(recipe.processes) as workers:
        _same_recipe(output_dir / "recipe.json", recipe)
        benches = [_Bench(recipe, setting, output_dir, predictor, predictors or {}) for setting in recipe.settings]
        for bench in benches:  # all of them, before the first is prepared
            bench.check()
        for bench in benches:
            bench.prepare()
        pretrained = {run.folder: run for bench in benches for run in bench.runs.values()}
        workers.run(list(pretrained.values()), "Pre-training and forgetting")
        for bench in benches:
            bench.make_arms()
        compared = [bench.comparison for bench in benches if bench.comparison]
        workers.run([job for comparison in compared for job in comparison.grid()], "Fine-tuning")
        workers.run([job for comparison in compared for job in comparison.rest()], "Fine-tuning the rest")
        for bench in benches:
            bench.finish()
    return LaboratoryResult.load(output_dir)


class _Bench:
    """One setting on its way."""

    def __init__(self, recipe: Recipe, setting: Setting, root: Path, predictor, predictors: Mapping[str, Any]):
        self.setting, self.root = setting, root
        self.folder = setting_folder(root, setting)
        self.predictor, self.predictors = predictor, predictors
        source, target = setting.pretraining, setting.transfer
        self.pretraining_data = {
            "train": load_split(recipe.data(source.dataset), source.train_split),
            "eval": load_split(recipe.data(source.dataset), source.eval_split),
        }
        self.pretraining_data, self.columns = open_parts(
            self.pretraining_data, task=source.task, label=source.label_column
        )
        self.transfer_data: dict[str, Any] = {}
        if target is not None:
            splits = {"train": target.train_split, "test": target.test_split, "validation": target.validation_split}
            self.transfer_data = {
                part: None if split is None else load_split(recipe.data(target.dataset), split)
                for part, split in splits.items()
            }
            self.transfer_data, self.transfer_columns = open_parts(
                self.transfer_data, task=target.task, label=target.label_column
            )
        self.runs: dict[str, ForgettingRun] = {}
        self.arms: dict[str, Path] = {}
        self.retrodicted: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        self.comparison: Comparison | None = None

    def check(self) -> None:
        """Raises what would be raised after hours of training: predictors, steps, sizes."""
        setting, source = self.setting, self.setting.pretraining
        fields = ForgettingRun(self.folder, "forgetting", source, self.columns, {}).arguments()
        stages = setting.read_stages or fields.num_stages
        for method in setting.methods:
            learned = load_predictor(self.predictor, stages) if METHODS[method].predictor else None
            own = {} if learned is None else predictor_parameters(learned, fields.sampling_ratio)
            check_method(method, stages, ["fc"], setting.steps, own)
        for predictor in self.predictors.values():
            load_predictor(predictor, stages)
        # How many examples the rows of a text make shows when they are prepared.
        if get_task(self.columns.task).rows_are_examples:
            sampled = fields.num_stages + bool(fields.self_check)
            subset_sizes(len(self.pretraining_data["train"]), fields.sampling_ratio, sampled)
        if setting.transfer is None:
            return
        protocol, columns = setting.transfer.make_protocol(), self.transfer_columns
        load_metric(protocol.metric, columns.task, len(columns.class_names))
        own_validation = self.transfer_data["validation"] is None
        needed = (protocol.examples or 1) + (protocol.validation_examples if own_validation else 0)
        found = len(self.transfer_data["train"])
        if get_task(columns.task).rows_are_examples and found < needed:
            raise ValueError(f"{setting.name}: the downstream data have {found} examples, {needed} are asked for.")

    def prepare(self) -> None:
        """Prepares the data of pre-training and says what is to be trained."""
        source = self.setting.pretraining
        loaded = build_model(source, self.columns, source.training.get("seed", 42))
        self.columns = replace(self.columns, class_names=loaded.class_names)
        for part, dataset in self.pretraining_data.items():
            check_part(dataset, self.columns, getattr(loaded.model.config, "num_labels", 0), f"{part} data")
        data = {
            part: prepare(
                dataset, self.root / "cache", loaded.model, source.model, self.columns, image_size=source.image_size,
                max_length=source.max_length, name=f"{part} data of {self.setting.name}",
            )
            for part, dataset in self.pretraining_data.items()
        }  # fmt: skip
        # Settings with the same pre-training share it.
        told = {name: value for name, value in asdict(source).items() if value is not None}
        described = json.dumps([told, sorted(path.name for path in data.values())], sort_keys=True)
        folder = self.root / "pretraining" / hashlib.sha256(described.encode()).hexdigest()[:12]
        for recipe in ("forgetting", *(c for c in self.setting.controls if Setting.factor(c) is None)):
            start = folder / "forgetting" / "stage-0" if recipe == "equal_compute" else None
            self.runs[recipe] = ForgettingRun(folder / recipe, recipe, source, self.columns, data, start)

    def make_arms(self) -> None:
        """Retrodicts, and collects every start to compare."""
        self.trajectory = _stages(self.runs["forgetting"].folder, self.setting)
        self.arms["naive"] = self.trajectory.checkpoints[0].folder
        for method in self.setting.methods:
            if method != "naive":
                predictor = {"predictor": self.predictor} if method in ("known", "shrink") else {}
                self._predict(method, method, **predictor)
        for name, predictor in self.predictors.items():
            self._predict(name, "known", predictor=predictor)
        for control in self.setting.controls:
            factor = Setting.factor(control)
            if factor is None:
                record = Trajectory.load(self.runs["forgetting"].folder).record
                last = record.num_stages - 1 if control == "incremental" else 0
                self.arms[control] = self.runs[control].folder / f"stage-{last}"
            else:
                factors = dict.fromkeys(("conv", "fc", "bias"), factor)
                self._predict(control, "shrink", steps=1, parameters={"factors": factors})
        if self.setting.transfer is not None:
            self._compare()

    def _predict(self, arm: str, method: str, steps: int | None = None, **options) -> None:
        # The mean is the same for every step.
        steps = steps or (1 if method == "mean" else self.setting.steps)
        folder = self.folder / "arms" / re.sub(r"[^\w.-]+", "_", arm)
        begun, timing = time.perf_counter(), folder / "seconds.json"
        made = enrich(self.trajectory, folder, retrodictor=method, steps=steps, **options).checkpoints
        if not timing.exists():
            write_atomically(timing, json.dumps({"seconds": time.perf_counter() - begun}) + "\n")
        self.seconds[arm] = json.loads(timing.read_text())["seconds"]
        self.arms |= {arm if steps == 1 else f"{arm} {step}": path for step, path in made.items()}
        window = self.trajectory.self_check_window()
        if window is not None and "parameters" not in options:
            folder = self.folder / "retrodicted" / folder.name
            self.retrodicted[arm] = next(
                iter(enrich(window, folder, retrodictor=method, steps=1, **options).checkpoints.values())
            )

    def _compare(self) -> None:
        setting, target = self.setting, self.setting.transfer
        full = setting.full_grid
        one_rate = [arm for arm in self.arms if "all" not in full and not arm.startswith(("naive", *full))]
        data = self.transfer_data
        self.comparison = Comparison(
            self.arms, self.folder, data["train"], data["test"], data["validation"], target.make_protocol(),
            list(setting.learning_rates), one_rate, setting.seeds,
        )  # fmt: skip
        source = setting.pretraining
        self.comparison.prepare(
            self.root / "cache", self.transfer_columns, image_size=source.image_size, max_length=source.max_length
        )

    def finish(self) -> None:
        """Draws the landscape, and notes where everything is."""
        parts = {
            "runs": {name: run.folder for name, run in self.runs.items()},
            "arms": self.arms,
            "retrodicted": self.retrodicted,
        }
        content = {
            part: {name: str(path.relative_to(self.root)) for name, path in paths.items()}
            for part, paths in parts.items()
        }
        write_atomically(
            self.folder / "setting.json", json.dumps({**content, "seconds": self.seconds}, indent=1) + "\n"
        )
        drawn = self.folder / "landscape.json"
        if self.setting.landscape and not drawn.exists():
            result = SettingResult.load(self.setting, self.root)
            run = self.runs["forgetting"]
            model = build_model(self.setting.pretraining, self.columns, 0).model
            test, train = (open_examples(run.data[part]) for part in ("eval", "train"))
            found = accuracy_landscape(
                self.trajectory, result.plane, model, test, train, resolution=self.setting.landscape
            )
            write_atomically(drawn, json.dumps({k: v.tolist() for k, v in vars(found).items()}) + "\n")


def _same_recipe(path: Path, recipe: Recipe) -> None:
    described = json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        found = json.loads(path.read_text())["recipe"]
        different = [name for name in ("name", "size", "settings", "processes") if found.get(name) != described[name]]
        if different:
            raise TrajectoryError(
                f"{path.parent} holds another experiment (different {', '.join(different)}); choose another output_dir."
            )
        return
    write_atomically(path, json.dumps({"recipe": described, "versions": versions()}, indent=1) + "\n")


class _Clock:
    """Adds the seconds of its block to a file, every few seconds, so that a killed run leaves them too."""

    def __init__(self, path: Path):
        self.path, self.stopped = path, threading.Event()
        self.before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        self.thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self):
        self.begun = time.perf_counter()
        self.thread.start()

    def __exit__(self, *error):
        self.stopped.set()
        self.thread.join()
        self._write()

    def _tick(self):
        while not self.stopped.wait(5.0):
            self._write()

    def _write(self):
        seconds = self.before + time.perf_counter() - self.begun
        write_atomically(self.path, json.dumps({"seconds": seconds}) + "\n")
