"""A TCP proxy on loopback that stands before a panel and does to the wire what a test tells it.

Without a fault it carries each request to the panel and each answer back. A ``Fault`` takes one
connection or one exchange into its hands; ``FAULTS`` has them by name, each with what is certain
of it: whether the panel gets the whole request, and whether the gateway gets the whole answer.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

LIMIT = 1 << 20
MOMENT = 0.05
"""Seconds that a delay takes which nobody should mind."""
DRIP = 0.0005
"""Seconds between two bytes of a slow drip."""
GARBAGE = b"\x00\xffgarbage\r\n\r\n\x16\x03\x01"


class Link:
    """One connection through the proxy: the gateway at one end, the panel at the other.

    Attributes:
        request: the exchange's whole request, as it was read last.
        idle: it waits for a request.

    """

    def __init__(
        self, proxy: "Proxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = b""
        self.idle = False
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._panel: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    # --- the gateway's end ------------------------------------------------------------------

    async def read(self) -> bytes:
        """Read a whole request; ``b""`` when there is none any more."""
        self.request = await _message(self._reader)
        return self.request

    async def give(self, *parts: bytes, pause: float = 0) -> None:
        """Write to the gateway, each part in a packet of its own when there is a pause."""
        await _write(self._writer, parts, pause)

    async def gone(self) -> None:
        """Wait until the gateway has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(LIMIT):
                pass

    def say_no_more(self) -> None:
        """Close the way to the gateway, and leave the way from it open."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Break the gateway's connection with a TCP reset."""
        plain = self._writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    # --- the panel's end --------------------------------------------------------------------

    async def pass_on(self, pause: float = 0) -> bytes:
        """Carry the whole request to the panel, and return its whole answer."""
        await self.pass_part(len(self.request), pause=pause)
        self._proxy.delivered.append(self.request)
        assert self._panel is not None
        answer = await _message(self._panel[0])
        if not answer:
            raise ConnectionResetError
        self._proxy.answered.append(answer)
        return answer

    async def pass_part(self, size: int, *, then_close: bool = False, pause: float = 0) -> None:
        """Carry only the first bytes of the request to the panel."""
        if self._panel is None:
            self._panel = await asyncio.open_connection(*self._proxy.panel, limit=LIMIT)
        part = self.request[:size]
        await _write(self._panel[1], [bytes([one]) for one in part] if pause else [part], pause)
        if then_close:
            self._panel[1].write_eof()

    async def panel_gone(self) -> None:
        """Wait until the panel has closed its end."""
        assert self._panel is not None
        await self._panel[0].read()

    async def close(self) -> None:
        """Close both ends."""
        for writer in [self._writer] + ([self._panel[1]] if self._panel else []):
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read a request or an answer to its end; both say their length."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    lengths = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    length = next(int(value) for name, _, value in lengths if name == b"content-length")
    return head + await reader.readexactly(length)


async def _write(writer: asyncio.StreamWriter, parts: Sequence[bytes], pause: float) -> None:
    for part in parts:
        if writer.is_closing():  # uvloop takes a write to it for a mistake
            raise ConnectionResetError
        writer.write(part)
        await writer.drain()
        if pause:
            await asyncio.sleep(pause)


Talk = Callable[[Link], Awaitable[object]]


@dataclass(frozen=True)
class Fault:
    """Something that a wire does, once.

    Attributes:
        talk: does it; the link is closed afterwards unless the fault ``goes_on``.
        heard: the panel gets the whole request, sooner or later.
        told: the gateway gets the whole answer.
        greets: it begins when the connection does, not with a request.
        unsure: the gateway may learn that nobody is there before it has written anything.
        waits: it ends only when the gateway has lost its patience.
        goes_on: the connection can carry another exchange.

    """

    talk: Talk
    heard: bool = False
    told: bool = False
    greets: bool = False
    unsure: bool = False
    waits: bool = False
    goes_on: bool = False


# --- the faults ---------------------------------------------------------------------------------


async def _carry(link: Link) -> None:
    await link.give(await link.pass_on())


async def _reset(link: Link) -> None:
    link.reset()


async def _close(_: Link) -> None:
    """Leave it to the end of the talk."""


async def _connect_late(link: Link) -> None:
    await asyncio.sleep(MOMENT)
    await link.read()
    await _carry(link)


async def _connect_too_late(link: Link) -> None:
    await link.read()
    await _request_too_late(link)


async def _request_late(link: Link) -> None:
    await asyncio.sleep(MOMENT)
    await _carry(link)


async def _request_too_late(link: Link) -> None:
    await link.gone()
    await link.pass_on()


async def _answer_late(link: Link) -> None:
    answer = await link.pass_on()
    await asyncio.sleep(MOMENT)
    await link.give(answer)


async def _answer_too_late(link: Link) -> None:
    answer = await link.pass_on()
    await link.gone()
    await link.give(answer)


async def _request_swallowed(link: Link) -> None:
    await link.gone()


async def _answer_swallowed(link: Link) -> None:
    await link.pass_on()
    await link.gone()


