"""Which methods, with which parameters and learned weights, into which folders: settled before anything runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from transformers import PreTrainedConfig

from know_hf.known import KnownConfig, KnownPredictor
from know_hf.limits import check_limits
from know_hf.remote import bounded, public
from know_hf.retrodiction import ALL, METHODS, check_method, get_method
from know_hf.retrodiction.learned import NinoMLP
from know_hf.store import inside
from know_hf.text import without_secrets
from know_hf.trajectory import Parameter, Trajectory, resolve_kinds
from know_hf.trajectory.identity import portable_name
from know_hf.trajectory.trajectory import growth


def method_names(retrodictor: str | Sequence[str]) -> list[str]:
    """Resolves ``"all"``, one name or several.

    Raises:
        ValueError: If a name is unknown or there is none.
    """
    names = ALL if retrodictor == "all" else [retrodictor] if isinstance(retrodictor, str) else list(retrodictor)
    if not names:
        raise ValueError("Name at least one retrodiction method.")
    for name in names:
        get_method(name)
    return list(dict.fromkeys(names))


def method_parameters(
    names: list[str], parameters: Mapping[str, Any] | None, predictor, stages: int, sampling_ratio: float
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Sorts parameters by method and loads predictors.

    Args:
        names: The methods.
        parameters: ``name`` or ``method.name`` → value; without the method only when there is just one.
        predictor: The predictor of the learned methods, as for [`enrich`].
        stages: Number S of stages that it has to read.
        sampling_ratio: Ratio r of successive stages' data.

    Returns:
        Method → parameters, predictors among them; and method → a name for its predictor.

    Raises:
        ValueError: If a parameter names no method of this run, or a predictor is missing or does not fit.
    """
    sorted_out: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in (parameters or {}).items():
        method, _, name = key.rpartition(".")
        if not method and len(names) > 1:
            raise ValueError(
                f"With several methods, say whose parameter it is: {', '.join(f'{n}.{key}' for n in names[:3])} …"
            )
        method = method or names[0]
        if method not in sorted_out:
            raise ValueError(f"Parameter {key!r} is of no method of this run ({', '.join(names)}).")
        sorted_out[method][name] = value
    sources = {}
    for name, own in sorted_out.items():
        reads = METHODS[name].predictor
        if reads is None or own.get("factors") is not None:
            continue
        given = own.get("predictor", predictor if reads == "known" or len(names) == 1 else None)
        if reads != "known" and given is None:
            raise ValueError(f"{name} has no weights of its own here: pass predictor=, made by `know-hf convert`.")
        if reads == "nino":
            own["predictor"] = given if isinstance(given, NinoMLP) else NinoMLP.from_file(given)
        else:
            own.update(predictor_parameters(load_predictor(given, stages), sampling_ratio))
        sources[name] = "bundled" if given is None else portable_name(str(getattr(given, "name_or_path", given)))
    return sorted_out, sources


def check_prediction(
    retrodictor: str | Sequence[str] = "known",
    *,
    stages: int,
    sampling_ratio: float,
    steps: int = 3,
    parameters: Mapping[str, Any] | None = None,
    iterate: bool = False,
    predictor=None,
    norms: str = "copy",
    embeddings: str = "copy",
    kinds: Mapping[str, str] | None = None,
    predicted: Sequence[str] = ("fc",),
) -> None:
    """Raises what a prediction would raise, as far as that can be known without a model or a trajectory.

    Args:
        retrodictor: As for [`enrich`], like what follows but for the next two.
        stages: Number S of stages that will be read.
        sampling_ratio: Ratio r of their data.
        steps: As for [`enrich`].
        parameters: As for [`enrich`].
        iterate: As for [`enrich`].
        predictor: As for [`enrich`].
        norms: As for [`enrich`].
        embeddings: As for [`enrich`].
        kinds: As for [`enrich`].
        predicted: Kinds that will be predicted.

    Raises:
        OSError: If a predictor cannot be loaded.
        ValueError: If a name is unknown, or method, parameters, predictor, stages and steps do not fit each other.
    """
    check_limits({"steps": steps})
    names = method_names(retrodictor)
    _step_names(sampling_ratio, steps)
    resolve_kinds({}, norms=norms, embeddings=embeddings)
    for value in (kinds or {}).values():
        resolve_kinds({"any": Parameter("fc", "Linear")}, kinds={"*": value})
    for name, own in method_parameters(names, parameters, predictor, stages, sampling_ratio)[0].items():
        check_method(name, stages, list(predicted), steps, own, iterate)


