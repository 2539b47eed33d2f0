"""From an origin to an open connection: its name, its addresses, TLS.

Three things keep a provider within reach. Of several addresses the next is tried while the one
before has not answered yet, for many machines have an IPv6 that leads nowhere (RFC 8305). A name
that nobody can look up at this moment keeps the addresses that it had. And a TLS handshake takes
up the session of the one before, where the server has it, which spares both sides most of it.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypeVar

import aiohappyeyeballs

P = TypeVar("P", bound=asyncio.Protocol)
Address = tuple[int, int, int, str, Any]
"""One of those that ``getaddrinfo`` returns."""
Lookup = Callable[[str, int], Awaitable[Sequence[Address]]]

STAGGER = 0.25
"""Seconds until the next address is tried beside the one before."""
PATIENCE = 2.0
"""Seconds for which a name is looked up whose addresses were known before."""
LOOKUPS = 8
"""Names that are looked up at the same time."""
KEPT = 3600.0
"""Seconds for which addresses are good for something when they cannot be looked up."""


class Resuming(ssl.SSLContext):
    """How servers are checked, and the last session with each of them.

    A session is of a server that was checked when it began. asyncio does not hand one on, so it
    is put in where the event loop, whichever it is, asks for a connection's TLS.
    """

    def __new__(cls) -> Self:
        """Return what checks servers against the authorities that it is given."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self) -> None:
        self._sessions: dict[str | bytes | None, ssl.SSLSession] = {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002  # as ssl has it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection with the session of the one before.

        It is good for one: where the server does not stand it, the next begins anew.
        """
        session = session or self._sessions.pop(server_hostname, None)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def remember(self, transport: asyncio.BaseTransport) -> None:
        """Keep the session of a connection; some servers tell it with their first answer."""
        encrypted: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if encrypted and encrypted.session:
            self._sessions[encrypted.server_hostname] = encrypted.session


class Dialer:
    """Opens connections.

    Args:
        tls: how servers are checked; by default against the system's authorities.
        lookup: what finds a name's addresses; by default the system's resolver.

    """

    def __init__(self, tls: Resuming | None = None, lookup: Lookup | None = None) -> None:
        if tls is None:
            tls = Resuming()
            tls.load_default_certs()
        self.tls = tls
        self._lookup = lookup or _looking_up()
        self._known: dict[tuple[str, int], tuple[Sequence[Address], float]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[Sequence[Address]]] = {}

    async def open(self, make: Callable[[], P], host: str, port: int, *, encrypted: bool) -> P:
        """Return the protocol of a new connection; raises ``OSError`` or ``ValueError``."""
        connected = await aiohappyeyeballs.start_connection(
            await self._addresses(host, port), happy_eyeballs_delay=STAGGER
        )
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        transport: asyncio.Transport | None = None
        try:
            transport, protocol = await loop.create_connection(
                make,
                sock=connected,
                ssl=self.tls if encrypted else None,
                server_hostname=host if encrypted else None,
            )
        finally:
            ended = transport is None or transport.is_closing()
            if ended and not isinstance(loop, asyncio.BaseEventLoop):
                # uvloop has closed the descriptor, or will. The socket is not always told, and
                # would close it once more: a customer's connection by then, or the database.
                connected.detach()
        return protocol

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        known, until = self._known.get((host, port), ((), 0.0))
        fallback = known if asyncio.get_running_loop().time() < until else ()
        try:
            async with asyncio.timeout(PATIENCE if fallback else None):
                return await asyncio.shield(self._asked(host, port))
        except OSError:  # a timeout is one
            if not fallback:
                raise
            return fallback

    def _asked(self, host: str, port: int) -> asyncio.Task[Sequence[Address]]:
        """Return the lookup of a name: one at a time, which goes on though nobody waits for it."""
        asking = self._asking.get((host, port))
        if asking is None:
            asking = asyncio.create_task(self._ask(host, port), name=f"lookup of {host}")
            asking.add_done_callback(partial(self._told, host, port))
            self._asking[host, port] = asking
        return asking

    async def _ask(self, host: str, port: int) -> Sequence[Address]:
        return await self._lookup(host, port)

    def _told(self, host: str, port: int, asked: asyncio.Task[Sequence[Address]]) -> None:
        del self._asking[host, port]
        if not asked.cancelled() and not asked.exception():
            until = asyncio.get_running_loop().time() + KEPT
            self._known[host, port] = asked.result(), until


def _looking_up() -> Lookup:
    """Return the system's resolver, on threads of its own.

    A lookup cannot be told to stop while its server says nothing, and under uvloop everybody who
    connects, to whatever address, would wait on the same few threads.
    """
    threads = ThreadPoolExecutor(LOOKUPS, "lookup")
    look_up = partial(socket.getaddrinfo, type=socket.SOCK_STREAM)

    async def lookup(host: str, port: int) -> Sequence[Address]:
        return await asyncio.get_running_loop().run_in_executor(threads, look_up, host, port)

    return lookup
