"""A provider stays within reach: by another address, by the last one known, by a known session."""

import asyncio
import gc
import socket
import ssl
import struct
import warnings
from collections.abc import Sequence

import httpx
import pytest
import trustme
import uvloop

import wire
from gateway.dial import Address, Dialer, Resuming
from gateway.errors import Unreachable
from gateway.upstream import Upstream, Wire

AMPLE = 20.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def address(url: str) -> Address:
    port = httpx.URL(url).port
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))


async def answering(peer: wire.Peer) -> None:
    while await peer.read():
        await peer.answer(b"{}")


def trusted() -> tuple[ssl.SSLContext, Resuming]:
    """Return what a server is known by, and a client that knows it."""
    authority = trustme.CA()
    known = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(known)
    client = Resuming()
    authority.configure_trust(client)
    return known, client


async def post(upstream: Upstream, url: str) -> int:
    return (await upstream.post(url, {"action": "balance"}, key="k", timeout=AMPLE)).status


async def test_an_address_that_leads_nowhere_is_passed_over() -> None:
    with wire.full_house() as nowhere:
        async with wire.serve(answering) as server:

            async def lookup(_: str, __: int) -> Sequence[Address]:
                return [address(nowhere), address(server.url)]

            upstream = Upstream(Wire(dialer=Dialer(lookup=lookup)))
            answered = await post(upstream, server.url)
            await upstream.aclose()

        assert 200 == answered


async def test_a_name_that_cannot_be_looked_up_keeps_its_addresses() -> None:
    """Whether the resolver says so, or says nothing."""
    never = asyncio.get_running_loop().create_future()
    lookups: list[str] = []

    async with wire.serve(answering) as server:

        async def lookup(_: str, __: int) -> Sequence[Address]:
            lookups.append("asked")
            if len(lookups) == 2:
                raise socket.gaierror(socket.EAI_AGAIN, "not now")
            if len(lookups) == 3:
                await never
            return [address(server.url)]

        upstream = Upstream(Wire(dialer=Dialer(lookup=lookup), idle=0))
        answers = [await post(upstream, server.url) for _ in range(3)]
        await upstream.aclose()

        assert ([200, 200, 200], 3) == (answers, server.accepted)


async def test_a_name_is_looked_up_once_at_a_time_and_to_the_end() -> None:
    """A resolver that says nothing keeps a thread for each question, and would keep them all."""
    may = asyncio.Event()
    lookups: list[str] = []

    async with wire.serve(answering) as server:

        async def lookup(_: str, __: int) -> Sequence[Address]:
            lookups.append("asked")
            await may.wait()
            return [address(server.url)]

        upstream = Upstream(Wire(dialer=Dialer(lookup=lookup)))
        with pytest.raises(Unreachable):
            await upstream.post(server.url, {}, key="k", timeout=0.01)
        posts = [asyncio.create_task(post(upstream, server.url)) for _ in range(3)]
        await asyncio.sleep(0.01)
        may.set()
        answers = await asyncio.gather(*posts)
        await upstream.aclose()

        assert ([200, 200, 200], ["asked"]) == (answers, lookups)


async def test_a_session_with_a_server_is_taken_up_again() -> None:
    known, client = trusted()
    async with wire.serve(answering, tls=known) as server:
        upstream = Upstream(Wire(dialer=Dialer(client), idle=0))
        answers = [await post(upstream, server.url) for _ in range(3)]
        await upstream.aclose()

        assert ([200, 200, 200], 3) == (answers, server.accepted)
        assert 2 == known.session_stats()["hits"]


async def test_a_connection_that_ends_while_it_opens_leaves_no_socket_behind() -> None:
    """Such a one would close its descriptor later: by then that is somebody else's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> asyncio.Protocol:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            return asyncio.Protocol()

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with pytest.raises(ConnectionError):
                await Dialer().open(reset, *listener.getsockname(), encrypted=True)
            gc.collect()

    assert [] == [str(one.message) for one in told]


async def test_a_session_that_a_server_does_not_stand_is_not_offered_again() -> None:
    """Else the server would be out of reach for as long as this process lives."""
    known, client = trusted()
    said = iter([None, ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE, None])
    known.sni_callback = lambda *_: next(said)
    async with wire.serve(answering, tls=known) as server:
        upstream = Upstream(Wire(dialer=Dialer(client), idle=0))
        first = await post(upstream, server.url)
        with pytest.raises(Unreachable):
            await post(upstream, server.url)
        last = await post(upstream, server.url)
        await upstream.aclose()

        assert (200, 200) == (first, last)
        assert 1 == known.session_stats()["hits"]  # the one that it did not stand
