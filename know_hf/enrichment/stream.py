"""The streaming path from a trajectory to enriched folders: read a block, predict all steps, write, next block."""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.statistics import Statistics
from know_hf.enrichment.writer import ENRICHMENT_FILE, CheckpointPatch, PartialFolder
from know_hf.forgetting.recipe import portable_name, versions
from know_hf.hub.cards import enriched_card
from know_hf.known import KnownPredictor
from know_hf.locking import locked
from know_hf.retrodiction import Method, get_method
from know_hf.trajectory import Trajectory, resolve_kinds

#: Weights per block and stage: what one process holds in memory at a time (S + steps blocks of float32).
BLOCK = 1 << 20

#: Name of stage 0's scores with BatchNorm statistics re-estimated as for the predictions.
BASELINE = "stage-0 (BatchNorm re-estimated)"
#: Called on every process with a complete but not yet renamed folder; returns scores for its card.
Finish = Callable[[Path], Mapping[str, float]]


def enrich(
    trajectory: Trajectory | str | Path,
    output_dir: str | Path | None = None,
    *,
    retrodictor: str = "known",
    parameters: Mapping[str, Any] | None = None,
    predictor: KnownPredictor | str | Path | None = None,
    steps: int = 3,
    norms: str = "copy",
    embeddings: str = "copy",
    kinds: Mapping[str, str] | None = None,
    device: str | torch.device | None = None,
) -> EnrichmentResult:
    """Predicts enriched checkpoints from an existing trajectory.

    Runs no model code: BatchNorm statistics stay those of stage 0 ([`enrich_pretrained`] re-estimates them). Memory is
    a few blocks, whatever the model's size. Under ``accelerate launch`` or ``torchrun`` processes share the work.

    Args:
        trajectory: A [`Trajectory`] or the folder of a run.
        output_dir: Folder for ``x2``, ``x4`` …; by default ``enriched`` in the run's folder (``enriched-<method>`` for
            other methods than ``known``).
        retrodictor: Name of the method.
        parameters: The method's own parameters.
        predictor: For learned methods: a [`KnownPredictor`], its folder or Hub id; the bundled one by default.
        steps: Number of steps; step s stands for r^(-s) times the data and names the folder.
        norms: ``"copy"``, or ``"bias"`` to predict normalisation parameters.
        embeddings: ``"copy"``, or ``"fc"`` to predict embedding tables.
        kinds: Name patterns → kind or ``"copy"``, over everything else.
        device: Where to predict; by default the process's accelerator, else the CPU.

    Returns:
        An [`EnrichmentResult`]; every folder loads with plain ``from_pretrained``.

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
    if output_dir is None:
        output_dir = enriched_folder(trajectory.root, retrodictor)
    run = Enrichment(
        trajectory,
        retrodictor=retrodictor,
        parameters=parameters,
        predictor=predictor,
        norms=norms,
        embeddings=embeddings,
        kinds=kinds,
        device=device,
    )
    checkpoints = run.write_steps(output_dir, steps)
    return run.result(trajectory.root, checkpoints)


def enriched_folder(root: Path, method: str) -> Path:
    """Where a method's checkpoints go within a run: ``enriched`` for KNOWN, ``enriched-<method>`` for others."""
    return root / ("enriched" if method == "known" else f"enriched-{method}")


def step_names(trajectory: Trajectory, steps: int) -> list[str]:
    """Folder names by nominal growth of the data: x2, x4, x8 at r = 0.5; x3, x9, x28 at r = 0.33."""
    scales = [trajectory.scale(step) for step in range(1, steps + 1)]
    for digits in range(1, 8):
        names = [f"x{scale:.0f}" if scale >= 3 and digits == 1 else f"x{scale:.{digits}f}" for scale in scales]
        names = [name.rstrip("0").rstrip(".") if "." in name else name for name in names]
        if len(set(names)) == steps:
            return names
    raise ValueError(f"sampling_ratio {trajectory.record.sampling_ratio} is too close to 1 to tell steps apart.")


