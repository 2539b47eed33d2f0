"""Whatever a wire does, only what provably was never written is ``Unreachable``.

Each way to fail is a *talk* of a real server on loopback. They run over our transport, and over
httpx's own for comparison; where the two differ, the table says what may be expected of it.
"""

import asyncio
import contextlib
import gzip
import random
import socket
import ssl
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from urllib.parse import parse_qsl

import httpx
import pytest
import trustme
import uvloop
from starlette.types import Receive, Scope, Send

import wire
from gateway.dial import Dialer, Resuming
from gateway.errors import CallFailed, Indeterminate, Unreachable
from gateway.upstream import HEAD, LARGE, SLICE, TURN, UNWRITTEN, Answer, Upstream, Wire

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
KEY = "sk-0123&456=789"
ENCODED = "sk-0123%26456%3D789"
FIELDS = {"action": "add", "service": "1", "link": "https://example.com/p/1", "quantity": "100"}
LARGEST = 100_000
OK = b"HTTP/1.1 200 OK\r\n"
SOON = 0.3
"""A deadline for what never ends by itself."""

AMPLE = 20.0
"""A deadline that plays no part."""


class Certificates:
    """A server that our client trusts, and the client."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self.server)
        self.stranger = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("localhost").configure_cert(self.stranger)
        self.misnamed = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("elsewhere.example").configure_cert(self.misnamed)
        self.client = Resuming()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture(autouse=True)
def nothing_escapes_into_the_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a callback raises would else only be logged."""
    yield
    escaped = [one.getMessage() for one in caplog.get_records("call") if one.name == "asyncio"]

    assert [] == escaped


@contextlib.asynccontextmanager
async def upstream_over(
    transport: httpx.AsyncBaseTransport, largest: int = LARGEST
) -> AsyncIterator[Upstream]:
    upstream = Upstream(transport, largest=largest)
    try:
        yield upstream
    finally:
        await upstream.aclose()


@pytest.fixture
async def ours(certificates: Certificates) -> AsyncIterator[Upstream]:
    async with upstream_over(
        Wire(dialer=Dialer(certificates.client), largest=LARGEST, idle=AMPLE)
    ) as upstream:
        yield upstream


@pytest.fixture
async def httpx_own(certificates: Certificates) -> AsyncIterator[Upstream]:
    async with upstream_over(httpx.AsyncHTTPTransport(verify=certificates.client)) as upstream:
        yield upstream


@pytest.fixture(params=["ours", "httpx_own"])
def either(request: pytest.FixtureRequest, ours: Upstream, httpx_own: Upstream) -> Upstream:
    return {"ours": ours, "httpx_own": httpx_own}[request.param]


async def outcome(
    upstream: Upstream, url: str, deadline: float = AMPLE
) -> Answer | type[CallFailed]:
    """Post, and return the answer or the failure's type; what a failure tells holds no key."""
    try:
        return await upstream.post(url, FIELDS, key=KEY, timeout=deadline)
    except CallFailed as failure:
        return told_by(failure)


def told_by(failure: CallFailed) -> type[CallFailed]:
    """Return the failure's type, which is all that may be learned from it."""
    words = [str(failure), repr(failure), repr(failure.__context__), repr(failure.__cause__)]
    assert not any(secret in one for one in words for secret in (KEY, ENCODED, "0123"))
    assert type(failure) in {Unreachable, Indeterminate}
    return type(failure)


# --- nothing was written ------------------------------------------------------------------------


async def test_a_refused_connection_was_never_heard(either: Upstream) -> None:
    url = f"http://127.0.0.1:{wire.closed_port()}/api/v2"

    assert Unreachable is await outcome(either, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://nobody.invalid/api/v2",
        f"http://{'a' * 70}.invalid/api/v2",
        "http://a..b.invalid/api/v2",
        "http:///api/v2",
        "ftp://127.0.0.1/api/v2",
        "127.0.0.1/api/v2",
        "http://[::1/api/v2",
        "http://127.0.0.1:none/api/v2",
        "",
    ],
)
async def test_a_place_that_does_not_exist_was_never_heard(ours: Upstream, url: str) -> None:
    assert Unreachable is await outcome(ours, url)


