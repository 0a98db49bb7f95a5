"""PEFT models: only the adapter is trained, stored, predicted and pushed. Imports peft only where a model is of it."""

import json
import sys
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
# peft's names of tasks → transformers' Auto classes.
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def is_adapted(model) -> bool:
    """Whether a model is a ``PeftModel``."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def is_live(model) -> bool:
    """Whether this is a model to train, not the name of one."""
    return isinstance(model, PreTrainedModel) or is_adapted(model)


def adapter_names(model: nn.Module, live: dict[str, Tensor]) -> dict[str, str]:
    """Finds what a PEFT model's adapter file holds.

    Args:
        model: A ``PeftModel``.
        live: Its state, by live name; on any device.

    Returns:
        Name in the adapter file → name on the live module.
    """
    from peft import get_peft_model_state_dict

    owners = {id(tensor): name for name, tensor in live.items()}
    saved = get_peft_model_state_dict(model, state_dict=dict(live), save_embedding_layers=False)
    return {name: owners[id(tensor)] for name, tensor in saved.items() if id(tensor) in owners}


def load_adapter_weights(model: nn.Module, file: Path) -> None:
    """Puts the weights of an adapter file into a live PEFT model.

    Raises:
        RuntimeError: If the file does not fit.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(model, load_file(file))
    if result.unexpected_keys:
        raise RuntimeError(f"{file} does not fit the model: {result.unexpected_keys[0]} is not part of its adapter.")


def base_of(folder: Path) -> Path | str:
    """The folder or Hub id of an adapter's base model; of any other checkpoint the folder itself."""
    file = Path(folder) / ADAPTER_CONFIG
    return json.loads(file.read_text())["base_model_name_or_path"] if file.exists() else folder


def load_adapted(folder: Path, base: nn.Module) -> nn.Module:
    """Puts the adapter of a folder on its base model, to be trained.

    Raises:
        ImportError: If peft is not installed.
    """
    return _peft_for(folder).PeftModel.from_pretrained(base, str(folder), is_trainable=True)


def skeleton(folder: Path, build) -> nn.Module:
    """Builds the PEFT model of an adapter's folder.

    Args:
        folder: Holds ``adapter_config.json``.
        build: Makes the base model from its name and the name of the Auto class of its head, which may be empty.

    Raises:
        ImportError: If peft is not installed.
    """
    peft = _peft_for(folder)
    config = peft.PeftConfig.from_pretrained(str(folder))
    return peft.get_peft_model(build(config.base_model_name_or_path, _AUTO_CLASSES.get(config.task_type, "")), config)


def _peft_for(folder: Path):
    try:
        import peft
    except ImportError as error:
        raise ImportError(f'{folder} is a PEFT adapter: pip install "know-hf[peft]"') from error
    return peft
