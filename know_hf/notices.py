"""Notices of a job whose parts are jobs like it: said once, not by every part."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_OURS = "know_hf"
_current: "_Once | None" = None


class _Once(logging.Filter):
    """Passes each of this package's warnings once; of those that others repeat in other words, the first."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self.places: set[tuple[str, int]] = set()
        #: Level from which what comes from a line of code that has spoken before is left out; None for none.
        self.alike: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Decides once for all handlers that a record comes to."""
        if record.name.partition(".")[0] != _OURS:
            return True
        if (decided := getattr(record, "said", None)) is None:
            place, text = (record.pathname, record.lineno), record.getMessage()
            again = record.levelno >= logging.WARNING and text in self.texts
            alike = self.alike is not None and record.levelno >= self.alike and place in self.places
            decided = not (again or alike)
            setattr(record, "said", decided)  # noqa: B010 (no attribute of records that a type checker knows)
            self.texts.add(text)
            self.places.add(place)
        return bool(decided)


@contextmanager
def said_once(alike: int | None = None) -> Iterator[None]:
    """Within it the same warning comes once, whatever part of a job repeats it.

    Args:
        alike: Level from which a notice is left out, too, that differs from an earlier one in its numbers and names
            only: for parts that do to a share of the data what was done to all of them.

    Example:
        >>> import logging
        >>> from know_hf.notices import said_once
        >>> with said_once():
        ...     for _ in range(3):
        ...         logging.getLogger("know_hf").warning("few examples")  # comes once
    """
    global _current
    outer, handlers = _current, []
    once = outer or _Once()
    before, once.alike = once.alike, alike if alike is not None else once.alike
    if outer is None:
        loggers = (logging.getLogger(), logging.getLogger(_OURS))
        handlers = [*loggers[0].handlers, *loggers[1].handlers, *([logging.lastResort] if logging.lastResort else [])]
        _current = once
    for handler in handlers:
        handler.addFilter(once)
    try:
        yield
    finally:
        once.alike = before
        for handler in handlers:
            handler.removeFilter(once)
        if outer is None:
            _current = None
