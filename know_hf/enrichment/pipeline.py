"""Reading ahead and writing behind: the disk works while the next block is computed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Any],
    compute: Callable[[Item, Any], Any],
    write: Callable[[Item, Any], None],
) -> None:
    """Takes every item through three stages, in order; at most three items are in memory.

    Args:
        items: What to work on.
        read: Called on a thread of its own, one item ahead.
        compute: Called here with what was read.
        write: Called on a thread of its own, one item behind, with what was computed.

    Raises:
        Exception: Whatever a stage raises; nothing further is then begun.
    """
    processors = torch.get_num_threads()
    pools = [ThreadPoolExecutor(1, name, initializer=_one_processor) for name in ("read", "write")]
    with pools[0] as reader, pools[1] as writer:
        for pool in pools:
            pool.submit(int).result()
        torch.set_num_threads(processors)  # the setting is also the default of threads to come
        behind: Future | None = None
        ahead = [reader.submit(read, item) for item in items[:1]]
        for i, item in enumerate(items):
            given = ahead.pop().result()
            ahead = [reader.submit(read, following) for following in items[i + 1 : i + 2]]
            made = compute(item, given)
            del given
            if behind is not None:
                behind.result()
            behind = writer.submit(write, item, made)
        if behind is not None:
            behind.result()


def _one_processor() -> None:
    # Sums then round the same way every time, and computing keeps its processors.
    torch.set_num_threads(1)
    torch.get_num_threads()
