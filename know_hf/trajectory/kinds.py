"""Which predictor a parameter belongs to: read from the live module, once, and stored with the trajectory."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from know_hf.checkpoints.checkpoint import PREDICTABLE, TensorSpec
from know_hf.models.adapters import is_adapted
from know_hf.settings import meant
from know_hf.trajectory.names import match_names, stored_names, stored_shapes

#: Kinds that the predictor has networks for; everything else is copied unless an option says otherwise.
PREDICTED_KINDS = ("conv", "fc", "bias")
#: All kinds that a tensor may have.
KINDS = (*PREDICTED_KINDS, "norm", "embedding", "buffer", "other")
#: Why a tensor of a predicted kind is copied that the run's trainer did not train.
NOT_TRAINED = "not trained"

#: Of a layer with running statistics, what a fresh one holds: the end of a tensor's name → its values.
_FRESH = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0, "weight": 1.0, "bias": 0.0}
# What every such layer stores; one that is frozen by its class (DETR's) keeps no count.
_COUNTED = ("running_mean", "running_var", "num_batches_tracked")
_COPY_REASONS = {
    "norm": "normalisation parameter",
    "embedding": "embedding table",
    "buffer": "buffer",
    "other": "not the weight or bias of a convolution or linear layer",
    "unknown": "name not found on the live module",
}
# Names that a layer's own kernel has, plain or under the hook-based weight and spectral normalisations.
_KERNEL_NAMES = ("weight", "weight_v", "weight_orig")


@dataclass(frozen=True)
class Parameter:
    """What a stored tensor is: its kind, the type of the layer that owns it, and whether training may change it."""

    kind: str
    layer: str
    trained: bool = True


def kinds_of(model: nn.Module) -> dict[str, Parameter]:
    """Reads the kind of every tensor in a model's state from the layers that own them.

    Args:
        model: A live module, on any device including ``meta``.

    Returns:
        Name → [`Parameter`] for every parameter and persistent buffer, under each name of a shared one and under the
        name that its model saves it by, where that is another. Kinds are ``conv`` (kernels of convolutions, also
        1×1, depthwise and transposed), ``fc`` (matrices of linear layers and attention projections, GPT-2's
        ``Conv1D``, all experts' matrices of a mixture in one tensor), ``bias`` (of those layers), ``norm``,
        ``embedding`` (also what is tied to one), ``buffer`` and ``other``. Parameters with ``requires_grad=False`` are
        marked as not trained.

    Raises:
        ValueError: If a PEFT model has several active adapters, or none.

    Source: paper section 4.5, which goes by the number of a layer's arrays.

    Example:
        >>> from torch import nn
        >>> from know_hf import kinds_of
        >>> {name: parameter.kind for name, parameter in kinds_of(nn.Linear(2, 3)).items()}
        {'weight': 'fc', 'bias': 'bias'}
    """
    kinds: dict[str, Parameter] = {}
    uses: dict[int, list[str]] = {}
    for name, tensor, owner, role in _owned_parameters(model):
        kinds[name] = Parameter(_kind(owner, role, tensor), type(owner).__name__, tensor.requires_grad)
        uses.setdefault(id(tensor), []).append(name)
    for names in uses.values():
        # A tied tensor is stored once, under any of its names: all uses must agree, and a table stays a table.
        shared = next((kinds[name] for name in names if kinds[name].kind == "embedding"), kinds[names[0]])
        kinds.update(dict.fromkeys(names, shared))
    stored = model.state_dict(keep_vars=True)
    for path, module in model.named_modules(remove_duplicate=False):
        for role, _ in module.named_buffers(recurse=False):
            name = f"{path}.{role}" if path else role
            if name in stored:
                kinds[name] = Parameter("buffer", type(module).__name__)
    saved = {name: kinds[live] for name, live in stored_names(model).items() if live in kinds}
    # Only the adapter of a PEFT model is ever stored.
    return saved if is_adapted(model) else kinds | saved


def described_by(model: nn.Module, tensors: Mapping[str, TensorSpec]) -> dict[str, Parameter]:
    """Reads the kinds of stored tensors from a live module of their model.

    Args:
        model: The module, perhaps with another head, or none, or one that wraps it: names that differ by a prefix or
            by their age are the same. Whether it is frozen says nothing about how the tensors were trained.
        tensors: Name in the checkpoint → where it lies, and its shape.

    Returns:
        Name in the checkpoint → [`Parameter`], for every tensor that the module has in that shape.
    """
    model = _unwrapped(model)
    kinds, other = kinds_of(model), misfits(model, tensors)
    names = match_names(kinds, tensors, getattr(model, "base_model_prefix", ""))
    return {name: replace(kinds[live], trained=True) for name, live in names.items() if name not in other}


def misfits(model: nn.Module, tensors: Mapping[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Finds what a module has under the name of a stored tensor in another shape: it is something else.

    Args:
        model: The module, as for [`described_by`].
        tensors: Name in the checkpoint → where it lies, and its shape.

    Returns:
        Name in the checkpoint → shape on the module.
    """
    model = _unwrapped(model)
    shapes = stored_shapes(model)
    names = match_names(kinds_of(model), tensors, getattr(model, "base_model_prefix", ""))
    return {
        name: shapes[live]
        for name, live in names.items()
        if tensors[name].dtype in PREDICTABLE and shapes.get(live, tensors[name].shape) != tensors[name].shape
    }


def _owned_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module, str]]:
    """Yields (full name, tensor, owning layer, role in that layer), shared tensors under every name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        for role, tensor in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{role}" if path else role
            if isinstance(module, ParametrizationList):
                # <layer>.parametrizations.<role>.original…: the tensor stands for the layer's when shaped like it.
                layer_path, _, layer_role = f".{path}".rpartition(".parametrizations.")
                owner = modules[layer_path.removeprefix(".")]
                same_shape = getattr(owner, layer_role).shape == tensor.shape
                yield name, tensor, owner, layer_role if same_shape else role
            else:
                yield name, tensor, module, role


def _unwrapped(model: nn.Module) -> nn.Module:
    from accelerate.utils import extract_model_from_parallel  # here: what reads checkpoints alone has no need of it

    return extract_model_from_parallel(model)


def _conv1d() -> tuple[type, ...]:
    """GPT-2's linear layer, whose module is loaded where there is a live one."""
    module = sys.modules.get("transformers.pytorch_utils")
    return () if module is None else (module.Conv1D,)


