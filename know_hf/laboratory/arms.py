"""The starts that a comparison fine-tunes from, and what is known of each."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from know_hf.enrichment.folders import step_names
from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import method_names
from know_hf.enrichment.stream import Enrichment
from know_hf.enrichment.writer import read_enrichment
from know_hf.records import ENRICHMENT_FILE, TrajectoryError, check_fields
from know_hf.remote import bounded, public
from know_hf.retrodiction import DEFAULT, METHODS
from know_hf.settings import meant
from know_hf.store import inside
from know_hf.text import without_secrets
from know_hf.trajectory import Trajectory

#: What an arm is to a comparison: the untouched Θ^0, something that a gain has to beat, a prediction that may gain, or
#: a start of which nothing is known.
Role = Literal["naive", "control", "method", "start"]
#: What a record keeps of an arm, beside its name and the hashes of its weights.
_RECORD: Any = {"role": str, "method": str | None, "prediction": str | None, "step": int | None, "scale": float | None,
                "candidate_of": str | None}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One start of a comparison. Its name is only a label; whatever depends on what it is asks the other fields.

    Args:
        name: Any text that no other arm of the comparison has.
        folder: The checkpoint; None where only the record of a comparison is read.
        role: What it is to the comparison.
        method: The retrodiction method that made it, if one did.
        prediction: What all steps of one prediction have in common: the name of a method, predictor or control.
        step: Number of steps beyond Θ^0, from 1, of a prediction.
        scale: Nominal amount of data of that step, in those of Θ^0.
        candidate_of: Name of the arm for which it is one of several candidates: a comparison keeps the one that its
            validation examples choose, under that name.

    Example:
        >>> from know_hf.laboratory.arms import Arm
        >>> Arm("mine", role="control").counts_as_control
        True
    """

    name: str
    folder: Path | None = field(default=None, compare=False)
    role: Role = "start"
    method: str | None = None
    prediction: str | None = None
    step: int | None = None
    scale: float | None = None
    candidate_of: str | None = None

    @property
    def checkpoint(self) -> Path:
        """Its folder.

        Raises:
            ValueError: If it has none.
        """
        if self.folder is None:
            raise ValueError(f"Arm {self.name!r} names no checkpoint to start from: Arm({self.name!r}, folder=…).")
        return self.folder

    @property
    def counts_as_control(self) -> bool:
        """Whether a gain counts only beyond it."""
        return self.role in ("naive", "control")

    @property
    def is_known(self) -> bool:
        """Whether KNOWN predicted it, with whatever predictor."""
        return self.method == DEFAULT

    @property
    def record(self) -> dict[str, Any]:
        """What a record keeps of it, beside name and weights."""
        return {name: value for name, value in asdict(self).items() if name in _RECORD}

    def is_among(self, named: Collection[str]) -> bool:
        """Whether one of these names means it: its own, its method's or its prediction's.

        ``NAME x`` means the steps of the prediction ``NAME`` alone: not ``shrink 0.5``, which the method ``shrink``
        made, too.
        """
        return bool({self.name, self.method, self.prediction, f"{self.prediction} x"} & set(named))


def make_arm(name: str, folder: str | Path, *, role: Role | None = None, prediction: str | None = None) -> Arm:
    """Makes an arm of a checkpoint; of one that was predicted, its own record says how.

    Args:
        name: Its name.
        folder: Its folder or Hub id.
        role: What it is, where no record says that.
        prediction: Name of its prediction, by default that of its method.

    Returns:
        The arm, with the folder that it lies in on this machine.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
        TrajectoryError: If it holds a damaged record.
    """
    folder = resolve_arm(folder, name)
    if not (folder / ENRICHMENT_FILE).exists():
        return Arm(name, folder, role or "start", prediction=prediction)
    try:
        made = read_enrichment(folder)
    except ValueError as error:
        raise TrajectoryError(f"Arm {name!r}: {error}") from error
    method, scale = made["method"], made.get("scale")
    return Arm(
        name, folder, role or role_of(method, bool(made.get("reset"))), method, prediction or method, made["step"],
        scale if isinstance(scale, float) else None,
    )  # fmt: skip


def role_of(method: str, reset: bool) -> Role:
    """What a method's declaration says of its predictions; one that is not installed here made candidates.

    Args:
        method: Its name.
        reset: Whether normalisation is that of a new network; with that, Θ^0 is not untouched any more: a control.
    """
    declared = METHODS.get(method)
    if declared is None or not (declared.baseline or declared.control):
        return "method"
    return "naive" if declared.baseline and not reset else "control"


def make_arms(starts: Mapping[str, Arm | str | Path]) -> dict[str, Arm]:
    """Makes the arms of a comparison, of which the first is the reference.

    Args:
        starts: Name → arm, checkpoint folder or Hub id.

    Returns:
        Name → arm. A reference of which nothing is known is what all others have to beat: the naive one.

    Raises:
        FileNotFoundError: As [`make_arm`].
        TrajectoryError: As [`make_arm`].
    """
    arms = {name: start if isinstance(start, Arm) else make_arm(name, start) for name, start in starts.items()}
    reference = next(iter(arms))
    if arms[reference].role == "start":
        arms[reference] = replace(arms[reference], role="naive")
    return arms


