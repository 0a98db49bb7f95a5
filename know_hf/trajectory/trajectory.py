"""A lazy view of S checkpoints along a forgetting run, and the one place that knows their two orders."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from know_hf.checkpoints.checkpoint import DTYPES, PREDICTABLE, Checkpoint, TensorSpec, all_finite
from know_hf.records import TrajectoryError
from know_hf.trajectory.given import (
    check_given_model,
    configured_kinds,
    given_examples,
    given_kinds,
    given_ratio,
    report_unmatched,
)
from know_hf.trajectory.kinds import Parameter, described_by, misfits
from know_hf.trajectory.origin import base_license, origin_in
from know_hf.trajectory.record import StageRecord, TrajectoryRecord
from know_hf.trajectory.sources import check_alike, check_same_model, given_checkpoints
from know_hf.trajectory.spacing import positions_of, step_ratio

#: The recipe of a training that somebody else ran, of which a callback recorded checkpoints.
RECORDED = "recorded"
RECIPE_HINT = "fine-tune from its last stage folder, there is nothing to predict."
BRANCHES_HINT = "its stages are branches of one start, which enrich averages with --also soup; there is no forgetting."

# Powers of ten.
_LARGEST_GROWTH = 100
_DIVERGED = ": training diverged there. Lower the learning rate and run again in a new folder."
_GIVEN = " ({folder}): nothing can be predicted from it. Leave the stage out, or copy the tensor (kinds={{…: 'copy'}})."


def to_history(stages: Tensor) -> Tensor:
    """Turns stage order into the order that a learned predictor reads.

    Training goes from all the data (stage 0) to the least (stage S-1); a predictor reads from the most forgotten stage
    to the least and adds its residual to the last. Nothing else in this package knows that.

    Args:
        stages: ``(S, …)``, index i is Θ^i.

    Returns:
        ``(S, …)``, the last entry is Θ^0.

    Source: the authors' released code (paper Eq. 2-3 prints the reverse order).
    """
    return stages.flip(0)


def growth(sampling_ratio: float | None, step: int) -> float:
    """Nominal growth of the data that ``step`` steps stand for, as [`Trajectory.scale`].

    Raises:
        TrajectoryError: If no data set could grow so much.
    """
    ratio = 0.5 if sampling_ratio is None else sampling_ratio
    if -step * math.log10(ratio) > _LARGEST_GROWTH:
        raise TrajectoryError(
            f"At sampling_ratio {ratio:g} step {step} stands for more than 1e{_LARGEST_GROWTH} times the data: take "
            "fewer steps."
        )
    return ratio**-step


class Trajectory:
    """S checkpoints of one network along progressive forgetting, read block by block.

    Args:
        record: What the run did.
        root: Folder that stage folders are relative to.

    Raises:
        TrajectoryError: If a stage is unfinished, there are fewer than two, or the run did not forget.

    Source: paper section 3 (Θ^0 … Θ^(S-1)).

    Example:
        >>> from know_hf import Trajectory
        >>> trajectory = Trajectory.load("runs/my-model")  # doctest: +SKIP
        >>> trajectory.read("classifier.weight", 0, 100).shape  # doctest: +SKIP
        torch.Size([5, 100])
    """

    def __init__(self, record: TrajectoryRecord, root: str | Path = "."):
        self.record, self.root = record, Path(root)
        if record.num_stages < 2:
            raise TrajectoryError(f"A trajectory needs at least 2 stages, found {record.num_stages}.")
        recipe = record.recipe.get("recipe", "forgetting")
        if recipe not in ("forgetting", RECORDED):
            hint = BRANCHES_HINT if recipe == "soup" else RECIPE_HINT
            raise TrajectoryError(f"{self.root} is a run of the control {recipe!r}, not of forgetting: {hint}")
        done = [stage.index for stage in record.stages[: record.num_stages] if stage.finished]
        if len(done) < record.num_stages:
            raise TrajectoryError(
                f"{self.root} has {len(done)} of {record.num_stages} stages; run the same command again to finish."
            )

    @classmethod
    def load(cls, folder: str | Path) -> "Trajectory":
        """Opens a run folder; reads ``trajectory.json`` only.

        Args:
            folder: The ``output_dir`` of a forgetting run.

        Returns:
            The finished trajectory, read as it is asked for.

        Raises:
            TrajectoryError: If the record is missing, unreadable or unfinished.
        """
        return cls(TrajectoryRecord.load(folder), folder)

    @classmethod
    def from_checkpoints(
        cls,
        checkpoints: Sequence[str | Path],
        *,
        kinds: Mapping[str, str | Parameter] | None = None,
        model: nn.Module | None = None,
        sampling_ratio: float | None = None,
        examples: Sequence[int] | None = None,
        trust_remote_code: bool = False,
    ) -> "Trajectory":
        """Makes a trajectory of checkpoints that already exist.

        What the tensors are is read off the configuration and the headers; no weights are loaded, and no model code of
        a repository runs unless it is allowed to.

        Args:
            checkpoints: Folders, or models on the Hub as ``"user/name"`` or ``"user/name@revision"``, in stage order:
                the one trained on all the data first, the most forgotten last.
            kinds: Instead of the configuration: name → kind of every tensor to predict; what is not named is copied.
            model: Instead of the configuration: a live module (``meta`` device is enough) to read them from. Names may
                differ by the prefix of its bare model; tensors that it does not have, or has in another shape, are
                named in a warning, and copied.
            sampling_ratio: Ratio r of successive data set sizes; names the enriched folders.
            examples: Instead of the ratio, where it is not the same from stage to stage: the number of examples that
                each checkpoint was trained on. Methods read the stages at these distances.
            trust_remote_code: Whether code of the model's folder may run.

        Returns:
            A [`Trajectory`] whose checkpoints have been compared by their configurations and headers.

        Raises:
            ImportError: If they are adapters and peft is not installed, or timm models and timm is not.
            TrajectoryError: If a checkpoint is missing, damaged or given twice, or they differ in architecture, names,
                shapes or storage types.
            TypeError: If ``checkpoints`` is a single folder or has no order, or another argument is of another kind.
            ValueError: If ``kinds`` and ``model`` are both given, or do not fit the tensors, or neither is and the
                configuration does not say what they are; if ratio or examples are out of range, or both are given.
        """
        from know_hf.models.skeleton import loader_in
        from know_hf.trajectory.identity import task_named

        if kinds is not None and model is not None:
            raise ValueError("Give either kinds={name: kind} or model=a live module to read the kinds from, not both.")
        if sampling_ratio is not None and examples is not None:
            raise ValueError("Give either sampling_ratio or examples: the numbers of examples say what the ratio is.")
        if model is not None:
            check_given_model(model)
        sampling_ratio, sources = given_ratio(sampling_ratio), given_checkpoints(checkpoints)
        counts = given_examples(examples, len(sources))
        first = Checkpoint(sources[0].folder)
        check_same_model(sources)
        tensors = first.tensors
        for other in sources[1:]:
            check_alike(first, Checkpoint(other.folder))
        if model is not None:
            parameters = described_by(model, tensors)
            report_unmatched(parameters, tensors, misfits(model, tensors), f"the given {type(model).__name__}")
        elif kinds is not None:
            parameters = given_kinds(kinds, tensors)
        else:
            parameters = configured_kinds(first.folder, tensors, trust_remote_code)
        stages = [StageRecord(i, os.path.abspath(s.folder), source=s.name) for i, s in enumerate(sources)]
        if counts is not None:
            sampling_ratio = step_ratio(counts)
            stages = [
                replace(stage, examples=count, ratio=count / counts[0])
                for stage, count in zip(stages, counts, strict=True)
            ]
        described = {**loader_in(first.folder), **origin_in(first.folder)}
        described |= {"task": task_named(described.get("auto_class")), "license": base_license(str(first.folder))}
        if sources[0].repository:
            described |= {"id": sources[0].repository, "local": False}
        return cls(TrajectoryRecord(len(stages), sampling_ratio, stages, parameters, model=described), Path.cwd())

    def save(self, folder: str | Path) -> Path:
        """Writes ``trajectory.json``, which names stage folders relative to it where they lie beside it.

        Args:
            folder: Where to; made if need be.

        Returns:
            Path of the file.

        Raises:
            OSError: If it cannot be written.
        """
        root = Path(folder).resolve()
        stages = []
        for stage in self.record.stages:
            path = (self.root / stage.folder).resolve()
            stages.append(
                replace(stage, folder=path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))
            )
        return replace(self.record, stages=stages).save(folder)

    def __len__(self) -> int:
        return self.record.num_stages

    def __repr__(self) -> str:
        return f"Trajectory({str(self.root)!r}, {len(self)} stages, r={self.record.sampling_ratio})"

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The S checkpoints in stage order."""
        return [Checkpoint(self.root / stage.folder) for stage in self.record.stages[: len(self)]]

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """What each stored tensor is; tensors that the record does not know are ``unknown``, and copied."""
        return {name: self._parameter(name, spec) for name, spec in self.tensors.items()}

    def _parameter(self, name: str, spec: TensorSpec) -> Parameter:
        known = self.record.parameters.get(name, Parameter("unknown", ""))
        return known if spec.dtype in PREDICTABLE else Parameter("buffer", known.layer)

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """Stage 0's stored tensors by name, from its headers."""
        return self.checkpoints[0].tensors

    def validate(self) -> None:
        """Compares the headers of all stages.

        Raises:
            TrajectoryError: If a checkpoint is damaged or differs from stage 0 in names, shapes or storage types.
        """
        for checkpoint in self.checkpoints[1:]:
            check_alike(self.checkpoints[0], checkpoint)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Reads one block of one tensor from all stages.

        Args:
            name: Name of a stored tensor.
            start: First value of the flattened tensor.
            stop: Value after the last, or None for all the rest.

        Returns:
            ``(S, n)`` float32 (float64 stays), in stage order: index 0 is Θ^0.

        Raises:
            KeyError: If there is no such tensor.
            TrajectoryError: If a value is not finite or a file ends early; the tensor and stage are named.
        """
        spec = self.tensors[name]
        stop = spec.numel if stop is None else min(stop, spec.numel)
        dtype = torch.promote_types(DTYPES[spec.dtype], torch.float32)
        stages = torch.empty(len(self), stop - start, dtype=dtype)
        for stage, checkpoint in zip(stages, self.checkpoints, strict=True):
            if DTYPES[spec.dtype] == dtype:
                checkpoint.read(name, start, stop, into=stage)
            else:
                stage.copy_(checkpoint.read(name, start, stop))
        if not all_finite(stages):
            bad = [i for i, stage in enumerate(stages) if not all_finite(stage)]
            raise TrajectoryError(
                f"Tensor {name!r} holds NaN or infinite values in stage {', '.join(map(str, bad))}"
                + (_DIVERGED if self.record.recipe else _GIVEN.format(folder=self.checkpoints[bad[0]].folder))
            )
        return stages

    @property
    def positions(self) -> list[float] | None:
        """How many steps each stage lies below stage 0, where those are not 0, 1, 2 …; None where they are.

        A run of forgetting has equal steps; only checkpoints that were there already, or recorded, may lie anywhere.
        """
        if self.forgotten:
            return None
        shares = [stage.ratio for stage in self.record.stages[: len(self)]]
        known = [share for share in shares if share is not None]
        return positions_of(known) if len(known) == len(shares) else None

    @property
    def recorded(self) -> bool:
        """Whether the stages are checkpoints of one ordinary training."""
        return self.record.recipe.get("recipe") == RECORDED

    @property
    def forgotten(self) -> bool:
        """Whether forgetting made the stages, instead of being checkpoints that were there or that a callback kept."""
        return bool(self.record.recipe) and not self.recorded

    def scale(self, step: int) -> float:
        """Nominal growth of the data that ``step`` steps stand for: r^(-step); 2^step when r is not known.

        Raises:
            TrajectoryError: If no data set could grow so much.
        """
        return growth(self.record.sampling_ratio, step)

    def self_check_window(self) -> "Trajectory | None":
        """The trajectory Θ^1 … Θ^S, from which Θ^0 can be retrodicted, or None without the extra stage."""
        if len(self.record.stages) <= len(self) or not self.record.stages[len(self)].finished:
            return None
        stages = [replace(stage, index=stage.index - 1) for stage in self.record.stages[1 : len(self) + 1]]
        return Trajectory(replace(self.record, stages=stages), self.root)
