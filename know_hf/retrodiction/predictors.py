"""Loading of learned predictors: from what a user named to a network that reads the stages there are."""

import os
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from know_hf.known.plain import PlainPredictor
from know_hf.known.predicting import Predicting
from know_hf.remote import bounded, public
from know_hf.text import without_secrets


def load_predictor(predictor: Predicting | str | Path | None, stages: int) -> Predicting:
    """Loads a predictor and checks that it reads that many stages.

    Args:
        predictor: A live one, a folder, a Hub id, or None for the one in the package that reads so many stages.
        stages: Number S of stages that it has to read.

    Returns:
        A live one as it is; of a folder what predicts as a [`KnownPredictor`] does, and is no model of transformers.

    Raises:
        OSError: If a folder or Hub id cannot be loaded.
        ValueError: If it is another model, incomplete or damaged, reads another number of stages, or the package has
            none for it.
    """
    if predictor is None:
        live: Predicting = PlainPredictor.default(stages)
    else:
        live = predictor if isinstance(predictor, Predicting) else _plain(predictor) or _read(predictor, _complete)
    if live.config.history_length != stages:
        raise ValueError(
            f"The predictor reads {live.config.history_length} stages, the trajectory has {stages}: use "
            f"num_stages={live.config.history_length} or a predictor made for {stages}."
        )
    return live.eval()


def load_predictor_stages(predictor: Predicting | str | Path) -> int:
    """Number of stages that a predictor reads.

    Raises:
        OSError, ValueError: As [`load_predictor`].
    """
    if isinstance(predictor, Predicting):
        return predictor.config.history_length
    return (_plain(predictor) or _read(predictor, _configured)).config.history_length


def _plain(folder: str | Path) -> PlainPredictor | None:
    """What is in a folder; None if anything is odd: transformers knows more forms of it, and says what is wrong."""
    try:
        return PlainPredictor.read(folder)
    except Exception:
        return None


@bounded()
def _read(predictor: str | Path, load: Callable[[str], Any]) -> Any:
    """What a loader makes of a predictor's folder or Hub id; what fails is said in one sentence that names it."""
    from transformers import PreTrainedConfig

    from know_hf.known import KnownConfig

    source = str(predictor)
    what = f"Predictor {without_secrets(source)!r}"
    try:
        found = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        if found == KnownConfig.model_type:
            return load(source)
    except Exception as error:  # the libraries raise many types for a file that is not there or damaged
        why = shorten(public(error), 250, placeholder=" …")
        if not os.path.isdir(source):  # of an empty name Path would make the current folder
            raise FileNotFoundError(f"{what} is neither a folder nor reachable on the Hub. ({why})") from error
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{what} cannot be loaded; pass a folder that holds a whole KNOWN predictor. ({why})") from error
    raise ValueError(
        f"{what} is no KNOWN predictor but {f'a model of type {found}' if found else 'a folder without a model'}: pass "
        "the folder or Hub id of one, as know-hf meta-train and know-hf convert write it."
    )


def _configured(source: str) -> Any:
    """Something with the configuration that a source names."""
    from know_hf.known import KnownConfig

    return SimpleNamespace(config=KnownConfig.from_pretrained(source))


def _complete(source: str) -> Predicting:
    from know_hf.known import KnownPredictor

    predictor, info = KnownPredictor.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    faults = {how: len(info[f"{how}_keys"]) for how in ("missing", "unexpected", "mismatched")}
    if any(faults.values()):
        shown = ", ".join(f"{count} {how}" for how, count in faults.items() if count)
        raise ValueError(f"its weights do not fit its configuration: {shown}")
    return predictor


def predictor_parameters(predictor: nn.Module, sampling_ratio: float | None) -> dict[str, Any]:
    """The parameters with which a method reads a predictor: itself, and the sampling ratio if it is told that."""
    told = isinstance(predictor, Predicting) and "ratio" in predictor.config.conditions
    return {"predictor": predictor, **({"sampling_ratio": sampling_ratio} if told else {})}
