"""Loading a model with the head that the data need."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from know_hf.checkpoints import Checkpoint
from know_hf.model_config import brief, read_config
from know_hf.models.adapters import is_adapted, is_live
from know_hf.models.building import agree_on_classes, auto_class_of, build_network, label_settings
from know_hf.models.skeleton import skeleton
from know_hf.remote import NONSENSE, bounded, public
from know_hf.tasks import get_task
from know_hf.tasks.labels import are_numbers, numbered, positions
from know_hf.text import without_secrets

logger = logging.getLogger(__name__)

# timm's networks are image classifiers, and their configurations name no class.
_TIMM_HEADS = ("ForImageClassification",)


@dataclass
class LoadedModel:
    """A model, whether its head is new (made now, or of other classes), and its classes in the order of its outputs.

    With a new head stage 0 has to be trained.
    """

    model: PreTrainedModel
    task: str
    new_head: bool
    class_names: list[str]


@bounded()
def load_model(
    model: str | Path | PreTrainedModel | Mapping[str, Any],
    task: str,
    class_names: list[str] | None,
    *,
    ordered: bool = True,
    from_scratch: bool = False,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads a model for a task, with one output per class.

    A model that was trained for the task and knows all of the data's classes by name keeps its head, whatever their
    order, and those that the data lack.

    Args:
        model: Hub id or folder (transformers or timm); a live model, which is returned as it is; or the description of
            a network to start from its initial values, as for [`build_network`].
        task: A key of [`TASKS`](know_hf.tasks).
        class_names: Names of the data's classes; none where there are no classes.
        ordered: Whether the data number their classes; of mere words the order says nothing about a head without names.
        from_scratch: Only take the architecture and start from its own initial values; ``model`` may then also be
            the name of a timm architecture such as ``timm/resnet10t``.
        image_size: Of a timm network that starts from its initial values: side of the square images in pixels.
        revision: Revision on the Hub.
        trust_remote_code: Whether the repository's own code may run.

    Returns:
        A [`LoadedModel`].

    Raises:
        FileNotFoundError: If the model is neither a folder nor reachable on the Hub.
        ValueError: If the model is damaged, its weights are no safetensors or beyond this machine, or a live model's
            head does not fit the classes.
    """
    names, matched = list(class_names or []), get_task(task).labels.matched
    if is_live(model):
        return _fit_live(model, task, names)
    if isinstance(model, Mapping):
        return _loaded(build_network(model, task, names, image_size), task, True, names)
    model = str(model)
    auto_class = auto_class_of(task)
    if from_scratch and model.startswith("timm/"):
        built = build_network({"timm": model.removeprefix("timm/")}, task, names, image_size)
        return _loaded(built, task, True, names)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = read_config(model, **options)
        if from_scratch:
            for name, value in label_settings(names, task).items():
                setattr(config, name, value)
            _check_memory(model, trust_remote_code)
            built = _by_library(model, auto_class.from_config, config, trust_remote_code=trust_remote_code)
            return _loaded(built, task, True, names)
        trained, labels, other = trained_for(config, task), label_settings(names, task), False
        if trained and names:
            other = _other_loss(config, task)
            if matched:
                names, unlike = match_classes(known_classes(config), names, ordered)
                other, labels = other or unlike, label_settings(names, task)
            elif not other and _fewer_fit(task, known_classes(config), names):
                labels = {}  # not every class of a model for pixels need occur in the data
        if os.path.isdir(model):
            Checkpoint(model).weight_file  # noqa: B018 (weights in a pickle are not loaded)
        _check_memory(model, trust_remote_code)
        loaded, info = _by_library(
            model,
            auto_class.from_pretrained,
            model,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **labels,
            **options,
        )
    except (OSError, ValueError, *NONSENSE) as error:
        raise_unreachable(model, error, task)
    new_head = other or bool(info["missing_keys"] or info["mismatched_keys"])
    if getattr(config, "architectures", None) and not trained:
        new_head = True  # a head of another training may fit by its shape
    return _loaded(loaded, task, new_head, names)


def _loaded(model: PreTrainedModel, task: str, new_head: bool, names: list[str]) -> LoadedModel:
    agree_on_classes(model.config)
    return LoadedModel(model, task, new_head, names)


def _by_library(model: str, call: Callable, *args: Any, **kwargs: Any) -> Any:
    """What transformers makes of a model's files; it raises many types for those that are damaged."""
    try:
        return call(*args, **kwargs)
    except (OSError, ImportError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"Model {model!r} cannot be loaded: {brief(error)}") from error


def _check_memory(model: str, trust_remote_code: bool) -> None:
    """Raises ``ValueError`` if a configuration is that of a model which is far beyond this machine."""
    try:
        weights = sum(parameter.numel() for parameter in skeleton(model, trust_remote_code).parameters())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ImportError, OSError, ValueError):  # loading tells better
        return
    if 4 * weights > 2 * memory:
        raise ValueError(
            f"Model {model!r} has {weights:,} weights by its configuration, {4 * weights / 1e9:,.0f} GB; this machine "
            f"has {memory / 1e9:,.0f} GB of memory."
        )