def _request_cut(share: Callable[[bytes], int]) -> Talk:
    """Pass on only so many bytes of the request, then reset."""

    async def talk(link: Link) -> None:
        await link.pass_part(share(link.request))
        link.reset()

    return talk


def _answer_cut(share: Callable[[bytes], int], *, reset: bool) -> Talk:
    """Give only so many bytes of the answer, then break off."""

    async def talk(link: Link) -> None:
        answer = await link.pass_on()
        await link.give(answer[: share(answer)])
        if reset:
            link.reset()

    return talk


def _nothing(_: bytes) -> int:
    return 0


def _one_byte(_: bytes) -> int:
    return 1


def _half_the_head(message: bytes) -> int:
    return message.index(b"\r\n\r\n") // 2


def _the_head(message: bytes) -> int:
    return message.index(b"\r\n\r\n") + 4


def _half_the_body(message: bytes) -> int:
    return (_the_head(message) + len(message)) // 2


def _all_but_one(message: bytes) -> int:
    return len(message) - 1


async def _deaf_panel(link: Link) -> None:
    """The way to the panel closes in the middle of the request, the way back does not."""
    await link.pass_part(_half_the_body(link.request), then_close=True)
    await link.panel_gone()


async def _mute_proxy(link: Link) -> None:
    """The way back closes before there is an answer, the way to the panel does not."""
    link.say_no_more()
    await link.pass_on()
    await link.gone()


async def _mute_in_the_answer(link: Link) -> None:
    answer = await link.pass_on()
    await link.give(answer[: _half_the_body(answer)])
    link.say_no_more()
    await link.gone()


async def _request_drips(link: Link) -> None:
    await link.give(await link.pass_on(DRIP))


async def _answer_drips(link: Link) -> None:
    answer = await link.pass_on()
    await link.give(*(bytes([one]) for one in answer), pause=DRIP)


async def _answer_drips_for_ever(link: Link) -> None:
    """Not ever, but each byte takes as long as all of them may."""
    answer = await link.pass_on()
    gone = asyncio.ensure_future(link.gone())
    for one in answer[:-1]:
        await link.give(bytes([one]))
        await asyncio.wait({gone}, timeout=1)
        if gone.done():
            return


def _spoiled(spoil: Callable[[bytes], bytes]) -> Talk:
    """Give the answer, but not as the panel wrote it."""

    async def talk(link: Link) -> None:
        await link.give(spoil(await link.pass_on()))

    return talk


def _with_garbage_at(share: Callable[[bytes], int]) -> Talk:
    return _spoiled(lambda answer: answer[: share(answer)] + GARBAGE + answer[share(answer) :])


async def _answer_twice_slowly(link: Link) -> None:
    await link.give(*[await link.pass_on()] * 2, pause=MOMENT)


def answered_by(answer: bytes) -> Fault:
    """Return the fault that an answer which stood in the way since before is taken for this one."""

    async def talk(link: Link) -> None:
        await link.pass_on()
        await link.give(answer)

    return Fault(talk, heard=True)


NONE = Fault(_carry, heard=True, told=True, goes_on=True)

FAULTS: Mapping[str, Fault] = {
    # delay
    "connected late": Fault(_connect_late, heard=True, told=True, greets=True, goes_on=True),
    "connected too late": Fault(_connect_too_late, heard=True, greets=True, waits=True),
    "request late": Fault(_request_late, heard=True, told=True, goes_on=True),
    "request too late": Fault(_request_too_late, heard=True, waits=True),
    "answer late": Fault(_answer_late, heard=True, told=True, goes_on=True),
    "answer too late": Fault(_answer_too_late, heard=True, waits=True),
    # drop
    "connection swallowed": Fault(Link.gone, greets=True, waits=True),
    "request swallowed": Fault(_request_swallowed, waits=True),
    "answer swallowed": Fault(_answer_swallowed, heard=True, waits=True),
    # reset
    "reset at accept": Fault(_reset, greets=True, unsure=True),
    "reset before the request is passed on": Fault(_reset),
    "reset after a byte of the request": Fault(_request_cut(_one_byte)),
    "reset in the head of the request": Fault(_request_cut(_half_the_head)),
    "reset in the body of the request": Fault(_request_cut(_half_the_body)),
    "reset before the request's last byte": Fault(_request_cut(_all_but_one)),
    "reset after the request": Fault(_answer_cut(_nothing, reset=True), heard=True),
    "reset after a byte of the answer": Fault(_answer_cut(_one_byte, reset=True), heard=True),
    "reset in the head of the answer": Fault(_answer_cut(_half_the_head, reset=True), heard=True),
    "reset in the body of the answer": Fault(_answer_cut(_half_the_body, reset=True), heard=True),
    "reset before the answer's last byte": Fault(_answer_cut(_all_but_one, reset=True), heard=True),
    # close
    "closed at accept": Fault(_close, greets=True, unsure=True),
    "closed before the request is passed on": Fault(_close),
    "closed after the request": Fault(_answer_cut(_nothing, reset=False), heard=True),
    "answer cut off in its head": Fault(_answer_cut(_half_the_head, reset=False), heard=True),
    "answer cut off after its head": Fault(_answer_cut(_the_head, reset=False), heard=True),
    "answer cut off in its body": Fault(_answer_cut(_half_the_body, reset=False), heard=True),
    "answer without its last byte": Fault(_answer_cut(_all_but_one, reset=False), heard=True),
    # half-close
    "half closed to the panel": Fault(_deaf_panel),
    "half closed to the gateway": Fault(_mute_proxy, heard=True),
    "half closed in the answer": Fault(_mute_in_the_answer, heard=True),
    # slow drip
    "request drips": Fault(_request_drips, heard=True, told=True, goes_on=True),
    "answer drips": Fault(_answer_drips, heard=True, told=True, goes_on=True),
    "answer drips for ever": Fault(_answer_drips_for_ever, heard=True, waits=True),
    # garbage
    "garbage instead of the answer": Fault(_spoiled(lambda _: GARBAGE), heard=True),
    "garbage before the answer": Fault(_with_garbage_at(_nothing), heard=True),
    "garbage in the head of the answer": Fault(_with_garbage_at(_half_the_head), heard=True),
    "garbage before the body": Fault(_with_garbage_at(_the_head), heard=True),
    "garbage in the body of the answer": Fault(_with_garbage_at(_half_the_body), heard=True),
    "garbage after the answer": Fault(_with_garbage_at(len), heard=True, told=True, goes_on=True),
    # duplicate
    "answered twice": Fault(
        _spoiled(lambda answer: answer * 2), heard=True, told=True, goes_on=True
    ),
    "answered again later": Fault(_answer_twice_slowly, heard=True, told=True, goes_on=True),
}


