"""The server's connections: each request has its own whole answer, whatever a client does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import pytest
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.front import LARGEST_HEAD, Connection
from gateway.message import Answer, Head, Message, Receive, Send

ASK = b"POST /api/v2 HTTP/1.1\r\nhost: gateway\r\ncontent-length: 5\r\n\r\nfirst"
AGAIN = ASK.replace(b"first", b"again")
LARGE = b"x" * 300_000

App = Callable[[Message, Receive, Send], Awaitable[None]]


async def whole(receive: Receive) -> bytes | None:
    """Return a request's body; ``None`` when the client left before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def answer(send: Send, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    """Answer in one piece, as the endpoint does."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Say what was asked, as far as it matters to an application."""
    body = await whole(receive)
    if body is not None:
        names = ("method", "path", "raw_path", "query_string", "http_version", "headers")
        await answer(send, repr([*(scope[name] for name in names), body]).encode())


class Line:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.01)  # so that it may arrive as a piece

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def heard(self) -> bytes:
        """Return the body of the next answer."""
        _, _, rest = (await self.head()).partition(b"content-length: ")
        return await self.reader.readexactly(int(rest.split(b"\r\n")[0]))

    async def rest(self) -> bytes:
        """Return everything until the server closes."""
        return await self.reader.read()


class House:
    """A server of an application, and its lines."""

    def __init__(self, app: App, state: ServerState, patience: float) -> None:
        self.state = state
        options = uvicorn.Config(
            app,
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            timeout_keep_alive=cast("int", patience),  # or parts of a second
        )
        options.load()
        self.protocol = partial(Connection, options, state, {})
        self.address: tuple[str, int]

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ends(self) -> None:
        """Wait until nobody is connected, and nothing is being answered."""
        while self.state.connections or self.state.tasks:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def house(app: App, patience: float = 60) -> AsyncIterator[House]:
    """Serve an application until the block ends."""
    one = House(app, ServerState(), patience)
    server = await asyncio.get_running_loop().create_server(one.protocol, "127.0.0.1", 0)
    one.address = server.sockets[0].getsockname()
    try:
        yield one
    finally:
        server.close()
    await one.ends()


