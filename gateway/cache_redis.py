"""Speaks to Redis: one server, one behind Sentinels, or a cluster; the only module that knows it.

All keys of an installation begin with ``gateway:{…}``. What stands in the braces alone decides on
a cluster which node a key is on, so that ours are together there, and one MGET or one script
reaches them all.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterError, ReadOnlyError, ResponseError, TryAgainError

from gateway.redis_url import Address, Kind

PREFIX = "gateway:"
"""Before every key, so that a Redis may be shared with other programs."""
NEWS = "news"
"""The channel on which processes tell each other what has changed."""

PATIENCE = 0.2
"""Seconds that an answer of Redis is waited for …"""
CONNECTING = 0.5
"""… and an open connection, which with TLS takes some reckoning and several ways there and back."""
ALTOGETHER = 1.0
"""Seconds for all steps of one question: of Sentinels and nodes the first may be the dead one."""
QUIET = 5.0
"""Seconds without news after which their channel is tried: a peer may be gone without a word."""
CONNECTIONS = 8
"""To a server, at most, beside the one for the news; reads are joined, so more are of no use."""
PURGE = 1000
"""Keys that are looked through at a time when everything of ours is dropped."""
AT_ONCE = 1000
"""Callers whose payments one script adds up; Redis does nothing else meanwhile."""
LONGEST = 60.0
"""Seconds that a caller may have paid ahead: the clock of Redis may have been set back, too."""

MICRO = 1_000_000
MARGIN = 1000
"""Milliseconds for which a payment is kept beyond its time, so that the next one adds to it."""

_STORE = """
for i, key in ipairs(KEYS) do
    redis.call('PSETEX', key, ARGV[1], ARGV[i + 1])
end
"""

# Each caller has paid until some moment on the clock of Redis. What a process reports was paid at
# the earliest when it reported last, and it knows of so much at least.
_PAY = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local elapsed, longest, margin = ARGV[1], ARGV[2], ARGV[3]
local ahead = {}
for i, key in ipairs(KEYS) do
    local paid, known = ARGV[2 * i + 2], ARGV[2 * i + 3]
    local till = tonumber(redis.call('GET', key) or 0) or 0
    till = math.max(till, now - elapsed) + paid
    till = math.min(math.max(till, now + known), now + longest)
    local kept = math.ceil((till - now + elapsed) / 1000) + margin
    redis.call('SET', key, string.format('%.0f', till), 'PX', string.format('%.0f', kept))
    ahead[i] = till - now
end
return ahead
"""

_Result = TypeVar("_Result")


class Unanswered(Exception):
    """Redis did not answer; the text says why, and holds no secret."""


class Refused(Unanswered):
    """Redis answered, and would not do this: it is full, read-only, or we may not."""


