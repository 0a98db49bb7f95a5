"""A process's share of the values: read, predicted by every method, and written, block by block."""

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from accelerate.utils import gather_object
from torch import Tensor

from know_hf.checkpoints.patch import CheckpointPatch, NotFiniteError
from know_hf.enrichment.following import FollowingHashes
from know_hf.enrichment.pipeline import overlapped, side_by_side
from know_hf.enrichment.ranges import BLOCK, Range, share_of
from know_hf.enrichment.statistics import Statistics
from know_hf.enrichment.writer import PartialFolder
from know_hf.known.predicting import Predicting
from know_hf.known.threads import one_thread
from know_hf.progress import progress_bar

if TYPE_CHECKING:
    from know_hf.enrichment.stream import Enrichment

# A GPU wants more than a BLOCK at once.
_BLOCK_ACCELERATOR = 1 << 23
# Where there is little arithmetic, time goes to moving values: few enough to stay in a processor's cache, and enough
# that handing them on costs little.
_PIECE = 1 << 19


def predict_shares(
    run: "Enrichment", steps: int, todo: Mapping[tuple[str, int], PartialFolder], hashes: FollowingHashes, lenient: bool
) -> tuple[dict[tuple[str, int], Statistics], dict[tuple[str, int], NotFiniteError]]:
    """Predicts and writes this process's share of the values; sums the statistics over all processes.

    If a process fails, all raise its error, so that none waits for it.

    Returns:
        The statistics; and of what is not finite, if that is to be left out, why.
    """
    statistics, failure = {key: Statistics() for key in todo}, None
    lost: dict[tuple[str, int], NotFiniteError] | None = {} if lenient else None
    try:
        _predict_own(run, steps, todo, statistics, hashes, lost)
    except Exception as error:
        failure = error
    alone = run.state.num_processes == 1
    shares = [(statistics, lost, failure)] if alone else gather_object([(statistics, lost, failure)])
    for raised in (failure, *(error for *_, error in shares)):
        if raised is not None:
            raise raised
    found = {key: error for _, own, _ in shares for key, error in (own or {}).items()}
    summed = {key: sum((share[key] for share, *_ in shares), Statistics()) for key in todo}
    return summed, {key: found[key] for key in todo if key in found}


def _predict_own(
    run: "Enrichment",
    steps: int,
    todo: Mapping[tuple[str, int], PartialFolder],
    statistics: Mapping[tuple[str, int], Statistics],
    hashes: FollowingHashes,
    lost: dict[tuple[str, int], NotFiniteError] | None,
) -> None:
    wanted = {name for name, _ in todo}
    # The reference goes first: the others' directions are compared with its.
    methods = [one for one in run.prediction.methods if one.method.reference or one.name in wanted]
    methods.sort(key=lambda one: not one.method.reference)
    whole = not all(one.takes_blocks for one in methods)
    # Learned methods share a block among processors in their own way; of others every processor takes blocks of its
    # own: threads that wait for each other after every small operation only hold each other up, and sums that several
    # share come out in an order that depends on their number.
    processor = run.device.type == "cpu"
    light = processor and all(one.predictor is None for one in methods)
    block = (_PIECE if light else BLOCK) if processor else _BLOCK_ACCELERATOR
    tensors, (process, processes) = run.trajectory.tensors, (run.state.process_index, run.state.num_processes)
    ranges = share_of(tensors, run.predicted, process, processes, None if whole else block)
    iterate, positions = run.prediction.options.iterate, run.trajectory.positions
    bar = progress_bar(
        total=sum(part.size for part in ranges),
        desc=f"{methods[0].name if len(methods) == 1 else f'{len(methods)} methods'}, {steps} steps",
        unit=" weights",
        unit_scale=True,
        disable=not run.state.is_main_process,
    )

    def read(part: Range) -> Tensor:
        return run.trajectory.read(*part)

    def compute(part: Range, stages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # All that was read stays as long as what is computed where blocks are small, else only what is needed later.
        origin = stages[0] if light else stages[0].clone()
        stages = stages.to(run.device)
        if whole:
            stages = stages.reshape(len(stages), *tensors[part.tensor].shape)
        kind, predicted = run.predicted[part.tensor], {}
        for one in methods:
            with one_thread() if processor and one.predictor is None else nullcontext():
                made = one.predict(stages, kind, steps, iterate, part.tensor, positions)
            predicted[one.name] = made.reshape(steps, -1)
        return origin, predicted

    def write(part: Range, made: tuple[Tensor, dict[str, Tensor]]) -> dict[tuple[str, int], Statistics]:
        origin, predicted = made
        stored_kind, reference = run.trajectory.parameters[part.tensor].kind, None
        moved: dict[tuple[str, int], Statistics] = {}
        for one in methods:
            values = predicted.pop(one.name).cpu()
            for step in range(1, steps + 1):
                if patch := patches.get(key := (one.name, step)):
                    if lost and key in lost:
                        continue
                    try:
                        stored = patch.write(part.tensor, part.start, values[step - 1])
                    except NotFiniteError as error:
                        if lost is None:
                            raise
                        lost.setdefault(key, error)
                        continue
                    beside = None if reference is None else reference[step - 1]
                    moved[key] = Statistics()
                    moved[key].add(stored_kind, origin, stored, beside)
            if one.method.reference:
                reference = values
        return moved

    with bar, ExitStack() as open_now:
        patches = {key: open_now.enter_context(CheckpointPatch(folder.path)) for key, folder in todo.items()}
        for predictor in run.prediction.predictors:
            if isinstance(predictor, Predicting):
                # The size of the whole job, not of the share: every number of processes computes in the same way.
                open_now.enter_context(predictor.frozen(run.predicted_values * steps))
        at_once = partial(side_by_side, most=3 if whole else 6) if light else overlapped
        for part, moved in at_once(ranges, read, compute, write):
            for key, own in moved.items():
                statistics[key].include(own)
            places = (checkpoint.tensors[part.tensor] for checkpoint in run.trajectory.checkpoints)
            hashes.follow([(place.file, place.offset + part.stop * place.itemsize) for place in places])
            bar.update(part.size)
