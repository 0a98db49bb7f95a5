"""What an enrichment will do, before it does it: from headers alone."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from know_hf.checkpoints.checkpoint import PREDICTABLE, TensorSpec
from know_hf.enrichment.options import Extent
from know_hf.enrichment.ranges import BLOCK
from know_hf.enrichment.unpredicted import not_predicted
from know_hf.fitting.coefficients import SHARE
from know_hf.forgetting.cost import ForgettingCost
from know_hf.forgetting.options import Pace
from know_hf.known import native
from know_hf.known.inference import FoldedNetwork
from know_hf.known.predicting import Predicting
from know_hf.records import TrajectoryError
from know_hf.remote import bounded, public
from know_hf.retrodiction.predictors import load_predictor, load_predictor_stages, predictor_parameters
from know_hf.settings import takes
from know_hf.tables import table
from know_hf.text import without_secrets
from know_hf.training.options import DataOptions, ModelCode
from know_hf.trajectory import Checkpoint, Trajectory, resolve_kinds
from know_hf.trajectory.given import report_unmatched
from know_hf.trajectory.kinds import Parameter, described_by, fresh_norms, misfits
from know_hf.trajectory.record import FILE_NAME

# How long to measure the speed of prediction, in seconds, and on how many weights at a time.
_SECONDS, _WEIGHTS = 0.2, 1 << 16


@dataclass
class Plan:
    """What would be predicted and copied, and what it would take.

    Args:
        source: The trajectory's or model's folder.
        stages: Number of stages.
        steps: Number of prediction steps.
        tensors: Name → where it lies and how large it is.
        parameters: Name → kind and owning layer.
        predicted: Name → kind of the network that predicts it.
        copied: Name → why it is copied.
        fresh: Names of what ``norms="reset"`` makes new.
        cost: Of the forgetting; None where the ratio of the stages is not known.
        seconds_per_weight: Measured on this machine, per weight and step.
        how: In words, what computes the predictions.
        preparation: Seconds before the first prediction: compiling, where that repays.
        whole: Whether the predictor reads whole tensors at a time.
        read: In words, how the data are read; nothing where none are given.
    """

    source: Path
    stages: int
    steps: int
    tensors: dict[str, TensorSpec]
    parameters: dict[str, Parameter]
    predicted: dict[str, str]
    copied: dict[str, str]
    seconds_per_weight: float
    how: str = ""
    preparation: float = 0.0
    whole: bool = False
    fresh: Collection[str] = ()
    cost: ForgettingCost | None = None
    read: str = ""

    @property
    def predicted_weights(self) -> int:
        """Number of weights that are predicted at every step."""
        return sum(self.tensors[name].numel for name in self.predicted)

    @property
    def seconds(self) -> float:
        """Expected time of the prediction itself on one process of this machine, without disk."""
        return self.preparation + self.predicted_weights * self.steps * self.seconds_per_weight

    @property
    def working_bytes(self) -> int:
        """Expected memory beyond the libraries: stages and steps of float32 blocks, being read, computed and written.

        Blocks are whole tensors with predictors that read those.
        """
        largest = max((self.tensors[name].numel for name in self.predicted), default=0)
        return (3 * self.stages + 2 * self.steps + 2) * (largest if self.whole else min(BLOCK, largest)) * 4

    @property
    def output_bytes(self) -> int:
        """Disk space of all enriched checkpoints' weights."""
        return self.steps * sum(spec.nbytes for spec in self.tensors.values())

    @property
    def renewed(self) -> int:
        """Checkpoints whose BatchNorm statistics are estimated anew by default; 0 for models without such layers.

        The predictions, Θ⁰ beside them, and of the choice the mean and two fitted points.
        """
        return self.steps + 4 if any(name.endswith("running_mean") for name in self.tensors) else 0

    def __str__(self) -> str:
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, kind in self.predicted.items():
            groups.setdefault((f"predict ({kind})", self.parameters[name].kind, ""), []).append(name)
        for name in self.fresh:
            parameter = self.parameters[name]
            groups.setdefault(("reset", parameter.kind, f"as of a new {parameter.layer}"), []).append(name)
        for name, reason in self.copied.items():
            layer = self.parameters[name].layer
            groups.setdefault(
                ("copy", self.parameters[name].kind, f"{reason}{f' ({layer})' if layer else ''}"), []
            ).append(name)
        rows = [["what", "kind", "tensors", "values", "MB", "why", "for example"]]
        for (what, kind, why), names in sorted(groups.items(), key=lambda item: (item[0][0] == "copy", item[0])):
            specs = [self.tensors[name] for name in names]
            values, size = sum(s.numel for s in specs), sum(s.nbytes for s in specs) / 1e6
            rows.append([what, kind, str(len(names)), f"{values:,}", f"{size:.2f}", why, names[0]])
        forgetting = f"\n\n{self.cost}" if self.cost else ""
        if self.renewed and self.cost:
            forgetting += (
                f"\nBatchNorm statistics of {self.renewed} checkpoints take a forward pass over the training data "
                f"each: about {self.renewed / 3:.1f} epochs, where the whole\nrun takes "
                f"{1 + 2 * self.cost.further:.2f} × --num_train_epochs."
            )
        kept = not_predicted(self.tensors, self.parameters, self.copied)
        parts = ", ".join(f"{what} {share:.1%}" for what, share in kept.items())
        copied = f"\n{sum(kept.values()):.0%} of all weights will not be predicted: {parts}." if kept else ""
        return (
            f"{self.source}: {len(self.tensors)} tensors, {self.stages} stages, {self.steps} steps\n\n{table(rows)}\n\n"
            f"Prediction: {self.predicted_weights:,} weights × {self.steps} steps, about {self.seconds:.1f} s on one "
            f"process of this machine ({self.seconds_per_weight:.1e} s per weight and step, measured now),\n"
            f"by {self.how}.{copied}\n"
            f"Memory beyond the libraries: about {self.working_bytes / 1e6:.0f} MB. Disk for the results: "
            f"{self.output_bytes / 1e6:.0f} MB.{forgetting}"
            f"{self.read and chr(10) * 2}{self.read}"
        )


