"""Which values each process predicts: disjoint ranges of equal size, in the order in which they lie on disk."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from know_hf.checkpoints.checkpoint import TensorSpec

#: Weights per block and stage: what one process holds in memory at a time (a few times S + steps blocks of float32).
BLOCK = 1 << 20
# Cuts lie at multiples of this within a tensor, so that no vector or matrix of the arithmetic is cut.
_GRAIN = 2048


class Range(NamedTuple):
    """Values ``start … stop`` of a flattened tensor."""

    tensor: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def share_of(
    tensors: Mapping[str, TensorSpec], predicted: Iterable[str], process: int, processes: int, block: int | None
) -> list[Range]:
    """One process's ranges.

    Args:
        tensors: Where every tensor lies.
        predicted: Names of those to predict.
        process: Index of the process.
        processes: Number of processes.
        block: Most values of a range; None for whole tensors.

    Returns:
        Ranges in the order of the file; over all processes every predicted value is in exactly one.
    """
    names = sorted((n for n in predicted if tensors[n].numel), key=lambda n: (tensors[n].file, tensors[n].offset))
    if block is None:
        return [Range(name, 0, tensors[name].numel) for name in _whole(tensors, names, process, processes)]
    total = sum(tensors[name].numel for name in names)
    first, last = (total * p // processes for p in (process, process + 1))
    ranges, begin = [], 0
    for name in names:
        size = tensors[name].numel
        start, stop = (_cut(bound - begin, size) for bound in (first, last))
        ranges += [Range(name, at, min(at + block, stop)) for at in range(start, stop, block)]
        begin += size
    return ranges


def _cut(bound: int, size: int) -> int:
    """The cut nearest below ``bound`` in a tensor of so many values."""
    return size if bound >= size else max(bound, 0) // _GRAIN * _GRAIN


def _whole(tensors: Mapping[str, TensorSpec], names: list[str], process: int, processes: int) -> list[str]:
    """Whole tensors, the largest first to whoever has least."""
    loads, mine = [0] * processes, set()
    for name in sorted(names, key=lambda name: -tensors[name].numel):
        lightest = loads.index(min(loads))
        loads[lightest] += tensors[name].numel
        if lightest == process:
            mine.add(name)
    return [name for name in names if name in mine]
