"""The wire to the providers, and the only module that knows which HTTP library there is.

What matters here is one question: may the provider have heard us? ``Upstream.post`` answers it
with a type. ``errors.Unreachable`` is raised only where provably not a byte was written, so that
the order may go elsewhere; whatever else goes wrong is ``errors.Indeterminate``.

httpx gives the words (``Request``, ``Response``, the transport interface), which is what lets
tests pass in a ``MockTransport`` or an ``ASGITransport``. Its client is left out: it spends more
on every call than all the rest of an order costs. Its connection pool is left out too: it asks
every connection it has at every call, and it cannot say whether a byte was written. ``Wire``
below takes its place, on asyncio and httptools, under uvloop as well.
"""

import asyncio
import math
import select
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import cast
from urllib.parse import quote_plus

import httptools
import httpx
import msgspec

from gateway.dial import Dialer
from gateway.errors import CallFailed, Indeterminate, Unreachable

LARGEST = 64 * 1024 * 1024
"""Bytes that an answer may have; a catalog of 100,000 services has about a third of it."""

HEAD = 64 * 1024
"""Bytes that the status line and the headers of an answer may have."""

LARGE = 1024 * 1024
"""Bytes from which an answer is put together in a thread, and after which others have a turn."""

TURN = 256 * 1024
"""Bytes that are decompressed before others have a turn."""

SLICE = 1024
"""Bytes that are decompressed at once: zlib makes at most a thousand times as many of them."""

IDLE = 3.0
"""Seconds that an unused connection is kept. Many servers close theirs after five; whoever sends
just then cannot know whether it was heard, so ours must be the shorter patience by far."""

CLOSING = 1.0
"""Seconds that the event loop has to report connections closed; it does so in its next turns."""

UNWRITTEN = "unwritten"
"""The request extension by which a transport says that not a byte can have been written yet."""

NOT_AFTER = "not_after"
"""The request extension that says, on the event loop's clock, when it is too late to be written."""

AT_MOST = "at_most"
"""The request extension that says how many bytes the answer may have."""

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
_PORTS = {"http": 80, "https": 443}

_Origin = tuple[str, str, int]


class Answer(msgspec.Struct, frozen=True):
    """What a provider answered: the HTTP status, and the body without its content coding."""

    status: int
    body: bytes


