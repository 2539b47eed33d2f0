"""One contract for every transport: ``Unreachable`` only where provably nothing was written.

Each way in which a wire can fail is a situation with a real peer on loopback. Ours has to know
exactly. httpx's own is there for comparison: it may know less, and say that it does not know; it
must not be believed to know more. ``test_upstream`` goes further into what is ours alone.
"""

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import trustme
import uvloop

import wire
from gateway.dial import Dialer, Resuming
from gateway.errors import CallFailed, Indeterminate, Unreachable
from gateway.upstream import UNWRITTEN, Answer, Upstream, Wire

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
LARGEST = 100_000
OK = b"HTTP/1.1 200 OK\r\n"
SHORT = {"action": "add"}
LONG = {"action": "add", "comments": "x" * (1 << 23)}
SOON, AMPLE = 0.3, 20.0
"""A deadline that has to come, and one that plays no part."""


class Trust:
    """Certificates that the client trusts, and one that it does not."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.client = Resuming()
        authority.configure_trust(self.client)
        self.known = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self.known)
        self.stranger = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("localhost").configure_cert(self.stranger)


@pytest.fixture(scope="module")
def trust() -> Trust:
    return Trust()


@dataclass
class Place:
    """Where to post, and what has arrived there."""

    url: str
    server: wire.Server = field(default_factory=wire.Server)

    @property
    def heard(self) -> int:
        return len(self.server.received)


Scene = Callable[[Upstream, Trust], AbstractAsyncContextManager[Place]]


@dataclass(frozen=True)
class Way:
    """A way to fail.

    Attributes:
        scene: sets it up.
        means: what an exact transport makes of it.
        fields: what is posted.
        deadline: seconds that the call is given.

    """

    scene: Scene
    means: type[CallFailed]
    fields: Mapping[str, str] = field(default_factory=lambda: SHORT)
    deadline: float = AMPLE


# --- situations ---------------------------------------------------------------------------------


def at(url: str) -> Scene:
    """Post to a place where nobody of ours listens."""

    @asynccontextmanager
    async def scene(_: Upstream, __: Trust) -> AsyncIterator[Place]:
        yield Place(url)

    return scene


@asynccontextmanager
async def nobody(_: Upstream, __: Trust) -> AsyncIterator[Place]:
    yield Place(f"http://127.0.0.1:{wire.closed_port()}/")


@asynccontextmanager
async def no_room(_: Upstream, __: Trust) -> AsyncIterator[Place]:
    with wire.full_house() as url:
        yield Place(url)


def with_(
    talk: wire.Talk, tls: Callable[[Trust], ssl.SSLContext] | None = None, scheme: str = ""
) -> Scene:
    """Post to a peer that does this on each connection."""

    @asynccontextmanager
    async def scene(_: Upstream, trust: Trust) -> AsyncIterator[Place]:
        async with wire.serve(talk, tls(trust) if tls else None) as server:
            address = server.url.partition(":")[2]
            yield Place(f"{scheme or server.url.partition(':')[0]}:{address}", server)

    return scene


def stale(end: Callable[[wire.Peer], object], *, gone: bool = False) -> Scene:
    """Post once with success; then the connection ends while nobody looks, maybe the peer too."""

    @asynccontextmanager
    async def scene(upstream: Upstream, _: Trust) -> AsyncIterator[Place]:
        async def talk(peer: wire.Peer) -> None:
            await peer.answer(await peer.read())
            if gone:
                await server.stop_listening()
            end(peer)

        async with wire.serve(talk) as server:
            await upstream.post(server.url, SHORT, key="k", timeout=AMPLE)
            while not server.finished:
                await asyncio.sleep(0.001)
            yield Place(server.url, server)

    return scene


@asynccontextmanager
async def dies_at_the_second_call(upstream: Upstream, _: Trust) -> AsyncIterator[Place]:
    """Post once with success; the same connection then takes the next request and ends."""

    async def talk(peer: wire.Peer) -> None:
        await peer.answer(await peer.read())
        await peer.read()

    async with wire.serve(talk) as server:
        await upstream.post(server.url, SHORT, key="k", timeout=AMPLE)
        yield Place(server.url, server)


def said(*parts: bytes, pause: float = 0) -> wire.Talk:
    """Read the request, write this, close."""

    async def talk(peer: wire.Peer) -> None:
        await peer.read()
        await peer.write(*parts, pause=pause)

    return talk


def held(*parts: bytes) -> wire.Talk:
    """Read the request, write this, and say no more."""

    async def talk(peer: wire.Peer) -> None:
        await peer.read()
        await peer.write(*parts)
        await peer.hang()

    return talk


def reset_after(*parts: bytes) -> wire.Talk:
    async def talk(peer: wire.Peer) -> None:
        await peer.read()
        await peer.write(*parts)
        peer.reset()

    return talk


async def reset_at_once(peer: wire.Peer) -> None:
    peer.reset()


async def reset_while_reading(peer: wire.Peer) -> None:
    await peer.read_some()
    peer.reset()


async def stops_reading(peer: wire.Peer) -> None:
    await peer.read_some()
    await asyncio.Event().wait()


def known(trust: Trust) -> ssl.SSLContext:
    return trust.known


def stranger(trust: Trust) -> ssl.SSLContext:
    return trust.stranger


HALF = OK + b"Content-Length: 20\r\n\r\n{"
HUGE = OK + b"Content-Length: %d\r\n\r\n" % (9 * LARGEST) + b"x" * 9 * LARGEST
ENDLESS = OK + b"\r\n" + b"x" * 9 * LARGEST
GARBAGE = b"\x00\xff\x16\x03garbage\r\n\r\n"

WAYS: Mapping[str, Way] = {
    # nothing can have been written
    "refused": Way(nobody, Unreachable),
    "unresolved": Way(at("http://nobody.invalid/"), Unreachable),
    "a certificate of a stranger": Way(with_(wire.Peer.read, stranger), Unreachable),
    "a peer without TLS": Way(with_(held(), scheme="https"), Unreachable, deadline=SOON),
    "reset in the handshake": Way(with_(reset_at_once, scheme="https"), Unreachable),
    "no time to connect": Way(no_room, Unreachable, deadline=SOON),
    "no time for the handshake": Way(
        with_(wire.Peer.hang, scheme="https"), Unreachable, deadline=SOON
    ),
    "stale, and the peer gone": Way(stale(lambda _: None, gone=True), Unreachable),
    "stale by a reset, and the peer gone": Way(stale(wire.Peer.reset, gone=True), Unreachable),
    # something may have been written
    "reset while writing": Way(with_(reset_while_reading), Indeterminate, LONG),
    "reset after writing": Way(with_(reset_after()), Indeterminate),
    "reset after writing, in TLS": Way(with_(reset_after(), known), Indeterminate),
    "reset in the answer": Way(with_(reset_after(HALF)), Indeterminate),
    "closed after reading": Way(with_(said()), Indeterminate),
    "closed after reading, in TLS": Way(with_(said(), known), Indeterminate),
    "closed at the second call": Way(dies_at_the_second_call, Indeterminate),
    "half a head": Way(with_(said(OK[:9])), Indeterminate),
    "half an answer": Way(with_(said(HALF)), Indeterminate),
    "half an answer, in TLS": Way(with_(said(HALF), known), Indeterminate),
    "no time to write": Way(with_(stops_reading), Indeterminate, LONG, SOON),
    "no time to read": Way(with_(held()), Indeterminate, deadline=SOON),
    "no time to read, in TLS": Way(with_(held(), known), Indeterminate, deadline=SOON),
    "no time to read the rest": Way(with_(held(HALF)), Indeterminate, deadline=SOON),
    "a slow drip": Way(
        with_(said(*[bytes([one]) for one in HALF], pause=SOON / 4)), Indeterminate, deadline=SOON
    ),
    "a huge answer": Way(with_(said(HUGE)), Indeterminate),
    "an answer without end": Way(with_(said(ENDLESS)), Indeterminate),
    "garbage": Way(with_(said(GARBAGE)), Indeterminate),
    "garbage, and no end of it": Way(with_(held(GARBAGE)), Indeterminate),
}


# --- the contract -------------------------------------------------------------------------------

TRANSPORTS: Mapping[str, Callable[[Trust], httpx.AsyncBaseTransport]] = {
    "ours": lambda trust: Wire(dialer=Dialer(trust.client), largest=LARGEST, idle=AMPLE),
    "httpx": lambda trust: httpx.AsyncHTTPTransport(verify=trust.client),
}
LEAKY = pytest.param("httpx", marks=pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
"""A handshake that httpx's gives up leaves its socket to the garbage collector."""


