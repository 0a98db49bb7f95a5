"""What a caller says about checkpoints of his own: looked at, and answered in words, before anything is made of it."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path

from torch import nn

from know_hf.checkpoints.checkpoint import PREDICTABLE, TensorSpec
from know_hf.settings import meant
from know_hf.trajectory.kinds import KINDS, Parameter, described_by, misfits
from know_hf.trajectory.names import match_names

logger = logging.getLogger(__name__)

# Names that a message gives before it says how many more there are.
_SHOWN = 4


def given_kinds(kinds: Mapping[str, str | Parameter], tensors: Collection[str]) -> dict[str, Parameter]:
    """The parameters that a caller's ``kinds`` describe, by the names of the stored tensors.

    Raises:
        TypeError: If this is not a dictionary by name.
        ValueError: If a kind is unknown, or something is named that is not stored, or nothing is.
    """
    form = "give a dictionary, name of the tensor → kind."
    if not isinstance(kinds, Mapping):
        raise TypeError(f"kinds is {kinds!r:.80}; {form}")
    if not kinds:
        raise ValueError(f"kinds is empty, so that nothing would be predicted; {form}")
    for name, kind in kinds.items():
        if not isinstance(name, str):
            raise TypeError(f"kinds: {name!r:.80} is not the name of a tensor; {form}")
        if not isinstance(kind, Parameter) and kind not in KINDS:
            raise ValueError(f"kinds: {kind!r} of {name!r} is not known{meant(kind, KINDS, 'use one of')}")
    names = match_names(kinds, tensors)
    # What was read from a live module also has names that are not stored (of tied tensors, for example).
    absent = [n for n, kind in kinds.items() if not isinstance(kind, Parameter) and n not in names.values()]
    if absent or not names:
        raise ValueError(
            f"kinds: the checkpoints hold no {listed(absent or list(kinds))}; they hold {listed(list(tensors))}."
        )
    described = {name: kinds[known] for name, known in names.items()}
    return {n: kind if isinstance(kind, Parameter) else Parameter(kind, "given") for n, kind in described.items()}


def check_given_model(model: object) -> None:
    """Raises ``TypeError`` if this is not a live module."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"{model!r:.40}, a {type(model).__name__}"
        raise TypeError(
            f"model is {what}, not a live module to read the kinds from: build it (AutoModelFor….from_pretrained or "
            "from_config)."
        )


def given_ratio(ratio: object) -> float | None:
    """The ratio of successive data set sizes, where it is known.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range.
    """
    if ratio is None:
        return None
    if isinstance(ratio, bool) or not isinstance(ratio, Real):
        raise TypeError(f"sampling_ratio is {ratio!r:.80}; give a number between 0 and 1, or leave it out.")
    if not 0 < float(ratio) < 1:
        raise ValueError(
            f"sampling_ratio is {ratio}; it is the share of the data that each stage keeps of those of the stage "
            "before, and lies strictly between 0 and 1. Leave it out if it is not known."
        )
    return float(ratio)


def given_examples(examples: object, stages: int) -> list[int] | None:
    """The number of examples that each checkpoint was trained on, where it is known.

    Raises:
        TypeError: If they are no list of whole numbers.
        ValueError: If there is not one for each stage, or they do not fall from stage to stage.
    """
    if examples is None:
        return None
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Iterable):
        raise TypeError(f"examples is {examples!r:.80}; give a list of whole numbers, one for each stage.")
    counts = list(examples)
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, Integral):
            raise TypeError(f"examples: {count!r:.80} is not a whole number.")
    if len(counts) != stages:
        raise ValueError(f"examples names {len(counts)} numbers, and there are {stages} checkpoints.")
    for more, less in pairwise(counts):
        if not more > less > 0:
            raise ValueError(
                f"examples is {counts}; the checkpoint trained on most data comes first, and each after it has fewer "
                f"examples than the one before: {less} does not fit after {more}."
            )
    return [int(count) for count in counts]


def configured_kinds(folder: Path, tensors: Mapping[str, TensorSpec], trust_remote_code: bool) -> dict[str, Parameter]:
    """The parameters of stored tensors, from the model that a folder's configuration names, built without memory.

    Raises:
        ValueError: If there is none, or transformers does not know it, or it is of something else.
    """
    from know_hf.models.skeleton import skeleton

    try:
        model = skeleton(folder, trust_remote_code)
    except ValueError as error:
        raise ValueError(
            f"What the tensors are cannot be read off the configuration: {error} In Python, "
            "Trajectory.from_checkpoints takes either kinds={name: kind} or model=a live module."
        ) from error
    parameters = described_by(model, tensors)
    report_unmatched(parameters, tensors, misfits(model, tensors), f"The {type(model).__name__} of the configuration")
    return parameters


def report_unmatched(
    parameters: Collection[str], tensors: Mapping[str, TensorSpec], misfits: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Names the stored tensors that a model does not have, or has in another shape.

    Raises:
        ValueError: If it has none of them.
    """
    floating = [name for name, spec in tensors.items() if spec.dtype in PREDICTABLE]
    absent = [name for name in floating if name not in parameters and name not in misfits]
    odd = listed([f"{name} {list(tensors[name].shape)} as {list(shape)}" for name, shape in misfits.items()])
    if (absent or misfits) and len(absent) + len(misfits) == len(floating):
        if misfits:
            raise ValueError(f"{source} fits none of the tensors of the checkpoints: it has {odd}.")
        raise ValueError(f"{source} has no tensor of the checkpoints: they hold {listed(absent)}.")
    if absent:
        logger.warning("%s does not have %s, which will be copied.", source, listed(absent))
    if misfits:
        logger.warning("%s has another shape of %s, which will be copied.", source, odd)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
