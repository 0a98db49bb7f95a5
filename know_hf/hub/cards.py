"""Cards of what goes to the Hub, rendered offline from templates.

What records say is text in them: every value is escaped where it is rendered, and only what is known to be one becomes
an identifier of Python or of the Hub.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import CardData, DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, Template
from markupsafe import Markup

from know_hf.model_config import CONFIG_FILE
from know_hf.retrodiction import METHODS
from know_hf.store import read_json
from know_hf.tasks import TASKS
from know_hf.text import as_code, as_markdown, hub_name, one_line
from know_hf.trajectory import Trajectory, TrajectoryRecord
from know_hf.trajectory.rounds import Rounds

if TYPE_CHECKING:
    from know_hf.known import KnownConfig

# Names that the Hub takes; of `user/name` both parts have to be there.
_REPOSITORY = re.compile(
    r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}(?<!\.git)(?<![.-])", re.ASCII
)
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]{0,99}", re.ASCII)
# Characters of a paragraph of ours, which has names of others in it.
_PARAGRAPH = 3000
#: What every card is found by; the last is the paper's, which the Hub links.
TAGS = ["know-hf", "know-prediction", "weight-prediction", "arxiv:2508.05059"]
# What peft has an Auto class for; every adapter loads with the general one.
_PEFT_HEADS = (
    "ForCausalLM", "ForSeq2SeqLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForFeatureExtraction",
)  # fmt: skip


def enriched_card(
    trajectory: Trajectory, enrichment: dict[str, Any], name: str, self_check: dict[str, Any] | None = None
) -> str:
    """Renders the README of an enriched folder.

    Args:
        trajectory: What it was predicted from.
        enrichment: The content of its ``enrichment.json``.
        name: Name of the step, such as ``x2``.
        self_check: Result of the run's self-check, if there was one.

    Returns:
        Markdown with a metadata block.
    """
    record, metrics = trajectory.record, enrichment.get("metrics", {})
    method = METHODS.get(enrichment["method"])  # a record may name one that is not installed here
    method_title = (method and method.title) or one_line(enrichment["method"], 60)
    title = f"{_whose(record)} {method_title} {name}"
    names = sorted({m for stage in record.stages for m in stage.metrics} | set(metrics))
    return _render(
        ModelCard, _model_data(record, title, metrics), "enriched", title=title, name=name, record=record,
        enrichment=enrichment, self_check=self_check, metric_names=names, loader=loader(record.model),
        library=library_of(record.model),
        is_control=method is not None and method.control,
        is_point=method is not None and method.same_every_step, rounds=Rounds.of(record.recipe),
        brings_code=_brings_code(trajectory.checkpoints[0].folder),
    )  # fmt: skip


def best_card(trajectory: Trajectory, enrichment: dict[str, Any]) -> str:
    """Renders the README of the checkpoint that a run chose.

    Args:
        trajectory: Of the run.
        enrichment: The content of its ``enrichment.json``; ``chosen`` says why.

    Returns:
        Markdown with a metadata block.
    """
    record, metrics, chosen = trajectory.record, enrichment.get("metrics", {}), enrichment["chosen"]
    title = f"{_whose(record)} best"
    return _render(
        ModelCard, _model_data(record, title, metrics), "best", title=title, record=record, enrichment=enrichment,
        chosen=chosen, loader=loader(record.model),
        library=library_of(record.model), rounds=Rounds.of(record.recipe),
        brings_code=_brings_code(trajectory.checkpoints[0].folder),
    )  # fmt: skip


def _whose(record: TrajectoryRecord) -> str:
    """What a title calls the model."""
    whose = one_line(record.model.get("id") or "", 120) or one_line(record.model.get("class") or "model", 60)
    return whose.rstrip("/").split("/")[-1]


def _model_data(record: TrajectoryRecord, title: str, metrics: Mapping[str, Any]) -> ModelCardData:
    """The metadata of a checkpoint's card."""
    model_id, adapter = one_line(record.model.get("id") or "", 120), record.model.get("adapter")
    dataset = one_line(record.dataset.get("id") or "", 120)
    # Of checkpoints that were there already, those on the Hub are what it was made of.
    made_of = [name for stage in record.stages if (name := repository((stage.source or "").partition("@")[0]))]
    base_model: str | list[str] | None = repository(
        record.model.get("base_model") if record.model.get("local") else model_id
    )
    base_model = list(dict.fromkeys(made_of)) or base_model
    relation = "merge" if made_of else "adapter" if adapter else "finetune"
    task = hub_name(record.model.get("task"))
    task = TASKS[task].hub_name or task if task in TASKS else task
    task = _SENTENCE_CLASSES.get(record.model.get("class", ""), task)
    results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=repository(dataset) or "unknown",
            dataset_name=dataset or "evaluation set",
            metric_type=one_line(metric, 60).removeprefix("eval_"),
            metric_value=round(value, 4),
        )
        for metric, value in metrics.items()
        if is_number(value)
    ]
    return ModelCardData(
        base_model=base_model,
        base_model_relation=relation if base_model else None,
        license=hub_name(record.model.get("license")),
        library_name=library_of(record.model),
        pipeline_tag=task,
        tags=TAGS,
        datasets=[dataset] if repository(dataset) else None,
        model_name=title,
        eval_results=results or None,
    )