@takes(extent=Extent, code=ModelCode, pace=Pace, data=DataOptions)
def make_plan(
    source: str | Path, dataset: Any = None, *, extent: Extent, code: ModelCode, pace: Pace, data: DataOptions
) -> Plan:
    """Plans the enrichment of a trajectory or of a model that has none yet.

    Reads headers, never weights. A model's kinds come from its configuration, built without memory for weights.

    Args:
        source: Folder of a forgetting run, or folder or Hub id of a transformers or timm model.
        dataset: Data whose columns are to be looked at, as for [`enrich_pretrained`].

    Returns:
        A [`Plan`]; print it.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
        TrajectoryError: If a checkpoint is damaged, or the folder holds neither.
        ValueError: If an option does not fit, or the data are none that a task reads.

    Example:
        >>> from know_hf.plan import make_plan
        >>> print(make_plan("runs/my-model"))  # doctest: +SKIP
    """
    steps, predictor = extent.steps, extent.predictor
    source, read = Path(source), "" if dataset is None else _read(dataset, data)
    if (source / FILE_NAME).exists():
        trajectory = Trajectory.load(source)
        trajectory.validate()
        tensors, parameters, stages = trajectory.tensors, trajectory.parameters, len(trajectory)
        ratio = pace.sampling_ratio or trajectory.record.sampling_ratio
    else:
        from know_hf.models.skeleton import skeleton

        tensors = Checkpoint(source).tensors if source.is_dir() else _remote_tensors(str(source))
        try:
            model = skeleton(source, code.trust_remote_code)
        except ValueError as error:
            raise TrajectoryError(f"There is neither a trajectory nor a model to plan for: {error}") from error
        live, odd = described_by(model, tensors), misfits(model, tensors)
        if odd:
            report_unmatched(live, tensors, odd, f"The {type(model).__name__} of its configuration")
        parameters = {
            name: live.get(name, Parameter("unknown", "")) if spec.dtype in PREDICTABLE else Parameter("buffer", "")
            for name, spec in tensors.items()
        }
        stages = (pace.num_stages or 5) if predictor is None else load_predictor_stages(predictor)
        ratio = pace.sampling_ratio or 0.5
    predicted, copied = resolve_kinds(parameters, **extent.selection)
    fresh = fresh_norms(parameters, extent.kinds) if extent.norms == "reset" else ()
    learned = load_predictor(predictor, stages)
    work = steps * sum(tensors[name].numel for name in predicted)
    speed, how, preparation = _measure(learned, work)
    whole = learned.reads_whole_tensors
    # Two points are fitted by default, fitted and damped.
    cost = ForgettingCost(pace.num_stages or stages, ratio, 2 * SHARE) if ratio else None
    return Plan(
        source, stages, steps, tensors, parameters, predicted, copied, speed, how, preparation, whole, fresh, cost,
        read,
    )  # fmt: skip


