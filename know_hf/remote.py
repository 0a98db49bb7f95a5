"""Talking with the Hub: never waiting without end, trying again what may pass, and saying what went wrong.

The Hub's client waits for as long as a server keeps a connection open, and as long as it is told to. Within [`bounded`]
no request lasts without progress, no advice to wait is taken without measure, and what fails for long enough ends.
"""

import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar, cast

from huggingface_hub import close_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import _http as hub_http

from know_hf.text import without_secrets

logger = logging.getLogger(__name__)
#: Of the client's HTTP library, whichever that is: lost connections as well as the server's answers.
HttpError = cast("type[Exception]", HfHubHTTPError.__bases__[0])
_library: Any = sys.modules[HttpError.__module__.partition(".")[0]]
Result = TypeVar("Result")

#: Seconds in which a request has to get an answer, or so many bytes of one: longer than the Hub's own gateways wait.
ANSWER = 100.0
LEAST = 1024
#: Seconds after which nothing more is asked when nothing succeeded in between.
PATIENCE = 300.0
ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 5, 1.0, 60.0
#: What reading an answer raises that is none, such as the page of a network that wants one to log in.
NONSENSE = (KeyError, TypeError, AttributeError)
# What a server may answer today and not tomorrow; the storage of large files says some of it where the Hub would not.
_PASSING = (408, 409, 412, 425, 429)
_installed = threading.RLock()
_depth = 0
_given: Callable[[], Any] | None = None
_failing_since: float | None = None


class HubSilentError(ConnectionError):
    """The Hub has answered nothing useful for longer than anyone should wait."""


@contextmanager
def bounded() -> Iterator[None]:
    """Within it every request to the Hub, whoever makes it, ends in bounded time, and lost connections are OSErrors.

    Example:
        >>> from know_hf.remote import bounded
        >>> with bounded():  # doctest: +SKIP
        ...     AutoModel.from_pretrained("me/model")
    """
    global _depth, _given, _failing_since
    with _installed:
        _depth += 1
        if _depth == 1:
            _failing_since = None
            # The one way to keep a client of the caller's own, with its proxies and certificates, is to ask for it.
            _given = factory = hub_http._GLOBAL_CLIENT_FACTORY
            set_client_factory(lambda: _guarded(factory()))
    try:
        yield
    finally:
        with _installed:
            _depth -= 1
            if _depth == 0 and _given is not None:
                set_client_factory(_given)


def _guarded(client: Any) -> Any:
    send = client.send

    def guarded_send(request: Any, *, stream: bool = False, **options: Any) -> Any:
        if _failing_since is not None and time.monotonic() - _failing_since > PATIENCE:
            raise HubSilentError(f"nothing that was asked of it succeeded for {PATIENCE:.0f} s")
        timeouts = request.extensions.get("timeout") or {}
        limits = {what: min(timeouts.get(what) or ANSWER, ANSWER) for what in ("connect", "read", "write", "pool")}
        request.extensions = {**request.extensions, "timeout": limits}
        watch = _Watch(client)
        request.stream = _Counted(request.stream, sent=watch.progress)
        try:
            with watch:
                response = send(request, stream=True, **options)
            tame(response.headers)
            response.stream = _Counted(response.stream)
            if not stream:
                try:
                    response.read()
                except BaseException:
                    response.close()
                    raise
        except (HttpError, OSError, RuntimeError, ValueError) as error:
            _note(False, watch.last)
            if watch.expired:
                raise _lost(_library.ReadTimeout, f"no answer within {ANSWER:g} s") from error
            if isinstance(error, HttpError) and not isinstance(error, OSError):
                raise _lost(type(error), str(error) or _in_words(type(error).__name__)) from error
            raise
        _note(response.status_code < 400 or response.status_code in (401, 403, 404), watch.last)
        return response

    client.send = guarded_send
    return client


def _note(succeeded: bool, since: float) -> None:
    global _failing_since
    _failing_since = None if succeeded else (since if _failing_since is None else _failing_since)


def _lost(kind: Any, message: str) -> Exception:
    """An error of the HTTP library's that is an OSError as well, as which everybody can catch it."""
    return _also_os_error(kind)(message)


@cache
def _also_os_error(kind: type[Exception]) -> type[Exception]:
    return type(
        kind.__name__, (kind, ConnectionError), {"__init__": lambda self, message: kind.__init__(self, message)}
    )


def _in_words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


class _Watch:
    """Ends a request that makes no progress: by closing its connection, which no timeout of single bytes does."""

    def __init__(self, client: Any) -> None:
        self.expired = False
        self.last = time.monotonic()
        self._client = client
        self._done = threading.Event()

    def progress(self) -> None:
        """Says that something was sent."""
        self.last = time.monotonic()

    def _run(self) -> None:
        while not self._done.wait(max(self.last + ANSWER - time.monotonic(), 0.01)):
            if time.monotonic() - self.last > ANSWER:
                self.expired = True
                close_session()  # so that the next request gets another client
                self._client.close()
                return

    def __enter__(self) -> "_Watch":
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()


