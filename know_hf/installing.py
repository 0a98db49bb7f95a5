"""What to say where a package is missing that only some jobs need: the one place that knows how to get it.

No text of ours tells anyone to install know-hf by its name: it is on no package index. When it is, only this file
changes; when its source has a public address, `Repository` under `[project.urls]` in pyproject.toml says it.
"""

import re
from importlib import metadata

NAME = "know-hf"


def missing(what: str, package: str, extra: str) -> ImportError:
    """An error that says what needs a package, and how to get it.

    Args:
        what: Subject and verb, such as ``"Comparisons need"``.
        package: The package as an index knows it.
        extra: The extra of pyproject.toml that brings it, with what else such jobs need.

    Returns:
        The error, to be raised.

    Example:
        >>> from know_hf.installing import missing
        >>> str(missing("Comparisons need", "scipy", "transfer")).partition(":")[0]
        'Comparisons need scipy'
    """
    return ImportError(f"{what} {package}: {how_to_install(package, extra)}", name=package)


def how_to_install(package: str, extra: str) -> str:
    """The commands that bring a package: it alone, or the whole extra from the source.

    Args:
        package: The package as an index knows it.
        extra: The extra that brings it.

    Returns:
        Half a sentence, such as ``pip install "scipy>=1.11" (or ".[transfer]" in a copy of know-hf's source)``.
    """
    source = repository()
    whole = f'".[{extra}]" in a copy of {NAME}\'s source' if source is None else f'"{NAME}[{extra}] @ git+{source}"'
    return f'pip install "{package}{floor_of(package)}" (or {whole})'


def repository() -> str | None:
    """The public address of the source, as the installed package states it."""
    try:
        urls = metadata.metadata(NAME).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # run from its source
        return None
    return dict(url.split(", ", 1) for url in urls).get("Repository")


def floor_of(package: str) -> str:
    """The lowest version of a package that is tested, such as ``>=1.11``; nothing where know-hf is not installed."""
    try:
        required = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return ""
    found = (re.fullmatch(rf"{re.escape(package)}(?![\w.-])\s*([^;\s]*)\s*(;.*)?", line) for line in required)
    return next((one[1] for one in found if one), "")