def raise_unreachable(model: str, error: Exception, task: str | None = None) -> NoReturn:
    """Raises what kept a model from being loaded, as ``FileNotFoundError`` where it was not to be had at all."""
    captions = " Texts beside pictures are captions unless task is image-classification: then they are classes."
    captions = captions if task == "image-to-text" else ""
    if found := re.search(r"Unrecognized configuration class <class '.*?(\w+?)Config'> .*?: (\w+)\.", str(error)):
        raise ValueError(
            f"Model {without_secrets(model)!r} is a {found[1]}, and transformers has no {found[2]} of such: "
            f"it does not fit what the data are for. Take another model, or say with task what they are for.{captions}"
        ) from error
    if Path(model).is_dir() or "remote code" in str(error) or "trust_remote_code" in str(error):
        raise error
    shown = without_secrets(model)
    raise FileNotFoundError(
        f"Model {shown!r} is neither a local folder nor reachable on the Hub. Offline, pass the path of "
        f"a folder saved with save_pretrained. ({public(error)})"
    ) from error


def known_classes(config: PreTrainedConfig) -> list[str]:
    """Names of a model's classes in the order of its outputs; ``LABEL_0`` … where it has none."""
    labels = getattr(config, "id2label", None) or {}
    return [str(labels[i]) for i in sorted(labels)]


def trained_for(config: PreTrainedConfig, task: str) -> bool:
    """Whether a checkpoint's head was trained for a task, as far as its configuration tells."""
    head = get_task(task).auto_class.removeprefix("AutoModel")
    kinds = config.architectures or []
    return any(head in name for name in kinds) or (config.model_type == "timm_wrapper" and head in _TIMM_HEADS)


def match_classes(known: list[str], names: list[str], ordered: bool = True) -> tuple[list[str], bool]:
    """Fits the classes of data to those of a trained head, by name where both have names.

    Args:
        known: Classes of the head, in the order of its outputs.
        names: Classes of the data.
        ordered: Whether the data number their classes.

    Returns:
        The classes in the order of the outputs of the head to use, and whether it is another than the trained one.
    """
    if all_known(names, known):
        return known, False
    in_order = sorted(names, key=int) if are_numbers(names) else names
    if numbered(known) and len(names) == len(known) and (ordered or numbered(in_order)):
        logger.info("The model's classes have no names: its outputs are taken for %s, in this order.", few(in_order))
        return in_order, False
    logger.warning("The model's classes are %s, the data's %s: a head is trained for them.", few(known), few(names))
    return names, True


def _fewer_fit(task: str, known: list[str], names: list[str]) -> bool:
    """Whether a head for pixels serves masks, whose classes are but numbers: fewer do for a head without names only."""
    if len(names) == len(known):
        return True
    if numbered(known) and len(names) < len(known) and get_task(task).labels.fewer_will_do(names):
        return True
    logger.warning(
        "The model has %d classes (%s), the data have %d: a head is trained for them.",
        len(known),
        few(known),
        len(names),
    )
    return False


def all_known(names: list[str], known: list[str]) -> bool:
    """Whether a head has an output for every class by name; numbers are no names, unless all are the same."""
    return names == known or (not numbered(names) and None not in positions(names, known))


def _other_loss(config: PreTrainedConfig, task: str) -> bool:
    """Whether a head was trained for another loss than the task's, such as one class an example."""
    wanted = get_task(task).labels.problem
    return wanted is not None and getattr(config, "problem_type", None) not in (None, wanted)


def _fit_live(model: PreTrainedModel, task: str, names: list[str]) -> LoadedModel:
    """Checks that a live model's head fits the classes, and sets its loss."""
    config, new_head = model.config, is_adapted(model)  # an adapter is new, as a rule
    known, labels = known_classes(config), get_task(task).labels
    matched = labels.matched
    enough = len(known) == len(names) or (len(known) > len(names) and labels.fewer_will_do(names))
    if names and not enough and not (matched and all_known(names, known)):
        raise ValueError(
            f"The model has {len(known)} outputs, the data have {len(names)} classes: load it with "
            f"num_labels={len(names)}, ignore_mismatched_sizes=True. (The model's: {few(known)}; the data's: "
            f"{few(names)}.)"
        )
    if not matched and len(known) > len(names) and not numbered(known):
        logger.warning("The masks' classes %s are taken for the model's %s, by number.", few(names), few(known))
    if names and _other_loss(config, task):
        logger.warning("The model's problem_type is %r; it is now %r.", config.problem_type, labels.problem)
        config.problem_type, new_head = labels.problem, True
    elif names and not get_task(task).one_class and labels.problem is not None:
        config.problem_type = labels.problem  # which the model would else guess from the first batch
    if not names or not matched:
        return _loaded(model, task, new_head, names)
    if not (all_known(names, known) or numbered(names) or numbered(known)):
        raise ValueError(
            f"The model's classes are {few(known)}, the data's {few(names)}: which is which? Name them alike, for "
            f"example model.config.id2label = {dict(enumerate(names[:3]))}{' …' if len(names) > 3 else ''}."
        )
    if not numbered(known):
        if not all_known(names, known):
            logger.warning(
                "The data's classes are %s, the model's %s: only their order is left to go by.", few(names), few(known)
            )
        names = known
    elif not numbered(names):  # the checkpoints say what their outputs are
        names, _ = match_classes(known, names)
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return _loaded(model, task, new_head, names)


def few(names: list[str], most: int = 4) -> str:
    """The first names, for messages."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
