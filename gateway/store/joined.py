"""Reading together what is asked for together."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Joined(Generic[K, V]):
    """Reads for all who ask while a read is under way in the next one, each thing once.

    So nobody waits for a timer, and whatever was true when somebody asked, he reads that or what
    came after it. One who goes away takes nothing from the others.

    Args:
        read: returns the values of these keys, in their order.

    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._read = read
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}
        self._reading: asyncio.Task[None] | None = None

    def read(self, key: K) -> "asyncio.Future[V]":
        """Return what a key has, read from now on; raises what ``read`` does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V] = loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._reading is None:  # it starts when everybody who is ready now has asked
            self._reading = loop.create_task(self._run(), context=contextvars.Context())
        return future

    async def _run(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                await self._answer(asked)
        finally:
            self._reading = None

    async def _answer(self, asked: dict[K, list["asyncio.Future[V]"]]) -> None:
        waiting = [one for futures in asked.values() for one in futures]
        try:
            values = await self._read(list(asked))
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for it
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
        else:
            for futures, value in zip(asked.values(), values, strict=True):
                for future in futures:
                    if not future.done():
                        future.set_result(value)
