"""Descriptions of networks, looked at before anything is built: a misspelt field would be kept and mean nothing."""

from collections.abc import Collection, Mapping
from inspect import Parameter, signature
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import know_hf.models.own  # noqa: F401 (registers)
from know_hf.settings import check_names, suggestion

#: What a timm network is described by; fields of its function are under ``model_args``.
_TIMM = ("timm", "model_args", "mean", "std")


def check_architecture(
    described: Mapping[str, Any], where: str = "architecture", further: Collection[str] = ("convolutions",)
) -> None:
    """Raises if a network's description has a field that its network does not.

    Args:
        described: As for [`build_network`](know_hf.models.building), or a decoder's.
        where: What it is, for messages.
        further: What it may say beside the fields of its configuration.

    Raises:
        ValueError: If it names no network, an unknown one, or a field that is none; the message says what was meant.

    Example:
        >>> from know_hf.models.architecture import check_architecture
        >>> check_architecture({"model_type": "resnet", "layer_typ": "basic"})
        Traceback (most recent call last):
        ValueError: architecture: unknown setting 'layer_typ'; did you mean layer_type?
    """
    if "timm" in described:
        check_names(described, _TIMM, where)
        return
    if "model_type" not in described:
        raise ValueError(f"{where} needs timm: name, or model_type: a type that transformers knows.")
    kind = described["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{where}: transformers knows no model_type {kind!r}{suggestion(str(kind), CONFIG_MAPPING) or '.'}"
        )
    known = fields_of(CONFIG_MAPPING[kind])
    check_names(described, {*known, *further, "model_type"}, where)
    for name, value in described.items():
        if isinstance(value, Mapping) and isinstance(known.get(name), PreTrainedConfig):
            check_names(value, {*fields_of(type(known[name])), "model_type"}, f"{where}.{name}")


def fields_of(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """Fields that a configuration takes, those of all configurations included: name → default, where there is one."""
    taken = [
        name
        for one in (kind, PreTrainedConfig)
        for name, parameter in signature(one.__init__).parameters.items()
        if parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL) and name != "self"
    ]
    try:
        made = kind()
    except Exception:  # configurations of several models need theirs: their own fields are in the signature
        made = PreTrainedConfig()
    return {**dict.fromkeys([*taken, *kind.attribute_map, "num_labels"]), **vars(made), **_sub_configurations(made)}


def _sub_configurations(made: PreTrainedConfig) -> dict[str, Any]:
    return {name: getattr(made, name, None) for name in made.sub_configs}