#: Classes of sentence-transformers → the Hub's name of what they are for.
_SENTENCE_CLASSES = {
    "SentenceTransformer": "sentence-similarity",
    "CrossEncoder": "text-ranking",
    "SparseEncoder": "feature-extraction",
}


def library_of(model: Mapping[str, Any]) -> str:
    """Names the library whose class a card loads a model with, as the Hub spells it."""
    if model.get("adapter"):
        return "peft"
    return "sentence-transformers" if model.get("class") in _SENTENCE_CLASSES else "transformers"


def loader(model: Mapping[str, Any]) -> str:
    """Names the class that a card loads a model with: one that there is, whatever a record says.

    Args:
        model: The section ``model`` of a trajectory's record.

    Returns:
        A class of ``transformers``, of ``peft`` for an adapter, or of ``sentence_transformers``.

    Example:
        >>> from know_hf.hub.cards import loader
        >>> loader({"auto_class": "AutoModelForCausalLM"}), loader({"auto_class": "AutoModel; import os"})
        ('AutoModelForCausalLM', 'AutoModel')
    """
    name = model.get("auto_class")
    if model.get("adapter"):
        head = str(name).removeprefix("AutoModel")
        return f"AutoPeftModel{head if head in _PEFT_HEADS else ''}"
    if library_of(model) == "sentence-transformers":
        return str(model["class"])
    if isinstance(name, str) and _CLASS.fullmatch(name):
        if name in {task.auto_class for task in TASKS.values()}:
            return name
        import transformers  # which takes longer than all else that a card needs

        if hasattr(getattr(transformers, name, None), "from_pretrained"):
            return name
    return "AutoModel"


def _brings_code(folder: Path) -> bool:
    """Whether a model's folder holds the code of its own class, which transformers only runs when it is told to."""
    with suppress(OSError, ValueError):
        described = read_json(folder / CONFIG_FILE)
        return isinstance(described, dict) and "auto_map" in described
    return False


def repository(name: Any) -> str | None:
    """A name that a repository on the Hub may have, or None."""
    return name if isinstance(name, str) and _REPOSITORY.fullmatch(name) else None


def is_number(value: Any) -> bool:
    """Whether a value is a score that a card can show: finite, and no truth."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


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
    """
    settings = [note["settings"] for note in notes]
    data = DatasetCardData(
        tags=[*TAGS, "weight-space"],
        pretty_name="Forgetting trajectories of small networks",
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
        source_datasets=sorted({one for s in settings if (one := repository(s["data_set"]))}) or None,
    )
    return _render(
        DatasetCard, data, "meta",
        title="Forgetting trajectories of small networks",
        notes=notes,
        diverged=diverged,
        branches=branches,
        stages=stages,
        architectures=sorted(Counter(s["architecture"] for s in settings).items()),
        data_sets=sorted(Counter(s["data_set"] for s in settings).items()),
        regimes=sorted(Counter(s["regime"] for s in settings).items()),
        augmented=sum(s["augmented"] for s in settings),
        parameters=(min(n["parameters"] for n in notes), max(n["parameters"] for n in notes)),
        ranges={
            name: (min(s[name] for s in settings), max(s[name] for s in settings))
            for name in ("examples", "sampling_ratio", "learning_rate", "batch_size", "epochs")
        },
        megabytes=size / 1e6,
        hours=seconds / 3600,
        scores=np.mean([note["scores"] for note in notes], axis=0).tolist(),
    )  # fmt: skip


