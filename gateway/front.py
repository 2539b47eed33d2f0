"""HTTP/1.1 as customers' programs speak it: the connections of uvicorn's server.

uvicorn keeps connections in a way of its own, and that costs more than most of our answers: it
writes head and body each by itself, and sets up events, timers and callbacks for every request.
Here an answer of one piece is one write, and the rest is made when it is needed. There are no
websockets, no TLS and no log of requests: what stands before a gateway has them.

An application may have a method ``ask`` beside what ASGI wants, see ``message.Ask``. It is given
requests that are there as a whole, and answers at once what it knows, without a task and its
messages. And programs write the same head again and again: what was read is known by its bytes.
"""

import asyncio
import contextvars
import re
from collections import deque
from collections.abc import Awaitable, Iterable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
import uvicorn
from uvicorn.server import ServerState

from gateway.logs import Seldom
from gateway.message import (
    BODILESS,
    FIRST_LINES,
    Answer,
    App,
    Ask,
    Head,
    Header,
    Message,
    heads,
    opening,
)

ENOUGH = 64 * 1024
"""Bytes of a body that are taken in before somebody asks for them."""
LARGEST_HEAD = 64 * 1024
"""Bytes in which a request must have come to its body."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = (b"connection", b"close")

# The parser takes the body of whoever would rather speak HTTP/2 for that: he is asked nothing.
_UPGRADE = re.compile(rb"\A((?:(?!\r\n\r\n).)*?\r\n)(upgrade[ \t]*:)", re.DOTALL | re.IGNORECASE)

log = structlog.get_logger()
odd = Seldom()  # anybody can send what is no HTTP


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
        self.app: App = cast("Any", config.loaded_app)
        self.ask: Ask | None = getattr(self.app, "ask", None)
        self._app_state = app_state
        self.client = ""
        self._open: set[Any] = server_state.connections  # it lists uvicorn's own classes
        self._patience = config.timeout_keep_alive
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()  # the first is being answered, the others wait
        self._coming: Exchange | None = None  # the one whose body is still to come
        self._url = b""
        self._headers: list[Header] = []
        self._latest: Head | None = None  # that was read, and may be known again
        self._between = True  # two requests: not a byte of the next one is there
        self._unended = 0  # bytes of a head that has no end yet
        self._reading = True
        self._quiet_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # --- what the event loop tells --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport
        self._peer = _address(transport.get_extra_info("peername"))
        self._here = _address(transport.get_extra_info("sockname"))
        self.client = self._peer[0] if self._peer else ""
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
        """Read on, and have the first of what is there answered."""
        fresh = self._between and not self._exchanges
        head, body = heads.split(data) if fresh else (None, b"")
        if head:
            self._queue(Exchange(self, head, body))
        else:
            self._parse(data)
            if fresh and len(self._exchanges) == 1 and self._latest and not self._coming:
                heads.keep(self._latest, data)
        if self._exchanges:
            self._exchanges[0].begin()

    def _parse(self, data: bytes) -> None:
        self._latest = None
        if self._between and b"pgrade" in data:
            data = _UPGRADE.sub(rb"\1x-\2", data)
        self._unended += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._exchanges[-1].last = True  # it is answered in HTTP, and what follows is none
            self._latest = None
            self._hold()
        except httptools.HttpParserError:
            self._refuse()
        if self._between or self._coming:
            self._unended = 0
        elif self._unended > LARGEST_HEAD:
            self._refuse()

    def _refuse(self) -> None:
        """Say that this is no HTTP, after the answers to what was."""
        odd.log(log.warning, "a request that is no HTTP")
        self._hold()
        if self._coming:
            self._coming.cut()
        self._queue(Exchange(self, Head("", "", b"", (), last=True), b"", _plain(400)))

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
        self._url, self._headers, self._between = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Take a piece of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one of its headers."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Put it in line; of its body comes what is asked for."""
        url = httptools.parse_url(self._url)
        path, version = url.path.decode("ascii"), self._parser.get_http_version()
        self._latest = head = Head(
            self._parser.get_method().decode("ascii"),
            unquote(path) if "%" in path else path,
            url.query or b"",
            self._headers,
            raw_path=url.path,
            version=version,
            last=version == "1.0" or not self._parser.should_keep_alive(),
        )
        self._coming = Exchange(self, head, None)
        self._queue(self._coming)

    def scope(self, head: Head) -> Message:
        """Return what ASGI calls by this name."""
        here = {"client": self._peer, "server": self._here, "state": self._app_state.copy()}
        return {**head.scope(), **here}

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._coming and self._coming.take(body) > ENOUGH:
            self._hold()

    def on_message_complete(self) -> None:
        """End a request."""
        self._between, self._unended = True, 0
        if self._coming:
            self._coming.whole()
            self._coming = None

    # --- one after the other --------------------------------------------------------------------

    def _queue(self, exchange: "Exchange") -> None:
        self._exchanges.append(exchange)
        if len(self._exchanges) > 1:
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
        elif self._exchanges and self.ask:
            self.loop.call_soon(self._exchanges[0].begin)  # nobody is answered alone all the time
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
    """A request and its answer; for ASGI the ``scope``, ``receive`` and ``send`` of it.

    Args:
        body: all of it; ``None`` when it is to come.
        answer: what is answered, whatever an application would say.

    Attributes:
        last: the connection ends with this answer.

    """

    # What most requests leave as it is.
    _begun = False
    _told = False  # that there is no more of the body
    _cut = False  # nothing more comes, and perhaps nobody listens
    _news: asyncio.Event | None = None  # of any of these
    _opened: bytes | None = None  # the head, held back until there is a piece of the answer's body
    _bare = False  # it has none
    _left: int | None = None  # bytes of it that the head promises; ``None``: in chunks
    _written = False
    _answered = False

    def __init__(
        self, connection: Connection, head: Head, body: bytes | None, answer: Answer | None = None
    ) -> None:
        self.last = head.last
        self._connection = connection
        self._head = head
        self._answer = answer
        self._expects = head.expects  # a word from us before the body is sent
        self._more = body is None  # of it is to come
        self._parts = [body] if body else []  # of it, that nobody has asked for yet
        self._size = 0

    # --- the client's side ----------------------------------------------------------------------

    def begin(self) -> None:
        """Have it answered, at once or in a task; again, that changes nothing."""
        connection = self._connection
        if self._begun or connection.transport.is_closing():
            return
        self._begun = True
        answer: Answer | Awaitable[Answer] | None = self._answer
        if connection.ask and not (answer or self._more or self._cut):
            answer = connection.ask(self._head, b"".join(self._parts), connection.client)
        if type(answer) is Answer and not connection.writable:
            self._say(answer)
            return
        # In a context of its own: what one request binds to its log lines is not the next one's.
        work = self._run() if answer is None else self._wait(answer)
        task = connection.loop.create_task(work, context=contextvars.Context())
        connection.server.tasks.add(task)
        task.add_done_callback(connection.server.tasks.discard)

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

    async def _wait(self, answer: Answer | Awaitable[Answer]) -> None:
        """Write the answer when it is there, and the client can take it."""
        connection = self._connection
        try:
            if not isinstance(answer, Answer):
                answer = await answer
            if connection.writable:
                await connection.writable
            if not connection.transport.is_closing():
                self._say(answer)
        except Exception:
            log.exception("a request failed")
            connection.transport.close()

    def _say(self, answer: Answer) -> None:
        """Write an answer, of one piece."""
        transport, body = self._connection.transport, answer.body
        opened = opening(answer.status, (*answer.headers, _CLOSE) if self.last else answer.headers)
        if answer.status in BODILESS:
            transport.write(opened)
        elif self._head.method == "HEAD":
            transport.write(b"%b%d\r\n\r\n" % (opened, len(body)))
        else:
            transport.writelines((b"%b%d\r\n\r\n" % (opened, len(body)), body))
        self._answered = True
        self._connection.answered()

    async def _run(self) -> None:
        connection = self._connection
        try:
            await connection.app(connection.scope(self._head), self._receive, self._send)
        except Exception:
            log.exception("a request failed")
        if self._answered or connection.transport.is_closing():
            return
        if self._written:
            connection.transport.close()  # half an answer must not look like a whole one
        elif self._cut:
            connection.answered()  # its answer is that of the next one: it was no HTTP
        else:
            self.last = True
            self._say(_plain(500))

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
        if self._opened is None:
            self._opened = self._headed(message["status"], message.get("headers", ()))
            return
        more = message.get("more_body", False)
        body = self._framed(message.get("body", b""), more)
        connection.transport.writelines((self._opened, body))
        self._opened, self._written = b"", True
        if not more:
            self._answered = True
            self._tell()
            connection.answered()

    def _headed(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the head of an answer, and see how its body is to be written."""
        lines = [FIRST_LINES[status]]
        for name, value in (*self._connection.server.default_headers, *headers):
            lines.append(b"%b: %b" % (name, value))
            if name == b"content-length":
                self._left = int(value)
        if self._head.method == "HEAD" or status in BODILESS:
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


def _plain(status: int) -> Answer:
    return Answer(HTTPStatus(status).phrase.encode(), status, ((b"content-type", b"text/plain"),))


def _address(found: object) -> tuple[str, int] | None:
    """Return host and port, of whichever family; a socket in the file system has none."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
