"""What is worth remembering for a while: in this process, or in a Redis that several share.

A cache may be slow, empty or gone, and is never wrong: every failure is a miss, and when a change
could not be written, nothing is believed before everything old has been dropped.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog

from gateway import metrics, redis_url
from gateway.cache_redis import QUIET, RedisServer, Refused, Unanswered

CATALOG, CUSTOMERS = "catalog", "customers"
"""The news that processes tell each other: what is for sale has changed, or who may order."""

CAPACITY = 64 * 1024 * 1024
"""Bytes that the in-process cache may take."""

OVERHEAD = 250
"""Bytes that an entry takes beside its key and value; so that many small ones are bounded too."""

PAUSE = 1.0
"""Seconds without Redis after a failure: one caller in a second waits in vain, not all of them."""

_NOTHING = (b"", -math.inf)
_Result = TypeVar("_Result")
_log = structlog.get_logger()


class Cache(Protocol):
    """Bytes under text keys, for a time. Nothing here raises on account of the cache.

    Attributes:
        shared: other processes see what is put here.

    """

    shared: bool

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is known of each key, in their order; ``None`` is a miss."""

    async def put(self, items: Mapping[str, bytes], ttl: float) -> None:
        """Remember these for ``ttl`` seconds, in place of what was there."""

    async def drop(self, keys: Sequence[str]) -> None:
        """Forget these."""

    async def pay(
        self, paid: Mapping[str, tuple[float, float]], elapsed: float
    ) -> Mapping[str, float]:
        """Add up what callers pay at all the processes that share this cache.

        Args:
            paid: of each, the seconds that he has paid here since this was asked last, and how
                far ahead of the clock he has paid by what is known here.
            elapsed: seconds since this was asked last.

        Returns:
            How far ahead each has paid, everywhere taken together, in seconds; nothing when that
            cannot be known.

        """

    async def tell(self, news: str) -> None:
        """Let every process that shares this cache know of something, if it can be heard."""

    def listen(self, heard: Callable[[str], None]) -> None:
        """Have every piece of news given to ``heard``; ``""`` when some may have been missed."""

    async def aclose(self) -> None:
        """Let go of whatever is open."""


def open_cache(url: str, installation: str = "only") -> Cache:
    """Return the cache that a setting names: empty for this process's own, else a Redis URL.

    Args:
        url: the setting; see ``redis_url``.
        installation: tells this gateway's keys from those of another one on the same Redis, whose
            customers and orders have the same numbers.

    Raises:
        ValueError: the URL leads to no Redis; the text says what would.

    """
    return RedisCache(url, installation=installation) if url else MemoryCache()


class MemoryCache:
    """The cache of one process: what was not used for longest makes room.

    Args:
        capacity: bytes of keys, values and their bookkeeping.
        clock: seconds, monotonic.

    """

    shared = False

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
        now, entries = self._clock(), self._entries
        found: list[bytes | None] = []
        for key in keys:
            value, until = entries.get(key, _NOTHING)
            if until > now:
                entries.move_to_end(key)
                found.append(value)
            else:
                self._forget(key)
                found.append(None)
        return found

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

    async def pay(
        self,
        paid: Mapping[str, tuple[float, float]],  # noqa: ARG002
        elapsed: float,  # noqa: ARG002
    ) -> Mapping[str, float]:
        """See ``Cache``; there is no other process to pay at."""
        return {}

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

    def _forget(self, key: str) -> None:
        if entry := self._entries.pop(key, None):
            self._size -= _weight(key, entry[0])


def _weight(key: str, value: bytes) -> int:
    return len(key) + len(value) + OVERHEAD