class Enrichment:
    """One method applied to one trajectory, everything checked before anything is written."""

    def __init__(
        self,
        trajectory: Trajectory,
        *,
        retrodictor: str = "known",
        parameters: Mapping[str, Any] | None = None,
        predictor: KnownPredictor | str | Path | None = None,
        norms: str = "copy",
        embeddings: str = "copy",
        kinds: Mapping[str, str] | None = None,
        device: str | torch.device | None = None,
    ):
        self.state = PartialState()
        self.trajectory, self.name = trajectory, retrodictor
        self.method: Method = get_method(retrodictor)
        self.parameters = dict(parameters or {})
        #: Result of the run's self-check, for the cards.
        self.self_check: dict[str, Any] | None = None
        #: Scores of stage 0 treated like the predictions (BatchNorm statistics re-estimated), for comparison.
        self.baseline: dict[str, float] | None = None
        trajectory.validate()
        self.predicted, self.copied = resolve_kinds(
            trajectory.parameters, norms=norms, embeddings=embeddings, kinds=kinds
        )
        unfit = [n for n in self.predicted if trajectory.parameters[n].kind == "buffer"]
        if unfit:
            raise ValueError(f"kinds: {unfit[0]!r} is a buffer or not floating point; it can only be copied.")
        if not self.predicted:
            raise ValueError("Nothing to predict: no tensor of the trajectory has kind conv, fc or bias.")
        self.device = torch.device(device) if device is not None else self.state.device
        self.predictor_source = None
        if self.method.learned:
            self.predictor_source = "bundled"
            if predictor is not None:
                self.predictor_source = portable_name(str(getattr(predictor, "name_or_path", predictor)))
            predictor = load_predictor(predictor, len(trajectory)).to(self.device)
            for kind in set(self.predicted.values()):
                predictor.network(kind)
            self.parameters["predictor"] = predictor

    def provenance(self) -> dict[str, Any]:
        """What determines the result, as plain data."""
        files = [{path.name: _sha256(path) for path in checkpoint.files} for checkpoint in self.trajectory.checkpoints]
        provenance = {
            "method": self.name,
            "parameters": {k: v for k, v in self.parameters.items() if k != "predictor"},
            "sampling_ratio": self.trajectory.record.sampling_ratio,
            "sources": files,
            "predicted": {
                kind: sum(k == kind for k in self.predicted.values()) for kind in sorted(set(self.predicted.values()))
            },
            "copied": len(self.copied),
        }
        if predictor := self.parameters.get("predictor"):
            provenance["predictor"] = {"source": self.predictor_source, "sha256": _hash_parameters(predictor)}
        return provenance

    def write_steps(
        self,
        output_dir: str | Path,
        steps: int,
        finish: Finish | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> dict[str, Path]:
        """Writes ``output_dir/x2`` … for ``steps`` steps; returns name → folder."""
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1.")
        output_dir = Path(output_dir)
        names = step_names(self.trajectory, steps)
        folders = [output_dir / name for name in names]
        self.check_targets(folders)
        with locked(output_dir, self.state.is_main_process):
            self.write(folders, finish, notes)
        return dict(zip(names, folders, strict=True))

    def write(self, folders: list[Path], finish: Finish | None = None, notes: Mapping[str, Any] | None = None) -> None:
        """Writes one folder a step; folders that already hold the same result are left as they are."""
        self.check_targets(folders)
        provenance = {**self.provenance(), **(notes or {})}
        todo = {step: PartialFolder(f) for step, f in enumerate(folders) if not _holds(f, provenance, step)}
        self.state.wait_for_everyone()
        if not todo:
            return
        main = self.state.is_main_process
        try:
            if main:
                self._check_space(todo)
                for partial in todo.values():
                    partial.begin(self.trajectory.checkpoints[0])
            self.state.wait_for_everyone()
            statistics = self._predict(len(folders), todo)
            self.state.wait_for_everyone()
            for step, partial in todo.items():
                scores = dict(finish(partial.path)) if finish else {}
                if main:
                    content = {
                        **provenance,
                        "step": step + 1,
                        "scale": self.trajectory.scale(step + 1),
                        "statistics": statistics[step].summary(),
                        "metrics": scores,
                        "baseline": self.baseline,
                        "versions": versions(),
                    }
                    partial.describe(
                        content, enriched_card(self.trajectory, content, partial.final.name, self.self_check)
                    )
            self.state.wait_for_everyone()
            if main:
                for partial in todo.values():
                    partial.commit()
            self.state.wait_for_everyone()
        except BaseException as error:
            if main:
                for partial in todo.values():
                    partial.discard()
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise OSError(
                    errno.ENOSPC,
                    f"the disk is full; nothing was left half-written. Free space and run again: {error}",
                ) from error
            raise

    def check_targets(self, folders: list[Path]) -> None:
        """Refuses folders that are, or lie in, an input."""
        sources = [checkpoint.folder.resolve() for checkpoint in self.trajectory.checkpoints]
        for folder in folders:
            if any(folder.resolve() == source or source in folder.resolve().parents for source in sources):
                raise FileExistsError(f"{folder} is, or lies in, an input checkpoint; choose another output_dir.")

    def _check_space(self, todo: Mapping[int, PartialFolder]) -> None:
        needed = len(todo) * self.trajectory.checkpoints[0].nbytes
        free = shutil.disk_usage(next(iter(todo.values())).final.parent).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"{needed / 1e9:.2f} GB are needed for {len(todo)} checkpoints, {free / 1e9:.2f} GB free",
            )

    def _blocks(self) -> Iterator[tuple[str, int, int]]:
        for name in self.predicted:
            size = self.trajectory.tensors[name].numel
            width = BLOCK if self.method.elementwise else max(size, 1)
            for start in range(0, size, width):
                yield name, start, min(start + width, size)

    def _predict(self, steps: int, todo: Mapping[int, PartialFolder]) -> dict[int, Statistics]:
        """Predicts and writes this process's share of the blocks; sums the statistics over all processes."""
        statistics = {step: Statistics() for step in todo}
        blocks = list(self._blocks())[self.state.process_index :: self.state.num_processes]
        bar = tqdm(
            total=sum(stop - start for _, start, stop in blocks),
            desc=f"{self.name} ×{steps} steps",
            unit=" weights",
            unit_scale=True,
            disable=not self.state.is_main_process,
        )
        with bar, ExitStack() as files:
            patches = {step: files.enter_context(CheckpointPatch(partial.path)) for step, partial in todo.items()}
            for name, start, stop in blocks:
                kind = self.predicted[name]
                stages = self.trajectory.read(name, start, stop)
                origin = stages[0]
                if not self.method.elementwise:
                    stages = stages.reshape(len(stages), *self.trajectory.tensors[name].shape)
                predicted = self.method.function(stages.to(self.device), kind, steps, **self.parameters)
                for step, patch in patches.items():
                    stored = patch.write(name, start, predicted[step].reshape(-1).cpu())
                    statistics[step].add(self.trajectory.parameters[name].kind, origin, stored)
                bar.update(stop - start)
        shares = gather_object([statistics]) if self.state.num_processes > 1 else [statistics]
        return {step: sum((share[step] for share in shares), Statistics()) for step in todo}

    def result(self, root: Path, checkpoints: Mapping[str, Path]) -> EnrichmentResult:
        """Collects what the written folders say about themselves."""
        described = {name: json.loads((f / ENRICHMENT_FILE).read_text()) for name, f in checkpoints.items()}
        metrics = {name: content["metrics"] for name, content in described.items() if content["metrics"]}
        if baseline := next(iter(described.values()))["baseline"]:
            metrics = {BASELINE: baseline, **metrics}
        if first := self.trajectory.record.stages[0].metrics:
            metrics = {"stage-0": first, **metrics}
        statistics = {name: content["statistics"] for name, content in described.items()}
        return EnrichmentResult(root, self.trajectory, dict(checkpoints), statistics, metrics)