def _read(dataset: Any, options: DataOptions) -> str:
    """How a data set would be read, in words."""
    from know_hf.tasks import find_roles  # with the library of data, which a plan without any does not need
    from know_hf.training.data import load_split

    rows = load_split(dataset, config=options.dataset_config)
    found = find_roles(rows, task=options.task, inputs=list(options.input_columns or []) or None,
                       label=options.label_column)  # fmt: skip
    answers = "" if found.label in found.inputs else f", answers {found.label}"
    return f"Data: {len(rows):,} rows, read for {found.task}: inputs {', '.join(found.inputs)}{answers}."


@bounded()
def _remote_tensors(repo_id: str) -> dict[str, TensorSpec]:
    """Reads the headers of a model on the Hub, without downloading its weights."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        metadata = get_safetensors_metadata(repo_id)
    except NotASafetensorsRepoError as error:
        raise TrajectoryError(f"{repo_id} on the Hub holds no safetensors weights.") from error
    except Exception as error:  # the client raises many types for one thing: it could not be had
        raise FileNotFoundError(
            f"{without_secrets(repo_id)!r} is neither a local folder nor a model reachable on the Hub. "
            f"({public(error)})"
        ) from error
    return {
        name: TensorSpec(Path(file), info.dtype, tuple(info.shape), first, last - first)
        for file, header in metadata.files_metadata.items()
        for name, info in header.tensors.items()
        for first, last in [info.data_offsets]
        if metadata.weight_map.get(name) == file
    }


def _measure(predictor: Predicting, work: int) -> tuple[float, str, float]:
    """Measures a predictor on this machine's default device.

    Args:
        predictor: It.
        work: Weights times steps of the job.

    Returns:
        Seconds per weight and step; what computes, in words; seconds that preparing it takes.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device("cpu") if found is None else found
    predictor, kind = predictor.to(device), predictor.config.kinds[0]
    given = predictor_parameters(predictor, 0.5)
    given.pop("predictor")
    steps, weights = 3, _WEIGHTS
    history = torch.randn(predictor.config.history_length, weights, device=device) * 0.05
    how, preparation = _means(predictor, device, work)
    with predictor.frozen(work):
        predictor.predict(history[:, :2048], kind, steps, **given).sum().item()
        start, rounds = time.perf_counter(), 0
        while not rounds or time.perf_counter() - start < _SECONDS:
            predictor.predict(history, kind, steps, **given).sum().item()  # waits for an accelerator
            rounds += 1
    return (time.perf_counter() - start) / (rounds * weights * steps), how, preparation


def _means(predictor: Predicting, device: torch.device, work: int) -> tuple[str, float]:
    """What will compute so many predictions, in words, and how long it takes to prepare."""
    if predictor.reads_whole_tensors:
        return "its network of differences, tensor by tensor", 0.0
    kernel = FoldedNetwork.of(predictor.network(predictor.config.kinds[0])).kernel(device, work)
    if isinstance(kernel, native.Kernel):
        return f"a kernel compiled for this processor in {kernel.seconds:.1f} s", kernel.seconds
    if kernel is not None:
        return "one kernel on the accelerator", 0.0
    if not native.repays(work):
        return "the folded network (so few that compiling a kernel would not repay)", 0.0
    return "the folded network (with a C++ compiler, about three times as fast)", 0.0
