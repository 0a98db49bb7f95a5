"""Starts of language models on standard benchmarks: as they are, by the tasks of lm-evaluation-harness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from know_hf.enrichment.folders import enriched_folder
from know_hf.enrichment.writer import read_enrichment
from know_hf.installing import missing
from know_hf.laboratory.arms import Arm
from know_hf.laboratory.comparison import folders_of
from know_hf.laboratory.statistics import Difference, paired_difference
from know_hf.models.adapters import base_of
from know_hf.reading import read_fields
from know_hf.records import BEST, ENRICHMENT_FILE
from know_hf.retrodiction import DEFAULT
from know_hf.store import inside, write_json, write_text
from know_hf.trajectory import Trajectory

FILE = "benchmarks.json"
# What the architectures of models that write are called at the end.
_WRITERS = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "ForSeq2SeqLM")


@dataclass(frozen=True)
class BenchmarkResult:
    """Scores of several starts, and how sure their differences are.

    Args:
        reference: Name of the start that all others are compared with.
        scores: Start → ``task/metric`` → score of all documents, as the harness gives it.
        differences: Start → ``task/metric`` → its difference to the reference, paired over the documents, of those
            metrics that have a score for every document.
    """

    reference: str
    scores: dict[str, dict[str, float]]
    differences: dict[str, dict[str, Difference]]

    def markdown(self) -> str:
        """A table: for each metric the starts' scores and their differences to the reference, with 95 % intervals."""
        lines = ["| metric | start | score | difference | verdict |", "|---|---|---|---|---|"]
        for metric in self.scores[self.reference]:
            for arm, scores in self.scores.items():
                found = self.differences.get(arm, {}).get(metric)
                paired = ("", "") if found is None else (
                    f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]", found.verdict
                )  # fmt: skip
                lines.append(f"| {metric} | {arm} | {scores[metric]:.4f} | {paired[0]} | {paired[1]} |")
        return "\n".join(lines) + "\n"


def starts_of_run(run: str | Path) -> dict[str, Path]:
    """What a finished ``enrich`` left to be scored: name → folder, ``stage-0`` first.

    Args:
        run: The folder of the run.

    Returns:
        Stage 0, the steps of KNOWN in their order, and ``best`` if something was chosen.

    Raises:
        FileNotFoundError: If nothing was predicted in it.
        OSError, TrajectoryError: If the run cannot be read.

    Example:
        >>> from know_hf.laboratory.benchmarks import starts_of_run
        >>> starts_of_run("runs/mine").keys()  # doctest: +SKIP
        dict_keys(['stage-0', 'x2', 'x4', 'x8', 'best'])
    """
    enriched = enriched_folder(Path(run), DEFAULT)
    made = [path.parent for path in sorted(enriched.glob(f"[!.]*/{ENRICHMENT_FILE}"))]
    steps = {folder: read_enrichment(folder).get("step") for folder in made if folder.name != BEST}
    stage = Trajectory.load(run).checkpoints[0].folder
    if not made:
        raise FileNotFoundError(f"{enriched} holds no checkpoints: predict first (know-hf predict {run}).")
    best = [enriched / BEST] if enriched / BEST in made else []
    return {"stage-0": stage, **{path.name: path for path in [*sorted(steps, key=lambda one: steps[one] or 0), *best]}}