def load_predictor(predictor: KnownPredictor | str | Path | None, stages: int) -> KnownPredictor:
    """Loads a predictor and checks that it reads that many stages.

    Args:
        predictor: A live one, a folder, a Hub id, or None for the bundled one.
        stages: Number S of stages that it has to read.

    Raises:
        OSError: If a folder or Hub id cannot be loaded.
        ValueError: If it reads another number of stages.
    """
    if predictor is None:
        predictor = KnownPredictor.default()
    elif not isinstance(predictor, KnownPredictor):
        predictor, info = KnownPredictor.from_pretrained(str(predictor), dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"] or info["unexpected_keys"]:
            raise ValueError(f"{predictor.name_or_path} is not a complete KNOWN predictor: {info}")
    if predictor.config.history_length != stages:
        raise ValueError(
            f"The predictor reads {predictor.config.history_length} stages, the trajectory has {stages}: use "
            f"num_stages={predictor.config.history_length} or a predictor made for {stages}."
        )
    return predictor.eval()


def _holds(folder: Path, provenance: Mapping[str, Any], step: int) -> bool:
    """Whether a folder already holds this result; raises if it holds another."""
    if not folder.exists():
        return False
    try:
        content = json.loads((folder / ENRICHMENT_FILE).read_text())
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{folder} exists and was not written by know-hf; choose another output_dir.") from error
    expected = json.loads(json.dumps({**provenance, "step": step + 1}))
    different = [name for name, value in expected.items() if content.get(name) != value]
    if different:
        raise FileExistsError(
            f"{folder} holds another result (different {', '.join(different)}); delete it or choose another output_dir."
        )
    return True


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _hash_parameters(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
