"""The two caches keep one contract, and Redis may fail in any way without being anybody's failure.

Against a real redis-server; where a pause would have to be waited for, the clock is passed in.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from structlog.typing import EventDict

import redistmp
import wire
from gateway.cache import OVERHEAD, Cache, MemoryCache, open_cache
from gateway.cache_shared import RedisCache


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redistmp.redis() as url:
        yield url


@contextlib.asynccontextmanager
async def talking_to(url: str) -> AsyncIterator[Redis]:
    """Speak to Redis past the cache."""
    client = Redis.from_url(url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def redis_cache(server: str) -> AsyncIterator[RedisCache]:
    async with talking_to(server) as client:
        await client.flushall()
        await client.config_resetstat()
    cache = RedisCache(server)
    yield cache
    await cache.aclose()


@pytest.fixture(params=["in-process", "redis"])
async def cache(request: pytest.FixtureRequest, server: str) -> AsyncIterator[Cache]:
    cache = open_cache({"in-process": "", "redis": server}[request.param])
    yield cache
    await cache.drop(["a", "b", "c", "clé:ü\n"])
    await cache.aclose()


# --- the contract -----------------------------------------------------------------------------


async def test_what_was_put_is_found_and_the_rest_is_a_miss(cache: Cache) -> None:
    await cache.put({"a": b"1", "b": bytes(range(256))}, ttl=60)

    assert [None, bytes(range(256)), b"1", b"1"] == await cache.get(["c", "b", "a", "a"])


async def test_a_later_value_takes_the_place_of_an_earlier(cache: Cache) -> None:
    await cache.put({"a": b"1"}, ttl=60)
    await cache.put({"a": b"2"}, ttl=60)

    assert [b"2"] == await cache.get(["a"])


async def test_what_is_dropped_is_gone_and_nothing_else(cache: Cache) -> None:
    await cache.put({"a": b"1", "b": b"2"}, ttl=60)
    await cache.drop(["a", "c"])

    assert [None, b"2"] == await cache.get(["a", "b"])


async def test_any_text_is_a_key_and_an_empty_value_is_a_value(cache: Cache) -> None:
    await cache.put({"clé:ü\n": b""}, ttl=60)

    assert [b""] == await cache.get(["clé:ü\n"])


async def test_nothing_may_be_asked_put_and_dropped(cache: Cache) -> None:
    await cache.put({}, ttl=60)
    await cache.drop([])

    assert [] == await cache.get([])


async def test_what_is_past_its_time_is_a_miss(cache: Cache) -> None:
    await cache.put({"a": b"1"}, ttl=0.05)
    await cache.put({"b": b"2"}, ttl=60)
    while await cache.get(["a"]) == [b"1"]:
        await asyncio.sleep(0.01)

    assert [None, b"2"] == await cache.get(["a", "b"])


async def test_many_readers_at_once_each_get_their_own(cache: Cache) -> None:
    await cache.put({"a": b"1", "b": b"2"}, ttl=60)
    wanted = [["a"], ["b"], ["c"], ["b", "a"]] * 25

    found = await asyncio.gather(*(cache.get(keys) for keys in wanted))

    assert [[b"1"], [b"2"], [None], [b"2", b"1"]] * 25 == found


# --- in-process -------------------------------------------------------------------------------


async def test_in_process_a_value_lives_exactly_its_time() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    await cache.put({"a": b"1"}, ttl=10)
    clock.now += 9.999
    before = await cache.get(["a"])
    clock.now += 0.001

    assert ([b"1"], [None]) == (before, await cache.get(["a"]))


async def test_in_process_what_was_not_used_for_longest_makes_room() -> None:
    cache = MemoryCache(capacity=3 * (OVERHEAD + 2))
    await cache.put({"a": b"1", "b": b"2", "c": b"3"}, ttl=60)
    await cache.get(["a"])
    await cache.put({"d": b"4"}, ttl=60)

    assert [b"1", None, b"3", b"4"] == await cache.get(["a", "b", "c", "d"])


async def test_in_process_what_is_too_large_displaces_nothing_but_its_older_value() -> None:
    cache = MemoryCache(capacity=1000)
    await cache.put({"a": b"1", "b": b"2"}, ttl=60)
    await cache.put({"a": b"x" * 1000}, ttl=60)

    assert [None, b"2"] == await cache.get(["a", "b"])


async def test_in_process_replacing_and_dropping_give_back_the_room() -> None:
    cache = MemoryCache(capacity=2 * (OVERHEAD + 2))
    for _ in range(10):
        await cache.put({"a": b"1"}, ttl=60)
        await cache.put({"b": b"1"}, ttl=60)
        await cache.drop(["b"])
    await cache.put({"b": b"2"}, ttl=60)

    assert [b"1", b"2"] == await cache.get(["a", "b"])


# --- Redis, when all is well --------------------------------------------------------------------


async def test_reads_of_the_same_moment_become_one_question(
    redis_cache: RedisCache, server: str
) -> None:
    await asyncio.gather(*(redis_cache.get([str(n), "a"]) for n in range(50)))
    async with talking_to(server) as client:
        asked = await client.info("commandstats")

    assert 1 == asked["cmdstat_mget"]["calls"]


async def test_a_reader_who_is_cancelled_takes_nothing_from_the_others(
    redis_cache: RedisCache,
) -> None:
    await redis_cache.put({"a": b"1", "b": b"2"}, ttl=60)
    gone = asyncio.create_task(redis_cache.get(["a"]))
    stays = asyncio.create_task(redis_cache.get(["b"]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])

    assert (True, [b"2"], [b"1"]) == (gone.cancelled(), await stays, await redis_cache.get(["a"]))


async def test_a_change_is_made_although_its_caller_is_cancelled(
    redis_cache: RedisCache, server: str
) -> None:
    await redis_cache.put({"a": b"1"}, ttl=60)
    other = RedisCache(server)  # which has yet to connect
    change = asyncio.create_task(other.drop(["a"]))
    await asyncio.sleep(0)
    change.cancel()
    while await redis_cache.get(["a"]) == [b"1"]:
        await asyncio.sleep(0.01)
    await other.aclose()

    assert (True, 0) == (change.cancelled(), other.failures)


async def test_closing_waits_for_the_changes_under_way(
    redis_cache: RedisCache, server: str
) -> None:
    await redis_cache.put({"a": b"1"}, ttl=60)
    other = RedisCache(server)
    change = asyncio.create_task(other.drop(["a"]))
    await asyncio.sleep(0)
    await other.aclose()
    await change

    assert ([None], 0) == (await redis_cache.get(["a"]), other.failures)


async def test_keys_stand_under_the_prefix_and_go_away_by_themselves(
    redis_cache: RedisCache, server: str
) -> None:
    await redis_cache.put({"a": b"1"}, ttl=60)
    async with talking_to(server) as client:
        keys, left = await client.keys(), await client.pttl("gateway:{only}/a")

    assert ([b"gateway:{only}/a"], True) == (keys, 0 < left <= 60_000)


async def test_two_processes_share_what_is_in_redis(redis_cache: RedisCache, server: str) -> None:
    other = open_cache(server)
    await other.put({"a": b"1"}, ttl=60)
    found = await redis_cache.get(["a"])
    await other.aclose()

    assert [b"1"] == found


def test_a_url_that_names_no_redis_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"give redis://user:password@host:6379/0"):
        open_cache("memcached://localhost")


def test_whoever_has_no_redis_is_spared_its_library() -> None:
    """It takes 5 MB of every process."""
    program = "import sys, gateway.commands.main; print('redis' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "False\n" == said.stdout


async def test_after_closing_all_is_a_miss(redis_cache: RedisCache) -> None:
    await redis_cache.put({"a": b"1"}, ttl=60)
    await redis_cache.aclose()
    await redis_cache.drop(["b"])

    assert [None] == await redis_cache.get(["a"])


# --- Redis, when it fails -----------------------------------------------------------------------


def said(lines: list[EventDict]) -> list[tuple[object, object]]:
    return [(line["log_level"], line["event"]) for line in lines]


ONCE = [("warning", "redis_failed"), ("info", "redis_back")]


@contextlib.asynccontextmanager
async def cache_at(url: str, clock: Clock) -> AsyncIterator[RedisCache]:
    cache = RedisCache(url, clock=clock)
    try:
        yield cache
    finally:
        await cache.aclose()


async def find_again(cache: RedisCache, clock: Clock) -> None:
    """Put and read until Redis is back in use; a second passes at each try."""
    found: list[bytes | None] = [None]
    while found == [None]:
        clock.now += 1
        await cache.put({"again": b"yes"}, ttl=60)
        found = await cache.get(["again"])
        await asyncio.sleep(0.01)


async def test_redis_killed_is_a_miss_and_one_warning_until_it_is_back() -> None:
    clock = Clock()
    with capture_logs() as lines:
        with redistmp.server() as (url, pid):
            cache = RedisCache(url, clock=clock)
            await cache.put({"a": b"1"}, ttl=60)
            os.kill(pid, signal.SIGKILL)
            gone = []
            for _ in range(3):
                gone += await cache.get(["a"])
                await cache.put({"a": b"2"}, ttl=60)
                await cache.drop(["b"])
                clock.now += 1
        with redistmp.server(port=urlsplit(url).port or 0):
            await find_again(cache, clock)
            await cache.aclose()

    assert ([None] * 3, ONCE) == (gone, said(lines))


async def test_redis_paused_is_waited_for_once_in_a_pause() -> None:
    clock = Clock()
    with capture_logs() as lines, redistmp.server() as (url, pid):
        async with cache_at(url, clock) as cache:
            await cache.put({"a": b"1"}, ttl=60)
            os.kill(pid, signal.SIGSTOP)
            gone = [one for _ in range(20) for one in await cache.get(["a"])]
            waited = cache.failures
            clock.now += 1
            await asyncio.gather(*(cache.put({"b": b"2"}, ttl=60) for _ in range(20)))
            gone += await cache.get(["a"])
            waited_again = cache.failures
            os.kill(pid, signal.SIGCONT)
            await find_again(cache, clock)

    assert ([None] * 21, 1, 2, ONCE) == (gone, waited, waited_again, said(lines))


@pytest.mark.parametrize("change", ["drop", "put"])
async def test_what_could_not_be_changed_is_never_believed_again(change: str) -> None:
    clock = Clock()
    with redistmp.server() as (url, pid):
        async with cache_at(url, clock) as cache, talking_to(url) as client:
            await cache.put({"a": b"old"}, ttl=60)
            await client.set("somebody-elses", b"1")
            os.kill(pid, signal.SIGSTOP)
            await cache.get(["b"])  # from here on nothing is even tried
            if change == "drop":
                await cache.drop(["a"])
            else:
                await cache.put({"a": b"new"}, ttl=60)
            os.kill(pid, signal.SIGCONT)
            found: list[bytes | None] = []
            while not found or await client.exists("gateway:{only}/a"):
                clock.now += 1
                found += await cache.get(["a"])
            await find_again(cache, clock)
            others = await client.get("somebody-elses")

    assert ({None}, b"1") == (set(found), others)


async def test_a_change_that_redis_never_heard_counts_even_when_it_was_tried() -> None:
    clock = Clock()
    with redistmp.server() as (url, _):
        async with cache_at(url, clock) as cache:
            await cache.put({"a": b"old"}, ttl=60)
            async with talking_to(url) as client:
                await client.client_pause(2000, all=False)  # reads go on, writes wait
            await cache.drop(["a"])
            tried = cache.failures
            clock.now += 1
            found = await cache.get(["a"])

    assert (1, [None]) == (tried, found)


async def test_redis_full_keeps_no_old_value_and_is_still_read() -> None:
    clock = Clock()
    with capture_logs() as lines, redistmp.server() as (url, _):
        async with cache_at(url, clock) as cache, talking_to(url) as client:
            await cache.put({"a": b"old", "b": b"2"}, ttl=60)
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "1")
            await cache.put({"a": b"new"}, ttl=60)
            await cache.put({"c": b"3"}, ttl=60)
            full = await cache.get(["a", "b", "c"])
            await client.config_set("maxmemory", "0")
            clock.now += 1
            await cache.put({"a": b"new"}, ttl=60)
            after = await cache.get(["a", "b", "c"])

    once = [("warning", "redis_storing_failed"), ("info", "redis_storing_back")]
    assert ([None, b"2", None], [b"new", b"2", None], once) == (full, after, said(lines))


async def test_a_wrong_password_is_a_miss_until_it_is_the_right_one() -> None:
    clock = Clock()
    with capture_logs() as lines, redistmp.server("--requirepass", "right") as (url, _):
        at = url.removeprefix("redis://")
        async with (
            cache_at(f"redis://:wrong@{at}", clock) as cache,
            talking_to(f"redis://:right@{at}") as client,
        ):
            await cache.put({"a": b"1"}, ttl=60)
            refused = await cache.get(["a"])
            await client.config_set("requirepass", "wrong")
            await find_again(cache, clock)

    words = [str(line.get("error")) for line in lines]
    assert ([None], ONCE) == (refused, said(lines))
    assert not any("wrong@" in one or ":wrong" in one for one in words)


async def test_a_failure_is_not_tried_again_before_the_pause_is_over() -> None:
    async with wire.serve(wire.Peer.hang) as mute:
        port = urlsplit(mute.url).port
        async with cache_at(f"redis://127.0.0.1:{port}", Clock()) as cache:
            missed = await cache.get(["a"])
            tried = mute.accepted

    assert ([None], 1) == (missed, tried)


async def test_no_redis_from_the_start_is_no_obstacle() -> None:
    clock = Clock()
    with redistmp.server() as (url, _):
        pass
    with capture_logs() as lines:
        async with cache_at(url, clock) as cache:
            await cache.put({"a": b"1"}, ttl=60)
            missed = await cache.get(["a"])
            with redistmp.server(port=urlsplit(url).port or 0):
                await find_again(cache, clock)

    assert ([None], ONCE) == (missed, said(lines))


async def test_the_unix_socket_of_a_redis_will_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("redis") / "socket"
    with redistmp.server("--unixsocket", str(path)):
        cache = open_cache(f"unix://{path}")
        await cache.put({"a": b"1"}, ttl=60)
        found = await cache.get(["a"])
        await cache.aclose()

    assert [b"1"] == found


async def test_two_installations_on_one_redis_do_not_meet() -> None:
    """Their customers and orders have the same numbers, and are not the same."""
    with redistmp.redis() as url:
        here, there = open_cache(url, "one"), open_cache(url, "two")
        await here.put({"status/1/1": b"ours"}, 60)

        assert [None] == await there.get(["status/1/1"])
        assert [b"ours"] == await here.get(["status/1/1"])
        await here.aclose()
        await there.aclose()


# --- news -------------------------------------------------------------------------------------


async def seen(heard: list[str], news: str, times: int = 1) -> None:
    """Wait until this was heard so often."""
    while heard.count(news) < times:
        await asyncio.sleep(0.01)


async def test_what_is_told_is_heard_by_all_who_listen(server: str) -> None:
    one, other = RedisCache(server), RedisCache(server)
    heard: dict[str, list[str]] = {"one": [], "other": []}
    one.listen(heard["one"].append)
    other.listen(heard["other"].append)
    await seen(heard["one"], "")
    await seen(heard["other"], "")
    await one.tell("customers")
    await seen(heard["one"], "customers")
    await seen(heard["other"], "customers")

    assert {"one": ["", "customers"], "other": ["", "customers"]} == heard
    await one.aclose()
    await other.aclose()


async def test_news_of_one_installation_are_not_heard_in_another(server: str) -> None:
    mine, yours = RedisCache(server, installation="a"), RedisCache(server, installation="b")
    heard: list[str] = []
    yours.listen(heard.append)
    await seen(heard, "")
    await mine.tell("customers")
    await yours.tell("catalog")
    await seen(heard, "catalog")

    assert ["", "catalog"] == heard
    await mine.aclose()
    await yours.aclose()


async def test_who_may_have_missed_something_is_told_so(server: str) -> None:
    """A connection that broke says nothing of what was told meanwhile."""
    cache = RedisCache(server, pause=0.05)
    heard: list[str] = []
    cache.listen(heard.append)
    await seen(heard, "")
    async with talking_to(server) as client:
        await client.client_kill_filter(_type="pubsub")
    await seen(heard, "", times=2)
    await asyncio.sleep(0.1)  # the cache lets one caller try in a pause
    await cache.tell("customers")
    await seen(heard, "customers")

    assert ["", "", "customers"] == heard
    await cache.aclose()


async def test_a_channel_that_has_fallen_silent_is_left_for_a_new_one() -> None:
    """Whoever was there may have gone without a word, and nobody else asks anything."""
    with capture_logs() as lines, redistmp.server() as (url, pid):
        cache = RedisCache(url, pause=0.05, quiet=0.1)
        heard: list[str] = []
        cache.listen(heard.append)
        await seen(heard, "")
        await asyncio.sleep(0.5)
        quiet = list(heard), list(lines)
        os.kill(pid, signal.SIGSTOP)
        while not lines:
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGCONT)
        await seen(heard, "", times=2)
        await cache.aclose()

    assert ([""], []) == quiet
    assert ONCE == said(lines)


async def test_in_one_process_news_need_no_redis() -> None:
    cache = MemoryCache()
    heard: list[str] = []
    cache.listen(heard.append)
    await cache.tell("catalog")

    assert ["catalog"] == heard