def check_starts(
    arms: Mapping[str, str | Path],
    output_dir: str | Path | None = None,
    include_path: str | Path | None = None,
    tasks: Sequence[str] | None = None,
) -> None:
    """Looks at everything that can be known before a library is loaded.

    Args:
        arms: Name → start.
        output_dir: Where the scores are to go.
        include_path: Folder of tasks of your own.
        tasks: The tasks, if they are known.

    Raises:
        FileExistsError: If the folder holds scores of other starts or tasks.
        FileNotFoundError: If there is no folder of tasks.
        ValueError: If a start is no language model.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise FileNotFoundError(
            f"include_path {include_path} is no folder: name the one that holds the tasks' YAML files."
        )
    if output_dir is not None and (record := Path(output_dir) / FILE).exists():
        there = read_fields(record, {"scores": dict, "tasks": list[str]})
        asked = {"scores": list(arms), "tasks": there["tasks"] if tasks is None else list(tasks)}
        for what, own in asked.items():
            if list(there[what]) != own:
                raise FileExistsError(
                    f"{record} holds the scores of {', '.join(there[what])}, not of {', '.join(own)}; choose another "
                    "output_dir."
                )
    for name, start in arms.items():
        config = Path(base_of(Path(start)) if Path(start).is_dir() else start) / "config.json"
        if not config.is_file():  # on the Hub
            continue
        kinds = read_fields(config, {}).get("architectures") or []
        if kinds and not any(kind.endswith(_WRITERS) for kind in kinds):
            raise ValueError(
                f"{name} ({start}) is a {kinds[0]}; benchmarks score models that write, such as a CausalLM."
            )


def compare_on_benchmarks(
    arms: Mapping[str, Arm | str | Path],
    tasks: Sequence[str],
    output_dir: str | Path | None = None,
    *,
    include_path: str | Path | None = None,
    batch_size: int = 8,
    device: str | None = None,
    **options: Any,
) -> BenchmarkResult:
    """Scores starts of a language model on tasks of lm-evaluation-harness, without any fine-tuning.

    Args:
        arms: Name → start, the reference first: folders, Hub ids or adapters.
        tasks: Names of tasks, or of groups.
        output_dir: Where the scores are written (``benchmarks.json``, and the table as ``benchmarks.md``); nowhere by
            default.
        include_path: Folder with YAML files of tasks of your own.
        batch_size: Documents at a time.
        device: Such as ``"cuda"``; by default what there is.
        **options: For ``lm_eval.simple_evaluate``: ``num_fewshot``, ``limit``, ``apply_chat_template`` and others.

    Returns:
        A [`BenchmarkResult`].

    Raises:
        ImportError: If lm-eval or scipy is not installed.
        FileExistsError, FileNotFoundError: As [`check_starts`].
        ValueError: If there are fewer than two starts, a task is unknown, or a start is no language model.

    Example:
        >>> from know_hf.laboratory.benchmarks import compare_on_benchmarks
        >>> arms = {"stage-0": "runs/mine/stage-0", "x2": "runs/mine/enriched/x2"}
        >>> print(compare_on_benchmarks(arms, ["arc_easy"]).markdown())  # doctest: +SKIP
    """
    if len(arms) < 2:
        raise ValueError(f"A comparison needs two starts or more; found {', '.join(arms) or 'none'}.")
    check_starts(folders_of(arms), output_dir, include_path, tasks)
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise missing("Benchmarks need", "lm-eval", "lm-eval") from error
    manager = None
    if include_path is not None:  # the harness takes its time to look through thousands of its own
        own = TaskManager(include_path=str(include_path), include_defaults=False)
        manager = own if set(tasks) <= set(own.all_tasks) else None
    manager = manager or TaskManager(include_path=None if include_path is None else str(include_path))
    if unknown := sorted(set(tasks) - set(manager.all_tasks)):
        raise ValueError(
            f"There is no task {unknown[0]!r}; lm-eval ls tasks lists those there are, and include_path names a folder "
            "with others."
        )
    measured = {
        name: _measure(folder, tasks, manager, batch_size, device, options) for name, folder in folders_of(arms).items()
    }
    reference, *others = measured
    differences = {arm: _differences(measured[arm], measured[reference]) for arm in others}
    result = BenchmarkResult(reference, {arm: found.scores for arm, found in measured.items()}, differences)
    if output_dir is not None:
        write_text(inside(output_dir, Path(FILE).with_suffix(".md")), result.markdown())
        write_json(inside(output_dir, FILE), {"reference": reference, "tasks": [*tasks], "scores": result.scores})
    return result


@dataclass(frozen=True)
class _Measured:
    """Scores of one start by ``task/metric``: of all documents, of each, and whether more is better."""

    scores: dict[str, float]
    documents: dict[str, list[float]]
    higher: dict[str, bool]


def _measure(
    folder: str | Path,
    tasks: Sequence[str],
    manager: Any,
    batch_size: int,
    device: str | None,
    options: Mapping[str, Any],
) -> _Measured:
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    base = base_of(Path(folder)) if Path(folder).is_dir() else folder
    adapter = {} if str(base) == str(folder) else {"peft": str(folder)}
    place = device or ("cpu" if accelerator is None else accelerator.type)
    model = HFLM(pretrained=str(base), device=place, batch_size=batch_size, **adapter)
    found: Any = simple_evaluate(model=model, tasks=[*tasks], task_manager=manager, log_samples=True, **options)
    scores, documents, higher = {}, {}, {}
    for task, results in found["results"].items():
        for metric, value in results.items():
            name, _, kept = metric.partition(",")
            if not isinstance(value, (int, float)) or not kept or name.endswith("_stderr"):
                continue
            key = f"{task}/{name}" if kept == "none" else f"{task}/{name} ({kept})"
            scores[key] = float(value)
            higher[key] = bool((found["higher_is_better"].get(task) or {}).get(name, True))
            each = [one.get(name) for one in found["samples"].get(task, ()) if one.get("filter") == kept]
            if each and all(isinstance(one, (int, float, np.number)) for one in each):
                documents[key] = [float(one) for one in each]
    return _Measured(scores, documents, higher)


def _differences(arm: _Measured, reference: _Measured) -> dict[str, Difference]:
    return {
        metric: paired_difference(each, reference.documents[metric], higher_is_better=arm.higher[metric])
        for metric, each in arm.documents.items()
        if len(each) == len(reference.documents.get(metric, ())) > 1
    }
