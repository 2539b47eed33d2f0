"""What is worth remembering for a while: in this process, or in a Redis that several share.

A cache may be slow, empty or gone, and is never wrong: every failure is a miss, and when a change
could not be written, nothing is believed before everything old has been dropped. The only module
that knows redis.
"""

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub

from gateway import metrics

PREFIX = "gateway:"
"""Before every key, so that a Redis may be shared with other programs."""

NEWS = "news"
"""The channel on which processes tell each other what has changed:"""
CATALOG, CUSTOMERS = "catalog", "customers"
"""what is for sale, and who may order."""

CAPACITY = 64 * 1024 * 1024
"""Bytes that the in-process cache may take."""

OVERHEAD = 250
"""Bytes that an entry takes beside its key and value; so that many small ones are bounded too."""

PATIENCE = 0.2
"""Seconds that Redis is waited for at each step: a free connection, an open one, an answer."""

PAUSE = 1.0
"""Seconds without Redis after a failure: one caller in a second waits in vain, not all of them."""

CONNECTIONS = 16
"""To Redis, at most; reads are joined, so that more are never of use."""

PURGE = 1000
"""Keys that are looked through at a time when everything of ours is dropped."""

_Result = TypeVar("_Result")
_log = structlog.get_logger()


class Cache(Protocol):
    """Bytes under text keys, for a time. Nothing here raises on account of the cache."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is known of each key, in their order; ``None`` is a miss."""

    async def put(self, items: Mapping[str, bytes], ttl: float) -> None:
        """Remember these for ``ttl`` seconds, in place of what was there."""

    async def drop(self, keys: Sequence[str]) -> None:
        """Forget these."""

    async def tell(self, news: str) -> None:
        """Let every process that shares this cache know of something, if it can be heard."""

    def listen(self, heard: Callable[[str], None]) -> None:
        """Have every piece of news given to ``heard``; ``""`` when some may have been missed."""

    async def aclose(self) -> None:
        """Let go of whatever is open."""


def open_cache(url: str, installation: str = "") -> Cache:
    """Return the cache that a setting names: empty for this process's own, else a Redis URL.

    Args:
        url: the setting.
        installation: tells this gateway's keys from those of another one on the same Redis, whose
            customers and orders have the same numbers.

    Raises:
        ValueError: the URL is none that Redis understands.

    """
    return RedisCache(url, installation=installation) if url else MemoryCache()


