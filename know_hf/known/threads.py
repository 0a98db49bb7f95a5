"""How many processors one operation uses: one, where the operations are small and there are many of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keeps every operation within the block on one processor: small ones gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_side_by_side(work: Callable[[int], None], items: Sequence[int]) -> None:
    """Does independent pieces of work on as many processors as torch may use, each piece on one, without gradients.

    Splitting pieces among processors beats splitting every small operation, whose threads wait for each other.
    """

    def piece(item: int) -> None:
        with torch.no_grad():  # a new thread would record gradients
            work(item)

    threads = torch.get_num_threads()
    with one_thread():
        if threads == 1 or len(items) <= 1:
            for item in items:
                piece(item)
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(piece, items):
                pass