@pytest.mark.parametrize("kind", ["stranger", "misnamed"])
async def test_a_certificate_that_is_not_trusted_gets_nothing(
    either: Upstream, certificates: Certificates, kind: str
) -> None:
    async with wire.serve(wire.Peer.read, tls=getattr(certificates, kind)) as server:
        heard = await outcome(either, server.url)

        assert (Unreachable, b"") == (heard, server.received)


async def test_a_server_that_speaks_no_tls_gets_nothing(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.write(OK + b"Content-Length: 2\r\n\r\n{}")
        await peer.hang()

    async with wire.serve(talk) as server:
        assert Unreachable is await outcome(ours, server.url.replace("http:", "https:"))


async def test_a_reset_in_the_middle_of_the_handshake_comes_before_all(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        peer.reset()

    async with wire.serve(talk) as server:
        assert Unreachable is await outcome(ours, server.url.replace("http:", "https:"))


async def test_time_that_runs_out_while_connecting_leaves_nothing_behind(ours: Upstream) -> None:
    with wire.full_house() as url:
        assert Unreachable is await outcome(ours, url, SOON)


async def test_time_that_runs_out_in_the_handshake_leaves_nothing_behind(ours: Upstream) -> None:
    async with wire.serve(wire.Peer.hang) as server:
        assert Unreachable is await outcome(ours, server.url.replace("http:", "https:"), SOON)


async def test_what_has_no_utf8_is_not_sent() -> None:
    sent = []

    async def panel(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    async with upstream_over(httpx.MockTransport(panel)) as upstream:
        with pytest.raises(Unreachable) as raised:
            await upstream.post("http://x/", {"link": "secret\ud800"}, key=KEY, timeout=1)

    assert ([], True) == (sent, "secret" not in repr(raised.value))


async def test_after_closing_nothing_is_sent(ours: Upstream) -> None:
    async with wire.serve(wire.Peer.read) as server:
        await ours.aclose()

        assert (Unreachable, b"") == (await outcome(ours, server.url), server.received)


# --- something may have been written ------------------------------------------------------------


def says(*parts: bytes, pause: float = 0) -> wire.Talk:
    """Read the request, write these parts, close."""

    async def talk(peer: wire.Peer) -> None:
        await peer.read()
        await peer.write(*parts, pause=pause)

    return talk


def holds(*parts: bytes) -> wire.Talk:
    """Read the request, write these parts, keep the connection open."""

    async def talk(peer: wire.Peer) -> None:
        await peer.read()
        await peer.write(*parts)
        await peer.hang()

    return talk


async def reset_after_reading(peer: wire.Peer) -> None:
    await peer.read()
    peer.reset()


async def reset_in_the_answer(peer: wire.Peer) -> None:
    await peer.read()
    await peer.write(OK + b"Content-Length: 20\r\n\r\n{")
    peer.reset()


async def drip(peer: wire.Peer) -> None:
    await peer.read()
    await peer.write(OK + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 10_000, pause=SOON / 10)


BOMB = gzip.compress(bytes(100 * LARGEST))
TWICE = gzip.compress(gzip.compress(b"{}"))
CODED = b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s"

BROKEN: dict[str, wire.Talk] = {
    "closed after reading": says(),
    "reset after reading": reset_after_reading,
    "reset in the answer": reset_in_the_answer,
    "half a status line": says(b"HTTP/1.1 20"),
    "half the headers": says(OK + b"Content-Le"),
    "half the body": says(OK + b"Content-Length: 20\r\n\r\n{"),
    "half the chunks": says(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    "only an announcement": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "garbage": says(b"\x00\xff\x16\x03garbage\r\n\r\n"),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "garbage for a length": says(OK + b"Content-Length: many\r\n\r\n{}"),
    "a negative length": says(OK + b"Content-Length: -1\r\n\r\n{}"),
    "two lengths": says(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "),
    "garbage for chunks": says(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
    "a chunk longer than said": says(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n0\r\n"),
    "garbage for gzip": says(OK + CODED % (b"gzip", 5, b"hello")),
    "endless headers": says(OK + b"X: y\r\n" * HEAD),
    "one endless header": says(OK + b"X: " + b"y" * 2 * HEAD),
    "endless announcements": says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * HEAD),
}

OVERSIZED: dict[str, wire.Talk] = {
    "too long": says(OK + b"Content-Length: %d\r\n\r\n" % (LARGEST * 9) + b"x" * LARGEST * 9),
    "too many chunks": says(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nxxxx\r\n" * LARGEST, b"0\r\n\r\n"
    ),
    "no end": says(OK + b"\r\n", b"x" * LARGEST * 9),
    "endless trailers": says(
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * LARGEST, b"\r\n"
    ),
    "a bomb": says(OK + CODED % (b"gzip", len(BOMB), BOMB)),
    "compressed twice": says(OK + CODED % (b"gzip, gzip", len(TWICE), TWICE)),
    "another protocol, by agreement": says(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello"
    ),
}

ENDLESS: dict[str, wire.Talk] = {
    "no answer": holds(),
    "half a status line": holds(b"HTTP/1.1 2"),
    "half the body": holds(OK + b"Content-Length: 20\r\n\r\n{"),
    "a body whose end is the connection's": holds(OK + b"\r\n{}"),
    "a slow drip": drip,
    "never reads": wire.Peer.hang,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_broken_after_the_write_may_have_been_heard(
    either: Upstream, name: str
) -> None:
    async with wire.serve(BROKEN[name]) as server:
        heard = await outcome(either, server.url)

        assert (Indeterminate, 1, 1) == (heard, server.accepted, len(server.requests))


@pytest.mark.parametrize("name", OVERSIZED)
async def test_an_answer_beyond_all_measure_is_cut_off(ours: Upstream, name: str) -> None:
    async with wire.serve(OVERSIZED[name]) as server:
        heard = await outcome(ours, server.url)

        assert (Indeterminate, 1, 1) == (heard, server.accepted, len(server.requests))


@pytest.mark.parametrize("name", ENDLESS)
async def test_time_that_runs_out_after_the_write_may_be_an_order(
    either: Upstream, name: str
) -> None:
    async with wire.serve(ENDLESS[name]) as server:
        assert Indeterminate is await outcome(either, server.url, SOON)


async def test_headers_without_end_are_not_waited_for(certificates: Certificates) -> None:
    async with (
        upstream_over(Wire(dialer=Dialer(certificates.client))) as upstream,
        wire.serve(holds(OK + b"X: y\r\n" * (HEAD // 4))) as server,
    ):
        assert Indeterminate is await outcome(upstream, server.url)


async def test_a_bomb_takes_little_more_room_than_an_answer_may(ours: Upstream) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    async with wire.serve(says(OK + CODED % (b"gzip", len(bomb), bomb))) as server:
        tracemalloc.start()
        heard = await outcome(ours, server.url)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert (Indeterminate, True) == (heard, most < 16 << 20)


async def test_a_reset_in_the_middle_of_a_long_write_may_be_an_order(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.read_some()
        peer.reset()

    async with wire.serve(talk) as server:
        with pytest.raises(Indeterminate):
            await ours.post(server.url, {"comments": "x" * (1 << 23)}, key=KEY, timeout=AMPLE)


async def test_time_that_runs_out_in_a_long_write_may_be_an_order(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.read_some()
        await asyncio.Event().wait()

    async with wire.serve(talk) as server:
        with pytest.raises(Indeterminate):
            await ours.post(server.url, {"comments": "x" * (1 << 23)}, key=KEY, timeout=SOON)


async def test_a_cut_off_tls_stream_is_no_complete_answer(
    ours: Upstream, certificates: Certificates
) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.read()
        await peer.write(OK + b'\r\n{"order": 1')
        peer.reset()

    async with wire.serve(talk, tls=certificates.server) as server:
        assert Indeterminate is await outcome(ours, server.url)


# --- other transports ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "means"),
    [
        (httpx.ConnectError("refused"), Unreachable),
        (httpx.ConnectTimeout("slow"), Unreachable),
        (httpx.PoolTimeout("busy"), Unreachable),
        (httpx.UnsupportedProtocol("gopher"), Unreachable),
        (httpx.WriteError("broken"), Indeterminate),
        (httpx.WriteTimeout("slow"), Indeterminate),
        (httpx.ReadError("broken"), Indeterminate),
        (httpx.ReadTimeout("slow"), Indeterminate),
        (httpx.CloseError("broken"), Indeterminate),
        (httpx.RemoteProtocolError("garbage"), Indeterminate),
        (httpx.LocalProtocolError("garbage"), Indeterminate),
        (httpx.ProxyError("no"), Indeterminate),
        (ConnectionRefusedError("by whom?"), Indeterminate),
        (TimeoutError("whose?"), Indeterminate),
        (RuntimeError(f"a bug that tells {KEY}"), Indeterminate),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
async def test_only_a_proof_makes_a_failure_harmless(
    raised: Exception, means: type[CallFailed]
) -> None:
    async def panel(_: httpx.Request) -> httpx.Response:
        raise raised

    async with upstream_over(httpx.MockTransport(panel)) as upstream:
        assert means is await outcome(upstream, "http://panel.example/api/v2")


async def test_a_transport_that_does_not_say_whether_it_wrote_may_have() -> None:
    async def panel(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with upstream_over(httpx.MockTransport(panel)) as upstream:
        assert Indeterminate is await outcome(upstream, "http://panel.example/", SOON)


async def test_a_prepared_answer_is_cut_off_as_well() -> None:
    async def panel(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=bytes(LARGEST + 1))

    async with upstream_over(httpx.MockTransport(panel)) as upstream:
        assert Indeterminate is await outcome(upstream, "http://panel.example/")


async def test_an_asgi_app_can_be_the_panel() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        form = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": form})

    async with upstream_over(httpx.ASGITransport(app)) as upstream:
        answer = await upstream.post("http://panel.example/", {"a": "é"}, key="k", timeout=AMPLE)

    assert Answer(200, b"a=%C3%A9&key=k") == answer


async def test_a_caller_who_is_cancelled_is_cancelled(ours: Upstream) -> None:
    async with wire.serve(wire.Peer.read_all) as server:
        call = asyncio.create_task(ours.post(server.url, FIELDS, key=KEY, timeout=AMPLE))
        while not server.requests:
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.wait([call])
        while not server.finished:  # the server sees the end of the connection
            await asyncio.sleep(0.001)

        assert (True, 1) == (call.cancelled(), server.accepted)


# --- what arrives -------------------------------------------------------------------------------


async def echo(peer: wire.Peer) -> None:
    while body := await peer.read():
        await peer.answer(body)


ODD = {"comments": "größe\r\n&+%=#?;\x00 %41 ﷽ 🎉", "link": "https://x.y/?a=1&b=%20+", "empty": ""}


async def test_what_is_posted_arrives_to_the_letter_with_the_key_at_its_end(
    either: Upstream,
) -> None:
    async with wire.serve(echo) as server:
        answer = await either.post(server.url, ODD, key=KEY, timeout=AMPLE)

    arrived = parse_qsl(answer.body.decode(), keep_blank_values=True, strict_parsing=True)
    assert [*ODD.items(), ("key", KEY)] == arrived


async def test_the_request_is_what_a_server_expects(ours: Upstream) -> None:
    async with wire.serve(echo) as server:
        await ours.post(server.url + "?lang=é", {"a": "b"}, key="k", timeout=AMPLE)
        head, body = server.requests[0]
        host = server.url.split("/")[2].encode()

    lines = head.split(b"\r\n")
    assert b"POST /api/v2?lang=%C3%A9 HTTP/1.1" == lines[0]
    assert b"a=b&key=k" == body
    assert {
        b"Host: " + host,
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Length: 9",
        b"Accept-Encoding: gzip",
    } <= set(lines)


HTML = b"<h1>moved</h1>"
FINE: dict[str, tuple[wire.Talk, Answer]] = {
    "a length": (says(OK + b"Content-Length: 2\r\n\r\n{}"), Answer(200, b"{}")),
    "byte by byte": (
        says(*[b"%c" % one for one in OK + b"Content-Length: 2\r\n\r\n{}"], pause=0.001),
        Answer(200, b"{}"),
    ),
    "chunks": (
        says(
            OK + b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\n{\r\n1\r\n}\r\n0\r\n"
            b"Content-Encoding: gzip\r\n\r\n"
        ),
        Answer(200, b"{}"),
    ),
    "until it closes": (says(OK + b"\r\n", b"{", b"}", pause=0.01), Answer(200, b"{}")),
    "HTTP/1.0": (says(b"HTTP/1.0 200 OK\r\n\r\n{}"), Answer(200, b"{}")),
    "empty": (says(OK + b"Content-Length: 0\r\n\r\n"), Answer(200, b"")),
    "nothing to say": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), Answer(204, b"")),
    "not modified": (says(b"HTTP/1.1 304 Not Modified\r\n\r\n"), Answer(304, b"")),
    "no reason": (says(b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n"), Answer(503, b"")),
    "announced": (
        says(
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\n\r\n",
            OK + b"Content-Length: 2\r\n\r\n{}",
            pause=0.01,
        ),
        Answer(200, b"{}"),
    ),
    "moved": (
        says(
            b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 14\r\n\r\n",
            HTML,
        ),
        Answer(301, HTML),
    ),
    "an upgrade on offer": (
        says(OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}"),
        Answer(200, b"{}"),
    ),
    "gzip": (
        says(OK + CODED % (b"gzip", len(gzip.compress(HTML)), gzip.compress(HTML))),
        Answer(200, HTML),
    ),
    "deflate": (
        says(OK + CODED % (b"Deflate", len(zlib.compress(HTML)), zlib.compress(HTML))),
        Answer(200, HTML),
    ),
    "as large as may be": (
        says(OK + b"Content-Length: %d\r\n\r\n" % LARGEST + b"x" * LARGEST),
        Answer(200, b"x" * LARGEST),
    ),
    "as large as may be, compressed": (
        says(
            OK
            + CODED % (b"gzip", len(gzip.compress(bytes(LARGEST))), gzip.compress(bytes(LARGEST)))
        ),
        Answer(200, bytes(LARGEST)),
    ),
}


@pytest.mark.parametrize("name", FINE)
async def test_every_way_to_answer_is_understood(either: Upstream, name: str) -> None:
    talk, expected = FINE[name]
    async with wire.serve(talk) as server:
        assert expected == await outcome(either, server.url)


async def test_tls_carries_calls_one_after_another(
    ours: Upstream, certificates: Certificates
) -> None:
    async with wire.serve(echo, tls=certificates.server) as server:
        answers = [await outcome(ours, server.url) for _ in range(3)]

        assert ({200}, 1) == ({getattr(one, "status", one) for one in answers}, server.accepted)


# --- connections --------------------------------------------------------------------------------


async def post_each(upstream: Upstream, url: str, values: Sequence[int]) -> list[bytes]:
    answers = [await upstream.post(url, {"n": str(n)}, key="k", timeout=AMPLE) for n in values]
    return [answer.body for answer in answers]


async def test_calls_one_after_another_share_a_connection(ours: Upstream) -> None:
    async with wire.serve(echo) as server:
        bodies = await post_each(ours, server.url, range(50))

        assert ([b"n=%d&key=k" % n for n in range(50)], 1) == (bodies, server.accepted)


async def test_calls_at_once_have_each_a_connection_and_their_own_answer(ours: Upstream) -> None:
    async with wire.serve(echo) as server:
        columns = await asyncio.gather(
            *(post_each(ours, server.url, range(n, 1000, 100)) for n in range(100))
        )

        for n, column in enumerate(columns):
            assert [b"n=%d&key=k" % m for m in range(n, 1000, 100)] == column
        assert server.accepted <= 100


async def test_each_origin_has_its_own_connections(ours: Upstream) -> None:
    async with wire.serve(echo) as one, wire.serve(echo) as other:
        for _ in range(3):
            await outcome(ours, one.url)
            await outcome(ours, other.url)

        assert (1, 1) == (one.accepted, other.accepted)


@pytest.mark.parametrize(
    "answer",
    {
        "said so": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "more than the answer": OK + b"Content-Length: 2\r\n\r\n{}extra",
        "two answers": (OK + b"Content-Length: 2\r\n\r\n{}") * 2,
    }.values(),
    ids=["said so", "HTTP/1.0", "more than the answer", "two answers"],
)
async def test_some_connections_serve_but_once(ours: Upstream, answer: bytes) -> None:
    async with wire.serve(holds(answer)) as server:
        found = [await outcome(ours, server.url) for _ in range(2)]

        assert ([Answer(200, b"{}")] * 2, 2) == (found, server.accepted)


async def test_what_comes_unasked_is_nobodys_answer(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.answer(await peer.read())
        await answered.wait()
        await peer.answer(b"stale")
        await peer.hang()

    answered = asyncio.Event()
    async with wire.serve(talk) as server:
        first = await post_each(ours, server.url, [1])
        answered.set()
        while server.finished < 1:  # the news of it ends the connection
            await asyncio.sleep(0.001)
        second = await post_each(ours, server.url, [2])

        assert ([b"n=1&key=k"], [b"n=2&key=k"], 2) == (first, second, server.accepted)


async def test_an_early_answer_to_a_long_request_ends_the_connection(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.read_some()
        await peer.answer(b"too large", status=b"413 Content Too Large")
        await peer.hang()

    async with wire.serve(talk) as server:
        answers = [
            await ours.post(server.url, {"a": "x" * (1 << 23)}, key="k", timeout=AMPLE)
            for _ in range(2)
        ]

        assert ([Answer(413, b"too large")] * 2, 2) == (answers, server.accepted)


@pytest.mark.parametrize("end", ["closed", "reset"])
async def test_an_idle_connection_that_went_stale_is_replaced(ours: Upstream, end: str) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.answer(await peer.read())
        if end == "reset":
            peer.reset()

    async with wire.serve(talk) as server:
        found = []
        for n in range(5):
            found += await post_each(ours, server.url, [n])
            while server.finished <= n:
                await asyncio.sleep(0.001)

        assert ([b"n=%d&key=k" % n for n in range(5)], 5) == (found, server.accepted)


async def test_the_end_of_an_idle_connection_is_seen_before_the_loop_hears_of_it(
    ours: Upstream,
) -> None:
    with wire.Handmade() as server:
        first = asyncio.create_task(outcome(ours, server.url))
        await asyncio.to_thread(server.answer_one)
        await first
        server.close_accepted()  # no turn of the loop between this and the next call's write
        second = asyncio.create_task(outcome(ours, server.url))
        await asyncio.to_thread(server.answer_one)

        assert (Answer(200, b"{}"), Answer(200, b"{}")) == (await first, await second)


async def test_a_stale_connection_with_nobody_to_replace_it_was_never_heard(
    ours: Upstream,
) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.answer(await peer.read())
        await server.stop_listening()

    async with wire.serve(talk) as server:
        await outcome(ours, server.url)
        while not server.finished:
            await asyncio.sleep(0.001)

        assert (Unreachable, 1) == (await outcome(ours, server.url), len(server.requests))


async def test_a_reused_connection_that_dies_at_the_write_is_not_tried_again(
    ours: Upstream,
) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.answer(await peer.read())
        await peer.read()

    async with wire.serve(talk) as server:
        await outcome(ours, server.url)

        assert (Indeterminate, 1, 2) == (
            await outcome(ours, server.url),
            server.accepted,
            len(server.requests),
        )


async def test_an_idle_connection_is_closed_after_a_while(certificates: Certificates) -> None:
    transport = Wire(dialer=Dialer(certificates.client), idle=0.05)
    async with upstream_over(transport) as upstream, wire.serve(echo) as server:
        await asyncio.gather(*(outcome(upstream, server.url) for _ in range(5)))
        while server.finished < server.accepted:
            await asyncio.sleep(0.001)
        opened = server.accepted
        await outcome(upstream, server.url)

        assert (opened + 1, 1) == (server.accepted, server.accepted - server.finished)


async def test_an_idle_connection_past_its_time_is_not_used(certificates: Certificates) -> None:
    transport = Wire(dialer=Dialer(certificates.client), idle=0.05)
    async with upstream_over(transport) as upstream, wire.serve(echo) as server:
        await outcome(upstream, server.url)
        time.sleep(0.06)  # noqa: ASYNC251 - the loop is held up, and nothing can be swept away
        await outcome(upstream, server.url)

        assert 2 == server.accepted


async def test_the_connection_used_last_is_used_first(ours: Upstream) -> None:
    async def talk(peer: wire.Peer) -> None:
        while await peer.read():
            await peer.answer(b"%d" % peer.number)

    async with wire.serve(talk) as server:
        await asyncio.gather(*(outcome(ours, server.url) for _ in range(4)))
        answers = [await outcome(ours, server.url) for _ in range(8)]

        assert 1 == len({getattr(one, "body", one) for one in answers})


async def test_closing_ends_every_connection_and_the_calls_on_them(
    certificates: Certificates,
) -> None:
    async def talk(peer: wire.Peer) -> None:
        await peer.answer(await peer.read())
        await peer.hang()

    transport = Wire(dialer=Dialer(certificates.client))
    upstream = Upstream(transport)
    async with wire.serve(talk) as idle, wire.serve(wire.Peer.read_all) as busy:
        await outcome(upstream, idle.url)
        call = asyncio.create_task(outcome(upstream, busy.url))
        while not busy.requests:
            await asyncio.sleep(0.001)
        await upstream.aclose()
        left = len(transport.connections)
        heard = await call
        while idle.finished + busy.finished < 2:
            await asyncio.sleep(0.001)

        assert (Indeterminate, 0) == (heard, left)


async def test_closing_does_not_wait_for_a_connection_that_was_given_up_while_it_opened() -> None:
    """On uvloop nobody hears of its end."""
    transport = Wire()
    async with asyncio.timeout(AMPLE), wire.serve(wire.Peer.hang) as server:
        call = asyncio.create_task(outcome(Upstream(transport), server.url))
        while not transport.connections:
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        await transport.aclose()

    assert call.cancelled()


@pytest.mark.parametrize("host", ["a..b.invalid", "a" * 70 + ".invalid", "nobody.invalid"])
async def test_a_transport_tells_no_such_name_in_the_words_of_httpx(host: str) -> None:
    transport = Wire()
    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(httpx.Request("POST", f"http://{host}/"))
    await transport.aclose()


async def test_a_transport_says_when_it_begins_to_write() -> None:
    transport = Wire()
    request = httpx.Request("POST", f"http://127.0.0.1:{wire.closed_port()}/")
    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(request)
    before = request.extensions[UNWRITTEN]
    async with wire.serve(says()) as server:
        request = httpx.Request("POST", server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await transport.handle_async_request(request)
    await transport.aclose()

    assert (True, False) == (before, request.extensions[UNWRITTEN])


async def test_others_have_a_turn_while_a_long_answer_comes() -> None:
    """Whatever is there would be read at once otherwise, and a flood is always there."""
    length = 32 << 20
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def flood() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(1 << 16)
                peer.sendall(OK + b"Content-Length: %d\r\n\r\n" % length)
                for _ in range(length >> 20):
                    peer.sendall(bytes(1 << 20))

        transport, most, before = Wire(), 0, 0
        async with upstream_over(transport, 2 * length) as upstream:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            call = asyncio.create_task(upstream.post(url, {}, key=KEY, timeout=AMPLE))
            server = asyncio.create_task(asyncio.to_thread(flood))
            while not call.done():
                received = sum(one._received for one in transport.connections)
                most, before = max(most, received - before), received
                await asyncio.sleep(0)
            await server

    assert length == len(call.result().body)
    assert most <= LARGE + (1 << 18)


class Pieces(httpx.AsyncByteStream):
    """A body that is all there, a KB at a time."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), SLICE):
            yield self._body[start : start + SLICE]


async def test_a_compressed_answer_gives_turns_by_what_it_becomes() -> None:
    """By what is sent, a catalog would wait for as many turns as it has KB, and never come."""
    plain = random.Random(1).randbytes(LARGE // 2).hex().encode()
    coded, turns = Pieces(gzip.compress(plain, 1)), 0
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=coded)
    )
    async with upstream_over(transport, 2 * len(plain)) as upstream:
        call = asyncio.create_task(upstream.post("http://panel/", {}, key=KEY, timeout=AMPLE))
        while not call.done():
            turns += 1
            await asyncio.sleep(0)

    assert plain == call.result().body
    assert len(plain) // TURN <= turns <= len(plain) // TURN + 10