def load_predictor(predictor: KnownPredictor | str | Path | None, stages: int) -> KnownPredictor:
    """Loads a predictor and checks that it reads that many stages.

    Args:
        predictor: A live one, a folder, a Hub id, or None for the one in the package that reads so many stages.
        stages: Number S of stages that it has to read.

    Raises:
        OSError: If a folder or Hub id cannot be loaded.
        ValueError: If it is another model, incomplete or damaged, reads another number of stages, or the package has
            none for it.
    """
    if predictor is None:
        predictor = KnownPredictor.default(stages)
    elif not isinstance(predictor, KnownPredictor):
        predictor = _read(predictor, _complete)
    if predictor.config.history_length != stages:
        raise ValueError(
            f"The predictor reads {predictor.config.history_length} stages, the trajectory has {stages}: use "
            f"num_stages={predictor.config.history_length} or a predictor made for {stages}."
        )
    return predictor.eval()


def load_predictor_stages(predictor: KnownPredictor | str | Path) -> int:
    """Number of stages that a predictor reads.

    Raises:
        OSError, ValueError: As [`load_predictor`].
    """
    live = isinstance(predictor, KnownPredictor)
    return (predictor.config if live else _read(predictor, KnownConfig.from_pretrained)).history_length


@bounded()
def _read(predictor: str | Path, load: Callable[[str], Any]) -> Any:
    """What a loader makes of a predictor's folder or Hub id; what fails is said in one sentence that names it."""
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


def _complete(source: str) -> KnownPredictor:
    predictor, info = KnownPredictor.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    faults = {how: len(info[f"{how}_keys"]) for how in ("missing", "unexpected", "mismatched")}
    if any(faults.values()):
        shown = ", ".join(f"{count} {how}" for how, count in faults.items() if count)
        raise ValueError(f"its weights do not fit its configuration: {shown}")
    return predictor


def predictor_parameters(predictor: KnownPredictor, sampling_ratio: float) -> dict[str, Any]:
    """The parameters with which a method reads a predictor: itself, and the sampling ratio if it is told that."""
    told = {"sampling_ratio": sampling_ratio} if "ratio" in predictor.config.conditions else {}
    return {"predictor": predictor, **told}


def step_names(trajectory: Trajectory, steps: int) -> list[str]:
    """Folder names by nominal growth of the data: x2, x4, x8 at r = 0.5; x3, x9, x28 at r = 0.33."""
    return _step_names(trajectory.record.sampling_ratio, steps)


def _step_names(sampling_ratio: float | None, steps: int) -> list[str]:
    scales = [growth(sampling_ratio, step) for step in range(1, steps + 1)]
    for digits in range(1, 8):
        names = [f"x{scale:.0f}" if scale >= 3 and digits == 1 else f"x{scale:.{digits}f}" for scale in scales]
        names = [name.rstrip("0").rstrip(".") if "." in name else name for name in names]
        if len(set(names)) == steps:
            return names
    raise ValueError(f"sampling_ratio {sampling_ratio} is too close to 1 to tell steps apart.")


def enriched_folder(root: Path, method: str) -> Path:
    """Where a method's checkpoints go within a run: ``enriched`` for KNOWN, ``enriched-<method>`` for others."""
    return inside(root, "enriched" if method == "known" else f"enriched-{method}")
