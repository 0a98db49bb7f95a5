"""Reading, computing and writing at once: one item behind the other, or several side by side."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Any],
    compute: Callable[[Item, Any], Any],
    write: Callable[[Item, Any], Any],
) -> Iterator[tuple[Item, Any]]:
    """Takes every item through three stages, in order, of which each works on another: for computing on all processors.

    Args:
        items: What to work on; at most three of them are in memory.
        read: Called on a thread of its own, one item ahead.
        compute: Called here with what was read.
        write: Called on a thread of its own, one item behind, with what was computed.

    Yields:
        Every item, in order, with what its writing returned.

    Raises:
        Exception: Whatever a stage raises; nothing further is then begun.
    """
    processors = torch.get_num_threads()
    pools = [ThreadPoolExecutor(1, name, initializer=_one_processor) for name in ("read", "write")]
    with pools[0] as reader, pools[1] as writer:
        for pool in pools:
            pool.submit(int).result()
        torch.set_num_threads(processors)  # the setting is also the default of threads to come
        behind: tuple[Item, Future] | None = None
        ahead = [reader.submit(read, item) for item in items[:1]]
        for i, item in enumerate(items):
            given = ahead.pop().result()
            ahead = [reader.submit(read, following) for following in items[i + 1 : i + 2]]
            made = compute(item, given)
            del given
            if behind is not None:
                yield behind[0], behind[1].result()
            behind = item, writer.submit(write, item, made)
        if behind is not None:
            yield behind[0], behind[1].result()


def side_by_side(
    items: Sequence[Item],
    read: Callable[[Item], Any],
    compute: Callable[[Item, Any], Any],
    write: Callable[[Item, Any], Any],
    most: int,
) -> Iterator[tuple[Item, Any]]:
    """Does the same with several items at once, each on a processor of its own: for light computing.

    The three stages of an item follow each other on one thread, so that none waits for another.

    Args:
        items: What to work on; one of each thread is in memory.
        read: Called with the item.
        compute: Called with what was read.
        write: Called with what was computed.
        most: Threads at most: more take memory, and wait for the interpreter.

    Yields:
        Every item, in order, with what its writing returned.

    Raises:
        Exception: Whatever a stage raises; nothing further is then begun.
    """
    processors = torch.get_num_threads()

    def work(item: Item) -> Any:
        return write(item, compute(item, read(item)))

    threads = min(processors, most)
    with ThreadPoolExecutor(threads, "item", initializer=_one_processor) as pool:
        behind: deque[tuple[Item, Future]] = deque()
        try:
            for item in items:
                behind.append((item, pool.submit(work, item)))
                if len(behind) > 3 * threads:  # threads have something to do while the first is looked at
                    first, future = behind.popleft()
                    yield first, future.result()
            for first, future in behind:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(processors)  # some libraries have one setting for all threads


def _one_processor() -> None:
    # Sums then round the same way every time, and computing keeps its processors.
    torch.set_num_threads(1)
    torch.get_num_threads()
