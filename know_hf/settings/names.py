"""Names that are none: what was perhaps meant, and which there are."""

import difflib
import re
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``"; did you mean …?"`` for a name that is not known, or nothing."""
    known = list(dict.fromkeys(known))
    near = [other for other in known if other.startswith(name)] if len(name) > 1 else []
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    # A whole word, or its beginning, of a longer name: chance puts any letters into some name.
    parts = re.compile(rf"(^|[^a-z]){re.escape(name)}")
    near = near or ([other for other in known if parts.search(other)] if len(name) > 3 else [])
    if not near and name != name.lower():
        return suggestion(name.lower(), known, prefix)
    return f"; did you mean {prefix}{min(near, key=len)}?" if near else ""


def meant(name: object, known: Iterable[str], there: str = "there are") -> str:
    """The end of a message about a name that is not known: what was perhaps meant, and all that there are.

    Args:
        name: What was given.
        known: What it could be.
        there: What to say before the list of those.

    Example:
        >>> from know_hf.settings import meant
        >>> f"Unknown shell 'bsh'{meant('bsh', ['bash', 'zsh'])}"
        "Unknown shell 'bsh'; did you mean bash? There are bash, zsh."
        >>> f"Unknown shell 'x'{meant('x', ['bash', 'zsh'])}"
        "Unknown shell 'x'; there are bash, zsh."
    """
    known = list(dict.fromkeys(known))
    near, listed = suggestion(str(name), known), f"{there} {', '.join(known)}."
    return f"{near} {listed[0].upper()}{listed[1:]}" if near else f"; {listed}"