class Kept(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


# --- what is asked, and what is answered ----------------------------------------------------------


def split(request: bytes, size: int) -> list[bytes]:
    return [request[start : start + size] for start in range(0, len(request), size)]


REQUESTS = {
    "a form": ASK,
    "two on one line": ASK + AGAIN,
    "a query": b"GET /api/v2?key=k&action=%20 HTTP/1.1\r\nHost: gateway\r\nX-API-Key: K\r\n\r\n",
    "an escaped path": b"GET /a%20b/%C3%A4 HTTP/1.1\r\n\r\n",
    "another's address": b"GET http://gateway/api/v2?a=b HTTP/1.1\r\n\r\n",
    "no body but its head": b"HEAD /api/v2 HTTP/1.1\r\n\r\n" + ASK,
    "chunks": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "a large body": b"POST / HTTP/1.1\r\ncontent-length: 300000\r\n\r\n" + LARGE,
    "the last one": ASK.replace(b"host: gateway", b"connection: close"),
    "an old client": ASK.replace(b"1.1", b"1.0"),
    "an old client that stays": ASK.replace(b"1.1\r\n", b"1.0\r\nconnection: keep-alive\r\n"),
    "a header again": b"GET / HTTP/1.1\r\nx-a: 1\r\nx-A:  2 \r\n\r\n",
}


async def written(protocol: Any, app: App, pieces: list[bytes]) -> tuple[bytes, bool]:
    """Return what is written in answer, and whether the line is closed then."""
    options = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", proxy_headers=False)
    options.load()
    state, transport = ServerState(), Kept()
    one = protocol(options, state, {})
    one.connection_made(transport)
    for piece in pieces:
        one.data_received(piece)
        await asyncio.sleep(0)
    asked = b"".join(pieces).count(b" HTTP/1.")
    for _ in range(5000):
        await asyncio.sleep(0)
        if not state.tasks and (state.total_requests >= asked or transport.closed):
            break
    said = b"".join(transport.writes), transport.closed
    one.connection_lost(None)
    return said


@pytest.mark.parametrize("size", [1_000_000, 7])
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_is_answered_as_uvicorns_own_connections_do(name: str, size: int) -> None:
    """To the byte; whether it comes at once or in pieces."""
    request = REQUESTS[name]
    if size == 7 and len(request) > 1000:
        size = 70_000
    theirs = await written(HttpToolsProtocol, echo, [request])
    ours = await written(Connection, echo, split(request, size))

    assert theirs == ours


class Direct:
    """Says the same as ``echo``, to whole requests without ASGI; to the first after a while."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)

    def ask(self, head: Head, body: bytes, client: str) -> Answer | Awaitable[Answer] | None:
        if client or head.path == "/a b/ä":  # as if that were somebody else's
            return None
        self.asked += 1
        facts = (head.method, head.path, head.raw_path, head.query, head.version, head.headers)
        answer = Answer(repr([*facts, body]).encode())
        return self.later(answer) if b"first" in body else answer

    async def later(self, answer: Answer) -> Answer:
        await asyncio.sleep(0.001)
        return answer


def lines(said: tuple[bytes, bool]) -> tuple[list[bytes], bool]:
    return sorted(said[0].replace(b"HTTP/1.1", b"\r\nHTTP/1.1").split(b"\r\n")), said[1]


@pytest.mark.parametrize("size", [1_000_000, 61, 7])
@pytest.mark.parametrize("name", REQUESTS)
async def test_who_answers_whole_requests_is_asked_the_same(name: str, size: int) -> None:
    """Twice, for the second time its head is known; in another turn of the same lines, at most."""
    request = REQUESTS[name]
    if size < 100 and len(request) > 1000:
        size = 70_000
    theirs = await written(HttpToolsProtocol, echo, [request])
    times = 1 if theirs[1] else 2  # the connection may have come to its end
    theirs = await written(HttpToolsProtocol, echo, [request] * times)
    ours = await written(Connection, Direct(), split(request, size) * times)

    assert lines(theirs) == lines(ours)


async def test_a_whole_request_takes_no_messages() -> None:
    """Whether its head is known or not; one in pieces does."""
    app = Direct()
    await written(Connection, app, [AGAIN, AGAIN, AGAIN[:-1], AGAIN[-1:]])

    assert 2 == app.asked


async def test_answers_keep_the_order_of_the_requests() -> None:
    """However long the first one takes, and however many were sent without a wait."""
    said, _ = await written(Connection, Direct(), [ASK + AGAIN * 3000])

    assert 3001 == said.count(b"HTTP/1.1 200 OK")
    assert said.index(b"b'first'") < said.index(b"b'again'")


async def test_a_packet_that_ends_in_a_head_is_not_all_of_that_head() -> None:
    many = ASK + AGAIN * 3000
    assert LARGEST_HEAD < len(many)
    said, _ = await written(Connection, Direct(), [many + AGAIN[:9], AGAIN[9:]])

    assert 3002 == said.count(b"HTTP/1.1 200 OK")


async def test_an_answer_is_one_write() -> None:
    options = uvicorn.Config(echo, log_config=None, lifespan="off")
    options.load()
    state, transport = ServerState(), Kept()
    one = Connection(options, state, {})
    one.connection_made(transport)
    one.data_received(ASK)
    while state.tasks:
        await asyncio.sleep(0)

    assert 1 == len(transport.writes)


# --- when somebody leaves, babbles or dawdles -----------------------------------------------------


async def test_who_wants_another_protocol_is_answered_in_this_one() -> None:
    """With the body that he has sent, and again; what is no HTTP is told so."""
    wish = (
        b"POST /a HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"content-length: 12\r\n\r\nupgrade: yes"
    )
    async with house(echo) as one, one.line() as line:
        await line.say(wish)
        first = await line.heard()
        await line.say(wish)

        assert b"['POST', '/a'" in first
        assert b"upgrade: yes" in first
        assert first == await line.heard()
        await line.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"Bad Request" == (await line.rest())[-11:]


async def test_a_wish_for_another_protocol_in_two_pieces_ends_the_connection() -> None:
    wish = b"GET /a HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    async with house(echo) as one, one.line() as line:
        await line.say(wish[:45])
        await asyncio.sleep(0.05)
        await line.say(wish[45:] + b"PRI * HTTP/2.0")
        heard = await line.rest()

        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in heard


async def test_garbage_is_refused_after_what_was_asked_before_it() -> None:
    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await answer(send, await whole(receive) or b"")

    async with house(slow) as one, one.line() as line:
        await line.say(ASK + b"garbage\r\n\r\n")

        assert b"first" == await line.heard()
        assert b"Bad Request" == (await line.rest())[-11:]


async def test_a_head_without_end_is_refused() -> None:
    """Before it fills the memory; whether it is one header or many."""
    for rest in (b"x" * LARGEST_HEAD, b"a: b\r\n" * (LARGEST_HEAD // 6)):
        async with house(echo) as one, one.line() as line:
            await line.say(b"GET / HTTP/1.1\r\nx: ", rest)

            assert (await line.rest()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_a_body_that_ends_in_garbage_is_not_acted_on() -> None:
    acted = []

    async def act(scope: Message, receive: Receive, send: Send) -> None:
        body = await whole(receive)
        if body is not None:
            acted.append(body)

    async with house(act) as one, one.line() as line:
        await line.say(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", b"x")
        heard = await line.rest()

        assert (b"HTTP/1.1 400 Bad Request", []) == (heard.split(b"\r\n")[0], acted)


async def test_half_a_request_is_not_acted_on() -> None:
    """Its client has left."""
    seen: list[bytes | None] = []

    async def act(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(await whole(receive))
        await answer(send, b"to nobody")

    async with house(act) as one:
        async with one.line() as line:
            await line.say(ASK[:-1])
        await one.ends()

        assert [None] == seen


async def test_a_client_that_leaves_is_noticed_while_his_answer_is_made() -> None:
    noticed = asyncio.Event()

    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await whole(receive)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        if await whole(receive) is None:
            noticed.set()

    async with house(stream) as one:
        async with one.line() as line:
            await line.say(ASK)
            await line.head()
        await asyncio.wait_for(noticed.wait(), 10)


async def test_a_body_waits_for_a_word_of_ours_if_it_asks_for_one() -> None:
    async with house(echo) as one, one.line() as line:
        await line.say(ASK[:-5].replace(b"host: gateway", b"expect: 100-continue"))

        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await line.head()
        await line.say(b"first")
        assert (await line.heard()).endswith(b", b'first']")


async def test_a_body_that_was_not_called_for_ends_the_connection() -> None:
    """It may come or not, so nobody can know where the next request would begin."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        await answer(send, b"", status=413)

    async with house(refuse) as one, one.line() as line:
        await line.say(ASK[:-5].replace(b"host: gateway", b"expect: 100-continue"))

        assert b"connection: close" in await line.rest()


async def test_a_body_that_nobody_wants_is_passed_over() -> None:
    """So the next request on the connection is read as one."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/large":
            await answer(send, b"too large")
        else:
            await echo(scope, receive, send)

    async with house(refuse) as one, one.line() as line:
        await line.say(b"POST /large HTTP/1.1\r\ncontent-length: 300000\r\n\r\n")

        assert b"too large" == await line.heard()
        await line.say(LARGE, ASK)
        assert (await line.heard()).endswith(b", b'first']")


# --- applications ---------------------------------------------------------------------------------


async def test_an_answer_without_a_length_comes_in_chunks() -> None:
    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"abc", b"", b"d" * 17):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async with house(stream) as one, one.line() as line:
        await line.say(ASK)
        head = await line.head()

        assert b"transfer-encoding: chunked" in head
        expected = b"3\r\nabc\r\n11\r\nddddddddddddddddd\r\n0\r\n\r\n"
        assert expected == await line.reader.readexactly(len(expected))


async def test_what_has_no_body_has_none() -> None:
    async def known(scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await answer(send, b"twelve bytes")
        else:
            await send({"type": "http.response.start", "status": 304, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async with house(known) as one, one.line() as line:
        await line.say(b"HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")

        assert b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n" == await line.head()
        assert b"HTTP/1.1 304 Not Modified\r\n\r\n" == await line.head()


@pytest.mark.parametrize("how", ["raises", "answers nothing", "breaks a line", "raises late"])
async def test_a_failure_is_an_error_and_ends_the_connection(how: str) -> None:
    async def fail(scope: Message, receive: Receive, send: Send) -> None:
        if how == "breaks a line":
            await answer(send, b"", (b"x-name", b"a\r\nset-cookie: b"))
        if how == "raises late":  # nothing of it is written yet
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if how.startswith("raises"):
            raise ValueError

    async with house(fail) as one, one.line() as line:
        await line.say(ASK)
        heard = await line.rest()

        assert heard.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"cookie" not in heard


@pytest.mark.parametrize("promised", [b"4", None])
async def test_half_an_answer_does_not_look_like_a_whole_one(promised: bytes | None) -> None:
    async def half(scope: Message, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", promised)] if promised else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "more_body": not promised})

    async with house(half) as one, one.line() as line:
        await line.say(ASK)
        heard = await line.rest()

        assert heard.endswith(b"abc" if promised else b"abc\r\n")


async def test_requests_share_no_fields_of_the_log() -> None:
    seen = []

    async def bind(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(dict(structlog.contextvars.get_contextvars()))
        structlog.contextvars.bind_contextvars(customer=len(seen))
        await answer(send, await whole(receive) or b"")

    async with house(bind) as one, one.line() as line:
        await line.say(ASK + AGAIN)
        await line.heard()
        await line.heard()
        await line.say(ASK)
        await line.heard()

        assert [{}, {}, {}] == seen


async def test_who_reads_slowly_is_waited_for() -> None:
    """What is not read is not made either."""
    made = 0

    async def endless(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal made
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": LARGE, "more_body": True})
            made += 1
            await asyncio.sleep(0)
            if one.state.tasks and all(task.cancelling() for task in one.state.tasks):
                return

    async with house(endless) as one:
        async with one.line() as line:
            await line.say(ASK)
            before = -1
            while before != made:
                before = made
                await asyncio.sleep(0.1)
        for task in one.state.tasks:
            task.cancel()

        assert 0 < made < 1000


# --- the end of a connection ----------------------------------------------------------------------


async def test_a_connection_that_nobody_uses_is_closed() -> None:
    """But not one on which an answer is being made."""

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        await answer(send, await whole(receive) or b"")

    async with house(slow, patience=0.05) as one, one.line() as line:
        for _ in range(2):
            await line.say(ASK)
            assert b"first" == await line.heard()

        assert b"" == await line.rest()


async def test_what_is_asked_is_answered_before_the_server_stops() -> None:
    going = asyncio.Event()

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        going.set()
        await asyncio.sleep(0.05)
        await answer(send, await whole(receive) or b"")

    async with house(slow) as one, one.line() as busy, one.line() as idle:
        await busy.say(ASK)
        await going.wait()
        while len(one.state.connections) < 2:
            await asyncio.sleep(0)
        for connection in list(one.state.connections):
            connection.shutdown()
        heard = await busy.rest()

        assert (b"connection: close" in heard, b"first") == (True, heard[-5:])
        assert b"" == await idle.rest()
