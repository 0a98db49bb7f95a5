"""Options as the keywords of functions."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from know_hf.settings.names import suggestion
from know_hf.settings.options import options_of, with_arguments
from know_hf.settings.recipes import modern

Result = TypeVar("Result")


def takes(
    others: Callable[[], Iterable[str] | None] | None = None, /, **kinds: type
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Gives a function the options of dataclasses as keywords.

    The function itself takes one keyword for each dataclass. Who calls it gives the options by name, or such an object
    whole; ``help()`` and ``inspect.signature`` show the options, ``Args:`` lists them after the function's own.

    Args:
        others: Gives the names of what else the function's ``**keywords`` may hold, or None if that cannot be told.
        **kinds: The function's parameter → dataclass of options that it stands for.

    Returns:
        The decorator. What it decorates raises ``TypeError`` for a keyword that there is not.

    Example:
        >>> from dataclasses import dataclass
        >>> from know_hf.settings import Options, option, takes
        >>> @dataclass(frozen=True)
        ... class Demo(Options):
        ...     steps: int = option(3, help="Number of steps.")
        >>> @takes(demo=Demo)
        ... def run(folder: str, *, demo: Demo) -> str:
        ...     return f"{folder}: {demo.steps}"
        >>> run("here", steps=2)
        'here: 2'
        >>> run("here", stepz=2)
        Traceback (most recent call last):
        ...
        TypeError: run() takes no 'stepz'; did you mean steps?
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        own = inspect.signature(function)
        options = options_of(*kinds.values())
        parameters = [p for name, p in own.parameters.items() if name not in kinds]
        open_end = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        shown = [
            inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, annotation=o.annotation,
                              default=inspect.Parameter.empty if o.required else o.default)
            for o in options.values()
        ]  # fmt: skip
        signature = own.replace(parameters=[*(p for p in parameters if p not in open_end), *shown, *open_end])
        named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}

        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> Result:
            keywords, notes = modern(keywords, options)
            for note in notes:
                warnings.warn(f"{function.__name__}(): {note}", FutureWarning, stacklevel=2)
            unknown = [name for name in keywords if name not in {*options, *named, *kinds}]
            if unknown and (not open_end or others):
                further = others() if open_end and others else ()
                wrong = [] if further is None else [name for name in unknown if name not in set(further)]
                if wrong:
                    meant = suggestion(wrong[0], [*options, *named, *(further or ())]) or "."
                    raise TypeError(f"{function.__name__}() takes no {wrong[0]!r}{meant}")
            for parameter, kind in kinds.items():
                named_options = {name: keywords.pop(name) for name in options_of(kind) if name in keywords}
                if parameter in keywords and named_options:
                    raise TypeError(f"{function.__name__}(): give either {parameter} or {', '.join(named_options)}.")
                if parameter not in keywords:
                    keywords[parameter] = kind(**named_options)
                # What was resolved already holds the options that it came from.
                elif not isinstance(getattr(keywords[parameter], "options", keywords[parameter]), kind):
                    raise TypeError(
                        f"{function.__name__}(): {parameter} has to be a {kind.__name__}, found a "
                        f"{type(keywords[parameter]).__name__}."
                    )
            return function(*args, **keywords)

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__doc__ = with_arguments(function.__doc__, options.values())
        return wrapper

    return decorate