class _Counted(_library.SyncByteStream):
    """A body on its way: tells of every piece that is sent, refuses what only drips in."""

    def __init__(self, stream: Any, sent: Callable[[], None] | None = None) -> None:
        self._stream, self._sent = stream, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[bytes]:
        pieces, waited, received = iter(self._stream), 0.0, 0
        while True:
            began = time.monotonic()
            try:
                piece = next(pieces)
            except StopIteration:
                return
            except HttpError as error:
                if isinstance(error, OSError):
                    raise
                raise _lost(type(error), str(error) or _in_words(type(error).__name__)) from error
            if self._sent is not None:
                self._sent()
            else:
                waited, received = waited + time.monotonic() - began, received + len(piece)
                if waited > ANSWER and received < LEAST:
                    raise _lost(_library.ReadTimeout, f"less than {LEAST} bytes within {ANSWER:g} s")
                if received >= LEAST:
                    waited, received = 0.0, 0
            yield piece

    def close(self) -> None:
        self._stream.close()


def tame(headers: MutableMapping[str, str]) -> None:
    """Takes out of an answer's headers what nobody should do: to wait for days, or for no number of seconds."""
    asked = headers.get("Retry-After")
    if asked is not None:
        del headers["Retry-After"]
        if (seconds := _seconds(asked)) is not None:
            headers["Retry-After"] = str(min(math.ceil(seconds), int(LONGEST_WAIT)))
    if any(
        len(number) > 4 or int(number) > LONGEST_WAIT
        for number in re.findall(r"t\s*=\s*(\d+)", headers.get("ratelimit", ""), re.ASCII)
    ):
        del headers["ratelimit"]


def _seconds(asked: str) -> float | None:
    """Seconds that a server asks to wait, by number or date; None if it says nothing of use."""
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        return min(max(seconds, 0.0), LONGEST_WAIT)
    return min(seconds, LONGEST_WAIT) if seconds >= 0 else None  # of NaN neither


def persistently(call: Callable[[], Result]) -> Result:
    """Repeats what may succeed a little later: a busy or failing server, a lost connection, somebody else's commit.

    Args:
        call: Asks the Hub for something; what it did already is not done again.

    Returns:
        What it returned.

    Raises:
        OSError: If it goes on failing, or fails for good.
    """
    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _plainly(call)
        except HttpError as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if attempt == ATTEMPTS or not (status is None or status in _PASSING or status >= 500):
                raise
            asked = None if response is None else _seconds(response.headers.get("Retry-After", "none"))
            pause = min(wait if asked is None else asked, LONGEST_WAIT)
            what = status or _in_words(type(error).__name__)
            logger.warning(f"The Hub answers {what}; trying again in {pause:.0f} s.")
            time.sleep(pause)
            wait *= 2
    raise AssertionError


def _plainly(call: Callable[[], Result]) -> Result:
    """Calls; of an error that the client wrapped into another the one that happened, of nonsense that it is some."""
    try:
        return call()
    except (HttpError, OSError):
        raise
    except (RuntimeError, ValueError, *NONSENSE) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HttpError | OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        raise ConnectionError(f"its answer cannot be read ({public(error)})") from error


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns the Hub's errors into what to do about them; what was sent so far stays, and a repeated push continues.

    Raises:
        ConnectionError: If the Hub cannot be reached or refuses what is sent.
        PermissionError: If there is no token, or it may not write there.
    """
    again = "Nothing is lost: the same push continues."
    try:
        yield
    except (LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        kind = PermissionError if isinstance(error, LocalTokenNotFoundError) else ConnectionError
        raise kind(f"Cannot push to {repo_id}: {public(error)}") from error
    except HfHubHTTPError as error:
        status, ours = error.response.status_code, _of_the_hub(error)
        if status == 401 and ours:
            message = f"The Hub does not know the token for {repo_id} (401): log in with `hf auth login`."
            raise PermissionError(message) from error
        if status == 403 and ours:
            message = f"The token may not write to {repo_id} (403): use one with write access, or --create-pr."
            raise PermissionError(message) from error
        if status == 413:
            message = f"The Hub finds what is sent to {repo_id} too large (413): push fewer or smaller files."
            raise ConnectionError(message) from error
        who = "The Hub" if ours else "The storage that the Hub sends large files to"
        raise ConnectionError(f"{who} refuses {repo_id} ({status}): {public(error)} {again}") from error
    except HttpError as error:
        message = f"The connection to the Hub was lost ({public(error)}), {repo_id} is not complete. {again}"
        raise ConnectionError(message) from error
    except ConnectionError as error:
        raise ConnectionError(f"The Hub cannot be talked with about {repo_id}: {public(error)}. {again}") from error


def _of_the_hub(error: HfHubHTTPError) -> bool:
    """Whether the Hub itself answered, and not the storage of large files, whose addresses expire."""
    path = error.response.request.url.path if getattr(error.response, "_request", None) else ""
    return "/api/" in path or ".git/" in path or "/resolve/" in path or not path


def public(error: BaseException | str) -> str:
    """The first line of a message without secrets, and without what follows a question mark in addresses."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\")]*", r"\1", without_secrets(line))
