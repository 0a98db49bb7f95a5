"""Options as the fields of dataclasses: what a field says about itself, and how it is read."""

import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from know_hf.settings.limits import Limits, check_range
from know_hf.settings.names import meant

_SEVERAL = (Sequence, Collection, list, tuple)


def option(
    default: Any = MISSING,
    *,
    help: str,
    limits: Limits | None = None,
    choices: Sequence[str] = (),
    usual: Callable[[], Sequence[str]] = tuple,
    metavar: str | None = None,
    kind: type | None = None,
    flag: bool | str = True,
    positional: bool = False,
    former: str | None = None,
    off: str | None = None,
    default_factory: Any = MISSING,
) -> Any:
    """A field of a dataclass of options, with everything that there is to say about the option.

    Args:
        default: Its default; without one it has to be given.
        help: What it is, as plain sentences: for ``--help``, docstrings and the reference.
        limits: Smallest and largest number.
        choices: The names that it may be.
        usual: Gives names that it may be where others may be registered, which are not looked at here but completed.
        metavar: What stands for its value in help and messages, such as ``PATTERN=KIND``.
        kind: What a flag or a recipe may hold, where the annotation names classes that are not loaded here.
        flag: Whether the command line has it, or under which other name.
        positional: Whether the command line takes it by its place.
        former: An earlier name, which is still read.
        off: What YAML's ``no`` means where it is not false.
        default_factory: As for ``dataclasses.field``.

    Returns:
        The field; ``metadata["help"]`` is as ``HfArgumentParser`` reads it.

    Example:
        >>> from dataclasses import dataclass
        >>> from know_hf.settings import Options, option, options_of
        >>> @dataclass(frozen=True)
        ... class Demo(Options):
        ...     steps: int = option(3, help="Number of steps.", limits=(1, 100))
        >>> options_of(Demo)["steps"].limits
        (1, 100)
        >>> Demo(steps=0)
        Traceback (most recent call last):
        ...
        ValueError: steps is 0; it must be at least 1.
    """
    about = {
        "limits": limits,
        "choices": tuple(choices),
        "usual": usual,
        "metavar": metavar,
        "kind": kind,
        "flag": flag,
        "positional": positional,
        "former": former,
        "off": off,
    }
    return field(default=default, default_factory=default_factory, metadata={"help": _Help(help, about)})


def stated_by(kind: type, name: str) -> Any:
    """An option that another dataclass states: its default, help and limits.

    Example:
        >>> from dataclasses import dataclass
        >>> from know_hf.settings import Options, options_of, stated_by
        >>> from know_hf.training.options import DataOptions
        >>> @dataclass(frozen=True)
        ... class Demo(Options):
        ...     image_size: int | None = stated_by(DataOptions, "image_size")
        >>> options_of(Demo)["image_size"].help
        "Side of the images in pixels, instead of the model's own."
    """
    stated = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]  # of a dataclass
    return field(default=stated.default, default_factory=stated.default_factory, metadata=stated.metadata)


class _Help(str):
    """A help text that carries what else is known: ``HfArgumentParser`` hands all other metadata to argparse."""

    about: dict[str, Any]

    def __new__(cls, text: str, about: dict[str, Any]) -> "_Help":
        made = super().__new__(cls, text)
        made.about = about
        return made


@dataclass(frozen=True)
class Option:
    """One option as its faces see it.

    Args:
        name: Of the field, the recipe's key and the Python keyword.
        annotation: The field's type.
        form: What one value is: bool, int, float, str, or object for what no file or flag can hold.
        many: ``""`` for one value, ``"several"``, ``"either"`` one or several, ``"pair"`` of numbers, ``"mapping"``,
            or ``"list"``, which has to be one.
        default: Its default, or ``dataclasses.MISSING``.
        help: What it is.
        limits: Smallest and largest number.
        choices: The names that it may be.
        usual: Gives names that it may be among others.
        metavar: What stands for its value.
        flag: Its name on the command line, or None.
        positional: Whether the command line takes it by its place.
        former: An earlier name.
        off: What YAML's ``no`` means.
    """

    name: str
    annotation: Any
    form: type
    many: str = ""
    default: Any = None
    help: str = ""
    limits: Limits | None = None
    choices: tuple[str, ...] = ()
    usual: Callable[[], Sequence[str]] = tuple
    metavar: str | None = None
    flag: str | None = None
    positional: bool = False
    former: str | None = None
    off: str | None = None

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is MISSING

    def check(self, value: Any, where: str = "") -> None:
        """Raises if a value is out of its limits, or none of its choices.

        Raises:
            ValueError: If it is.
        """
        if self.limits is not None:
            check_range(self.name, value, self.limits, where)
        if self.choices and not (value is None and self.default is None):
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if one not in self.choices:
                    raise ValueError(f"{where}{self.name}={one!r} is not known{meant(one, self.choices, 'use one of')}")

    @property
    def type_name(self) -> str:
        """Its type for people: as the annotation says it."""
        return type_name(self.annotation)

    @property
    def default_name(self) -> str:
        """Its default for people; nothing where that is None, false or empty."""
        value = self.default
        empty = value is MISSING or value is None or value is False or value == ()
        if empty or is_dataclass(value):
            return ""
        if isinstance(value, (list, tuple)):
            return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
        return str(value).lower() if isinstance(value, bool) else f"{value:g}" if _is_short(value) else str(value)

    @property
    def text(self) -> str:
        """Its help with its default."""
        return f"{self.help} (default: {self.default_name})" if self.default_name else self.help


