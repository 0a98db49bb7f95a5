"""What came out of an experiment: its settings, their arms and fine-tunings, as its folder holds them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from know_hf.forgetting.controls import FORGETTING
from know_hf.laboratory.arms import Arm, read_arms
from know_hf.laboratory.cell_table import CellRuns, CellTable
from know_hf.laboratory.cells import repeated
from know_hf.laboratory.hypothesis import Return, load_returns
from know_hf.laboratory.landscape import Landscape
from know_hf.laboratory.logs import read_logs
from know_hf.laboratory.recipe import Recipe
from know_hf.laboratory.result import ComparisonResult, ReferenceLostError
from know_hf.laboratory.setting import Setting
from know_hf.records import file_name, read_record
from know_hf.retrodiction import ALL
from know_hf.store import inside, write_json
from know_hf.tasks import TASKS, Score
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.plane import Plane, principal_plane


@dataclass(frozen=True)
class SettingResult:
    """What came out of one setting.

    Args:
        setting: The setting.
        folder: Its folder.
        trajectory: Θ^0 … as the methods read it.
        runs: ``forgetting`` and the trained controls → their folders.
        arms: Name → start.
        retrodicted: Prediction → folder of Θ^0 as retrodicted from the stages after it, where there is one stage more.
        seconds: Prediction → seconds for all its steps, reading and writing included.
        comparison: The fine-tunings, or None without a downstream task, or of cells.
        landscape: Scores over the plane, or None.
        refits: Start → folder of its fine-tuning on the data of Θ^0; none where the hypothesis is not looked at.
        returns: How near to Θ^0 those lead.
        own_scores: Arm → its score on the pre-training's own held-out data, of shares as a share, if asked for.
        cells: The fine-tunings of cells, in place of a comparison.
        candidate: What was chosen as ``best``, if anything was to be.
        without: Why its fine-tunings are no comparison, in words; nothing where they are one.
    """

    setting: Setting
    folder: Path
    trajectory: Trajectory
    runs: dict[str, Path]
    arms: dict[str, Arm]
    retrodicted: dict[str, Path]
    seconds: dict[str, float]
    comparison: ComparisonResult | None
    landscape: Landscape | None
    refits: dict[str, Path] = field(default_factory=dict)
    returns: list[Return] = field(default_factory=list)
    own_scores: dict[str, float] = field(default_factory=dict)
    cells: CellRuns | None = None
    candidate: str | None = None
    without: str = ""

    @classmethod
    def load(cls, setting: Setting, root: Path) -> "SettingResult":
        """Reads what a finished setting left.

        Raises:
            TrajectoryError: If it is not finished, or damaged.
            ValueError: If it names folders outside of the experiment's.
        """
        folder = setting_folder(root, setting)
        path, kinds = folder / "setting.json", {part: dict[str, str] for part in ("runs", "arms", "retrodicted")}
        fields = {**kinds, "seconds": dict[str, float], "refits": dict[str, str] | None, "candidate": str | None}
        record = read_record(path, fields, _REMEDY)
        paths = {
            part: {name: inside(root, place) for name, place in (record.get(part) or {}).items()}
            for part in (*kinds, "refits")
        }
        arms = {
            name: replace(arm, folder=paths["arms"][name]) for name, arm in read_arms(path, record, _REMEDY).items()
        }
        if FORGETTING not in paths["runs"] or not any(arm.role == "naive" for arm in arms.values()):
            raise TrajectoryError(f"{path} is damaged: it names no forgetting; {_REMEDY}.")
        tuned = setting.transfer is not None
        drawn = folder / "landscape.json"
        compared, without = None, ""
        if tuned and not setting.cells:
            try:
                compared = ComparisonResult.load(folder)
            except ReferenceLostError as error:
                without = str(error)
        return cls(
            setting=setting,
            folder=folder,
            trajectory=stages_read(paths["runs"][FORGETTING], setting),
            runs=paths["runs"],
            arms=arms,
            retrodicted=paths["retrodicted"],
            seconds=record["seconds"],
            comparison=compared,
            without=without,
            landscape=Landscape.load(drawn) if drawn.exists() else None,
            refits=paths["refits"],
            returns=load_returns(folder / RETURNS_FILE) if (folder / RETURNS_FILE).exists() else [],
            own_scores=_load_own_scores(folder / OWN_SCORES_FILE),
            cells=CellRuns.load(folder) if tuned and setting.cells else None,
            candidate=record.get("candidate"),
        )

    def steps(self, prediction: str) -> list[Arm]:
        """The arms of one prediction, nearest step first."""
        return [arm for arm in self.arms.values() if arm.prediction == prediction]

    @property
    def score(self) -> Score:
        """What the pre-training's own held-out data are scored by."""
        task = TASKS.get(self.trajectory.record.model.get("task", ""))
        return Score("accuracy") if task is None else task.score

    @property
    def plane(self) -> Plane:
        """The plane of the trajectory, with the retrodicted Θ̂^0 and the first prediction of KNOWN on it."""
        first = next((arm.folder for arm in self.steps("known")), None)
        predicted = {"Θ̂⁰": self.retrodicted.get("known"), "Θ̂⁻¹": first}
        others = {name: folder for name, folder in predicted.items() if folder}
        return principal_plane(self.trajectory, others, self.setting.noise)


