"""Cards of what goes to the Hub, rendered offline from templates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from know_hf.trajectory import Trajectory


def enriched_card(
    trajectory: Trajectory,
    enrichment: dict[str, Any],
    name: str,
    self_check: dict[str, Any] | None = None,
) -> str:
    """Renders the README of an enriched folder.

    Args:
        trajectory: What it was predicted from.
        enrichment: The content of its ``enrichment.json``.
        name: Name of the step, such as ``x2``.
        self_check: Result of the run's self-check, if there was one.

    Returns:
        Markdown with a metadata block.

    Source: ours.
    """
    record = trajectory.record
    model_id = record.model.get("id", "")
    base_model = None if record.model.get("local") else model_id or None
    dataset, adapter = record.dataset.get("id"), record.model.get("adapter")
    results = [
        EvalResult(
            task_type=record.model.get("task") or "other",
            dataset_type=dataset or "unknown",
            dataset_name=dataset or "evaluation set",
            metric_type=metric.removeprefix("eval_"),
            metric_value=round(value, 4),
        )
        for metric, value in enrichment.get("metrics", {}).items()
    ]
    method = "KNOW" if enrichment["method"] == "known" else enrichment["method"]
    title = f"{(model_id or record.model.get('class', 'model')).rstrip('/').split('/')[-1]} {method} {name}"
    data = ModelCardData(
        base_model=base_model,
        base_model_relation=("adapter" if adapter else "finetune") if base_model else None,
        license=record.model.get("license"),
        library_name="peft" if adapter else "transformers",
        pipeline_tag=record.model.get("task"),
        tags=["know-hf", "know-prediction", "weight-prediction"],
        datasets=[dataset] if dataset else None,
        model_name=title,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        data,
        template_str=_template("enriched"),
        title=title,
        name=name,
        record=record,
        enrichment=enrichment,
        self_check=self_check,
        metric_names=sorted({m for stage in record.stages for m in stage.metrics} | set(enrichment.get("metrics", {}))),
    )
    return str(card).rstrip() + "\n"


def meta_card(
    notes: Sequence[Mapping[str, Any]],
    diverged: int,
    stages: int,
    size: int,
    seconds: float,
    branches: Mapping[str, Mapping[str, Any]],
) -> str:
    """Renders the README of a meta-data set.

    Args:
        notes: The notes of the trials that did not diverge.
        diverged: Number of those that did.
        stages: Stages of a trial.
        size: Bytes of the Parquet files.
        seconds: Duration of all trials, one after the other, branches not included.
        branches: The notes of the branches, by trial.

    Returns:
        Markdown with a metadata block.

    Source: ours.
    """
    settings = [note["settings"] for note in notes]
    data = DatasetCardData(
        tags=["know-hf", "know-prediction", "weight-prediction", "weight-space"],
        pretty_name="Forgetting trajectories of small networks",
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    card = DatasetCard.from_template(
        data,
        template_str=_template("meta"),
        title="Forgetting trajectories of small networks",
        notes=notes,
        diverged=diverged,
        branches=branches,
        stages=stages,
        architectures=sorted(Counter(s["architecture"] for s in settings).items()),
        data_sets=sorted(Counter(s["data_set"] for s in settings).items()),
        parameters=(min(n["parameters"] for n in notes), max(n["parameters"] for n in notes)),
        ranges={
            name: (min(s[name] for s in settings), max(s[name] for s in settings))
            for name in ("examples", "sampling_ratio", "learning_rate", "batch_size", "epochs")
        },
        megabytes=size / 1e6,
        hours=seconds / 3600,
        scores=np.mean([note["scores"] for note in notes], axis=0).tolist(),
    )
    return str(card).rstrip() + "\n"


def predictor_card(result: Mapping[str, Any], size: int, errors: str) -> str:
    """Renders the README of a meta-trained predictor.

    Args:
        result: What [`meta_train`](know_hf.meta.training) returned.
        size: Parameters of one network.
        errors: Its table of retrodiction errors, in Markdown.

    Returns:
        Markdown with a metadata block.

    Source: ours.
    """
    data = ModelCardData(library_name="transformers", tags=["know-hf", "know-prediction", "weight-prediction"])
    card = ModelCard.from_template(
        data,
        template_str=_template("predictor"),
        title=f"KNOWN, reading {result['config']['history_length']} stages",
        size=size,
        config=result["config"],
        split=result["split"],
        held_out=result["held_out"],
        settings={name: value for name, value in result["settings"].items() if name != "functional"},
        functional=result["settings"]["functional"],
        epochs=result["epochs"],
        errors=errors,
    )
    return str(card).rstrip() + "\n"


def plain_predictor_card(config) -> str:
    """The README of a predictor of whose training nothing is recorded.

    Args:
        config: Its [`KnownConfig`].

    Returns:
        Markdown with a metadata block.

    Source: ours.
    """
    data = ModelCardData(library_name="transformers", tags=["know-hf", "know-prediction", "weight-prediction"])
    card = ModelCard.from_template(data, template_str=_template("plain-predictor"), config=config)
    return str(card).rstrip() + "\n"


def _template(name: str) -> str:
    return resources.files("know_hf.hub").joinpath(f"templates/{name}.md").read_text(encoding="utf-8")
