"""Values on their way out: as text in Markdown, never taken for markup, code or an address; and without secrets."""

import re
from typing import Any

# Longer values are cut, in characters; nothing that a page shows by itself has as many.
LONGEST = 300
_MARKUP = {
    "\\": r"\\",
    "`": r"\`",
    "|": r"\|",
    "<": "&lt;",
    "](": r"]\(",
    "][": r"]\[",
    "]:": r"]\:",
    "://": r":\//",
    "www.": r"www\.",
}
_HUB_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_NO_NAME = re.compile(r"[^\w./ +-]")
_FOUND = re.compile("|".join(map(re.escape, _MARKUP)), re.IGNORECASE)


def one_line(value: object, longest: int = LONGEST) -> str:
    """A value as one line of text, without control characters, cut where it is too long.

    Example:
        >>> from know_hf.text import one_line
        >>> one_line("a\\n\\n# b")
        'a # b'
    """
    text = "".join(character if character.isprintable() else " " for character in str(value)[: 4 * longest])
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest]} …"


def as_markdown(value: object, longest: int = LONGEST) -> str:
    """A value as Markdown that shows it.

    Args:
        value: Anything; numbers and plain words stay as they are.
        longest: Characters after which it is cut.

    Returns:
        One line without tags, links, code or borders of tables.

    Example:
        >>> from know_hf.text import as_markdown
        >>> as_markdown("a|b <script>[here](http://example.org)")
        'a\\\\|b &lt;script>[here]\\\\(http:\\\\//example.org)'
    """
    return _FOUND.sub(lambda found: _MARKUP.get(found[0], r"www\."), one_line(value, longest))


def as_code(value: object) -> str:
    """A name for between two backticks; signs that names of tensors and methods do not have become ``_``."""
    return _NO_NAME.sub("_", one_line(value))


# Settings that hold secrets, by name, and what is secret in addresses (of one slash, where it was taken for a path) and
# by itself.
_SECRET_NAME = re.compile(r"(?:^|_)(?:token|password|passwd|secret|credentials?|api_?key|access_?key)$", re.IGNORECASE)
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*:/{1,2})[^\s/@'\"]*@", re.IGNORECASE)
_QUERY = re.compile(
    r"(?P<mark>[?&])[\w.-]*(?:token|sig|secret|key|password|credential|auth)[\w.-]*=[^\s&'\")]*", re.IGNORECASE
)
_TOKEN = re.compile(r"\b(?:hf_|api_org_|ghp_|github_pat_)[A-Za-z0-9_]{20,}")


def without_secrets(value: Any) -> Any:
    """Plain data, or a message, without tokens: neither as settings nor in addresses.

    Args:
        value: Text, or plain data that may have texts anywhere.

    Returns:
        The same; settings that are named like secrets are left out, secret parts of texts become ``…``.

    Example:
        >>> from know_hf.text import without_secrets
        >>> without_secrets({"hub_token": "x", "dataset": "https://me:word@example.org/d.csv?sig=1&v=2"})
        {'dataset': 'https://example.org/d.csv?…&v=2'}
    """
    if isinstance(value, dict):
        return {k: without_secrets(v) for k, v in value.items() if not (isinstance(k, str) and _SECRET_NAME.search(k))}
    if isinstance(value, list | tuple):
        return [without_secrets(part) for part in value]
    if not isinstance(value, str):
        return value
    text = _QUERY.sub(lambda found: f"{found['mark']}…", _PASSWORD.sub(r"\1", value))
    return _TOKEN.sub("…", text)


def hub_name(value: Any) -> str | None:
    """A licence, task or the like by the Hub's name for it, or None for what cannot be one."""
    return value if isinstance(value, str) and _HUB_NAME.fullmatch(value) else None
