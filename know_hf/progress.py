"""How far a long job has come: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from tqdm.auto import tqdm

#: Without a terminal a line comes at most this often, and only after this share of the work.
SECONDS, SHARE = 30.0, 0.01

_open: "weakref.WeakSet[Any]" = weakref.WeakSet()


def progress_bar(iterable: Iterable | None = None, **options: Any) -> Any:
    """Makes a progress bar for a terminal or notebook, or something like it that writes whole lines elsewhere.

    Args:
        iterable: What to go through, if it is not updated by hand.
        **options: As for ``tqdm``.

    Returns:
        A ``tqdm`` bar, or [`Lines`], which has of it what this package uses.

    Example:
        >>> from know_hf.progress import progress_bar
        >>> with progress_bar(total=2, desc="Counting", disable=True) as bar:
        ...     bar.update(2)
    """
    if _is_drawn():
        if isinstance(iterable, Sized):
            options.setdefault("total", len(iterable))
        made: Any = tqdm(None if iterable is None else _Untouched(iterable), **options)
    else:
        made = Lines(iterable, **options)
    _open.add(made)
    return made


class _Untouched:
    """Begins to read what it holds when the first item is asked for, not before.

    A bar of ``tqdm.auto`` calls ``iter`` once when it is made and once when it is used; a shuffling loader draws its
    order each time, so that results would depend on whether a bar is drawn.
    """

    def __init__(self, items: Iterable) -> None:
        self.items = items

    def __iter__(self) -> Iterator:
        yield from self.items


def close_all() -> None:
    """Ends the bars that are still drawn, so that what is printed next has a line of its own."""
    for bar in list(_open):
        bar.close()


def _is_drawn() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Lines:
    """Progress in whole lines, for logs: at most every half minute, and one at the end of what took so long.

    Args: as for ``tqdm``; the others of its arguments change nothing here.
    """

    def __init__(
        self, iterable: Iterable | None = None, desc: str = "", total: float | None = None, initial: float = 0,
        disable: bool = False, **_: Any,
    ) -> None:  # fmt: skip
        self.iterable, self.desc, self.n, self.initial, self.disable = iterable, desc, initial, initial, disable
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.postfix, self.closed = "", False
        self.begun = time.monotonic()
        self._last = (self.begun, initial)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        for item in self.iterable or ():
            yield item
            self.update()
        self.close()

    def update(self, n: float = 1) -> None:
        """Adds to what is done."""
        self.n += n
        now, (then, done) = time.monotonic(), self._last
        if now - then >= SECONDS and self.n - done >= SHARE * (self.total or 0):
            self._write(now)

    def set_description(self, desc: str, refresh: bool = True) -> None:
        """Says what is being done."""
        self.desc = desc

    def set_postfix(self, **values: Any) -> None:
        """Says more, as ``name=value``."""
        self.postfix = ", ".join(f"{name}={value}" for name, value in values.items())

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Says more, behind the rest."""
        self.postfix = text

    def close(self) -> None:
        """Ends it, with a line if it had written any and went on since."""
        if not self.closed and self._last[0] > self.begun and self._last[1] != self.n:
            self._write(time.monotonic())
        self.closed = True

    def _write(self, now: float) -> None:
        self._last = (now, self.n)
        if self.disable:
            return
        passed, parts = now - self.begun, []
        if self.total:
            parts.append(f"{100 * self.n / self.total:.0f} %")
        if self.postfix:
            parts.append(self.postfix)
        parts.append(f"{tqdm.format_interval(passed)} passed")
        if self.total and self.n > self.initial:
            left = passed * (self.total - self.n) / (self.n - self.initial)
            parts.append(f"{tqdm.format_interval(max(left, 0.0))} left")
        print(f"{self.desc}: {', '.join(parts)}", file=sys.stderr, flush=True)
