"""Model cards of enriched checkpoints, rendered offline from a template."""

from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

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
    dataset = record.dataset.get("id")
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
        library_name="transformers",
        pipeline_tag=record.model.get("task"),
        tags=["know-hf", "know-prediction", "weight-prediction"],
        datasets=[dataset] if dataset else None,
        model_name=title,
        eval_results=results or None,
    )
    template = resources.files("know_hf.hub").joinpath("templates/enriched.md").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        data,
        template_str=template,
        title=title,
        name=name,
        record=record,
        enrichment=enrichment,
        self_check=self_check,
        metric_names=sorted({m for stage in record.stages for m in stage.metrics} | set(enrichment.get("metrics", {}))),
    )
    return str(card).rstrip() + "\n"
