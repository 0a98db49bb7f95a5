"""What a choice is made among: the stages, everything predicted, and points that are fitted to data."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from know_hf.choice.controls import sparing, train_control
from know_hf.choice.options import NONE, Choosing
from know_hf.choice.places import make_room
from know_hf.choice.soups import Soups
from know_hf.choice.words import RENEWED
from know_hf.enrichment.finishing import Finisher
from know_hf.enrichment.options import Placement, Prediction
from know_hf.enrichment.resolved import ResolvedMethod, ResolvedPrediction
from know_hf.enrichment.stream import Enrichment
from know_hf.fitting.fit import fit
from know_hf.fitting.options import Fitting
from know_hf.forgetting.controls import CONTROLS
from know_hf.forgetting.folder import RunFolder, stage_name
from know_hf.forgetting.stages import stage_plan
from know_hf.retrodiction import get_method
from know_hf.store import inside
from know_hf.training.set_aside import NEEDED, SetAside, halves
from know_hf.trajectory import Trajectory, TrajectoryRecord

#: Of a run's folder, where what is made for the choice alone lies.
FOLDER = "choice"
ORIGIN = stage_name(0)
HELD_OUT = "-held-out"
_NAIVE = (ResolvedMethod(get_method("naive"), {}),)


@dataclass(frozen=True)
class FitData:
    """What coefficients are fitted to.

    Args:
        suffix: What the candidate's name ends with.
        dataset: The examples.
        scale: Whether to fit a multiple of stage 0, too; None as the options say.
    """

    suffix: str
    dataset: Any
    scale: bool | None = None


def fit_data(trainer: Any, choosing: Choosing) -> tuple[list[FitData], Any]:
    """What coefficients are fitted to, and the examples that are left to choose on."""
    rest, found = trainer.set_aside.dataset, []
    if choosing.fit_on in ("train", "both"):
        found.append(FitData("", trainer.train_dataset))
    if choosing.fit_on in ("selection", "both") and rest is not None:
        fitted_to, rest = halves(rest, trainer.args.seed)
        found.append(FitData(HELD_OUT, fitted_to))
    if choosing.unscaled:
        found += [FitData(f"{data.suffix}-unscaled", data.dataset, scale=False) for data in found]
    return found, rest


def check_fit(choosing: Choosing, aside: SetAside) -> None:
    """Raises ``ValueError`` if coefficients are to be fitted to examples that are not there."""
    if choosing.choose != NONE and choosing.fit_on != "train" and aside.dataset is None:
        raise ValueError(
            f"fit_on={choosing.fit_on!r} needs examples set aside, and of so few training examples none are: give some "
            "(selection_split), or fit on the training examples (fit_on='train')."
        )
    if choosing.choose != NONE and choosing.fit_on != "train" and choosing.choose_on is None:
        if len(aside.dataset) < 2 * NEEDED:
            raise ValueError(
                f"fit_on={choosing.fit_on!r} fits to half of the {len(aside.dataset)} examples to choose on, and "
                f"{NEEDED} at least have to be left: give {2 * NEEDED} (selection_split), or fit on the training "
                "examples (fit_on='train')."
            )


def expected_candidates(trainer: Any, prediction: ResolvedPrediction, choosing: Choosing) -> int:
    """How many candidates there will be, before anything is trained."""
    args, asked, steps = trainer.args, set(prediction.names), prediction.options.steps
    sources = 2 if choosing.fit_on == "both" else 1
    fits = sources * (2 if choosing.unscaled else 1)
    found = args.num_stages + {"both": 2, None: 0}.get(args.average_stage_zero, 1)
    found += sum(1 if one.method.same_every_step else steps for one in prediction.methods)
    found += ("mean" not in asked) + ("fitted" not in asked) * fits + ("damped" not in asked) * sources
    for name in choosing.beside:
        found += 1
        if CONTROLS[name].branches:  # each by itself, and the soups of them
            own = copy.copy(args)
            own.recipe = name
            branches = len(stage_plan(trainer.train_dataset, own)[0])
            found += branches + 1 + (trainer.set_aside.dataset is not None) + fits
    return found


def with_fits(
    trainer: Any, prediction: ResolvedPrediction, placement: Placement, fitting: Fitting
) -> ResolvedPrediction:
    """Fits what methods that were asked for wait for, to the training data.

    Raises:
        ValueError: If one waits for something else that has to be found in data.
    """
    pending = [one.name for one in prediction.methods if one.pending]
    if not pending:
        return prediction
    rest = tuple(one for one in prediction.methods if not one.pending)
    trajectory = trainer.trajectory
    run = Enrichment(trajectory, replace(prediction, methods=rest or _NAIVE), placement)
    made = {}
    for one in prediction.methods:
        if one.name == "fitted" and one.pending:
            made["fitted"] = fitted(trainer, run, FitData("", trainer.train_dataset), fitting)
        elif one.pending:
            raise ValueError(
                f"{one.name} needs {one.method.needs_data}, which are found when the best is chosen: leave it out "
                "(choose='best' makes it a candidate), or give them as its parameter."
            )
    return replace(prediction, methods=tuple(made.get(one.name, one) for one in prediction.methods))


class Candidates:
    """Makes a run's candidates, and keeps what is made for the choice alone together.

    Args:
        trainer: A trainer whose forgetting is finished.
        run: The prediction of the run, applied.
        enriched: Name → folder of the checkpoints that were predicted.
        finisher: Completes those that are made here.
        choosing: Among what is chosen.
        fitting: How coefficients are fitted.
    """

    def __init__(
        self,
        trainer: Any,
        run: Enrichment,
        enriched: Mapping[str, Path],
        finisher: Finisher,
        choosing: Choosing,
        fitting: Fitting,
    ) -> None:
        self.trainer, self.run, self.enriched, self.finisher = trainer, run, enriched, finisher
        self.choosing, self.fitting = choosing, fitting
        self.root = inside(trainer.args.output_dir, FOLDER)
        self.fit_data, self.selection = fit_data(trainer, choosing)

    def make(self) -> dict[str, Path]:
        """Name → folder, in the order in which the first of equals is taken."""
        trajectory, trainer = self.run.trajectory, self.trainer
        folders = {stage_name(i): c.folder for i, c in enumerate(trajectory.checkpoints)}
        places = RunFolder(trainer.args.output_dir)
        averages = {place.name: place for name in ("ema", "swa") if (place := places.average(name)).is_dir()}
        return {**folders, **averages, **self._asked(), **self._predicted(), **self._controls()}

    def _asked(self) -> dict[str, Path]:
        """The predicted checkpoints, of methods whose steps are all the same the first."""
        methods = {one.name: one for one in self.run.prediction.methods}
        alone, seen, found = self.run.prediction.names[0], set(), {}
        for name, folder in self.enriched.items():
            method = name.partition("/")[0] if "/" in name else alone
            if methods[method].method.same_every_step and method in seen:
                continue
            seen.add(method)
            found[name] = folder
        return found

    def _predicted(self) -> dict[str, Path]:
        """Points of the subspace that nobody asked for by name, written in one pass for each source of coefficients."""
        asked, found = set(self.run.prediction.names), {}
        few = {"first": min(3, len(self.run.trajectory))}
        plain = [] if "mean" in asked else [ResolvedMethod(get_method("mean"), few)]
        if self.finisher.renew and "naive" not in asked:
            plain.append(ResolvedMethod(get_method("naive"), {}))
        names = {"naive": RENEWED}
        for number, data in enumerate(self.fit_data):
            fits: dict[str, Callable[[], ResolvedMethod | None]] = {
                "fitted": partial(fitted, self.trainer, self.run, data, self.fitting),
                "damped": partial(self.damped, data),
            }
            tried = [_tried(name, make) for name, make in fits.items() if name not in asked]
            methods = [one for one in tried if one is not None]
            methods = [*(plain if number == 0 else ()), *methods]
            targets = {one.name: [self.root / f"{names.get(one.name, one.name)}{data.suffix}"] for one in methods}
            if not targets:
                continue
            options = replace(self._options, method=tuple(targets), steps=1)
            resolved = ResolvedPrediction(options, tuple(methods), len(self.run.trajectory))
            run = Enrichment(self.run.trajectory, resolved, self.run.placement)
            places = {targets[one.name][0]: run.provenance(one, 1) for one in methods}
            make_room(self.trainer, run, places, self.finisher.notes)
            lost = run.write(targets, self.finisher, self.finisher.notes, lenient=True)
            found.update({paths[0].name: paths[0] for paths in targets.values() if paths[0] not in lost})
        return found

    @property
    def _options(self) -> Prediction:
        return replace(self.run.prediction.options, iterate=False, parameters=None)

    def damped(self, data: FitData) -> ResolvedMethod | None:
        """The first method's first step, its length fitted for each kind."""
        first = next((one for one in self.run.prediction.methods if one.method.hands_on is None), None)
        if data.scale is not None or first is None or first.pending or first.method.baseline or first.method.needs_data:
            return None
        names = [name for name in self.enriched if name.partition("/")[0] == first.name or "/" not in name]
        if not names:
            return None
        # Of the two stages Θ^0 and Θ̂ the subspace is the way from one to the other: Θ^0 − c(Θ̂ − Θ^0).
        pair = Trajectory.from_checkpoints(
            [self.run.trajectory.checkpoints[0].folder, self.enriched[names[0]]],
            kinds={name: self.run.predicted[name] for name in self.run.predicted},
        )
        pair.record.stages[1].steps = sum(stage.steps or 0 for stage in self.run.trajectory.record.stages)
        own = replace(self.fitting, fit_groups="kind", fit_scale=False)
        place = self.root / f"damped{data.suffix}.json"
        found = fit(self.trainer, pair, self.run.predicted, data.dataset, place, fitting=own, anew=True)
        alphas = {self.run.predicted[name]: -row[0] for name, row in found.table.items()}
        handed = {name: value for name, value in first.parameters.items()}
        return ResolvedMethod(get_method("damped"), {"alphas": alphas, "of": first.name, **handed}, first.source)

    def _controls(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for name in self.choosing.beside:
            folder = None
            with sparing(name, self.choosing.also is not None):
                folder = train_control(self.trainer, name)
            if folder is None:
                continue
            if CONTROLS[name].branches:
                found |= Soups(
                    self.trainer, folder, self.root, self.finisher, self.run.placement, self.fit_data, self.selection,
                    self.fitting,
                ).make()  # fmt: skip
            else:
                found[name] = folder / TrajectoryRecord.load(folder).stages[-1].folder
        return found


def _tried(name: str, make: Callable[[], ResolvedMethod | None]) -> ResolvedMethod | None:
    """What is fitted for the choice alone."""
    with sparing(name, asked=False):
        return make()
    return None


def fitted(trainer: Any, run: Enrichment, data: FitData, fitting: Fitting) -> ResolvedMethod:
    """The best point of a trajectory's subspace, its coefficients fitted."""
    place = inside(trainer.args.output_dir, FOLDER) / f"fitted{data.suffix}.json"
    if data.scale is not None:
        fitting = replace(fitting, fit_scale=data.scale)
    found = fit(trainer, run.trajectory, run.predicted, data.dataset, place, fitting=fitting, anew=True)
    return ResolvedMethod(get_method("fitted"), {"coefficients": found.table}, coefficients=found)
