"""What is said over HTTP, between a server and an application: ASGI's words, and simpler ones."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec

Message = MutableMapping[str, Any]
Scope = Message
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

FIRST_LINES = {one.value: f"HTTP/1.1 {one} {one.phrase}".encode() for one in HTTPStatus}
_END = b"\r\n\r\n"
MOST_KNOWN = 1000
LONGEST_KNOWN = 2048
"""Heads that are known again, and bytes of each."""
BODILESS = frozenset({204, 304})
"""Statuses of answers that have no body, and say nothing of its length."""


class Head:
    """What a request says before its body; nobody changes it, for it may be said again.

    Attributes:
        headers: all of them, in turn, their names in lower case.
        fields: the same by name; of several the last one counts.
        last: the client asks nothing more on this connection.
        expects: he sends the body when we have said so.
        length: bytes of the body; ``None`` where that is seen at its end.

    """

    __slots__ = (
        *("expects", "fields", "headers", "last", "length", "method"),
        *("path", "query", "raw_path", "version"),
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Iterable[Header],
        *,
        raw_path: bytes = b"",
        version: str = "1.1",
        last: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.raw_path = raw_path
        self.query = query
        self.headers = list(headers)
        self.fields = dict(self.headers)
        self.version = version
        self.last = last
        self.expects = self.fields.get(b"expect", b"").lower() == b"100-continue"
        length = self.fields.get(b"content-length", b"0")
        chunked = b"transfer-encoding" in self.fields
        self.length = int(length[:18]) if length.isdigit() and not chunked else None

    def scope(self) -> Scope:
        """Return what ASGI calls by this name, as far as it is told here."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version,
            "scheme": "http",
            "root_path": "",
            "method": self.method,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": self.headers.copy(),
        }

    def text(self, name: bytes) -> str:
        """Return what a header says; empty when there is none."""
        return self.fields[name].decode("latin-1") if name in self.fields else ""


class Heads:
    """The heads that were read of late, by their bytes: programs say the same again and again.

    Whatever begins with one of these, and has a body of its length, is one request like it.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def split(self, data: bytes) -> tuple[Head | None, bytes]:
        """Return the head and the body of a request whose head is known."""
        end = data.find(_END) + len(_END)
        head = self._known.get(data[:end])
        if head is None or head.length != len(data) - end:
            return None, b""
        return head, data[end:]

    def keep(self, head: Head, data: bytes) -> None:
        """Know a head again, of a request that was read as this; an odd one is not kept."""
        end = data.find(_END) + len(_END)
        odd = head.last or head.expects or b"upgrade" in head.fields
        if odd or head.length != len(data) - end or end > LONGEST_KNOWN:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[data[:end]] = head


heads = Heads()
"""For all connections: one program opens many."""


class Answer(msgspec.Struct, frozen=True):
    """What goes back, in one piece; its length is added to the headers."""

    body: bytes
    status: int = 200
    headers: tuple[Header, ...] = ()


Ask = Callable[[Head, bytes, str], Answer | Awaitable[Answer] | None]
"""What an application may have beside ``__call__``: answers a request that is there as a whole.

Its arguments are the head, the body, and the address at the other end, empty when there is none.
What it returns to be awaited has to be, once. ``None``: the application is to be asked by ASGI.
"""


@lru_cache(maxsize=1000)
def opening(status: int, headers: tuple[Header, ...]) -> bytes:
    """Return the head of an answer, up to where the body's length stands if it has one."""
    lines = [FIRST_LINES[status], *(b"%b: %b" % one for one in headers)]
    if len(b"\r\n".join(lines).splitlines()) != len(lines):
        raise ValueError("a header of several lines")  # the second could be one of its own
    return b"\r\n".join([*lines, b"\r\n" if status in BODILESS else b"content-length: "])
