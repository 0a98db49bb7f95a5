"""Which tensors are predicted: what the options ask for, less what did not move from stage to stage."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from accelerate import PartialState
from accelerate.utils import gather_object

from know_hf.checkpoints.checkpoint import DTYPES, PREDICTABLE, TensorSpec
from know_hf.trajectory import Parameter, Trajectory, TrajectoryError, resolve_kinds
from know_hf.trajectory.given import listed
from know_hf.trajectory.kinds import NOT_TRAINED, fresh_norms

logger = logging.getLogger(__name__)

EQUAL = "equal in all stages"
# Bytes at a time: the first few tell nearly every tensor that moved.
_FIRST, _MOST = 1 << 12, 1 << 20
# Share of the weights above which it is said that they are not predicted.
_WORTH_SAYING = 0.1


def select(
    trajectory: Trajectory,
    state: PartialState,
    *,
    norms: str = "copy",
    embeddings: str = "copy",
    kinds: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], dict[str, str], dict[str, float]]:
    """Decides what a run predicts. Every process has to call it.

    A tensor whose bytes are the same in all stages has no history to predict from, and someone may have frozen it: it
    is copied, whatever ``kinds`` say (a pattern of nothing but frozen ones is refused). A single weight that moved
    makes its whole tensor one to predict. The stages themselves decide, not the record, as a parameter that was frozen
    at first may have been trained later.

    Args:
        trajectory: What is read.
        state: Of this process; the processes share the reading.
        norms: As for [`enrich`].
        embeddings: As for [`enrich`].
        kinds: As for [`enrich`].

    Returns:
        Predicted name → kind, copied name → reason, and name → value of what ``norms="reset"`` makes new.

    Raises:
        TrajectoryError: If a file is damaged.
        ValueError: If an option does not fit, or there is no tensor of a kind to predict.
    """
    recorded = trajectory.parameters
    resetting = norms == "reset"
    untrained = [name for name, p in recorded.items() if resetting and p.kind == "norm" and not p.trained]
    kept = set(_unmoved(trajectory, untrained, state)) if untrained else set()
    parameters = {name: replace(parameter, trained=name not in kept) for name, parameter in recorded.items()}
    wanted, copied = resolve_kinds(parameters, norms=norms, embeddings=embeddings, kinds=kinds)
    unfit = [name for name in wanted if recorded[name].kind == "buffer"]
    if unfit:
        raise ValueError(f"kinds: {unfit[0]!r} is a buffer or not floating point; it can only be copied.")
    if not wanted:
        raise ValueError("Nothing to predict: no tensor of the trajectory has kind conv, fc or bias.")
    still = _unmoved(trajectory, list(wanted), state)
    frozen = {name for name in still if not recorded[name].trained}
    # Refuses patterns that are about nothing else.
    resolve_kinds({n: replace(p, trained=n not in frozen) for n, p in parameters.items()}, kinds=kinds)
    if len(still) == len(wanted):
        logger.warning(
            "%s: the stages are all equal, nothing was forgotten: every step is a copy of stage 0.", trajectory.root
        )
    elif still:
        logger.info("%d tensors did not move and are copied: %s.", len(still), listed(still))
    copied |= {name: NOT_TRAINED if name in frozen else EQUAL for name in still}
    predicted = {name: kind for name, kind in wanted.items() if name not in copied}
    return predicted, copied, fresh_norms(parameters, kinds) if resetting else {}


def unmoved(copied: Mapping[str, str]) -> dict[str, list[str]]:
    """Of what is copied, that which could have been predicted: reason → names."""
    return {
        reason: names for reason in (NOT_TRAINED, EQUAL) if (names := [n for n, why in copied.items() if why == reason])
    }


def not_predicted(
    tensors: Mapping[str, TensorSpec], parameters: Mapping[str, Parameter], copied: Mapping[str, str]
) -> dict[str, float]:
    """What of the weights is copied from stage 0, where that is more than a tenth of them.

    Args:
        tensors: Name → where it lies, and its shape.
        parameters: Name → kind and owning layer.
        copied: Name → why it is copied.

    Returns:
        Reason and layer → share of all weights that are numbers with a fraction, the largest first; empty where it is
        no more than a tenth of them in all.
    """
    sizes = {name: spec.numel for name, spec in tensors.items() if spec.dtype in PREDICTABLE}
    total, shares = sum(sizes.values()), dict[str, float]()
    for name, reason in copied.items():
        layer = parameters[name].layer
        what = f"{reason} ({layer})" if layer else reason
        shares[what] = shares.get(what, 0.0) + sizes.get(name, 0) / max(total, 1)
    largest = sorted(((what, share) for what, share in shares.items() if share), key=lambda item: -item[1])
    return dict(largest) if sum(shares.values()) > _WORTH_SAYING else {}


def check_copied(trajectory: Trajectory, copied: Iterable[str], state: PartialState) -> None:
    """Raises if a copied tensor would carry values that are not finite into every result. Every process has to call it.

    Raises:
        TrajectoryError: If stage 0 holds NaN in one, or infinity in a parameter; buffers may be masks of infinities.
    """
    _shared(lambda name: _check_finite(trajectory, name), list(copied), state)


def _check_finite(trajectory: Trajectory, name: str) -> bool:
    first, spec = trajectory.checkpoints[0], trajectory.tensors[name]
    if spec.dtype not in DTYPES or not DTYPES[spec.dtype].is_floating_point:
        return False
    buffer = trajectory.record.parameters.get(name, Parameter("unknown", "")).kind in ("buffer", "unknown")
    for start in range(0, spec.numel, _MOST):
        values = first.read(name, start, start + _MOST).float()
        if values.isnan().any() or not buffer and values.isinf().any():
            raise TrajectoryError(
                f"Tensor {name!r} holds NaN or infinite values in stage 0 ({first.folder}), which would be copied "
                "into every prediction: train again with a lower learning rate, or leave that checkpoint out."
            )
    return False


def _unmoved(trajectory: Trajectory, names: Sequence[str], state: PartialState) -> list[str]:
    """Names of the tensors that are equal in all stages."""
    return _shared(lambda name: _is_unmoved(trajectory, name), names, state)


def _shared(fits: Callable[[str], bool], names: Sequence[str], state: PartialState) -> list[str]:
    """Names that fit; each process looks at its share of them.

    If a process fails, all raise its error, so that none waits for it.
    """
    found, failure = [], None
    try:
        found = [name for name in names[state.process_index :: state.num_processes] if fits(name)]
    except Exception as error:
        failure = error
    shares = [(found, failure)] if state.num_processes == 1 else gather_object([(found, failure)])
    for raised in (failure, *(error for _, error in shares)):
        if raised is not None:
            raise raised
    all_found = {name for share, _ in shares for name in share}
    return [name for name in names if name in all_found]


def _is_unmoved(trajectory: Trajectory, name: str) -> bool:
    first, *others = trajectory.checkpoints
    start, size = 0, _FIRST
    while start < trajectory.tensors[name].nbytes:
        block = first.read_bytes(name, start, start + size)
        if any(other.read_bytes(name, start, start + size) != block for other in others):
            return False
        start, size = start + size, _MOST
    return True
