"""Pickles, wherever they begin: of those that import something, also behind other bytes or in the middle of a text."""

import io
import pickletools
import re

# How a pickle begins from protocol 2 on, and what one of the older ones, which are text, calls: a thing by module and
# name, with arguments.
_BINARY = re.compile(rb"\x80[\x02-\x05]")
_TEXT = re.compile(
    rb"c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n(?:p\d+\n|q.|r....)?[()]"
    rb"|(?P<made>\()(?:(?:[SV][^\n]*|[IFL][-\d.eL]+)\n(?:p\d+\n)?)+i[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n",
    re.DOTALL,
)
_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
_MEMORY = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_ARGUMENTS = {"TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GET", "BINGET", "LONG_BINGET"}


def is_pickle(content: bytes) -> bool:
    """Whether bytes begin with a whole pickle of any protocol, of more than a value that happens to look like one."""
    operations = _operations(content)
    return len(operations) > 3 and operations[-1] == "STOP" and _fits(content)


def holds_pickle(content: bytes) -> bool:
    """Whether a pickle that imports something lies anywhere in the bytes."""
    for match in _BINARY.finditer(content):
        rest = content[match.start() :]
        operations = _operations(rest)
        if operations and operations[-1] == "STOP" and _IMPORTS & set(operations) and _fits(rest):
            return True
    return any(match["made"] or _calls(_operations(content[match.start() :])) for match in _TEXT.finditer(content))


def _calls(operations: list[str]) -> bool:
    """Whether something is called with arguments: words of a text may be operations, but not in that order."""
    kept = [name for name in operations if name not in _MEMORY]
    pairs = zip(kept, kept[1:], strict=False)
    return any(second in ("REDUCE", "NEWOBJ") and first in _ARGUMENTS for first, second in pairs)


def _operations(content: bytes) -> list[str]:
    """Names of the operations that the bytes begin with, as far as they are any."""
    found: list[str] = []
    try:
        for operation, _, _ in pickletools.genops(io.BytesIO(content)):
            found.append(operation.name)
    except (ValueError, UnicodeError, OverflowError, MemoryError):
        pass
    return found


def _fits(content: bytes) -> bool:
    """Whether the operations leave exactly one value, as those of a pickle do."""
    try:
        pickletools.dis(io.BytesIO(content), out=io.StringIO())
    except (ValueError, UnicodeError, OverflowError, MemoryError):
        return False
    return True