class RedisCache:
    """The cache of several processes, in a Redis they share; one that is gone costs little time.

    Reads of the same moment become one MGET. Redis is spoken to only in tasks of our own: a
    caller that is cancelled leaves no change half made.

    Args:
        url: see ``redis_url``.
        clock: seconds, monotonic.
        pause: seconds without Redis after a failure.
        installation: see ``open_cache``.
        quiet: seconds without news after which their channel is tried.

    Attributes:
        failures: how often Redis has failed us so far.

    """

    shared = True

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        pause: float = PAUSE,
        installation: str = "only",
        quiet: float = QUIET,
    ) -> None:
        self.failures = 0
        self._redis = RedisServer(redis_url.read(url), installation, quiet)
        self._server = _Trouble("redis", clock, pause)
        # What it may refuse although it answers: when we may not, when it is full or read-only.
        self._reading = _Trouble("redis_reading", clock, pause)
        self._storing = _Trouble("redis_storing", clock, pause)
        self._news = _Trouble("redis_news", clock, pause)
        self._tasks: set[asyncio.Task[object]] = set()
        self._wanted: set[str] = set()
        self._read: asyncio.Task[dict[str, bytes]] | None = None
        self._purging: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[str], None]] = []
        self._listening: asyncio.Task[None] | None = None
        self._pause = pause
        self._lost = 0  # changes that Redis may not have heard of …
        self._made_good = 0  # … and how many of these can do no harm any more

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See ``Cache``."""
        if self._lost != self._made_good:
            self._make_good()
            return [None] * len(keys)
        if not (self._server.may_try() and self._reading.may_try()):
            return [None] * len(keys)
        self._wanted.update(keys)
        if self._read is None:  # it starts when everything that is ready now has asked
            self._read = self._start(self._read_wanted())
        found = await asyncio.shield(self._read)
        return [found.get(key) for key in keys]

    async def put(self, items: Mapping[str, bytes], ttl: float) -> None:
        """See ``Cache``."""
        await self._change(items, items, ttl)

    async def drop(self, keys: Sequence[str]) -> None:
        """See ``Cache``."""
        await self._change(keys, {}, 0)

    async def pay(
        self, paid: Mapping[str, tuple[float, float]], elapsed: float
    ) -> Mapping[str, float]:
        """See ``Cache``."""
        if not (paid and self._server.may_try() and self._storing.may_try()):
            return {}
        return await asyncio.shield(self._start(self._pay(paid, elapsed)))

    async def tell(self, news: str) -> None:
        """See ``Cache``."""
        # Whoever does not hear it looks for himself.
        if self._server.may_try() and self._news.may_try():
            await asyncio.shield(self._start(self._publish(news)))

    def listen(self, heard: Callable[[str], None]) -> None:
        """See ``Cache``."""
        self._listeners.append(heard)
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def aclose(self) -> None:
        """See ``Cache``; what is under way comes to its end first."""
        while self._listening is not None and not self._listening.done():
            # Once may not do: a time limit that ends at the same moment can take it for its own.
            self._listening.cancel()
            await asyncio.wait({self._listening}, timeout=PAUSE)
        self._server.give_up()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await self._redis.aclose()

    async def _change(
        self, keys: Sequence[str] | Mapping[str, bytes], items: Mapping[str, bytes], ttl: float
    ) -> None:
        if not keys:
            return
        if self._server.may_try():
            await asyncio.shield(self._start(self._write(list(keys), items, ttl)))
        else:
            self._lost += 1

    def _start(self, work: Coroutine[object, object, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read_wanted(self) -> dict[str, bytes]:
        keys, self._wanted, self._read = list(self._wanted), set(), None
        with self._noted(self._reading):
            return await self._redis.read(keys)
        return {}

    async def _write(self, keys: Sequence[str], items: Mapping[str, bytes], ttl: float) -> None:
        changed = unheard = False
        if items and self._storing.may_try():
            with self._noted(self._storing):
                await self._redis.store(items, ttl)
                changed = True
            unheard = self._server.present
        # A full Redis takes no new value, but lets go of the old one.
        if not (changed or unheard):
            with self._noted(self._storing, proves=False):
                await self._redis.drop(keys)
                changed = True
        if not changed:
            self._lost += 1

    async def _pay(
        self, paid: Mapping[str, tuple[float, float]], elapsed: float
    ) -> Mapping[str, float]:
        with self._noted(self._storing):
            return await self._redis.pay(paid, elapsed)
        return {}

    async def _publish(self, news: str) -> None:
        with self._noted(self._news):
            await self._redis.publish(news)

    def _make_good(self) -> None:
        """Drop everything of ours, since among it is what could not be dropped when it should."""
        if self._purging is None and self._server.may_try() and self._storing.may_try():
            self._purging = self._start(self._purge(self._lost))

    async def _purge(self, lost: int) -> None:
        with self._noted(self._storing, proves=False):
            await self._redis.drop_everything()
            self._made_good = lost
        self._purging = None

    async def _listen(self) -> None:
        """Hear the news for as long as this cache is open."""
        while True:
            with self._noted(self._news):
                await self._redis.listen(self._heard)
            await asyncio.sleep(self._pause)

    def _heard(self, news: str) -> None:
        self._server.over()
        self._news.over()
        for heard in self._listeners:
            heard(news)

    def _noted(self, what: "_Trouble", *, proves: bool = True) -> "_Noted":
        """Return a context in which Redis is asked: a failure is noted, and ends there.

        Args:
            what: what is out of order when Redis refuses.
            proves: when it does not refuse, that is in order again.

        """
        return _Noted(self._server, what, self._failed, proves=proves)

    def _failed(self, trouble: "_Trouble", failure: Unanswered) -> None:
        self.failures += 1
        metrics.cache_failures.inc()
        trouble.begin(failure)


class _Noted:
    """See ``RedisCache._noted``."""

    def __init__(
        self,
        server: "_Trouble",
        what: "_Trouble",
        failed: "Callable[[_Trouble, Unanswered], None]",
        *,
        proves: bool,
    ) -> None:
        self._server = server
        self._what = what
        self._failed = failed
        self._proves = proves

    def __enter__(self) -> None:
        """Ask."""

    def __exit__(self, _: object, failure: BaseException | None, __: object) -> bool:
        if failure is None:
            self._server.over()
            if self._proves:
                self._what.over()
        elif isinstance(failure, Refused):
            self._server.over()
            self._failed(self._what, failure)
        elif isinstance(failure, Unanswered):
            self._failed(self._server, failure)
        return isinstance(failure, Unanswered)


class _Trouble:
    """Whether something is out of order: said once when it begins and once when it is over.

    Attributes:
        present: it is.

    """

    def __init__(self, name: str, clock: Callable[[], float], pause: float) -> None:
        self._name = name
        self._clock = clock
        self._pause = pause
        self.present = False
        self._until = -math.inf

    def may_try(self) -> bool:
        """Return whether to try; while there is trouble, one in a pause may."""
        if not self.present:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._pause
        return True

    def begin(self, failure: Exception) -> None:
        """Note a failure."""
        self._until = max(self._until, self._clock() + self._pause)
        if not self.present:
            self.present = True
            _log.warning(f"{self._name}_failed", error=str(failure))

    def over(self) -> None:
        """Note that it worked."""
        if self.present and self._until < math.inf:
            self.present = False
            _log.info(f"{self._name}_back")

    def give_up(self) -> None:
        """Try no more."""
        self.present, self._until = True, math.inf
