"""Hostile files by the thousand: any value in any place, any bytes, and what may come of reading them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import know_hf

PACKAGE = str(Path(know_hf.__file__).parent)
DEEP = 3000
VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**70), 10**9, 10**400, 0.5, -0.5, 1e308, 1e-320, float("nan"),
    float("inf"), "", " ", "x", "0", "\0", "\ud800", "../..", "/etc/passwd", "a" * 5000, "ü\u202e\n|<b>", [], {}, [[]],
    {"": None}, {"a": 1}, [1, "a", None], ["x"] * 3, {"a": {"b": {"c": [1]}}},
]  # fmt: skip


def places(value: Any, path: tuple = ()):
    """Every place in plain data, as keys from the outside in."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple, change: Callable[[Any], None]) -> Any:
    """A copy in which the container of one place was changed."""
    copied = json.loads(json.dumps(value))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    change(inner)
    return copied


def hostile_bytes(random: random.Random, template: Any, render: Callable[[Any], str] = json.dumps) -> bytes:
    """The template with something wrong: a value, a name, its depth, its end, or single bytes."""
    kind = random.random()
    path = random.choice([p for p in places(template) if p] or [()])
    value = random.choice(VALUES)
    if kind < 0.65 and path:
        content = changed(template, path, lambda inner: inner.__setitem__(path[-1], value))
    elif kind < 0.75 and path:
        content = changed(template, path, lambda inner: inner.__delitem__(path[-1]))
    elif kind < 0.8:
        content = value
    elif kind < 0.84 and path and isinstance(path[-1], str):
        name = random.choice([v for v in VALUES if isinstance(v, str)])
        content = changed(template, path, lambda inner: inner.__setitem__(name, inner.pop(path[-1])))
    elif kind < 0.88 and path:
        deep: Any = value
        for _ in range(random.choice((60, 150, 400))):
            deep = random.choice(([deep], {"a": deep}))
        render = json.dumps  # which is YAML, too, whose own writer does not go as deep
        content = changed(template, path, lambda inner: inner.__setitem__(path[-1], deep))
    else:
        raw = render(template).encode()
        if kind < 0.9:
            return random.choice((b"[", b'{"a":')) * DEEP * random.choice((1, 30))
        if kind < 0.93:
            return raw[: random.randrange(len(raw))]
        if kind < 0.96:
            return random.randbytes(random.randrange(64))
        at = random.randrange(len(raw))
        return raw[:at] + random.randbytes(random.randrange(1, 4)) + raw[at + 1 :]
    return render(content).encode("utf-8", "surrogatepass")


def raised_by_us(error: BaseException) -> bool:
    """Whether one of our own ``raise`` said it, in words of the kinds that a caller may expect."""
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    ours = last.tb_frame.f_code.co_filename.startswith(PACKAGE)
    return ours and isinstance(error, (ValueError, TypeError, OSError)) and not isinstance(error, UnicodeError)
