"""What identifies a run: the settings, model and data that a continued run must share."""

import hashlib
import json
import os
from collections.abc import Mapping, Sized
from functools import cache
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from know_hf.models.adapters import is_adapted
from know_hf.store import read_json
from know_hf.tasks import TASKS
from know_hf.text import without_secrets
from know_hf.trajectory import TrajectoryRecord
from know_hf.trajectory.origin import base_license, base_of
from know_hf.trajectory.record import FILE_NAME

if TYPE_CHECKING:
    import datasets
    from transformers import TrainingArguments

# Settings that change the weights. Others (logging, workers …) may differ when a run is continued.
_SETTINGS = (
    "recipe num_stages sampling_ratio subset_seed stratify_by train_stage_zero carry_optimizer self_check "
    "num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay optim "
    "optim_args adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor seed data_seed bf16 fp16 "
    "neftune_noise_alpha"
).split()
# The same, of which records did not always tell.
_LATER_SETTINGS = (
    "train_sampling_strategy dataloader_drop_last load_best_model_at_end optim_target_modules label_names "
    "full_determinism remove_unused_columns ignore_data_skip learning_rate_steps average_stage_zero"
).split()
# And those that matter only because of others.
_DEPENDENT_SETTINGS = (
    "length_column_name metric_for_best_model greater_is_better eval_strategy eval_steps save_strategy save_steps "
    "average_decay average_start"
).split()
# The one of them that every record has which tells of any.
_KNOWN_BY = "dataloader_drop_last"
#: What descriptions of data sets did not always hold.
CONTENT = "content"
_STATE = {True: "trained", False: "frozen"}
_PACKAGES = ("know-hf", "torch", "transformers", "accelerate", "datasets", "timm", "safetensors")


def describe_recipe(args: "TrainingArguments") -> dict[str, Any]:
    """The settings of a run that decide its weights, as plain data; tokens and paths are not among them."""
    values = args.to_dict()
    names = [*_SETTINGS, *_LATER_SETTINGS, *_dependent_settings(args)]
    recipe = {name: values[name] for name in names if values.get(name) is not None}
    recipe["batch_size"] = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return recipe


def _dependent_settings(args: "TrainingArguments") -> list[str]:
    """Settings that change the weights only because of others: what is scored, and when, may decide what is kept."""
    names = ["length_column_name"] if args.train_sampling_strategy == "group_by_length" else []
    names += ["average_decay", "average_start"] if getattr(args, "average_stage_zero", None) else []
    # Early stopping and schedules on a plateau look at the same scores.
    if args.load_best_model_at_end or args.metric_for_best_model:
        names += ["metric_for_best_model", "greater_is_better", "eval_strategy"]
        names += ["eval_steps"] if args.eval_strategy == "steps" else []
    if args.load_best_model_at_end:
        names += ["save_strategy", *(["save_steps"] if args.save_strategy == "steps" else [])]
    return names


def differences(recorded: TrajectoryRecord, fresh: TrajectoryRecord, folder: Path, sharded: bool = False) -> list[str]:
    """What keeps a run from being continued, in words.

    Args:
        recorded: The record of the run in ``folder``.
        fresh: What a run would be recorded as that began now.
        folder: The run's folder.
        sharded: Whether the live model's parameters may have other names and shapes by now.

    Returns:
        One phrase for each difference, nothing if this is the same run.
    """
    unknown = set() if _KNOWN_BY in recorded.recipe else {*_LATER_SETTINGS, *_DEPENDENT_SETTINGS}
    different = []
    aside = [record.dataset.get("set_aside") for record in (recorded, fresh)]
    trained = [record.dataset.get("examples") for record in (recorded, fresh)]
    # Examples that are not taken from the training data may be given, or others, once all is trained.
    if aside[0] != aside[1] and (trained[0] != trained[1] or any(_taken_away(one) for one in aside)):
        was, now = (_aside_words(one) for one in aside)  # of which the rest of what is different follows
        return [f"{was} then, and {now} now (choose, selection_split and choose_on decide that)"]
    for section in ("recipe", "model", "dataset"):
        # As it comes back from the file, in which a tuple is a list.
        old: dict[str, Any] = getattr(recorded, section)
        new: dict[str, Any] = json.loads(json.dumps(getattr(fresh, section)))
        # A licence and a base are not always to be learnt, records did not always name the classes, and more tasks
        # become known. What the run began with matters as long as something begins with it, and is looked at then;
        # scores of other evaluation data are made again.
        unsure = {
            "license",
            "base_model",
            "task",
            "start",
            "set_aside",
            "evaluation",
            *({"classes", CONTENT} - old.keys()),
        }
        for name in sorted((old.keys() | new.keys()) - unsure - unknown):
            if old.get(name) != new.get(name):
                different.append(f"{section}.{name} was {old.get(name)!r}, now {new.get(name)!r}")
    for index, pair in enumerate(zip_longest(recorded.stages, fresh.stages)):
        was, now = ("not there" if s is None else f"{s.folder!r} of {s.examples} examples" for s in pair)
        if was != now:  # stages that lie elsewhere are read, but never written to
            different.append(f"stage {index} was {was}, now {now}")
            break
    if changed := _changed_parameter(recorded.parameters, fresh.parameters, _says_trained(folder), sharded):
        different.append(changed)
    return different


