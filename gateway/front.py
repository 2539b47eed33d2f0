"""HTTP/1.1 as customers' programs speak it: the connections of uvicorn's server.

uvicorn keeps connections in a way of its own, and that costs more than most of our answers: it
writes head and body each by itself, and sets up events, timers and callbacks for every request.
Here an answer of one piece is one write, and the rest is made when it is needed. There are no
websockets, no TLS and no log of requests: what stands before a gateway has them.
"""

import asyncio
import contextvars
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
import uvicorn
from uvicorn.server import ServerState

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ENOUGH = 64 * 1024
"""Bytes of a body that are taken in before somebody asks for them."""
LARGEST_HEAD = 64 * 1024
"""Bytes in which a request must have come to its body."""

_FIRST_LINES = {one.value: f"HTTP/1.1 {one} {one.phrase}".encode() for one in HTTPStatus}
_BODILESS = frozenset({204, 304})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# The parser takes the body of whoever would rather speak HTTP/2 for that: he is asked nothing.
_UPGRADE = re.compile(rb"\A((?:(?!\r\n\r\n).)*?\r\n)(upgrade[ \t]*:)", re.DOTALL | re.IGNORECASE)

log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """One connection of a client; the class is what ``uvicorn.Config(http=…)`` takes."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.server = server_state
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: Any = None
        self.writable: asyncio.Future[None] | None = None  # while the client reads too slowly
        self._app = cast("App", config.loaded_app)
        self._app_state = app_state
        self._open: set[Any] = server_state.connections  # it lists uvicorn's own classes
        self._patience = config.timeout_keep_alive
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()  # the first is being answered, the others wait
        self._coming: Exchange | None = None  # the one whose body is still to come
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects = False
        self._between = True  # two requests: not a byte of the next one is there
        self._unended = 0  # bytes of a head that has no end yet
        self._reading = True
        self._quiet_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # --- what the event loop tells --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport
        self._client = _address(transport.get_extra_info("peername"))
        self._here = _address(transport.get_extra_info("sockname"))
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell whoever works for this client that nobody is there any more."""
        self._open.discard(self)
        if self._timer:
            self._timer.cancel()
        self.resume_writing()
        for exchange in self._exchanges:
            exchange.cut()
        del self._parser  # it holds on to us

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._between and b"pgrade" in data:
            data = _UPGRADE.sub(rb"\1x-\2", data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._exchanges[-1].last = True  # it is answered in HTTP, and what follows is none
            self._hold()
        except httptools.HttpParserError:
            self._refuse()
        if self._between or self._coming:
            self._unended = 0
        else:
            self._unended += len(data)
            if self._unended > LARGEST_HEAD:
                self._refuse()

    def _refuse(self) -> None:
        """Say that this is no HTTP, after the answers to what was."""
        log.warning("a request that is no HTTP")
        self._hold()
        if self._coming:
            self._coming.cut()
        self._queue(Exchange(self, {"method": ""}, _bad, last=True))

    def pause_writing(self) -> None:
        """Have whoever answers wait for a client that reads slowly."""
        self.writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """Let him go on."""
        if self.writable and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    def shutdown(self) -> None:
        """End when everything that was asked is answered; the server is about to stop."""
        if self._exchanges:
            self._exchanges[-1].last = True
        else:
            self.transport.close()

    # --- what the parser finds ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url, self._headers, self._expects, self._between = b"", [], False, False

    def on_url(self, url: bytes) -> None:
        """Take a piece of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one of its headers."""
        name = name.lower()
        self._headers.append((name, value))
        if name == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """Have it answered; of its body comes what is asked for."""
        url = httptools.parse_url(self._url)
        path, version = url.path.decode("ascii"), self._parser.get_http_version()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self._here,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": self._parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        last = version == "1.0" or not self._parser.should_keep_alive()
        self._coming = Exchange(self, scope, self._app, last=last, expects=self._expects)
        self._queue(self._coming)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._coming and self._coming.take(body) > ENOUGH:
            self._hold()

    def on_message_complete(self) -> None:
        """End a request."""
        self._between = True
        if self._coming:
            self._coming.whole()
            self._coming = None

    # --- one after the other --------------------------------------------------------------------

    def _queue(self, exchange: "Exchange") -> None:
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            exchange.begin()
        else:
            self._hold()  # who asks again before he is answered has time

    def _hold(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Take in what comes, unless there are others to be answered before."""
        if not self._reading and len(self._exchanges) <= 1 and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def answered(self) -> None:
        """Go on to the next request: the first one's answer is written."""
        self.server.total_requests += 1
        if self._exchanges.popleft().last:
            self.transport.close()
        elif self._exchanges:
            self._exchanges[0].begin()
        else:
            self.read_on()
            self._quiet_since = self.loop.time()
            if self._timer is None:
                self._timer = self.loop.call_later(self._patience, self._look)

    def _look(self) -> None:
        """Close a connection that is not used any more; one timer serves many requests."""
        left = float(self._patience)
        if self._between and not self._exchanges:
            left += self._quiet_since - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(left, self._look)


class Exchange:
    """A request and its answer: what ASGI calls ``scope``, ``receive`` and ``send``.

    Attributes:
        last: the connection ends with this answer.

    """

    __slots__ = (
        *("_answered", "_app", "_bare", "_connection", "_cut", "_expects", "_head", "_left"),
        *("_more", "_news", "_parts", "_scope", "_size", "_task", "_told", "_written", "last"),
    )

    def __init__(
        self, connection: Connection, scope: Message, app: App, *, last: bool, expects: bool = False
    ) -> None:
        self.last = last
        self._connection = connection
        self._scope = scope
        self._app = app
        self._expects = expects  # a word from us before the body is sent
        self._parts: list[bytes] = []  # of the body, that nobody has asked for yet
        self._size = 0
        self._more = True  # of it is to come
        self._told = False  # that there is no more of it
        self._cut = False  # nothing more comes, and perhaps nobody listens
        self._news: asyncio.Event | None = None  # of any of these
        self._head: bytes | None = None  # held back until there is a piece of the answer's body
        self._bare = False  # it has none
        self._left: int | None = None  # bytes of it that the head promises; ``None``: in chunks
        self._written = False
        self._answered = False
        self._task: asyncio.Task[None] | None = None  # that has it answered

    # --- the client's side ----------------------------------------------------------------------

    def begin(self) -> None:
        """Have it answered."""
        # In a context of its own: what one request binds to its log lines is not the next one's.
        task = self._connection.loop.create_task(self._run(), context=contextvars.Context())
        self._task = task
        self._connection.server.tasks.add(task)

    def take(self, body: bytes) -> int:
        """Take a piece of the body; returns how many bytes nobody has asked for yet."""
        if not self._answered:
            self._parts.append(body)
            self._size += len(body)
            self._tell()
        return self._size

    def whole(self) -> None:
        """Take note that the body has come to its end."""
        self._more = False
        self._tell()

    def cut(self) -> None:
        """Take note that nothing more comes."""
        self._cut = True
        self._tell()

    def _tell(self) -> None:
        if self._news:
            self._news.set()

    # --- the application's side -----------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception:
            log.exception("a request failed")
        finally:
            if self._task:
                self._connection.server.tasks.discard(self._task)
        if self._answered or self._connection.transport.is_closing():
            return
        if self._written:
            self._connection.transport.close()  # half an answer must not look like a whole one
        elif self._cut:
            self._connection.answered()  # its answer is that of the next one: it was no HTTP
        else:
            self.last, self._head = True, None
            await _say(self._send, 500)

    async def _receive(self) -> Message:
        """Return what is there of the body; else wait for more of it, or for the end."""
        if self._expects and self._more and not self._cut:
            self._expects = False
            self._connection.transport.write(_CONTINUE)
        self._connection.read_on()
        while not (self._cut or self._answered or self._parts) and (self._more or self._told):
            self._news = self._news or asyncio.Event()
            self._news.clear()
            await self._news.wait()
        if self._cut or self._answered:
            return {"type": "http.disconnect"}
        body = b"".join(self._parts)
        self._parts, self._size, self._told = [], 0, not self._more
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def _send(self, message: Message) -> None:
        """Write a piece of the answer: the head with the first piece of the body."""
        connection = self._connection
        if connection.writable:
            await connection.writable
        if self._answered or connection.transport.is_closing():
            return
        if self._head is None:
            self._head = self._headed(message["status"], message.get("headers", ()))
            return
        more = message.get("more_body", False)
        body = self._framed(message.get("body", b""), more)
        connection.transport.writelines((self._head, body))
        self._head, self._written = b"", True
        if not more:
            self._answered = True
            self._tell()
            connection.answered()

    def _headed(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the head of an answer, and see how its body is to be written."""
        lines = [_FIRST_LINES[status]]
        for name, value in (*self._connection.server.default_headers, *headers):
            lines.append(b"%b: %b" % (name, value))
            if name == b"content-length":
                self._left = int(value)
        if self._scope["method"] == "HEAD" or status in _BODILESS:
            self._bare = True
        elif self._left is None:
            lines.append(b"transfer-encoding: chunked")
        if self.last or self._expects:  # whether a body follows that was not called for, who knows
            self.last = True
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        if len(head.splitlines()) != len(lines):
            raise ValueError("a header of several lines")  # the second could be one of its own
        return head + b"\r\n\r\n"

    def _framed(self, body: bytes, more: bool) -> bytes:  # noqa: FBT001  # ASGI's own
        """Return a piece of the body as it is written."""
        if self._bare:
            return b""
        if self._left is None:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            raise ValueError("a body of another length than its head says")
        return body


async def _bad(_: Message, __: Receive, send: Send) -> None:
    await _say(send, 400)


async def _say(send: Send, status: int) -> None:
    text = HTTPStatus(status).phrase.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _address(found: object) -> tuple[str, int] | None:
    """Return host and port, of whichever family; a socket in the file system has none."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
