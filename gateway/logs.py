"""What the gateway says of itself, on stderr: lines for people, or JSON for machines.

Everything that is logged in the process comes through here, the standard library's loggers
(uvicorn's, asyncio's) included. ``structlog.contextvars`` binds what a line belongs to:
``request_id``, ``customer``, ``order``, ``provider``.

A key never reaches a line. Fields with a secret's name are emptied, links lose what may identify
a person, and the finished line, tracebacks and all, is searched for every registered secret.
"""

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
LINK_LENGTH = 40
APART = 60.0
"""Seconds between two lines that say the same."""
SECRET_FIELDS = frozenset(
    {"key", "api_key", "apikey", "x_api_key", "token", "authorization", "password", "pepper"}
)
LINK_FIELDS = frozenset({"link", "url"})

# What gives a secret away by its surroundings: a query or form, a header, a URL's user.
_SURROUNDED = re.compile(
    r"""(?ix)
    (?P<query> \b (?: api_?key | key | token | password ) = ) [^&\s"'\\]+
    | (?P<header> \b bearer \s+ ) [^\s"'\\,]+
    | (?P<address> :// [^/\s:@"']* : ) [^/\s@"']+ (?= @ )
    """
)
_CREDENTIALS = re.compile(r"//[^/@]*@")
_AFTER_PATH = re.compile(r"[?#].*", re.DOTALL)


def _dumps(value: object, *, default: Callable[[object], object] = repr) -> str:
    return json.dumps(value, ensure_ascii=False, default=default)


class Seldom:
    """Lets a line through and then, for a while, no other: an outage has one for every request.

    The next one says in ``left_out`` how many there were that it kept back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last, self._left_out = -math.inf, 0

    def log(self, say: Callable[..., object], event: str, **fields: object) -> None:
        """Log an event by ``say``, such as a logger's ``warning``, if it is time."""
        now = self._clock()
        if now - self._last < APART:
            self._left_out += 1
            return
        say(event, **fields, left_out=self._left_out)
        self._last, self._left_out = now, 0


class _Secrets:
    """Every registered secret, in each spelling that a line may show it in."""

    def __init__(self) -> None:
        self._spellings: set[str] = set()
        self._found: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        spellings = {value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1]}
        spellings |= {_dumps(one)[1:-1] for one in spellings}
        if spellings <= self._spellings:
            return
        self._spellings |= spellings
        longest_first = sorted(self._spellings, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first)))

    def remove_from(self, line: str) -> str:
        if self._found:
            line = self._found.sub(REDACTED, line)
        return _SURROUNDED.sub(
            lambda found: (found["query"] or found["header"] or found["address"]) + REDACTED, line
        )


_secrets = _Secrets()


def register_secret(value: str) -> None:
    """Never show this text in a line from now on, whatever it stands in."""
    if value:
        _secrets.add(value)


def shorten(link: str) -> str:
    """Return enough of a link to tell what it is: scheme, host and the path's beginning.

    At most ``LINK_LENGTH`` characters; an ellipsis stands where something was left out. The
    user, the query and the fragment are always left out: they may open what they point at.
    """
    kept = _CREDENTIALS.sub("//", _AFTER_PATH.sub("", link))
    if kept == link and len(kept) <= LINK_LENGTH:
        return kept
    return kept[: LINK_LENGTH - 1] + "…"


def _discreet(name: str, value: object) -> object:
    """Return a field's value as it may be shown."""
    field = name.casefold().replace("-", "_")
    if field in SECRET_FIELDS:
        return REDACTED
    if field in LINK_FIELDS and isinstance(value, str):
        return shorten(value)
    if isinstance(value, Mapping):
        return {inner: _discreet(str(inner), below) for inner, below in value.items()}
    if isinstance(value, list | tuple):
        return [_discreet("", below) for below in value]
    return value


def _discreet_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: _discreet(name, value) for name, value in event.items()}


def _without_secrets(_: WrappedLogger, __: str, line: EventDict | str) -> str:
    return _secrets.remove_from(str(line))  # after a renderer it is a text


class _Stderr:
    """Writes each line at once, to whatever ``sys.stderr`` is at that moment."""

    def line(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = line


class _Foreign(logging.Handler):
    """Brings the standard library's records to the same place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _Stderr().line(self.format(record))
        except Exception:  # noqa: BLE001  # logging's own rule: a bad record stops nobody
            self.handleError(record)


def configure(format: str | None = None, level: str = "info") -> None:  # noqa: A002  # its name
    """Set up every logger of the process; may be called again.

    Args:
        format: ``console`` or ``json``; ``None`` chooses the first when stderr is a terminal.
        level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``; what is below costs
            next to nothing.

    """
    terminal = sys.stderr.isatty()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _discreet_fields,
    ]
    final: list[Processor]
    if (format or ("console" if terminal else "json")) == "console":
        # Plain tracebacks: the pretty ones print local variables, and those hold keys.
        final = [
            structlog.dev.ConsoleRenderer(
                colors=terminal, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        final = [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(serializer=_dumps),
        ]
    final.append(_without_secrets)
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=False,  # so that a second call reaches loggers already used
    )
    _route_standard_library(shared, final, threshold)


def _route_standard_library(
    shared: list[Processor], final: list[Processor], threshold: int
) -> None:
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Foreign)]:
        root.removeHandler(old)
    handler = _Foreign()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root.addHandler(handler)
    root.setLevel(threshold)
    # httpx tells of every request at INFO; the router says what is worth knowing of a call.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(max(threshold, logging.WARNING))
    # It tells of every form that it cannot read, and anybody may send those.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