@pytest.fixture(params=["ours", LEAKY])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each transport by its name; what it leaves behind is collected before the next test."""
    yield request.param
    if request.param != "ours":
        gc.collect()


@asynccontextmanager
async def over(transport: httpx.AsyncBaseTransport) -> AsyncIterator[Upstream]:
    upstream = Upstream(transport, largest=LARGEST)
    try:
        yield upstream
    finally:
        await upstream.aclose()


async def outcome(
    upstream: Upstream, url: str, fields: Mapping[str, str], deadline: float
) -> Answer | type[CallFailed]:
    try:
        return await upstream.post(url, fields, key="k", timeout=deadline)
    except CallFailed as failure:
        return type(failure)


@pytest.mark.parametrize("name", WAYS)
async def test_a_failure_means_never_heard_only_where_that_is_proven(
    trust: Trust, transport: str, name: str
) -> None:
    way = WAYS[name]
    async with over(TRANSPORTS[transport](trust)) as upstream, way.scene(upstream, trust) as place:
        before = place.heard
        told = await outcome(upstream, place.url, way.fields, way.deadline)
        heard = place.heard - before

    allowed = {way.means} if transport == "ours" else {way.means, Indeterminate}
    assert told in allowed
    assert not (told is Unreachable and heard)


@pytest.mark.parametrize("end", [wire.Peer.reset, lambda _: None], ids=["reset", "closed"])
async def test_a_connection_that_ends_at_once_is_heard_by_nobody_or_not_known(
    trust: Trust, transport: str, end: Callable[[wire.Peer], None]
) -> None:
    """Whether the news comes before the write is a race that no transport can decide."""

    async def talk(peer: wire.Peer) -> None:
        end(peer)

    async with over(TRANSPORTS[transport](trust)) as upstream, wire.serve(talk) as server:
        told = await outcome(upstream, server.url, SHORT, AMPLE)

        assert told in {Unreachable, Indeterminate}
        assert (b"", 1) == (server.received, server.accepted)


@pytest.mark.parametrize("end", [wire.Peer.reset, lambda _: None], ids=["reset", "closed"])
async def test_a_stale_connection_is_replaced_and_the_call_arrives_once(
    trust: Trust, transport: str, end: Callable[[wire.Peer], None]
) -> None:
    async with (
        over(TRANSPORTS[transport](trust)) as upstream,
        stale(end)(upstream, trust) as place,
    ):
        told = await outcome(upstream, place.url, SHORT, AMPLE)

        assert (Answer(200, b"action=add&key=k"), 2, 2) == (
            told,
            place.server.accepted,
            len(place.server.requests),
        )


# --- what a transport may raise -----------------------------------------------------------------

NEVER_SENT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
}
RAISED: set[type[Exception]] = {
    one
    for one in vars(httpx).values()
    if isinstance(one, type) and issubclass(one, httpx.TransportError)
} | {httpx.DecodingError, httpx.TooManyRedirects, httpx.InvalidURL, httpx.StreamClosed}
RAISED |= {OSError, ConnectionRefusedError, TimeoutError, ssl.SSLError, ValueError, AssertionError}


def made(kind: type[Exception]) -> Exception:
    return kind() if kind is httpx.StreamClosed else kind("words")


def by_name(kinds: set[type[Exception]]) -> list[type[Exception]]:
    return sorted(kinds, key=lambda one: one.__name__)


@pytest.mark.parametrize("kind", by_name(RAISED))
async def test_of_all_that_can_be_raised_four_are_a_proof(kind: type[Exception]) -> None:
    async def panel(_: httpx.Request) -> httpx.Response:
        raise made(kind)

    async with over(httpx.MockTransport(panel)) as upstream:
        told = await outcome(upstream, "http://panel.example/", SHORT, AMPLE)

    assert (Unreachable if kind in NEVER_SENT else Indeterminate) is told


@pytest.mark.parametrize("kind", by_name(RAISED))
async def test_a_transport_that_says_it_wrote_nothing_is_believed(kind: type[Exception]) -> None:
    async def panel(request: httpx.Request) -> httpx.Response:
        request.extensions[UNWRITTEN] = True
        raise made(kind)

    async with over(httpx.MockTransport(panel)) as upstream:
        assert Unreachable is await outcome(upstream, "http://panel.example/", SHORT, AMPLE)


@pytest.mark.parametrize("kind", by_name(RAISED - NEVER_SENT))
async def test_an_answer_that_breaks_off_is_not_known(kind: type[Exception]) -> None:
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'{"order":'
            raise made(kind)

    async def panel(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Broken())

    async with over(httpx.MockTransport(panel)) as upstream:
        assert Indeterminate is await outcome(upstream, "http://panel.example/", SHORT, AMPLE)
