"""The streaming path from a trajectory to enriched folders: read a block, predict all steps, write, next block."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from know_hf.checkpoints.patch import NotFiniteError
from know_hf.enrichment.companions import companions, report_left
from know_hf.enrichment.devices import usable
from know_hf.enrichment.folders import enriched_folder, step_names
from know_hf.enrichment.following import FollowingHashes
from know_hf.enrichment.options import Placement, Prediction
from know_hf.enrichment.provenance import hash_files, hash_weights, hash_written, holds, hub_revision
from know_hf.enrichment.resolved import ResolvedMethod, ResolvedPrediction, method_names, resolve
from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.selection import check_copied, select, unmoved
from know_hf.enrichment.shares import predict_shares
from know_hf.enrichment.unpredicted import not_predicted
from know_hf.enrichment.writer import PartialFolder, check_targets, say_full
from know_hf.hub.cards import enriched_card
from know_hf.settings import STEPS, check_range, takes
from know_hf.store import check_space, locked
from know_hf.trajectory import Trajectory
from know_hf.trajectory.identity import versions
from know_hf.trajectory.kinds import describe_tensors

logger = logging.getLogger(__name__)

#: Called on every process with a complete but not yet renamed folder; returns scores for its card.
Finish = Callable[[Path], Mapping[str, float]]


@takes(prediction=Prediction, placement=Placement)
def enrich(
    trajectory: Trajectory | str | Path,
    output_dir: str | Path | None = None,
    *,
    prediction: Prediction,
    placement: Placement,
) -> EnrichmentResult:
    """Predicts enriched checkpoints from an existing trajectory.

    Runs no model code: BatchNorm statistics stay those of stage 0 ([`enrich_pretrained`] re-estimates them). Memory
    is a few blocks, whatever the model's size (whole tensors for methods that need them). Under ``accelerate launch``
    or ``torchrun`` processes share the work.

    Args:
        trajectory: A [`Trajectory`] or the folder of a run.
        output_dir: Folder for ``x2``, ``x4`` …; by default ``enriched`` in the run's folder (``enriched-<method>`` for
            other methods than ``known``). With several methods each gets a folder of its name in it.

    Returns:
        An [`EnrichmentResult`]; every folder loads with plain ``from_pretrained``. With several methods its
        checkpoints are named ``<method>/x2`` ….

    Raises:
        TrajectoryError: If the trajectory is damaged, unfinished or not finite.
        ValueError: If the method, its parameters or the predictor do not fit.
        FileExistsError: If a folder holds something else under the name of a step.
        OSError: If the disk is full or the folder in use.

    Source: paper Eq. 4 and section 4.6.

    Example:
        >>> from know_hf import enrich
        >>> enrich("runs/my-model", steps=3).checkpoints  # doctest: +SKIP
    """
    if not isinstance(trajectory, Trajectory):
        trajectory = Trajectory.load(trajectory)
    run = Enrichment(trajectory, prediction, placement)
    root = trajectory.root if output_dir is None else Path(output_dir)
    return run.result(root, run.write_steps(run.folders(output_dir), prediction.steps))


class Enrichment:
    """A prediction applied to one trajectory, everything checked before anything is written.

    Args:
        trajectory: What is read.
        prediction: By which methods, and what.
        placement: Where, and what of earlier results is trusted.

    Raises:
        TrajectoryError: If the trajectory is damaged.
        ValueError: If its options select nothing, or the device cannot be used.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        prediction: Prediction | ResolvedPrediction | None = None,
        placement: Placement | None = None,
    ):
        # Without an accelerator a launched process joins its group only when told so.
        self.state = PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)
        prediction, placement = prediction or Prediction(), placement or Placement()
        self.trajectory, self.placement = trajectory, placement
        if isinstance(prediction, Prediction):
            method_names(prediction.method)  # an unknown one is said before anything is read
        #: Result of the run's self-check, for the cards.
        self.self_check: dict[str, Any] | None = None
        #: Scores of stage 0 treated like the predictions (BatchNorm statistics re-estimated), for comparison.
        self.baseline: dict[str, float] | None = None
        #: Steps that were asked for and left out, as they are not finite.
        self.left_out: list[str] = []
        trajectory.validate()
        self.companions = companions(trajectory.checkpoints[0])
        asked = prediction if isinstance(prediction, Prediction) else prediction.options
        self.predicted, self.copied, self.fresh = select(trajectory, self.state, **asked.selection)
        self.device = self.state.device if placement.device is None else usable(placement.device)
        if isinstance(prediction, Prediction):
            prediction = resolve(
                prediction, len(trajectory), trajectory.record.sampling_ratio, forgotten=trajectory.forgotten,
                folder=trajectory.root if trajectory.forgotten else None,
            )  # fmt: skip
        #: The methods with their parameters and learned weights.
        self.prediction = prediction
        learned = next((one.name for one in prediction.methods if one.source is not None), None)
        if trajectory.recorded and trajectory.record.sampling_ratio is None and learned:
            raise ValueError(
                f"{trajectory.root} was recorded every so many steps of one training, and {learned} reads checkpoints "
                "of known, falling shares of the data: choose another method (mean, linear_fit, fitted …), record at "
                "fractions of the training, or name the checkpoints, newest first, with their sampling_ratio or "
                "examples (know-hf predict, Trajectory.from_checkpoints)."
            )
        for one in prediction.methods:
            if one.coefficients is not None:
                told = one.coefficients.tells_stages  # else nothing has to be read for it
                files = [stage.files if told else () for stage in trajectory.checkpoints]
                one.coefficients.check(self.predicted, [[self._hashes[str(path)] for path in own] for own in files])
        prediction.to(self.device)

    def check(self, steps: int) -> None:
        """Raises if a method cannot do that many steps with its parameters, before anything is read or written."""
        self.prediction.check(sorted(set(self.predicted.values())), steps)

    def folders(self, output_dir: str | Path | None) -> dict[str, Path]:
        """Method → folder for its steps."""
        if output_dir is None:
            return {name: enriched_folder(self.trajectory.root, name) for name in self.prediction.names}
        names, root = self.prediction.names, Path(output_dir)
        return {name: root if len(names) == 1 else root / name for name in names}

    def provenance(self, one: ResolvedMethod, step: int) -> dict[str, Any]:
        """What determines one folder, as plain data."""
        kinds = self.predicted.values()
        provenance: dict[str, Any] = {
            "method": one.name,
            "parameters": one.recorded,
            "iterate": self.prediction.options.iterate,
            "step": step,
            "sampling_ratio": self.trajectory.record.sampling_ratio,
            "sources": [{p.name: self._hashes[str(p)] for p in c.files} for c in self.trajectory.checkpoints],
            "predicted": {kind: sum(k == kind for k in kinds) for kind in sorted(set(kinds))},
            "copied": len(self.copied),
            "tensors": describe_tensors(self.predicted),
        }
        if (positions := self.trajectory.positions) is not None:
            provenance["positions"] = positions
        if self.fresh:
            provenance["reset"] = sorted({name.rpartition(".")[0] for name in self.fresh})
        if self._modules:
            root = self.trajectory.checkpoints[0].folder
            provenance["modules"] = {p.relative_to(root).as_posix(): self._hashes[str(p)] for p in self._modules}
        if one.source is not None and one.predictor is not None:
            provenance["predictor"] = {"source": one.source, "sha256": hash_weights(one.predictor)}
            if revision := hub_revision(one.source):
                provenance["predictor"]["revision"] = revision
        if code := one.method.code:
            provenance["code"] = code
        return provenance

    @property
    def _modules(self) -> list[Path]:
        """Weights in stage 0's sub-folders, which travel as they are."""
        root, files = self.trajectory.checkpoints[0].folder, self.companions.files
        return [root / file for file in files if len(file.parts) > 1 and file.suffix == ".safetensors"]

    @property
    def _inputs(self) -> list[Path]:
        """All files of weights that a result depends on."""
        return [path for checkpoint in self.trajectory.checkpoints for path in checkpoint.files] + self._modules

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """SHA-256 of every input file; each process reads its share of them."""
        files = self._inputs
        mine = hash_files(files[self.state.process_index :: self.state.num_processes], self.state.is_main_process)
        shares = gather_object([mine]) if self.state.num_processes > 1 else [mine]
        return {path: digest for share in shares for path, digest in share.items()}

    def write_steps(
        self,
        folders: Mapping[str, Path],
        steps: int,
        finish: Finish | None = None,
        notes: Mapping[str, Any] | None = None,
        lenient: bool = False,
    ) -> dict[str, Path]:
        """Writes ``x2`` … into each method's folder; returns name of the checkpoint → folder.

        With ``lenient`` those that are not finite are left out, with a word, as of [`write`].
        """
        check_range("steps", steps, STEPS)
        names = step_names(self.trajectory.record.sampling_ratio, steps)
        targets = {method: [folder / name for name in names] for method, folder in folders.items()}
        lost = self.write(targets, finish, notes, lenient)
        label = "{1}" if len(folders) == 1 else "{0}/{1}"
        found = {
            label.format(method, name): folder
            for method, paths in targets.items()
            for name, folder in zip(names, paths, strict=True)
        }
        self.left_out = [name for name, folder in found.items() if folder in lost]
        return {name: folder for name, folder in found.items() if folder not in lost}

    def write(
        self,
        targets: Mapping[str, list[Path]],
        finish: Finish | None = None,
        notes: Mapping[str, Any] | None = None,
        lenient: bool = False,
    ) -> set[Path]:
        """Writes one folder a method and step; folders that already hold the same result are left as they are.

        Args:
            targets: Method → folders of its steps.
            finish: Completes each.
            notes: Noted in each.
            lenient: Whether to leave out, with a word, what is not finite, instead of raising.

        Returns:
            The folders that were left out.

        Raises:
            NotFiniteError: If a prediction is not finite; nothing is written then.
        """
        steps = max(len(paths) for paths in targets.values())
        self.check(steps)
        check_targets(self.trajectory.checkpoints, [path for paths in targets.values() for path in paths])
        with ExitStack() as locks:
            for parent in sorted({path.parent for paths in targets.values() for path in paths}):
                locks.enter_context(locked(parent, self.state.is_main_process))
            return self._write(targets, steps, finish, notes, lenient)

    def _write(
        self,
        targets: Mapping[str, list[Path]],
        steps: int,
        finish: Finish | None,
        notes: Mapping[str, Any] | None,
        lenient: bool,
    ) -> set[Path]:
        todo: dict[tuple[str, int], PartialFolder] = {}
        main, source = self.state.is_main_process, self.trajectory.checkpoints[0]
        methods = {one.name: one for one in self.prediction.methods}

        def provenance(name: str, step: int) -> dict[str, Any]:
            return {**self.provenance(methods[name], step), **(notes or {})}

        for name, paths in targets.items():
            for step, path in enumerate(paths, start=1):
                # Only what is there has to be compared with the inputs' hashes before anything is written.
                there = os.path.lexists(path) or self.state.num_processes > 1
                files = self.companions.files
                if not (there and holds(path, provenance(name, step), source, files, self.placement.verify)):
                    todo[name, step] = PartialFolder(path)
        self.state.wait_for_everyone()
        lost: dict[tuple[str, int], NotFiniteError] = {}
        if not todo:
            return set()
        check_copied(self.trajectory, self.copied, self.state)
        if main:
            check_space(next(iter(todo.values())).final.parent, len(todo), self.companions.nbytes)
            report_left(source, self.companions.left)
        try:
            if main:
                for partial in todo.values():
                    partial.begin(source.folder, self.companions.files)
                    partial.fill(self.fresh)
            self.state.wait_for_everyone()
            # Processes hash shares of the files; one process alone hashes them as it reads them.
            with FollowingHashes(self._inputs if self.state.num_processes == 1 else ()) as hashes:
                statistics, lost = predict_shares(self, steps, todo, hashes, lenient)
            self.state.wait_for_everyone()
            left_out = {todo[key].final for key in lost}
            for (name, step), error in lost.items():
                partial = todo.pop((name, step))
                if main:
                    partial.discard()
                    logger.warning("%s of %s is left out: %s.", partial.final.name, name, str(error).partition(";")[0])
            for key, partial in todo.items():
                scores = dict(finish(partial.path)) if finish else {}
                if main:
                    content = {
                        **provenance(*key),
                        "scale": self.trajectory.scale(key[1]),
                        "unmoved": unmoved(self.copied),
                        "not_predicted": not_predicted(
                            self.trajectory.tensors, self.trajectory.parameters, self.copied
                        ),
                        "statistics": statistics[key].summary(),
                        "metrics": scores,
                        **getattr(finish, "described", {}),
                        "baseline": self.baseline,
                        "sha256": hash_written(source, partial.path),
                        "versions": versions(),
                    }
                    card = enriched_card(self.trajectory, content, partial.final.name, self.self_check)
                    partial.describe(content, card)
            self.state.wait_for_everyone()
            if main:
                for partial in todo.values():
                    partial.commit()
            self.state.wait_for_everyone()
            return left_out
        except BaseException as error:
            if main:
                for partial in todo.values():
                    partial.discard()
            say_full(error)
            raise

    @property
    def predicted_values(self) -> int:
        """Number of values that are predicted at every step."""
        return sum(self.trajectory.tensors[name].numel for name in self.predicted)

    def result(self, root: Path, checkpoints: Mapping[str, Path]) -> EnrichmentResult:
        """Collects what the written folders say about themselves."""
        kept = {reason: len(names) for reason, names in unmoved(self.copied).items()}
        reset = len({name.rpartition(".")[0] for name in self.fresh})
        return EnrichmentResult.read(root, self.trajectory, checkpoints, kept, reset)
