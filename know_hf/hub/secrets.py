"""What must not leave this machine, looked for in text: tokens and keys, passwords, and paths of this machine.

The rules for common services are detect-secrets'; here are those of the ecosystem that it lacks, and what this very
machine knows: its own tokens, and where its folders are. Rules that go by how random a word looks would stop
vocabularies and hashes, so there are none.
"""

import base64
import binascii
import html
import netrc
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import constants, get_token
from huggingface_hub.utils import get_stored_tokens

from know_hf.hub.placeholders import is_ordinary, is_placeholder

# What it is called in messages → words that begin it (lower case: written in any case), and its whole form.
_RULES = {
    "a Hub token": (
        ["hf_", "api_org_"],
        r"(?<![A-Za-z0-9])(?:hf_(?:[a-z]{2,8}_)?[A-Za-z0-9]{30,}|hf_(?:oauth|jwt)_[\w.-]{20,}|api_org_[A-Za-z0-9]{30,})",
    ),
    "a GitHub token": (
        ["github_pat_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"],
        r"(?<![A-Za-z0-9])(?:github_pat_[A-Za-z0-9_]{22,}|gh[pousr]_[A-Za-z0-9]{36,})",
    ),
    "a key of Weights & Biases": (["wandb"], r"(?i:wandb)[^\n]{0,60}?\b[0-9a-f]{40}\b|wandb_v\d_[A-Za-z0-9_]{40,}"),
    "a Google key": (
        ["AIza", "ya29.", "GOCSPX-"],
        r"(?<![A-Za-z0-9])(?:AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{20,})",
    ),
    "a key of an API": (
        ["sk-", "gsk_", "r8_", "dop_v1_", "nvapi-", "xai-", "KGAT_", "dckr_pat_", "tgp_v1_"],
        r"(?<![A-Za-z0-9])(?:sk-(?=[A-Za-z_-]*\d)(?=[a-z\d_-]*[A-Z])[A-Za-z0-9_-]{20,}|sk-(?:[a-z]{2,8}-)?[0-9a-z]{32,}"
        r"|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37,}|dop_v1_[0-9a-f]{64}|nvapi-[\w-]{60,}|xai-\w{60,}|KGAT_[0-9a-f]{32}"
        r"|dckr_pat_[\w-]{20,}|tgp_v1_[\w-]{30,})",
    ),
    "a Slack token": (
        ["xox", "xapp-", "hooks.slack.com"],
        r"(?<![A-Za-z0-9])(?:xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{20,})"
        r"|hooks\.slack\.com/(?:services|workflows)/\w+/\w+",
    ),
    "a private key": (
        ["PRIVATE KEY", "AGE-SECRET-KEY", "PuTTY-User-Key"],
        r"BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY|AGE-SECRET-KEY-1[A-Z0-9]{50,}|PuTTY-User-Key-File-\d",
    ),
    "a password in a URL": (
        ["://"],
        r"\b[a-z][a-z0-9+.-]{1,15}://(?P<user>[^\s/:@\"'<>{}\[\],$]{0,100})"
        r":(?P<value>[^\s/@\"'<>{}\[\],$]{3,200})@(?P<host>[\w.-]+)",
    ),
    "a password": (
        ["passw", "pwd", "key", "secret", "token"],
        r"(?i)(?:passw(?:or)?d|pwd|api[_-]?key|secret[_-]?(?:access[_-]?)?key|client[_-]?secret"
        r"|(?:access|auth|hub|hf|bearer)[_-]?token)\\*[\"']?\s{0,4}[:=]\s{0,4}(?P<quote>\\*[\"'])"
        r"(?P<value>(?=[^\"'\s]{0,60}\d)[A-Za-z0-9_+/=.~!@#%^&*-]{12,})(?P=quote)",
    ),
    "a bearer token": (
        ["authorization"],
        r"(?i)authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token)\s+(?=\S{0,60}\d)"
        r"(?P<value>[A-Za-z0-9_+/=.~-]{20,})",
    ),
    "the path of somebody's home folder": (
        ["/home", "Users"],
        r"(?:(?<![\w/.~-])|(?<=file://))/(?:home|Users)/+(?P<owner>[A-Za-z_][\w.-]*)"
        r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\+|/+)Users(?:\\+|/+)(?P<person>[^\\/:*?\"<>|\r\n]{1,64})",
    ),
}
# detect-secrets' rules: file, class, and words that what they find has (none: they read all of a text). Those that look
# for words of a shape that vocabularies have, too, are left out.
_DETECTORS: tuple[tuple[str, str, list[str]], ...] = (
    ("aws", "AWSKeyDetector", ["AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws"]),
    ("azure_storage_key", "AzureStorageKeyDetector", ["AccountKey="]),
    ("discord", "DiscordBotTokenDetector", []),
    ("gitlab_token", "GitLabTokenDetector", ["glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941", "glcbt-",
                                             "glimt-", "glptt-", "glagent-", "gloas-"]),
    ("jwt", "JwtTokenDetector", ["eyJ"]),
    ("mailchimp", "MailchimpDetector", ["-us"]),
    ("npm", "NpmDetector", ["_authToken"]),
    ("openai", "OpenAIDetector", ["T3BlbkFJ"]),
    ("pypi_token", "PypiTokenDetector", ["pypi-"]),
    ("sendgrid", "SendGridDetector", ["SG."]),
    ("square_oauth", "SquareOAuthDetector", ["sq0csp-"]),
    ("stripe", "StripeDetector", ["k_live_"]),
    ("telegram_token", "TelegramBotTokenDetector", []),
    ("twilio", "TwilioKeyDetector", ["AC", "SK"]),
)  # fmt: skip
_COMPILED = {what: (words, re.compile(rule)) for what, (words, rule) in _RULES.items()}
_BEFORE, _AFTER = 300, 4096  # characters around a word that are looked at
_ESCAPED = re.compile(r"\\+(?:u00|x)([2-7][0-9a-fA-F])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,}")
# What a variable holds is what its name ends with: TOKEN_CLASSIFICATION_MODEL holds a model.
_ENVIRONMENT = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|APIKEY|CREDENTIALS?)(?:_?\d+)?$", re.IGNORECASE)
_SETTING = re.compile(r"[A-Za-z_]+|\d+|<.*>|\[.*\]")  # words, numbers, special tokens of tokenizers
_HOME = "the home directory"
# Folders that most machines have, of more than one part.
_SHARED = ("/var/tmp", "/usr/tmp", "/private/tmp", "/var/folders")
# Characters of what is taken for a secret of this machine, and for one of its environment, which holds words, too.
_SHORTEST, _SHORTEST_SETTING = 8, 12