class MemoryCache:
    """The cache of one process: what was not used for longest makes room.

    Args:
        capacity: bytes of keys, values and their bookkeeping.
        clock: seconds, monotonic.

    """

    def __init__(
        self, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._size = 0
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._listeners: list[Callable[[str], None]] = []

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See ``Cache``."""
        now = self._clock()
        return [self._get(key, now) for key in keys]

    async def put(self, items: Mapping[str, bytes], ttl: float) -> None:
        """See ``Cache``; what is larger than the whole cache is not kept."""
        until = self._clock() + ttl
        for key, value in items.items():
            self._forget(key)
            if _weight(key, value) > self._capacity:
                continue  # everything else would make room in vain
            self._entries[key] = value, until
            self._size += _weight(key, value)
        while self._size > self._capacity:
            self._forget(next(iter(self._entries)))

    async def drop(self, keys: Sequence[str]) -> None:
        """See ``Cache``."""
        for key in keys:
            self._forget(key)

    async def tell(self, news: str) -> None:
        """See ``Cache``."""
        for heard in self._listeners:
            heard(news)

    def listen(self, heard: Callable[[str], None]) -> None:
        """See ``Cache``."""
        self._listeners.append(heard)

    async def aclose(self) -> None:
        """See ``Cache``."""
        self._entries.clear()
        self._size = 0

    def _get(self, key: str, now: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if until <= now:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return value

    def _forget(self, key: str) -> None:
        if entry := self._entries.pop(key, None):
            self._size -= _weight(key, entry[0])


def _weight(key: str, value: bytes) -> int:
    return len(key) + len(value) + OVERHEAD


class RedisCache:
    """The cache of several processes, in a Redis they share; one that is gone costs little time.

    Reads of the same moment become one MGET. Redis is spoken to only in tasks of our own: a
    caller that is cancelled leaves no half-read answer on a connection for somebody else, and no
    change half made.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        clock: seconds, monotonic.
        pause: seconds without Redis after a failure.

    Attributes:
        failures: how often Redis has failed us so far.

    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        pause: float = PAUSE,
        installation: str = "",
    ) -> None:
        self.failures = 0
        self._prefix = f"{PREFIX}{installation}/" if installation else PREFIX
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=PATIENCE,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                protocol=2,
            )
        )
        self._server = _Trouble("redis", clock, pause)
        self._storing = _Trouble("redis_storing", clock, pause)  # full: it answers, takes nothing
        self._tasks: set[asyncio.Task[object]] = set()
        self._wanted: set[str] = set()
        self._reading: asyncio.Task[dict[str, bytes]] | None = None
        self._purging: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[str], None]] = []
        self._listening: asyncio.Task[None] | None = None
        self._pause = pause
        self._lost = 0  # changes that Redis may not have heard of …
        self._made_good = 0  # … and how many of these can do no harm any more

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See ``Cache``."""
        if not self._server.may_try():
            return [None] * len(keys)
        if self._lost != self._made_good:
            if self._purging is None:
                self._purging = self._start(self._purge())
            return [None] * len(keys)
        self._wanted.update(keys)
        if self._reading is None:  # it starts when everything that is ready now has asked
            self._reading = self._start(self._read())
        found = await asyncio.shield(self._reading)
        return [found.get(key) for key in keys]

    async def put(self, items: Mapping[str, bytes], ttl: float) -> None:
        """See ``Cache``."""
        await self._change(list(items), items, max(1, int(ttl * 1000)))

    async def drop(self, keys: Sequence[str]) -> None:
        """See ``Cache``."""
        await self._change(keys, {}, 0)

    async def tell(self, news: str) -> None:
        """See ``Cache``."""
        if self._server.may_try():
            await asyncio.shield(self._start(self._publish(news)))

    def listen(self, heard: Callable[[str], None]) -> None:
        """See ``Cache``."""
        self._listeners.append(heard)
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._subscribe())

    async def aclose(self) -> None:
        """See ``Cache``; what is under way comes to its end first."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        self._server.give_up()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await self._redis.aclose()

    async def _change(self, keys: Sequence[str], items: Mapping[str, bytes], ttl: int) -> None:
        if not keys:
            return
        if self._server.may_try():
            await asyncio.shield(self._start(self._write(keys, items, ttl)))
        else:
            self._lost += 1

    def _start(self, work: Coroutine[object, object, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self) -> dict[str, bytes]:
        keys, self._wanted, self._reading = list(self._wanted), set(), None
        try:
            values = await self._redis.mget([self._prefix + key for key in keys])
        except Exception as error:  # noqa: BLE001 - no failure of a cache is anybody's failure
            self._failed(self._server, error)
            return {}
        self._server.over()
        pairs = zip(keys, values, strict=True)
        return {key: value for key, value in pairs if isinstance(value, bytes)}

    async def _write(self, keys: Sequence[str], items: Mapping[str, bytes], ttl: int) -> None:
        storing = bool(items) and self._storing.may_try()
        try:
            pipeline = self._redis.pipeline(transaction=False)
            # First the old values go, for a full Redis takes no new ones but keeps the old.
            pipeline.unlink(*(self._prefix + key for key in keys))
            if storing:
                for key, value in items.items():
                    pipeline.psetex(self._prefix + key, ttl, value)
            dropped, *stored = await pipeline.execute(raise_on_error=False)
            if isinstance(dropped, Exception):
                raise dropped  # noqa: TRY301 - one of two ways to learn the same
        except Exception as error:  # noqa: BLE001
            self._lost += 1
            self._failed(self._server, error)
            return
        self._server.over()
        refused = [one for one in stored if isinstance(one, Exception)]
        if refused:
            self._failed(self._storing, refused[0])
        elif storing:
            self._storing.over()

    async def _publish(self, news: str) -> None:
        try:
            await self._redis.publish(f"{self._prefix}{NEWS}", news)
        except Exception as error:  # noqa: BLE001 - whoever does not hear it looks for himself
            self._failed(self._server, error)
        else:
            self._server.over()

    async def _subscribe(self) -> None:
        """Hear the news, on a connection of its own, for as long as this cache is open."""
        while True:
            channel = self._redis.pubsub(ignore_subscribe_messages=True)
            try:
                await channel.subscribe(f"{self._prefix}{NEWS}")
                self._heard("")  # whatever was told while nobody listened
                while True:
                    message = await channel.get_message(timeout=None)
                    if message is not None:
                        self._heard(message["data"].decode(errors="replace"))
            except Exception as error:  # noqa: BLE001
                self._failed(self._server, error)
            finally:
                await asyncio.shield(self._start(_closed(channel)))
            await asyncio.sleep(self._pause)

    def _heard(self, news: str) -> None:
        for heard in self._listeners:
            heard(news)

    async def _purge(self) -> None:
        """Drop everything of ours, since among it is what could not be dropped when it should."""
        lost, cursor = self._lost, 0
        try:
            while True:
                cursor, keys = await self._redis.scan(cursor, match=f"{self._prefix}*", count=PURGE)
                if keys:
                    await self._redis.unlink(*keys)
                if cursor == 0:
                    break
        except Exception as error:  # noqa: BLE001
            self._failed(self._server, error)
        else:
            self._made_good = lost
            self._server.over()
        finally:
            self._purging = None

    def _failed(self, trouble: "_Trouble", error: Exception) -> None:
        self.failures += 1
        metrics.cache_failures.inc()
        trouble.begin(error)


async def _closed(channel: PubSub) -> None:
    with contextlib.suppress(Exception):  # it may be broken already
        await channel.aclose()  # type: ignore[no-untyped-call]


class _Trouble:
    """Whether something is out of order: said once when it begins and once when it is over."""

    def __init__(self, name: str, clock: Callable[[], float], pause: float) -> None:
        self._name = name
        self._clock = clock
        self._pause = pause
        self._present = False
        self._until = -math.inf

    def may_try(self) -> bool:
        """Return whether to try; while there is trouble, one in a pause may."""
        if not self._present:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._pause
        return True

    def begin(self, error: Exception) -> None:
        """Note a failure."""
        self._until = max(self._until, self._clock() + self._pause)
        if not self._present:
            self._present = True
            _log.warning(f"{self._name}_failed", error=f"{type(error).__name__}: {error}")

    def over(self) -> None:
        """Note that it worked."""
        if self._present and self._until < math.inf:
            self._present = False
            _log.info(f"{self._name}_back")

    def give_up(self) -> None:
        """Try no more."""
        self._present, self._until = True, math.inf