class Upstream:
    """Posts forms to providers.

    Args:
        transport: what carries the requests; ours unless a test brings another.
        largest: bytes that an answer may have, as it travels and decompressed.

    """

    def __init__(
        self, transport: httpx.AsyncBaseTransport | None = None, *, largest: int = LARGEST
    ) -> None:
        self._transport = Wire(largest=largest) if transport is None else transport
        self._largest = largest
        self._prepared: dict[str, tuple[httpx.URL, httpx.Headers]] = {}

    async def post(
        self,
        url: str,
        fields: Mapping[str, str],
        *,
        key: str,
        timeout: float,  # noqa: ASYNC109 - what it means depends on how far the call has come
        not_after: float | None = None,
        at_most: int = LARGEST,
    ) -> Answer:
        """Post ``fields`` and our ``key`` there as a form, and return whatever was answered.

        Redirects are not followed: that would turn the POST into a GET elsewhere. Any status is
        an answer. The key is in no exception, neither in its text nor in what it was raised from.

        Args:
            url: absolute, ``http`` or ``https``.
            fields: each value is encoded here, exactly once, as UTF-8.
            key: our key at this provider.
            timeout: seconds in all, from looking up the name to the last byte of the answer.
            not_after: on the event loop's clock, when it is too late to begin writing. A process
                that was stopped for a while must not act on what it had decided before.
            at_most: bytes that the answer may have.

        Raises:
            Unreachable: not a byte was written.
            Indeterminate: bytes may have been written, and there is no answer to go by.

        """
        return await self._answered(
            lambda: self._request(url, _form([*fields.items(), ("key", key)])),
            timeout,
            not_after,
            at_most,
        )

    async def get(self, url: str, *, timeout: float) -> Answer:  # noqa: ASYNC109 - as above
        """Get what is at a web address; arguments and errors are those of ``post``."""

        def request() -> httpx.Request:
            return httpx.Request("GET", url, headers={"Accept-Encoding": "gzip"})

        return await self._answered(request, timeout)

    async def _answered(
        self,
        make: Callable[[], httpx.Request],
        timeout: float,  # noqa: ASYNC109
        not_after: float | None = None,
        at_most: int = LARGEST,
    ) -> Answer:
        request = None
        try:
            request = make()
            request.extensions[NOT_AFTER] = not_after
            request.extensions[AT_MOST] = min(at_most, self._largest)
            in_time(request)
            async with asyncio.timeout(timeout):
                return await self._exchange(request)
        except TimeoutError:
            failure = _judge(request, None, f"no answer within {timeout:g} s")
        except httpx.HTTPError as error:
            failure = _judge(request, error, f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - a bug here must not pass for "never sent"
            failure = _judge(request, error, type(error).__name__)
        # Raised out here, the failure drags along no context that still holds the form.
        raise failure

    async def aclose(self) -> None:
        """Close every connection; calls under way fail."""
        await self._transport.aclose()

    def _request(self, url: str, form: bytes) -> httpx.Request:
        prepared = self._prepared.get(url)
        if prepared is None:
            parsed = httpx.URL(url)
            headers = httpx.Headers(
                [
                    (b"Host", parsed.netloc),
                    (b"Accept", b"application/json, */*"),
                    (b"Accept-Encoding", b"gzip"),
                    (b"User-Agent", b"smm-gateway"),
                    (b"Content-Type", b"application/x-www-form-urlencoded"),
                ]
            )
            prepared = self._prepared[url] = parsed, headers
        # A ready Headers object is copied, a list would be parsed; a stream stops httpx from
        # working out the headers once more.
        request = httpx.Request("POST", prepared[0], headers=prepared[1], stream=_Whole([form]))
        request.headers["Content-Length"] = str(len(form))
        return request

    async def _exchange(self, request: httpx.Request) -> Answer:
        response = await self._transport.handle_async_request(request)
        stream = response.stream
        if isinstance(stream, _Whole) and "content-encoding" not in response.headers:
            # All of it is there: nothing to read, nothing to close.
            return Answer(response.status_code, await _joined(stream.parts, stream.size))
        try:
            return Answer(response.status_code, await _body(response, request.extensions[AT_MOST]))
        finally:
            await response.aclose()


async def _body(response: httpx.Response, at_most: int) -> bytes:
    coding = response.headers.get("content-encoding")
    if coding is not None and "," in coding:
        msg = "compressed more than once"  # each layer may multiply the size by a thousand
        raise httpx.DecodingError(msg)
    parts, size, turns = [], 0, 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > at_most:
            raise httpx.ReadError(_too_large(at_most))
        parts.append(part)
        if size // TURN > turns:  # decompressing a catalog must not hold up everybody else
            turns = size // TURN
            await asyncio.sleep(0)
    return await _joined(parts, size)


def _form(fields: Iterable[tuple[str, str]]) -> bytes:
    return "&".join([f"{_quoted(name)}={_quoted(value)}" for name, value in fields]).encode()


def _quoted(text: str) -> str:
    """Quote for a form; most names, numbers and keys have nothing in them to be quoted."""
    return text if text.isalnum() and text.isascii() else quote_plus(text)


def _judge(request: httpx.Request | None, error: Exception | None, words: str) -> CallFailed:
    """Return what a failure means: ``Unreachable`` needs a proof that nothing was written."""
    if request is None:
        return Unreachable(f"the request cannot be written: {words}")
    unwritten = request.extensions.get(UNWRITTEN, False) or isinstance(error, _NEVER_SENT)
    return (Unreachable if unwritten else Indeterminate)(f"{request.url.host}: {words}")


def in_time(request: httpx.Request) -> None:
    """Raise ``httpx.ConnectError`` when it is too late to write a request."""
    not_after = request.extensions.get(NOT_AFTER)
    if not_after is not None and asyncio.get_running_loop().time() > not_after:
        msg = "too late to be sent"
        raise httpx.ConnectError(msg)


async def _joined(parts: list[bytes], size: int) -> bytes:
    """Return the parts in one; a catalog's in a thread, since that takes long to copy."""
    return await asyncio.to_thread(b"".join, parts) if size > LARGE else b"".join(parts)


def _too_large(largest: int) -> str:
    return f"the answer has more than {largest} bytes"


class _Whole(httpx.AsyncByteStream):
    """A body that is all there; it is handed on in slices, so that a decompressor stops in time."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            for start in range(0, len(part), SLICE):
                yield part[start : start + SLICE]


class Wire(httpx.AsyncBaseTransport):
    """HTTP/1.1 over TCP or TLS, on connections that are kept alive: httpx's transport interface.

    Of the idle connections to an origin the one used last is taken first, at the same cost
    however many there are. There is no limit on how many; whoever calls sets the pace. A
    connection that was closed before we wrote to it is replaced; one that fails at the write or
    after it is not, and nothing is ever sent twice. Until the first byte is handed over,
    ``request.extensions[UNWRITTEN]`` is true, so that a caller who gives up knows as well.

    It keeps no time of its own: the caller's deadline cancels it, which closes the connection.
    The whole answer is there when it returns. Proxies named in the environment are not used.

    Args:
        dialer: what opens connections.
        largest: bytes of an answer, as it travels, where the request does not say.
        idle: seconds that an unused connection is kept.

    Raises:
        httpx.ConnectError, httpx.UnsupportedProtocol: provably not a byte was written.
        httpx.ReadError: the connection broke or the answer is too large.
        httpx.RemoteProtocolError: the answer is cut short or is not HTTP.

    """

    def __init__(
        self,
        *,
        dialer: Dialer | None = None,
        largest: int = LARGEST,
        idle: float = IDLE,
    ) -> None:
        self._largest = largest
        self.dialer = dialer or Dialer()
        self._patience = idle
        self.connections: set[_Connection] = set()
        # With the time when each fell idle: used from the right, thrown away from the left.
        self._idle: dict[_Origin, deque[tuple[_Connection, float]]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer, read to the end."""
        request.extensions[UNWRITTEN] = True
        url = request.url
        if url.scheme not in _PORTS or not url.host:
            msg = "an http or https URL with a host is needed"
            raise httpx.UnsupportedProtocol(msg)
        lines = [f"{request.method} ".encode(), url.raw_path, b" HTTP/1.1\r\n"]
        for name, value in request.headers.raw:
            lines += (name, b": ", value, b"\r\n")
        whole = request.stream
        body = b"".join(whole.parts) if isinstance(whole, _Whole) else await request.aread()
        lines += (b"\r\n", body)
        origin = (url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
        connection = self._take(origin) or await self._connect(origin)
        # Nothing is awaited between the look at the connection, and at the clock, and the write.
        try:
            in_time(request)
        except httpx.ConnectError:
            self.keep(connection)
            raise
        request.extensions[UNWRITTEN] = False
        return await connection.exchange(
            b"".join(lines), request.extensions.get(AT_MOST, self._largest)
        )

    async def aclose(self) -> None:
        """Close every connection; calls under way fail, later ones are refused."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        waiting = [connection.closed for connection in self.connections]
        for connection in tuple(self.connections):
            connection.abort()
        if waiting:
            await asyncio.wait(waiting, timeout=CLOSING)

    async def _connect(self, origin: _Origin) -> "_Connection":
        scheme, host, port = origin
        try:
            connection = await self.dialer.open(
                lambda: _Connection(self, origin), host, port, encrypted=scheme == "https"
            )
        except (OSError, ValueError) as error:  # the latter: no such name can exist
            raise httpx.ConnectError(str(error) or type(error).__name__) from error
        if self._closed:
            connection.abort()
        if connection.closing:
            msg = "closed before anything was written"
            raise httpx.ConnectError(msg)
        # Not sooner: uvloop tells nobody of the end of one that was given up while it opened.
        self.connections.add(connection)
        return connection

    def _take(self, origin: _Origin) -> "_Connection | None":
        idle = self._idle.get(origin)
        while idle:
            connection, since = idle.pop()
            young = asyncio.get_running_loop().time() - since < self._patience
            if young and connection.silent:
                return connection
            connection.abort()
        return None

    def keep(self, connection: "_Connection") -> None:
        """Take a connection back whose answer is complete."""
        loop = asyncio.get_running_loop()
        self._idle.setdefault(connection.origin, deque()).append((connection, loop.time()))
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._patience, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        loop = asyncio.get_running_loop()
        oldest = math.inf
        for idle in self._idle.values():
            while idle and loop.time() - idle[0][1] >= self._patience:
                idle.popleft()[0].abort()
            if idle:
                oldest = min(oldest, idle[0][1])
        if oldest < math.inf:
            self._sweeper = loop.call_at(oldest + self._patience, self._sweep)


class _Connection(asyncio.Protocol):
    """One connection: it carries an exchange, rests, carries another, until it is closed."""

    def __init__(self, wire: Wire, origin: _Origin) -> None:
        self.origin = origin
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wire = wire
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[httpx.Response] | None = None
        self._received = 0
        self._complete = False
        self._fresh = True
        self._clear()

    def _clear(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._headed = False
        self._delimited = False
        self._reusable = False

    # --- for Wire ---------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether it can no longer be written to."""
        return self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether it is open and the kernel has nothing for us, not even the news of its end.

        The event loop reports that news a moment late; asking costs a microsecond and saves an
        order from being written into a connection that is already gone.
        """
        return not self._transport.is_closing() and not self._poll.poll(0)

    def abort(self) -> None:
        """Close it now."""
        self._transport.abort()

    async def exchange(self, request: bytes, at_most: int) -> httpx.Response:
        """Write a request and return the answer to it, which may have so many bytes."""
        waiter: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self._at_most = at_most
        self._received = 0
        self._complete = False
        self._clear()
        self._transport.write(request)
        try:
            return await waiter
        finally:
            # Cancelled: what may still come is nobody's answer. After an answer the connection
            # may by now be in the middle of another exchange, which must be left alone.
            if self._waiter is waiter:
                self._waiter = None
                self.abort()

    # --- from the event loop ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:  # nobody asked, so nobody may take it for an answer
            self.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self._complete:
                self._end(httpx.RemoteProtocolError(f"not an HTTP answer: {error}"))
                return
        if self._complete:
            self._end(self._response())
        elif self._received > HEAD and not self._headed:
            self._end(httpx.RemoteProtocolError(f"the headers have more than {HEAD} bytes"))
        elif self._received > HEAD + self._at_most:
            self._end(httpx.ReadError(_too_large(self._at_most)))
        elif self._received // LARGE > (self._received - len(data)) // LARGE:
            self._transport.pause_reading()  # else all of it is read before anybody else has a turn
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.closing:
            self._transport.resume_reading()

    def eof_received(self) -> None:
        if self._waiter is not None and self._headed and not self._delimited:
            self._end(self._response())  # such an answer ends with the connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.connections.discard(self)
        self.closed.set_result(None)
        if exc is not None:
            self._end(httpx.ReadError(str(exc) or type(exc).__name__))
        else:
            self._end(httpx.RemoteProtocolError("closed before the answer was complete"))
        self._parts = []  # the parser leads back to us, so half a catalog would stay for a while

    def _end(self, outcome: httpx.Response | Exception) -> None:
        waiter, self._waiter = self._waiter, None
        if self._fresh and self._complete:
            self._fresh = False
            self._wire.dialer.tls.remember(self._transport)
        # A server that answers before it has read everything leaves the rest of our request in
        # the way of the next.
        if self._reusable and not self.closing and not self._transport.get_write_buffer_size():
            self._wire.keep(self)
        else:
            self.abort()
        if waiter is None or waiter.done():
            return
        if isinstance(outcome, Exception):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)

    def _response(self) -> httpx.Response:
        # It goes with its answer: a catalog would stay here for as long as the connection.
        parts, self._parts = self._parts, []
        return httpx.Response(self._status, headers=self._headers, stream=_Whole(parts))

    # --- from the parser --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            msg = "more than one answer"
            raise ValueError(msg)
        self._clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:  # trailers say nothing that we need
            return
        self._headers.append((name, value))
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._delimited = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._headed = self._status // 100 != 1  # 1xx only announces the answer

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()