def _kind(owner: nn.Module, role: str, tensor: nn.Parameter) -> str:
    if isinstance(owner, nn.modules.conv._ConvNd):
        if role in _KERNEL_NAMES and tensor.ndim > 2:
            return "conv"
        return "bias" if role == "bias" else "other"
    if isinstance(owner, (nn.Linear, *_conv1d())):
        if role in _KERNEL_NAMES and tensor.ndim == 2:
            return "fc"
        return "bias" if role == "bias" else "other"
    if isinstance(owner, nn.MultiheadAttention):
        if role.endswith("proj_weight"):
            return "fc"
        return "bias" if role == "in_proj_bias" else "other"
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if "norm" in type(owner).__name__.lower():
        return "norm"
    if _holds_experts(owner) and role.endswith("bias"):
        return "bias"
    return "fc" if _holds_experts(owner) and tensor.ndim == 3 else "other"


def _holds_experts(owner: nn.Module) -> bool:
    """Whether a layer holds the matrices of all experts of a mixture, stacked: there is no layer for each.

    transformers marks most such classes by what their layout is; some have the name alone.
    """
    return hasattr(owner, "_apply_gate") or "expert" in type(owner).__name__.lower()


def resolve_kinds(
    parameters: Mapping[str, Parameter],
    *,
    norms: str = "copy",
    embeddings: str = "copy",
    kinds: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Decides what is predicted and by which network, and why the rest is copied.

    Args:
        parameters: Name → [`Parameter`], as stored with a trajectory.
        norms: ``"copy"`` (default), ``"bias"``: predict normalisation parameters with that network, or ``"reset"``:
            [`fresh_norms`] says what those of BatchNorm become, which are neither predicted nor copied.
        embeddings: ``"copy"`` (default) or ``"fc"``.
        kinds: Name patterns (shell wildcards) → ``"conv"``, ``"fc"``, ``"bias"`` or ``"copy"``; the last match wins
            over everything else.

    Returns:
        Predicted name → kind, and copied name → reason. What was not trained is copied, whatever the options say.

    Raises:
        ValueError: If an option has an unknown value, or a pattern matches nothing, or nothing that was trained; as
            [`fresh_norms`].

    Example:
        >>> from torch import nn
        >>> from know_hf.trajectory import kinds_of, resolve_kinds
        >>> resolve_kinds(kinds_of(nn.Linear(2, 3)), kinds={"bias": "copy"})
        ({'weight': 'fc'}, {'bias': "matches 'bias'"})
    """
    check_choices(norms, embeddings)
    fresh = fresh_norms(parameters, kinds) if norms == "reset" else {}
    norms = "copy" if norms == "reset" else norms
    choices = {**{kind: kind for kind in PREDICTED_KINDS}, "norm": norms, "embedding": embeddings}
    predicted, copied = {}, {}
    unmatched, frozen = dict(kinds or {}), dict(kinds or {})
    for value in unmatched.values():
        if value not in (*PREDICTED_KINDS, "copy"):
            raise ValueError(f"kinds: {value!r} is not known{meant(value, [*PREDICTED_KINDS, 'copy'], 'use one of')}")
    for name, parameter in parameters.items():
        choice, reason = (choices.get(parameter.kind, "copy"), _COPY_REASONS.get(parameter.kind, parameter.kind))
        for pattern, value in (kinds or {}).items():
            if fnmatchcase(name, pattern):
                choice, reason = value, f"matches {pattern!r}"
                unmatched.pop(pattern, None)
                if parameter.trained or value == "copy":
                    frozen.pop(pattern, None)
        if name in fresh:
            continue
        if choice == "copy":
            copied[name] = reason
        elif not parameter.trained:
            copied[name] = NOT_TRAINED
        else:
            predicted[name] = choice
    if unmatched:
        raise ValueError(f"kinds: no parameter matches {', '.join(map(repr, unmatched))}.")
    if frozen:
        raise ValueError(
            f"kinds: {', '.join(map(repr, frozen))} matches only what was not trained (requires_grad=False): "
            "there is nothing to predict them from."
        )
    return predicted, copied


def describe_tensors(chosen: Mapping[str, str]) -> str:
    """Which tensors these are, and as what each counts, in one short text: other tensors have another.

    Args:
        chosen: Name → kind, or group.

    Example:
        >>> from know_hf.trajectory.kinds import describe_tensors
        >>> describe_tensors({"fc.weight": "fc"}) == describe_tensors({"fc.weight": "bias"})
        False
    """
    digest = hashlib.sha256(json.dumps(sorted(chosen.items())).encode())
    return f"{len(chosen)}, {digest.hexdigest()[:16]}"


def check_choices(norms: str, embeddings: str) -> None:
    """Raises ``ValueError`` if these are no choices of [`resolve_kinds`]."""
    if norms not in ("copy", "bias", "reset"):
        raise ValueError(f"norms={norms!r} is not known; use 'copy', 'bias' or 'reset'.")
    if embeddings not in ("copy", "fc"):
        raise ValueError(f"embeddings={embeddings!r} is not known; use 'copy' or 'fc'.")


def fresh_norms(parameters: Mapping[str, Parameter], kinds: Mapping[str, str] | None = None) -> dict[str, float]:
    """What ``norms="reset"`` makes of the layers with running statistics (BatchNorm), as if they were new.

    Args:
        parameters: Name → [`Parameter`], as stored with a trajectory.
        kinds: As for [`resolve_kinds`]: what a pattern names is left to it.

    Returns:
        Name → the one value that all of the tensor gets: weight 1, bias 0, running mean 0, running variance 1, count
        of batches 0. A layer whose weight or bias was not trained stays as it is, whole.

    Raises:
        ValueError: If there is no such layer.

    Source: the authors' scripts load predictions into a fresh network, whose BatchNorm they do not hold.
    """
    fresh: dict[str, float] = {}
    for name in parameters:
        layer, dot, role = name.rpartition(".")
        stored = {end: f"{layer}{dot}{end}" for end in _FRESH if f"{layer}{dot}{end}" in parameters}
        if role != _COUNTED[0] or not stored.keys() >= set(_COUNTED):
            continue
        if all(parameters[one].trained for one in stored.values()):
            fresh |= {one: _FRESH[end] for end, one in stored.items()}
    if not fresh:
        without = [p.layer for p in parameters.values() if p.kind == "norm" and "batchnorm" in p.layer.lower()]
        found = f"the {without[0]} here are frozen or keep none" if without else "there are none here"
        raise ValueError(
            f"norms='reset' is about layers with running statistics (BatchNorm) that are trained, and {found}: use "
            "'copy' or 'bias'."
        )
    return {name: value for name, value in fresh.items() if not any(fnmatchcase(name, p) for p in kinds or {})}
