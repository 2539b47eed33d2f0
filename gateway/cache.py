"""What is worth remembering for a while: in this process, or in a Redis that several share.

A cache may be slow, empty or gone, and is never wrong: every failure is a miss, and when a change
could not be written, nothing is believed before everything old has been dropped.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

CATALOG, CUSTOMERS = "catalog", "customers"
"""The news that processes tell each other: what is for sale has changed, or who may order."""

CAPACITY = 64 * 1024 * 1024
"""Bytes that the in-process cache may take."""

OVERHEAD = 250
"""Bytes that an entry takes beside its key and value; so that many small ones are bounded too."""

_NOTHING = (b"", -math.inf)


class Cache(Protocol):
    """Bytes under text keys, for a time. Nothing here raises on account of the cache.

    Attributes:
        shared: other processes see what is put here.

    """

    shared: bool

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is known of each key, in their order; ``None`` is a miss."""

    def at_once(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return what is known of each key, if all are and nobody has to be asked for it."""

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
    if not url:
        return MemoryCache()
    # By need: its library takes 5 MB, which a process without Redis is spared.
    from gateway.cache_shared import RedisCache  # noqa: PLC0415

    return RedisCache(url, installation=installation)


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

    def at_once(self, keys: Sequence[str]) -> list[bytes] | None:
        """See ``Cache``."""
        now, entries = self._clock(), self._entries
        found = []
        for key in keys:
            value, until = entries.get(key, _NOTHING)
            if until <= now:
                return None
            entries.move_to_end(key)
            found.append(value)
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