@bounded()
def resolve_arm(arm: str | Path, name: str) -> Path:
    """Finds the checkpoint folder of the arm of that name, downloading it when it is a Hub id.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
    """
    if Path(arm).is_dir():
        return Path(arm)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(arm), allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"]))
    except Exception as error:  # the client raises many types for one thing: it could not be had
        why = public(error)
        raise FileNotFoundError(
            f"Arm {without_secrets(str(arm))!r}, called {name!r}, is neither a folder nor reachable on the Hub. ({why})"
        ) from error


def read_arms(path: Path, record: Mapping[str, Any], remedy: str) -> dict[str, Arm]:
    """Reads the arms of a record: their names are the keys of its ``arms``, ``starts`` says what each is.

    Args:
        path: The record's file, for messages.
        record: What it holds.
        remedy: What to do if it is damaged.

    Returns:
        Name → arm without folder. Arms that ``starts`` does not know are those of a record of former versions.

    Raises:
        TrajectoryError: If what it says of an arm makes none.
    """
    described = check_fields(path, record, {"starts": dict[str, _RECORD] | None}, remedy).get("starts") or {}
    if wrong := next((name for name, known in described.items() if known["role"] not in get_args(Role)), None):
        raise TrajectoryError(f"{path} is damaged: the role of arm {wrong!r} is none; {remedy}.")
    arms = _named_arms(list(record["arms"]))
    for name in arms.keys() & described.keys():
        arms[name] = Arm(name, **{field: described[name].get(field) for field in _RECORD})
    return arms


def _named_arms(names: Sequence[str]) -> dict[str, Arm]:
    """What records of former versions say of arms: nothing but names, by whose beginnings they went."""
    arms: dict[str, Arm] = {}
    for name in names:
        prediction = re.sub(r"[ /]x\d+(?:\.\d+)?\Z", "", name)
        steps = sum(arm.prediction == prediction for arm in arms.values())
        control = name.startswith(("shrink", "mean", "equal_compute", "incremental"))
        role: Role = "naive" if name.startswith("naive") else "control" if control else "method"
        method = "known" if name.lower().startswith("known") else next((m for m in METHODS if m == prediction), None)
        arms[name] = Arm(name, None, role, method, prediction, steps + 1)
    return arms


class PredictedArms:
    """Θ^0 and every step of several methods as starts to compare: checked at once, written when all else fits.

    Args:
        trajectory: The folder of a forgetting run.
        methods: The methods, or ``"all"``.
        steps: Number of steps; a method whose steps are all the same makes one start.
        reset: Those of ``naive`` and the methods that make further starts, ``NAME reset``, whose normalisation is that
            of a new network (``norms="reset"``).

    Raises:
        OSError: If the trajectory cannot be read.
        TrajectoryError: If it is damaged or unfinished.
        ValueError: If a method is unknown, or cannot do that many steps, or there is nothing to reset.

    Example:
        >>> from know_hf.laboratory.arms import PredictedArms
        >>> PredictedArms("runs/mine", ["known", "mean"], 2).write("arms")  # doctest: +SKIP
    """

    def __init__(self, trajectory: str | Path, methods: str | Sequence[str], steps: int, reset: Collection[str] = ()):
        names = ["naive"]
        names += [name for name in method_names("all" if "all" in methods else methods) if name != "naive"]
        if unknown := [name for name in reset if name not in names]:
            raise ValueError(f"reset names {unknown[0]!r}, which is not predicted here{meant(unknown[0], names)}")
        loaded = Trajectory.load(trajectory)
        #: What the names of its starts end with → what predicts them.
        self.runs = {"": Enrichment(loaded, Prediction(method=names))}
        if reset:
            self.runs[" reset"] = Enrichment(loaded, Prediction(method=list(reset), norms="reset"))
        for run in self.runs.values():
            run.check(steps)
        self.names = step_names(loaded.record.sampling_ratio, steps)

    def _folders(self) -> list[tuple[str, str, str]]:
        """What predicts, the method, the folder of every start."""
        return [
            (ending, method, step)
            for ending, run in self.runs.items()
            for method in run.prediction.names
            for step in (self.names[:1] if METHODS[method].same_every_step else self.names)
        ]

    @property
    def planned(self) -> dict[str, str]:
        """Name of every start that [`write`] makes → what it is."""
        return {
            _called(method, ending, step): f"the {'start' if method == 'naive' else f'{step} of {method}'}{ending}"
            for ending, method, step in self._folders()
        }

    def write(self, folder: str | Path) -> dict[str, Arm]:
        """Predicts into a folder, all methods in one pass over the trajectory; returns name → arm, ``naive`` first.

        Raises:
            ValueError: If a folder in it that is written to is a link.
        """
        arms = {}
        for ending, run in self.runs.items():
            targets: dict[str, list[Path]] = {}
            for of, method, step in self._folders():
                if of == ending:
                    targets.setdefault(method, []).append(inside(folder, Path(f"{method}{ending}") / step))
            run.write(targets)
            for method, paths in targets.items():
                for path in paths:
                    name = _called(method, ending, path.name)
                    arms[name] = make_arm(name, path, prediction=f"{method}{ending}")
        return arms


def _called(method: str, ending: str, step: str) -> str:
    """Name of the arm of a step of a method."""
    return f"{method}{ending}" if method == "naive" else f"{method}{ending}/{step}"