class Options:
    """Base of dataclasses of options: numbers out of their limits and names that are none are refused.

    Raises:
        ValueError: If a field's value does not fit.
    """

    def __post_init__(self) -> None:
        for name, known in options_of(type(self)).items():
            known.check(getattr(self, name))


def options_of(*kinds: type) -> dict[str, Option]:
    """The options of dataclasses by name, in order; fields that are no options are left out."""
    options = {}
    for kind in kinds:
        # HfArgumentParser changes the types that fields have; the annotations stay.
        annotations = {n: a for base in reversed(kind.__mro__) for n, a in getattr(base, "__annotations__", {}).items()}
        for one in fields(kind):
            if isinstance(one.metadata.get("help"), _Help):
                options[one.name] = _option(one, annotations[one.name])
    return options


def _option(stated: Field, annotation: Any) -> Option:
    about = dict(stated.metadata["help"].about)
    kind, flag = about.pop("kind"), about.pop("flag")
    form, many = form_of(annotation if kind is None else kind)
    default = stated.default if stated.default_factory is MISSING else stated.default_factory()
    name = flag if isinstance(flag, str) else stated.name if flag else None
    return Option(stated.name, annotation, form, many, default, str(stated.metadata["help"]), flag=name, **about)


def form_of(annotation: Any) -> tuple[type, str]:
    """What one value of a type is, and whether it takes one or several (see [`Option`])."""
    union = get_origin(annotation) in (UnionType, Union)
    parts = [part for part in get_args(annotation) if part is not NoneType] if union else [annotation]
    several = [part for part in parts if get_origin(part) in _SEVERAL]
    if len(parts) == 2 and len(several) == 1 and str in parts:
        return str, "either"
    one = parts[0] if len(parts) == 1 else object
    origin, inner = get_origin(one), get_args(one)
    if origin is tuple and Ellipsis not in inner:
        return inner[0], "pair"
    if origin in _SEVERAL:
        return _plain(inner[0]), "several"
    if origin in (Mapping, dict):
        return _plain(inner[1]), "mapping"
    return _plain(one), ""


def _plain(kind: Any) -> type:
    return kind if kind in (bool, int, float, str) else str if kind is Path else object


def _is_short(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value < 10_000)


def type_name(annotation: Any) -> str:
    """A type as one writes it, without the modules that it comes from."""
    if isinstance(annotation, str):
        return annotation
    if get_args(annotation):
        return str(annotation).replace("collections.abc.", "").replace("typing.", "").replace("pathlib.", "")
    return getattr(annotation, "__name__", str(annotation))


def documented(kind: type) -> type:
    """Completes the ``Args:`` of a dataclass' docstring from the help of its options."""
    kind.__doc__ = with_arguments(kind.__doc__, options_of(kind).values())
    return kind


def with_arguments(text: str | None, options: Iterable[Option]) -> str | None:
    """A docstring with a line for each option at the end of its ``Args:``, which is made if need be.

    Args:
        text: The docstring, as the source has it; None where there is none.
        options: What is to be listed.

    Returns:
        The same, indented as it was.
    """
    options = list(options)
    if not text or not options:
        return text
    head, *rest = text.split("\n")
    body = textwrap.dedent("\n".join(rest)).rstrip().split("\n")
    lines = [head, *body]
    made = [line for known in options for line in _argument(known)]
    sections = [i for i, line in enumerate(lines) if line.endswith(":") and line[:1].isupper() and " " not in line]
    start = next((i for i in sections if lines[i] == "Args:"), None)
    if start is None:
        place = sections[0] if sections else len(lines)
        made = [*([] if sections else [""]), "Args:", *made, *([""] if sections else [])]
    else:
        place = next((i - 1 for i in sections if i > start), len(lines))
    return "\n".join([*lines[:place], *made, *lines[place:]])


def _argument(known: Option) -> list[str]:
    text = f"{known.name}: {known.text}"
    return textwrap.wrap(text, 112, initial_indent="    ", subsequent_indent="        ")
