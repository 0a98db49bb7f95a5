"""What looks like a secret or a path of this machine, but stands in texts for readers to put their own in its place."""

import os
import re

# Random words of the length of tokens have more different characters.
_FEWEST_DIFFERENT, _SHORTEST = 6, 8
# Words that stand for a secret, alone or side by side, with or without the usual counting. No two of them make up a
# third, so that there is one way to read them.
_WORDS = re.compile(
    r"(?:your?|my|the|some|test|ing|dummy|fake|example|sample|demo|local|default|placeholder|redacted|hidden"
    r"|token|api|key|secret|pass|pwd|word|wd|access|auth|user|name|hf|sk|hub|change|me|here|insert|replace"
    r"|goes|not?|none|empty|needed|required|abc|def|xyz|foo|bar|baz|x|\*|0|123(?:4(?:5(?:6(?:7(?:89?)?)?)?)?)?"
    r"|[-_. ])+",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"your[-_]?(?:[A-Za-z]{2,12}[-_]?){0,2}(?:token|key|secret|password)(?:[-_]?here)?\d{0,3}", re.IGNORECASE
)
_SHOWN = re.compile(r"EXAMPLE(?:KEY)?$")  # of AWS's own documentation
# Words that follow the beginning of a token and say its kind.
_KIND = re.compile(r"(?:[a-z]{2,8}\d{0,2}[-_]){0,2}")
_BLANK = re.compile(r"[xX*.]+")
_LOCAL = re.compile(r"(?:localhost|127\.[\d.]+|0\.0\.0\.0|[\w-]+|(?:[\w-]+\.)*example\.(?:com|org|net|edu))\.?")
# Names of accounts that texts, images and services have, not people.
_NOBODY = re.compile(
    r"(?:(?:your|my|the|some)?[-_]?(?:user|username|user[-_]name|name|account|home)|you|me|ubuntu|debian|runner|jovyan"
    r"|ec2-user|azureuser|sagemaker-user|vscode|app|appuser|node|docker|somebody|someone|shared|public|default"
    r"|%\w+%|\$[\w:]+|\{\w+\}|\$\{\w+\})(?![\w %-])",
    re.IGNORECASE,
)


def is_placeholder(word: str) -> bool:
    """Whether a word stands for a secret and is none."""
    letters = re.sub(r"[\W_]", "", word)
    few = len(letters) >= _SHORTEST and len(set(letters)) < _FEWEST_DIFFERENT
    return bool(few or _WORDS.fullmatch(word) or _ASKS.fullmatch(word) or _SHOWN.search(word))


def is_ordinary(match: re.Match, prefixes: list[str]) -> bool:
    """Whether what a rule of `know_hf.hub.secrets` found may be in any text.

    Args:
        match: What the rule found. Groups say what its parts are: the ``value`` of a setting, with ``user`` and
            ``host`` that of a URL; ``owner`` and ``person`` of a home folder; ``shared…`` a path in a folder that
            most machines have.
        prefixes: Words of the rule, which begin a token that has no such parts.
    """
    parts = {name: part for name, part in match.groupdict().items() if part is not None}
    if "host" in parts:
        told = parts["value"] == parts["user"] or _WORDS.fullmatch(parts["value"])
        return bool(_BLANK.fullmatch(parts["value"]) or (told and _LOCAL.fullmatch(parts["host"])))
    if "value" in parts:
        return is_placeholder(parts["value"])
    if name := parts.get("owner", parts.get("person")):
        return bool(_NOBODY.match(name.rstrip(".")))
    if shared := [part for name, part in parts.items() if name.startswith("shared")]:
        place = re.sub(r"[/\\\\]+", "/", shared[0])
        return not os.path.lexists(place) and not os.path.lexists(place.rstrip("."))
    if prefix := next((word for word in prefixes if match[0].startswith(word)), None):
        return is_placeholder(_KIND.sub("", match[0].removeprefix(prefix), count=1))
    return False
