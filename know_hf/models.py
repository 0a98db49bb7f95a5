"""Loading a model with the head that the data need."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models import auto

from know_hf.adapters import is_adapted, is_live
from know_hf.tasks import get_task

logger = logging.getLogger(__name__)


@dataclass
class LoadedModel:
    """A model and whether its head is new (made now, or of other classes), so that stage 0 has to be trained."""

    model: PreTrainedModel
    task: str
    new_head: bool


def load_model(
    model: str | Path | PreTrainedModel,
    task: str,
    class_names: list[str] | None,
    *,
    from_scratch: bool = False,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads a model for a task, with one output per class.

    Args:
        model: Hub id or folder (transformers or timm), or a live model, which is returned as it is.
        task: A key of [`TASKS`](know_hf.tasks).
        class_names: Names of the classes in the order of their labels; none where there are no classes.
        from_scratch: Only take the architecture and start from its own initial values; ``model`` may then also be
            the name of a timm architecture such as ``timm/resnet10t``.
        image_size: With ``from_scratch`` and a timm name: side of the square images in pixels.
        revision: Revision on the Hub.
        trust_remote_code: Whether the repository's own code may run.

    Returns:
        A [`LoadedModel`].

    Raises:
        FileNotFoundError: If the model is neither a folder nor reachable on the Hub.
        ValueError: If a live model's head does not fit the classes.

    Source: ours.
    """
    one_class = get_task(task).one_class
    if is_live(model):
        outputs = getattr(model.config, "num_labels", None)
        if class_names and (outputs != len(class_names) if one_class else outputs < len(class_names)):
            raise ValueError(
                f"The model has {outputs} outputs, the data have {len(class_names)} classes: load it with "
                f"num_labels={len(class_names)}, ignore_mismatched_sizes=True."
            )
        return LoadedModel(model, task, is_adapted(model))  # an adapter is new, as a rule
    model = str(model)
    auto_class = getattr(auto, get_task(task).auto_class)
    labels: dict[str, Any] = {}
    if class_names:
        labels = {
            "num_labels": len(class_names),
            "id2label": dict(enumerate(class_names)),
            "label2id": {name: i for i, name in enumerate(class_names)},
        }
    if from_scratch and model.startswith("timm/"):
        built = timm_from_scratch(model.removeprefix("timm/"), image_size=image_size, **labels)
        return LoadedModel(built, task, True)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(model, **options)
        trained_for = any(
            name.endswith(auto_class.__name__.removeprefix("AutoModel")) for name in config.architectures or []
        )
        if not one_class and trained_for and not from_scratch and config.num_labels >= len(class_names or []):
            labels, class_names = {}, None  # not every class of a model for pixels need occur in the data
        if from_scratch:
            for name, value in labels.items():
                setattr(config, name, value)
            return LoadedModel(auto_class.from_config(config, trust_remote_code=trust_remote_code), task, True)
        loaded, info = auto_class.from_pretrained(
            model,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **labels,
            **options,
        )
    except (OSError, ValueError) as error:
        if Path(model).is_dir() or "remote code" in str(error) or "trust_remote_code" in str(error):
            raise
        raise FileNotFoundError(
            f"Model {model!r} is neither a local folder nor reachable on the Hub. Offline, pass the path of a folder "
            f"saved with save_pretrained. ({str(error).splitlines()[0]})"
        ) from error
    known = getattr(config, "id2label", None) or {}
    return LoadedModel(
        loaded,
        task,
        bool(info["missing_keys"] or info["mismatched_keys"]) or _other_classes(known, class_names),
    )


def _other_classes(known: dict[int, str], class_names: list[str] | None) -> bool:
    """Whether a head of the right size was trained for other classes, as far as names tell."""
    names = [str(known[i]) for i in sorted(known)]
    if not class_names or all(name.startswith("LABEL_") for name in names):
        return False
    if [n.lower() for n in names] == [n.lower() for n in class_names]:
        return False
    logger.warning("The model's classes are named %s, the data's %s: stage 0 is trained.", names[:4], class_names[:4])
    return True


def timm_from_scratch(
    architecture: str,
    *,
    image_size: int | None = None,
    model_args: dict[str, Any] | None = None,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    **labels,
) -> PreTrainedModel:
    """Builds an untrained timm network as a transformers model, with timm's own initial values.

    Args:
        architecture: Name that ``timm.create_model`` knows.
        image_size: Side of the square input images in pixels; by default the architecture's.
        model_args: Further arguments of ``timm.create_model``.
        mean: Mean of each channel, in units of the full range of values.
        std: Standard deviation of each channel, likewise.
        **labels: ``num_labels``, ``id2label`` and ``label2id`` for the configuration.

    Returns:
        A ``TimmWrapperForImageClassification`` whose folder also carries the preprocessing.

    Raises:
        ValueError: If timm does not know the architecture.

    Source: ours.
    """
    import timm
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    check_timm(architecture)
    network = timm.create_model(architecture, num_classes=labels.get("num_labels", 2), **(model_args or {}))
    side = image_size or network.default_cfg["input_size"][-1]
    channels = (model_args or {}).get("in_chans", 3)
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args=model_args,
        pretrained_cfg={
            "input_size": [channels, side, side],
            "mean": list(mean),
            "std": list(std),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
        },
        **labels,
    )
    model = TimmWrapperForImageClassification(config)
    # The wrapper's constructor draws every kernel from N(0, 0.02), which kills the signal of deep networks.
    model.timm_model.load_state_dict(network.state_dict())
    return model


def check_timm(architecture: str) -> None:
    """Raises ``ValueError`` if timm does not know an architecture.

    Source: ours.
    """
    import timm

    if architecture not in timm.list_models():
        near = timm.list_models(f"*{architecture.split('_')[0][:6]}*")[:5]
        raise ValueError(f"timm has no architecture {architecture!r}; similar: {', '.join(near) or 'none'}.")