# --- the proxy ----------------------------------------------------------------------------------

Plan = Callable[[str], Fault | None]
"""From an action, or ``""`` for the beginning of a connection, to what becomes of it."""


def calm(_: str) -> None:
    """Plan no fault."""


class Proxy:
    """Where it listens, what it does, and what really reached the panel.

    Attributes:
        panel: where the panel listens.
        plan: asked at each connection and at each request.
        delivered: every request that the panel was given to its end.
        answered: every answer that the panel gave, whatever became of it.

    """

    def __init__(self, panel: tuple[str, int]) -> None:
        self.panel = panel
        self.port = 0
        self.plan: Plan = calm
        self.accepted = 0
        self.delivered: list[bytes] = []
        self.answered: list[bytes] = []
        self._links: dict[asyncio.Task[None], Link] = {}
        self._broken: list[Exception] = []
        self._listening: asyncio.Server | None = None

    def heard(self, action: str) -> int:
        """Return how many calls of an action the panel has heard to their end."""
        return sum(_action(request) == action for request in self.delivered)

    async def meet(self, fault: Fault, action: str) -> None:
        """Have the next call of this action meet a fault, once; others pass unharmed."""
        at = "" if fault.greets else action
        faults = [fault]
        self.plan = lambda of: faults.pop() if of == at and faults else None
        if fault.greets:
            await self._end_idle()  # the call has to begin with a connection

    async def quiet(self) -> None:
        """Wait until nothing is under way any more."""
        while not all(link.idle for link in self._links.values()):
            await asyncio.sleep(0.001)

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._listening = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=LIMIT
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and end those that are idle."""
        if self._listening is not None:
            self._listening.close()
        await self._end_idle()

    async def stop(self) -> None:
        """Close, break off whatever is under way, and raise what went wrong in here."""
        await self.close()
        for task in tuple(self._links):
            task.cancel()
        while self._links:
            await asyncio.sleep(0.001)
        if self._broken:
            raise ExceptionGroup("in the proxy", self._broken)

    async def _end_idle(self) -> None:
        ending = {task for task, link in self._links.items() if link.idle}
        for task in ending:
            task.cancel()
        while ending & self._links.keys():
            await asyncio.sleep(0.001)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        link = self._links[task] = Link(self, reader, writer)
        try:
            await self._serve(link)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # an end that has gone is what all this is about
        except Exception as error:  # noqa: BLE001 - told by ``stop``, where a test can see it
            self._broken.append(error)
        finally:
            await link.close()
            del self._links[task]

    async def _serve(self, link: Link) -> None:
        fault = self.plan("")
        while True:
            if fault is None:
                link.idle = True
                request = await link.read()
                link.idle = False
                if not request:
                    return
                fault = self.plan(_action(request)) or NONE
            await fault.talk(link)
            if not fault.goes_on:
                return
            fault = None


def _action(request: bytes) -> str:
    form = parse_qs(request.partition(b"\r\n\r\n")[2].decode())
    return form["action"][0]


@contextlib.asynccontextmanager
async def before(panel: tuple[str, int]) -> AsyncIterator[Proxy]:
    """Stand before a panel until the block ends."""
    proxy = Proxy(panel)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.stop()