def predictor_card(result: Mapping[str, Any], size: int, errors: str) -> str:
    """Renders the README of a meta-trained predictor.

    Args:
        result: What [`meta_train`](know_hf.meta.training) returned.
        size: Parameters of one network.
        errors: Its table of retrodiction errors, in Markdown.

    Returns:
        Markdown with a metadata block.
    """
    data = ModelCardData(library_name="transformers", tags=TAGS)
    return _render(
        ModelCard, data, "predictor",
        title=f"KNOWN, reading {result['config']['history_length']} stages",
        size=size,
        config=result["config"],
        split=result["split"],
        held_out=result["held_out"],
        settings={name: value for name, value in result["settings"].items() if name != "functional"},
        functional=result["settings"]["functional"],
        epochs=result["epochs"],
        errors=Markup(errors),  # a table of ours
    )  # fmt: skip


def bundled_card(result: Mapping[str, Any], card: str, collection: str, data: Sequence[str], note: str = "") -> str:
    """The README of a predictor that comes with the package.

    Args:
        result: What [`meta_train`](know_hf.meta.training) returned.
        card: The [`predictor_card`] of it.
        collection: The [`meta_card`] of what it was trained on.
        data: Names of the data sets of the trials.
        note: What else is to be known of the copies of the data.

    Returns:
        Markdown with a metadata block.
    """
    loading = f"KnownPredictor.default({result['config']['history_length']})"
    card = card.replace('KnownPredictor.from_pretrained("path/or/hub-id")', loading)
    # This folder holds no code, but the package that it lies in does.
    card = re.sub(r"Where know-hf is not installed.*?\n\n", "", card, flags=re.S)
    table = re.search(r"^\| \| \|\n(?:\|.*\n)+", collection, re.M)
    copies = f" ({as_markdown(note)})" if note else ""
    said = (
        f"The trials, and the same again from the same copies of the data{copies} on the same kind\nof machine:\n\n"
        f"```\npython -m know_hf.meta.bundle --data {' '.join(map(as_code, data))} --output-dir OUT\n```\n\n"
        f"{table[0] if table else ''}\n"
    )
    card = card.replace("## How good it is\n", f"{said}## How good it is\n")
    known = [name for name in data if repository(name)]
    said_of: dict[str, Any] = {"license": "apache-2.0", **({"datasets": known} if known else {})}
    about = CardData(**said_of).to_yaml()
    return card.replace("---\n", f"---\n{about.strip()}\n", 1)


def plain_predictor_card(config: "KnownConfig") -> str:
    """The README of a predictor of whose training nothing is recorded.

    Args:
        config: Its [`KnownConfig`].

    Returns:
        Markdown with a metadata block.
    """
    data = ModelCardData(library_name="transformers", tags=TAGS)
    return _render(ModelCard, data, "plain-predictor", config=config)


def _render(kind: type, data: CardData, template: str, **values: Any) -> str:
    """Renders a card in which every value is text, and of which the Hub's library has read the metadata."""
    text = _template(template).render(card_data=Markup(data.to_yaml()), **values)
    return str(kind(text)).rstrip() + "\n"


@cache
def _template(name: str) -> Template:
    environment = Environment(finalize=lambda value: value if isinstance(value, Markup) else as_markdown(value))
    environment.filters |= {
        "count": _count, "figure": _figure, "code": lambda value: Markup(as_code(value)),
        "is_finite": lambda value: is_number(value) and math.isfinite(value),
        "whole": lambda value: Markup(as_markdown(value, _PARAGRAPH)),
    }  # fmt: skip
    source = resources.files("know_hf.hub").joinpath(f"templates/{name}.md").read_text(encoding="utf-8")
    return environment.from_string(source)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else as_markdown(value)


def _figure(value: Any, form: str = ".4f") -> str:
    return format(value, form) if is_number(value) else "–"
