"""How often the collector of garbage looks at what stays: what imports make, some hundred thousand objects, does."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New objects after which it is looked; Python's own number is for programs that make far fewer at once.
_SELDOM = 20_000


@contextmanager
def seldom_looked_for() -> Iterator[None]:
    """Looks for garbage less often within the block, for starts: looking takes a seventh of the time of imports."""
    before = gc.get_threshold()
    gc.set_threshold(_SELDOM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def nothing_old() -> Iterator[None]:
    """Looks only at what is made within the block, where garbage is looked for again and again.

    Every training of Trainer begins with a look at all objects of the process, a third of a second where there are as
    many as its imports make; a forgetting of some stages is as many trainings. What was garbage before the block is
    gone when it begins. Of processes that froze objects themselves nothing is changed.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
