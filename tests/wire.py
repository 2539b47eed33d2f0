"""A server on loopback that does to a connection whatever a test tells it to.

A test writes a *talk*: what happens on one accepted connection, from its first byte to its last.
The server counts connections and remembers every byte it read, so that a test can prove what was
and what was not sent.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Self

LIMIT = 1 << 20


class Peer:
    """The server's end of one connection."""

    def __init__(
        self, server: "Server", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = server.accepted
        self._server = server
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """Read one request to its end and return its body; ``b""`` when there is none."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self._server.received += error.partial
            return b""
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        body = await self._reader.readexactly(length)
        self._server.received += head + body
        self._server.requests.append((head, body))
        return body

    async def write(self, *parts: bytes, pause: float = 0) -> None:
        """Write these bytes, each part in a packet of its own when there is a pause."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(pause)

    async def answer(self, body: bytes, *headers: bytes, status: bytes = b"200 OK") -> None:
        """Write a complete answer."""
        lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", b"")
        await self.write(b"\r\n".join(lines) + body)

    async def read_some(self) -> bytes:
        """Read whatever comes first."""
        return await self._reader.read(LIMIT)

    async def read_all(self) -> None:
        """Read requests until there are no more, and answer none."""
        while await self.read():
            pass

    async def hang(self) -> None:
        """Do nothing until the other side goes away."""
        while self._server.open and await self._reader.read(LIMIT):
            pass

    def reset(self) -> None:
        """Break the connection with a TCP reset instead of an orderly end."""
        plain = self._writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Talk = Callable[[Peer], Awaitable[object]]


class Server:
    """Where it listens, what came in."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted = 0
        self.finished = 0
        self.received = b""
        self.requests: list[tuple[bytes, bytes]] = []
        self.open = True
        self._listening: asyncio.Server | None = None

    async def stop_listening(self) -> None:
        """Refuse connections from now on; those that exist live on."""
        if self._listening is not None:
            self._listening.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serve(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve one talk on every connection until the block ends."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await talk(Peer(server, reader, writer))
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            server.finished += 1

    server._listening = await asyncio.start_server(
        accept, "127.0.0.1", 0, ssl=tls, limit=LIMIT, ssl_handshake_timeout=5 if tls else None
    )
    port = server._listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://localhost:{port}/api/v2"
    try:
        yield server
    finally:
        server.open = False
        server._listening.close()
        for task in tuple(tasks):
            task.cancel()
        while tasks:
            await asyncio.sleep(0.001)


class Handmade:
    """A server without an event loop, for what has to happen between two turns of one."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepted: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api/v2"
        return self

    def __exit__(self, *_: object) -> None:
        self.close_accepted()
        self._listener.close()

    def answer_one(self) -> None:
        """Accept a connection and answer one request on it; blocks."""
        line, _ = self._listener.accept()
        self._accepted.append(line)
        line.recv(LIMIT)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def close_accepted(self) -> None:
        """Close what was accepted; the kernel of the other side knows when this returns."""
        while self._accepted:
            self._accepted.pop().close()


@contextlib.contextmanager
def full_house() -> Iterator[str]:
    """Yield the URL of a listener whose queue is full, so that connecting to it never ends."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            guest = stack.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v2"


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
