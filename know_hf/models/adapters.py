"""PEFT models: only the adapter is trained, stored, predicted and pushed. Imports peft only where a model is of it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from know_hf.installing import missing
from know_hf.model_config import ADAPTER_FILE
from know_hf.reading import read_fields
from know_hf.store import read_json

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

# peft's names of tasks → transformers' Auto classes.
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def is_adapted(model: object) -> TypeGuard["PeftModel"]:
    """Whether a model is a ``PeftModel``."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def is_live(model: object) -> bool:
    """Whether this is a model to train, not the name of one."""
    return is_pretrained(model) or is_adapted(model)


def is_pretrained(model: object) -> TypeGuard["PreTrainedModel"]:
    """Whether a model is one of transformers, which need not be imported to tell: a live one has done that."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(model, modeling.PreTrainedModel)


def active_adapter(model: "PeftModel") -> str:
    """Name of the one adapter that a PEFT model trains.

    Raises:
        ValueError: If several are active, or none.
    """
    names = list(model.active_adapters)
    if len(names) != 1:
        raise ValueError(
            f"The model has {len(names)} active adapters ({', '.join(names) or 'none'}); one is trained and predicted "
            "at a time: choose it with model.set_adapter(name), or merge the others into the base model first."
        )
    return names[0]


def check_adapter(model: nn.Module) -> None:
    """Looks whether all that would be trained is stored in a plain adapter folder; other models pass.

    Args:
        model: The live model, ``PeftModel`` or not.

    Raises:
        ValueError: If it is not, or if the adapter has nothing that could be predicted.
    """
    if is_adapted(model):
        _check_adapted(model)
        return
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners and any(isinstance(module, tuners.BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            "The model's adapters were added in a way that is not stored as one plain adapter folder: put the adapter "
            "on its base model with peft.get_peft_model(base, config) instead."
        )


def _check_adapted(model: "PeftModel") -> None:
    name = active_adapter(model)
    # Compared as parameters: one that layers share (a bank of vectors) counts once, whatever names it has.
    live = model.state_dict(keep_vars=True)
    stored = {id(live[path]) for path in adapter_names(model, live).values()}
    kind = model.peft_config[name].peft_type.value
    if not stored:
        raise ValueError(
            f"A {kind} adapter stores nothing that a retrodiction can be computed for; adapters that do are those of "
            "low rank on convolutions and linear layers (LoRA and its relatives), or modules_to_save."
        )
    idle = set(model.peft_config) - {name}
    lost = [
        path
        for path, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in stored and not idle & set(path.split("."))
    ]
    if lost and not model.peft_config[name].is_prompt_learning:
        raise ValueError(
            f"{lost[0]} is trained but not stored with the adapter ({len(lost)} such parameters), so that it would be "
            "lost: name its layer in modules_to_save, or freeze it (requires_grad_(False))."
        )


def adapter_names(model: "PeftModel", live: dict[str, Tensor]) -> dict[str, str]:
    """Finds what a PEFT model's adapter file holds.

    Args:
        model: A ``PeftModel``.
        live: Its state, by live name; on any device.

    Returns:
        Name in the adapter file → name on the live module.
    """
    from peft import get_peft_model_state_dict

    owners = {id(tensor): name for name, tensor in live.items()}
    saved = get_peft_model_state_dict(
        model, state_dict=dict(live), adapter_name=active_adapter(model), save_embedding_layers=False
    )
    return {name: owners[id(tensor)] for name, tensor in saved.items() if id(tensor) in owners}


def make_plain(model: "PeftModel", folder: Path) -> None:
    """Leaves the active adapter alone in a folder that a PEFT model was saved in.

    peft writes adapters of other names than "default" into folders of their own within it.
    """
    name = active_adapter(model)
    for other in set(model.peft_config) - {name, "default"}:
        shutil.rmtree(folder / other, ignore_errors=True)
    inner = folder / name
    if name != "default" and inner.is_dir():
        for file in inner.iterdir():
            file.replace(folder / file.name)
        inner.rmdir()
    _sort_sets(folder / ADAPTER_FILE, model.peft_config[name])


def _sort_sets(file: Path, config: "PeftConfig") -> None:
    """Gives what is a set in an adapter's config one order in its file: peft's differs from process to process."""
    sets = [name for name, value in vars(config).items() if isinstance(value, set)]
    if file.is_file() and sets:
        content = read_json(file)
        content |= {name: sorted(content[name]) for name in sets if isinstance(content.get(name), list)}
        file.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def load_adapter_weights(model: "PeftModel", file: Path) -> None:
    """Puts the weights of an adapter file into a live PEFT model's active adapter.

    Raises:
        RuntimeError: If the file does not fit.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    stored, name = load_file(file), active_adapter(model)
    names = adapter_names(model, model.state_dict())
    if missing := names.keys() - stored.keys():
        raise RuntimeError(f"{file} does not fit the model: {min(missing)} has no value there.")
    # peft knows what goes elsewhere (prompts, resized embeddings), but not all that it stores under a layer's own name.
    unexpected = set_peft_model_state_dict(model, stored, adapter_name=name).unexpected_keys
    foreign = set(unexpected) - names.keys()
    if foreign and not model.peft_config[name].is_prompt_learning:
        raise RuntimeError(f"{file} does not fit the model: {min(foreign)} is not part of its adapter.")
    model.load_state_dict({live: stored[key] for key, live in names.items()}, strict=False)


def base_of(folder: Path) -> Path | str:
    """The folder or Hub id of an adapter's base model; of any other checkpoint the folder itself."""
    file = Path(folder) / ADAPTER_FILE
    form = {"base_model_name_or_path": str}
    return read_fields(file, form)["base_model_name_or_path"] if file.exists() else folder


def load_adapted(folder: Path, base: nn.Module) -> "PeftModel":
    """Puts the adapter of a folder on its base model, to be trained.

    Raises:
        ImportError: If peft is not installed.
    """
    return _peft_for(folder).PeftModel.from_pretrained(base, str(folder), is_trainable=True)


def skeleton(folder: Path, build: Callable[[str | Path, str], nn.Module]) -> "PeftModel":
    """Builds the PEFT model of an adapter's folder.

    Args:
        folder: Holds ``adapter_config.json``.
        build: Makes the base model from its name and the name of the Auto class of its head, which may be empty.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If the folder describes no adapter.
    """
    peft = _peft_for(folder)
    base = build(base_of(folder), _AUTO_CLASSES.get(read_json(folder / ADAPTER_FILE).get("task_type"), ""))
    try:
        with torch.device("meta"):
            return peft.get_peft_model(base, peft.PeftConfig.from_pretrained(str(folder)))
    except Exception as error:  # the library raises many types for a configuration that is none
        raise ValueError(f"{folder / ADAPTER_FILE} describes no adapter of its base model: {error}") from error


def _peft_for(folder: Path) -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise missing(f"{folder} is an adapter, which needs", "peft", "peft") from error
    return peft
