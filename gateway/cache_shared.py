"""The cache of several processes, in a Redis they share; ``cache`` says what it promises."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TypeVar

import structlog

from gateway import metrics, redis_url
from gateway.cache_redis import QUIET, RedisServer, Refused, Unanswered
from gateway.ending import ENDING, end

PAUSE = 1.0
"""Seconds without Redis after a failure: one caller in a second waits in vain, not all of them."""

_Result = TypeVar("_Result")
_log = structlog.get_logger()


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

    def at_once(self, keys: Sequence[str]) -> None:
        """See ``Cache``; all is in Redis."""

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
        if self._listening is not None:
            await end([self._listening])
        self._server.give_up()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=ENDING)
        await end(self._tasks)
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