def _taken_away(described: Mapping[str, Any] | None) -> bool:
    """Whether what was set aside is missing among the training data."""
    return (described or {}).get("how") in ("set aside", "fold")


def _aside_words(described: Mapping[str, Any] | None) -> str:
    how = (described or {}).get("how")
    if how == "folds":
        return "a part of the training data was left out by turns"
    if not described or not described["examples"]:
        return "no examples were set aside"
    return (
        f"{described['examples']} examples {'given apart' if how == 'given' else 'of the training data'} were set aside"
    )


def _changed_parameter(old: dict, new: dict, says_trained: bool, sharded: bool) -> str | None:
    """The first parameter that is not what it was, in words."""
    for name in [*old, *(name for name in new if name not in old)]:
        before, now = old.get(name), new.get(name)
        if before is None or now is None:
            if says_trained and not sharded:
                return f"parameter {name!r} {'is new' if before is None else 'was there, is now gone'}"
        elif says_trained and before.trained != now.trained:
            return f"parameter {name!r} was {_STATE[before.trained]}, is now {_STATE[now.trained]}"
        elif before.kind != now.kind and not sharded:
            return f"parameter {name!r} was of kind {before.kind}, is now {now.kind}"
    return None


def _says_trained(folder: Path) -> bool:
    """Whether a record tells which parameters were trained; those of before did not, and read as if all were."""
    described = read_json(folder / FILE_NAME)["parameters"]
    return any("trained" in parameter for parameter in described.values())


# The Hub's names of tasks that only models and data of one's own are trained for: of the class that loads them.
_OTHER_TASKS = {
    "AutoModelForObjectDetection": "object-detection",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
}


def describe_model(model: nn.Module, task: str | None = None) -> dict[str, Any]:
    """Class, the class that loads it (an Auto class, where it has one), task, size and origin of a model.

    The task is the one that is given, else what the model tells.
    """
    from know_hf.models.skeleton import loader_of

    name = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    return {
        "class": type(model).__name__,
        "auto_class": loader_of(model),
        "task": task or task_of(model),
        "id": portable_name(name),
        "local": os.path.exists(name),
        "license": base_license(name),
        **({} if (base := base_of(name)) is None else {"base_model": base}),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({"adapter": model.active_peft_config.peft_type.value} if is_adapted(model) else {}),
    }


def task_of(model: nn.Module) -> str | None:
    """The task of a model, by the class that loads it and its loss; None if it is none of those known here."""
    from know_hf.models.skeleton import loader_of

    return task_named(loader_of(model), getattr(getattr(model, "config", None), "problem_type", None))


def task_named(auto_class: Any, problem: str | None = None) -> str | None:
    """The same, by the name of that class and the kind of loss that a configuration names."""
    found = [task for task in TASKS.values() if task.auto_class == auto_class]
    alike = [task for task in found if task.labels.problem == problem]
    return next((task.name for task in [*alike, *found]), _OTHER_TASKS.get(auto_class))


def portable_name(name: str) -> str:
    """A Hub id as it is; of a local path only the last part, which says nothing about the machine."""
    return os.path.basename(os.path.abspath(name)) if name and os.path.exists(name) else without_secrets(name)


def describe_dataset(dataset: "Sized | datasets.Dataset") -> dict[str, Any]:
    """Size and, for a ``datasets.Dataset``, columns, and what tells it from others: of few rows and of most."""
    import datasets

    from know_hf.trajectory.rows import content_hash

    described: dict[str, Any] = {"examples": len(dataset)}
    if isinstance(dataset, datasets.Dataset):
        described["columns"] = dataset.column_names
        rows = np.unique(np.linspace(0, len(dataset) - 1, num=min(64, len(dataset))).astype(int))
        table = dataset.with_format("arrow").select(rows)[:]
        digest = hashlib.sha256()
        for column in table.columns:
            digest.update(repr(column.to_pylist()).encode())
        described["fingerprint"] = digest.hexdigest()[:16]
        described[CONTENT] = content_hash(dataset)
    return described


def as_told(recorded: Any, now: Any) -> Any:
    """What is to be compared with a record: without what descriptions of data sets in it did not tell yet.

    Args:
        recorded: Plain data, as a record holds them.
        now: The same as they are now.

    Example:
        >>> from know_hf.trajectory.identity import as_told
        >>> as_told({"fingerprint": "a"}, {"fingerprint": "a", "content": "b"})
        {'fingerprint': 'a'}
    """
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        new = {CONTENT} - recorded.keys() if "fingerprint" in now else set()
        return {name: as_told(recorded.get(name), value) for name, value in now.items() if name not in new}
    return now


def versions() -> dict[str, str]:
    """Versions of the libraries that made the run."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