@dataclass(frozen=True)
class ExperimentResult:
    """What came out of an experiment.

    Args:
        recipe: The recipe.
        output_dir: Folder of everything.
        settings: One result a setting, and for each of its pre-trainings.
        wall: Seconds that the runs took, waiting included.
        training: Seconds within training steps, over all processes.
    """

    recipe: Recipe
    output_dir: Path
    settings: list[SettingResult]
    wall: float
    training: float

    @classmethod
    def load(cls, output_dir: str | Path) -> "ExperimentResult":
        """Reads a finished experiment.

        Raises:
            TrajectoryError: If the folder is not one, not finished, or damaged.
            ValueError: If it names folders outside of it.
        """
        root = Path(output_dir)
        for name in ("recipe.json", "wall.json"):
            if not (root / name).exists():
                raise TrajectoryError(f"{root} is no finished experiment: {root / name} is missing.")
        recipe = read_recipe_record(root / "recipe.json")
        settings = [SettingResult.load(setting, root) for setting in recipe.runs]
        wall = read_wall(root / "wall.json")
        folders = {folder for one in settings for folder in (*one.runs.values(), *one.refits.values())}
        training = sum(log["training"] for folder in folders for log in read_logs(folder))
        compared: list[ComparisonResult | CellRuns] = [one.comparison for one in settings if one.comparison]
        compared += [result.cells for result in settings if result.cells]
        training += sum(tuned["training"] for result in compared for tuned in result.fine_tunings.values())
        return cls(recipe, root, settings, wall, training)

    @property
    def tables(self) -> list[CellTable]:
        """One table for every setting with cells, over all its pre-trainings."""
        by_name, found = {one.setting.name: one for one in self.settings}, []
        for setting in self.recipe.settings:
            results = [by_name[run.name] for run in repeated(setting)]
            if runs := [one.cells for one in results if one.cells is not None]:
                examples = results[0].trajectory.record.stages[0].examples or 0
                found.append(CellTable(setting, results[0].arms, runs, examples, [one.candidate for one in results]))
        return found

    @property
    def share_in_steps(self) -> float:
        """Share of the processes' wall time that was spent inside training steps."""
        return self.training / max(self.recipe.processes * self.wall, 1e-9)


def setting_folder(root: Path, setting: Setting) -> Path:
    """Where a setting keeps its arms and fine-tunings."""
    return root / "settings" / file_name(setting.name)


# Methods that were not there yet when records were first kept.
_SINCE = ("extra_merge", "shrink_perturb")
_REMEDY = "run the recipe again, which writes it anew"
#: Where a setting keeps the scores of its starts on their own task, and how near to Θ^0 fine-tuning leads.
OWN_SCORES_FILE, RETURNS_FILE = "own-scores.json", "hypothesis.json"


def save_own_scores(path: Path, scores: dict[str, float]) -> None:
    """Writes the scores of starts on their own task, whole or not at all."""
    write_json(path, {"scores": scores})


def _load_own_scores(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    return read_record(path, {"scores": dict[str, float]}, "delete it and run again, which scores anew")["scores"]


def read_recipe_record(path: Path) -> Recipe:
    """Reads what an experiment is.

    Raises:
        TrajectoryError: If it is damaged.
    """
    found = read_record(path, {"recipe": dict}, "choose another output_dir")["recipe"]
    try:
        return Recipe.from_dict(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrajectoryError(f"{path} is damaged: it holds no recipe ({error}); choose another output_dir.") from error


def as_begun(recipe: Recipe, path: Path) -> Recipe:
    """The recipe as a former version began it, when there were fewer methods for ``all`` to mean.

    Raises:
        TrajectoryError: If the record is damaged.
    """
    if not path.exists():
        return recipe
    begun = {setting.name: setting.methods for setting in read_recipe_record(path).settings}
    former = tuple(name for name in ALL if name not in _SINCE)
    return replace(
        recipe,
        settings=tuple(
            replace(setting, methods=former)
            if setting.methods == tuple(ALL) and begun.get(setting.name) == former
            else setting
            for setting in recipe.settings
        ),
    )


def read_wall(path: Path) -> float:
    """Reads how many seconds an experiment has taken.

    Raises:
        TrajectoryError: If it is damaged.
    """
    seconds = read_record(path, {"seconds": float}, "delete it; the time so far is then not counted")["seconds"]
    if not 0 <= seconds < float("inf"):
        raise TrajectoryError(f"{path} is damaged: seconds is {seconds}; delete it, the time so far is not counted.")
    return seconds


def stages_read(folder: Path, setting: Setting) -> Trajectory:
    """The stages that the methods read.

    Raises:
        ValueError: If the run has fewer than the setting asks for; as [`Trajectory.load`].
    """
    trajectory = Trajectory.load(folder)
    stages = setting.read_stages or len(trajectory)
    if not 2 <= stages <= len(trajectory):
        raise ValueError(f"{setting.name}: read_stages is {stages}, the run has {len(trajectory)} stages.")
    if stages < len(trajectory):
        trajectory.record.num_stages = stages
    return trajectory