@dataclass(frozen=True)
class Known:
    """What this machine knows of itself: its secrets, anywhere in a text, and its places, as whole paths.

    ``words`` maps each secret to what it is called in messages, ``paths`` that to a word and a form, as `_RULES` does.
    """

    words: dict[str, str]
    paths: dict[str, tuple[list[str], re.Pattern]]


def known_here(folder: Path) -> Known:
    """The tokens and places of this machine.

    Args:
        folder: What is to be pushed; it and the folders that it lies in are places of this machine, too.
    """
    words = {}
    for token in (get_token(), *_quietly(lambda: get_stored_tokens().values())):
        words[token] = "this machine's token"
    for name, value in os.environ.items():
        plain = len(value) < _SHORTEST_SETTING or _SETTING.fullmatch(value) or is_placeholder(value)
        if _ENVIRONMENT.search(name) and not plain and not os.path.exists(value):
            words.setdefault(value, f"what the environment variable {name} holds")
    for host in _quietly(lambda: netrc.netrc().hosts.values()):
        words.setdefault(host[2], "a password of this machine's .netrc")
    cache_names = ("HF_HOME", "HF_HUB_CACHE", "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "TORCH_HOME")
    caches = [where for name in cache_names for where in (getattr(constants, name, None), os.environ.get(name))]
    places = {
        _HOME: [Path.home()],
        "the folder's path on this machine": [p for way in (folder.absolute(), folder.resolve())
                                              for p in (way, *way.parents)],
        "the path of this machine's cache": [Path(where).expanduser() for where in caches if where],
        "this machine's working folder": [Path.cwd()],
        "the path of this machine's temporary folder": [Path(tempfile.gettempdir())],
    }  # fmt: skip
    paths = {what: rule for what, found in places.items() if (rule := _as_rule(found, whole=what == _HOME))}
    return Known({word: what for word, what in words.items() if word and len(word) >= _SHORTEST}, paths)


def _quietly(read: Callable[[], Iterable]) -> list:
    """What a file of the user's own holds, if it can be read at all."""
    try:
        return list(read())
    except (OSError, ValueError, netrc.NetrcParseError):
        return []


def _as_rule(places: Iterable[Path], whole: bool) -> tuple[list[str], re.Pattern] | None:
    words, forms = [], []
    for place in dict.fromkeys(places):
        parts = place.parts[1:]
        if not parts:
            continue
        form = re.escape(place.drive) + "".join(r"[/\\]+" + re.escape(part) for part in parts)
        if len(parts) > 1 and place.as_posix() not in _SHARED:
            forms.append(form + r"(?![\w-])")
        elif whole:
            forms.append(form + r"[/\\]+[\w.-]")
        else:
            # Such a folder is in many texts, and so is what might lie in it; what does lie there is this machine's.
            forms.append(rf"(?P<shared{len(forms)}>{form}[/\\]+[\w.-]+)")
        words.append(max(parts, key=len))
    if not forms:
        return None
    return [*dict.fromkeys(words)], re.compile(rf"(?:(?<![\w/.~:-])|(?<=file://))(?:{'|'.join(forms)})")


def find_secret(text: str, known: Known) -> str | None:
    """What a text holds that must not leave, in words that do not repeat it; None if nothing was found.

    Escapes (JSON's, Python's, those of URLs and HTML) and base64 are read, too.
    """
    for view in _views(text):
        if found := _find(view, known):
            return found
    for match in _BASE64.finditer(text):
        decoded = _decoded(match[0])
        if decoded and (found := _find(decoded, known)):
            return f"{found}, in base64"
    return None


def _views(text: str) -> Iterator[str]:
    yield text
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    if plain != text:
        yield plain
    if "\\/" in plain:
        yield plain.replace("\\/", "/")
    if re.search(r"%[2-7][0-9a-fA-F]", text):
        yield unquote(text)
    if "&#" in text:
        yield html.unescape(text)
    if "\0" in text:  # of two bytes a character
        yield text.replace("\0", "")


def _decoded(word: str) -> str | None:
    word = word.replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(word[: len(word) // 4 * 4]).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return decoded


def _find(text: str, known: Known) -> str | None:
    for word, what in known.words.items():
        if word in text:
            return what
    lower = text.replace("\u0130", "I").lower()  # the one letter whose lower case is longer
    for what, (words, pattern) in (*known.paths.items(), *_COMPILED.items()):
        if any(
            not is_ordinary(found, words) for part in _around(text, lower, words) for found in pattern.finditer(part)
        ):
            return what
    for detector, words in _detectors():
        parts = _around(text, lower, words) if words else [text]
        if any(not is_placeholder(found) for part in parts for found in detector.analyze_string(part)):
            return f"what looks like a secret ({detector.secret_type})"
    return None


def _around(text: str, lower: str, words: list[str]) -> Iterator[str]:
    """The parts of a text where one of the words is: looking there alone, and once, is many times faster."""
    found = []
    for word in words:
        searched = lower if word.islower() else text
        at = searched.find(word)
        while at >= 0:
            found.append(at)
            at = searched.find(word, at + 1)
    start = end = 0
    for at in sorted(found):
        if at - _BEFORE > end:
            if end:
                yield text[start:end]
            start = at - _BEFORE
        end = at + _AFTER
    if end:
        yield text[start:end]


@cache
def _detectors() -> list:
    from importlib import import_module

    return [
        (getattr(import_module(f"detect_secrets.plugins.{file}"), name)(), words) for file, name, words in _DETECTORS
    ]