class RedisServer:
    """What the gateway asks of a Redis, whichever kind it is.

    Everything here raises ``Refused`` when Redis said no, and else ``Unanswered``; nothing is tried
    twice.

    Args:
        address: where it is.
        installation: whose keys these are.
        quiet: seconds without news after which their channel is tried.

    """

    def __init__(self, address: Address, installation: str, quiet: float = QUIET) -> None:
        self._quiet = quiet
        self._prefix = f"{PREFIX}{{{installation}}}/"
        self._secrets = [one for one in (address.password, address.sentinel_password) if one]
        self._sentinel = _sentinel(address) if address.kind is Kind.SENTINEL else None
        # redis-py's clients have these commands in common, but no type.
        self._redis: Any = _client(address, self._sentinel)
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def read(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of those keys that have one."""
        values = await self._ask(self._redis.mget, self._named(keys))
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    async def store(self, items: Mapping[str, bytes], ttl: float) -> None:
        """Set these for so many seconds."""
        arguments = [*self._named(items), max(1, int(ttl * 1000)), *items.values()]
        await self._ask(self._redis.eval, _STORE, len(items), *arguments)

    async def drop(self, keys: Sequence[str]) -> None:
        """Remove these."""
        await self._ask(self._redis.unlink, *self._named(keys))

    async def drop_everything(self) -> None:
        """Remove all that is ours."""
        with self._told():
            names: list[bytes] = []
            async for name in self._redis.scan_iter(match=f"{self._prefix}*", count=PURGE):
                names.append(name)
                if len(names) == PURGE:
                    await self._redis.unlink(*names)
                    names.clear()
            if names:
                await self._redis.unlink(*names)

    async def pay(
        self, paid: Mapping[str, tuple[float, float]], elapsed: float
    ) -> dict[str, float]:
        """See ``Cache.pay``."""
        ahead: dict[str, float] = {}
        callers = list(paid)
        for start in range(0, len(callers), AT_ONCE):
            some = callers[start : start + AT_ONCE]
            numbers = [elapsed, LONGEST, *(number for one in some for number in paid[one])]
            micros = [round(number * MICRO) for number in numbers]
            arguments = [*self._named(some), *micros[:2], MARGIN, *micros[2:]]
            found = await self._ask(self._redis.eval, _PAY, len(some), *arguments)
            ahead |= {one: micro / MICRO for one, micro in zip(some, found, strict=True)}
        return ahead

    async def publish(self, news: str) -> None:
        """Give news to whoever listens."""
        await self._ask(self._redis.publish, f"{self._prefix}{NEWS}", news)

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Hear the news, on a connection of its own, until that fails.

        ``""`` is heard when it begins: what was told before may have been missed.
        """
        with self._told():
            # A question finds out which server it is by now; a subscription does not.
            await self._redis.get(self._prefix)
            channel = self._redis.pubsub()
            try:
                await channel.subscribe(f"{self._prefix}{NEWS}")
                asked = False
                while True:
                    message = await channel.get_message(timeout=self._quiet)
                    if message is None and asked:
                        raise TimeoutError("nothing is heard any more")
                    if message is None:
                        await channel.ping()
                    elif message["type"] == "subscribe":
                        heard("")
                    elif message["type"] == "message":
                        heard(message["data"].decode(errors="replace"))
                    asked = message is None
            finally:
                with contextlib.suppress(Exception):  # it may be broken already
                    await channel.aclose()

    async def aclose(self) -> None:
        """Close every connection; what a server that hangs does not let go of is left to it."""
        with contextlib.suppress(Unanswered), self._told():
            async with asyncio.timeout(ALTOGETHER):
                await self._redis.aclose()
                if self._sentinel:
                    await self._sentinel.aclose()

    def _named(self, keys: Sequence[str] | Mapping[str, bytes]) -> list[str]:
        return [self._prefix + key for key in keys]

    async def _ask(self, command: Callable[..., Awaitable[_Result]], *arguments: object) -> _Result:
        with self._told():
            async with asyncio.timeout(ALTOGETHER), self._turns:
                try:
                    return await command(*arguments)
                except ReadOnlyError:
                    await self._look_again()
                    raise

    async def _look_again(self) -> None:
        """Let go of the server: its name may lead to another one by now, which takes changes."""
        if isinstance(self._redis, Redis):
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn every failure into one of ours."""
        try:
            yield
        except (ClusterError, AskError, TryAgainError) as error:
            raise Unanswered(self._text(error)) from None
        except ResponseError as error:
            # To whoever has not said a password, a long question is a mistake in the protocol.
            kind = Unanswered if str(error).startswith("Protocol error") else Refused
            raise kind(self._text(error)) from None
        except Exception as error:  # noqa: BLE001 - no failure of a cache is anybody's failure
            raise Unanswered(self._text(error)) from None

    def _text(self, error: Exception) -> str:
        """Return what may be logged: Redis repeats a command that it does not know, even AUTH."""
        said = str(error).partition(", with args")[0] or "no answer in time"
        for secret in self._secrets:
            said = said.replace(secret, "…")
        return f"{type(error).__name__}: {said}"


def _common(address: Address) -> dict[str, Any]:
    """Return what every connection is told."""
    return {
        "socket_timeout": PATIENCE,
        "socket_connect_timeout": CONNECTING,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        **({} if address.tls is None else {"ssl": True, **address.tls}),
    }


def _sentinel(address: Address) -> Sentinel:
    credentials = {
        "username": address.sentinel_username,
        "password": address.sentinel_password,
    }
    return Sentinel(  # type: ignore[no-untyped-call]
        address.hosts, sentinel_kwargs=_common(address) | credentials
    )


def _client(address: Address, sentinel: Sentinel | None) -> "Redis | RedisCluster":
    options: dict[str, Any] = _common(address) | {
        "username": address.username,
        "password": address.password,
        "max_connections": 2 * CONNECTIONS,
    }
    if address.kind is Kind.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    options["db"] = address.database
    if sentinel:
        server: Redis = sentinel.master_for(address.service, **options)
        return server
    if address.socket:
        return Redis(unix_socket_path=address.socket, **options)
    [(host, port)] = address.hosts
    return Redis(host=host, port=port, **options)
