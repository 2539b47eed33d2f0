"""The gateway's cache on every kind of Redis: all of it works on each, on real servers."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

import redistmp
import wire
from gateway.cache import open_cache
from gateway.cache_shared import RedisCache


@contextlib.asynccontextmanager
async def cache_at(url: str, installation: str = "one") -> AsyncIterator[RedisCache]:
    cache = RedisCache(url, installation=installation, pause=0.1)
    try:
        yield cache
    finally:
        await cache.aclose()


async def soon(look: Callable[[], object]) -> None:
    """Wait until a look is content."""
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.02)


async def everything_works(url: str) -> None:
    """Put, read, drop, tell, pay and purge, as two processes do."""
    async with cache_at(url) as one, cache_at(url) as other:
        heard: list[str] = []
        other.listen(heard.append)
        await soon(lambda: heard == [""])
        items = {f"status/{number}": b"%d" % number for number in range(50)}
        await one.put(items, ttl=60)
        assert list(items.values()) == await other.get(list(items))
        await one.drop(list(items)[:49])
        assert [None] * 49 + [b"49"] == await other.get(list(items))
        paid = {f"limits/customer/{number}": (2.0, 2.0) for number in range(50)}
        await one.pay(paid, 0.5)
        assert set(paid) == set(ahead := await other.pay(paid, 0.5))
        assert all(2 < seconds <= 4 for seconds in ahead.values())
        await one.tell("catalog")
        await soon(lambda: heard == ["", "catalog"])
        one._lost += 1  # a change that was not heard
        while one._lost != one._made_good:
            assert [None] == await one.get(["status/49"])
            await asyncio.sleep(0.01)
        assert [None] == await other.get(["status/49"])

        assert (0, 0) == (one.failures, other.failures)


async def test_with_tls_and_an_authority_of_ones_own(tmp_path: Path) -> None:
    with redistmp.encrypted(tmp_path) as (port, authority):
        await everything_works(f"rediss://localhost:{port}/3?ssl_ca_certs={authority}")


async def test_a_server_for_which_nobody_vouches_is_not_spoken_to(tmp_path: Path) -> None:
    with redistmp.encrypted(tmp_path) as (port, _), capture_logs() as lines:
        async with cache_at(f"rediss://:5ecret@localhost:{port}") as cache:
            found = await cache.get(["a"])

    assert ([None], ["redis_failed"]) == (found, [line["event"] for line in lines])
    assert "CERTIFICATE_VERIFY_FAILED" in str(lines)


async def test_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    """The server asks for one, too."""
    with redistmp.encrypted(tmp_path, "--tls-auth-clients", "yes") as (port, authority):
        files = f"ssl_certfile={tmp_path}/cert.pem&ssl_keyfile={tmp_path}/key.pem"
        await everything_works(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}&{files}")


ACL = "on >p%ss/w0rd@ resetchannels &gateway:* ~gateway:* -@all"
COMMANDS = "+mget +eval +get +set +psetex +time +unlink +scan +publish +subscribe +ping +select"


async def test_as_a_user_who_may_do_nothing_else(tmp_path: Path) -> None:
    """With exactly the commands and keys that deploy/README.md asks for."""
    with redistmp.server("--user", "gate", *ACL.split(), *COMMANDS.split()) as (url, _):
        at = url.removeprefix("redis://")
        await everything_works(f"redis://gate:p%25ss%2Fw0rd%40@{at}")

    paper = (Path(__file__).parents[1] / "deploy" / "README.md").read_text()
    assert COMMANDS in paper


@pytest.mark.parametrize(
    ("may", "trouble"),
    [
        ("-mget", "redis_reading"),
        ("-eval", "redis_storing"),
        ("-publish", "redis_news"),
        ("resetchannels", "redis_news"),
    ],
)
async def test_what_a_user_may_not_do_is_said_once_and_stops_nothing_else(
    may: str, trouble: str
) -> None:
    options = ["--user", "gate", *ACL.split(), *COMMANDS.split(), may]
    with redistmp.server(*options) as (url, _), capture_logs() as lines:
        at = url.removeprefix("redis://")
        async with cache_at(f"redis://gate:p%25ss%2Fw0rd%40@{at}") as cache:
            heard: list[str] = []
            cache.listen(heard.append)
            for _ in range(20):
                await cache.put({"a": b"1"}, ttl=60)
                await cache.get(["a"])
                await cache.pay({"b": (1.0, 1.0)}, 0.5)
                await cache.tell("catalog")
                await asyncio.sleep(0.02)
            found = await cache.get(["a"])
            heard_first = heard[:1]

    assert [f"{trouble}_failed"] == [line["event"] for line in lines]
    assert [b"1" if trouble == "redis_news" else None] == found
    assert ([] if may == "resetchannels" else [""]) == heard_first


async def test_a_password_that_is_missing_is_one_trouble_however_long_the_question() -> None:
    """To a short one Redis answers otherwise than to a long one."""
    with redistmp.server("--requirepass", "p") as (url, _), capture_logs() as lines:
        async with cache_at(url) as cache:
            for keys in (["a"], [str(number) for number in range(50)]) * 2:
                await cache.put(dict.fromkeys(keys, b"1"), ttl=60)
                await asyncio.sleep(0.11)

    assert ["redis_failed"] == [line["event"] for line in lines]


async def test_over_a_socket_and_with_a_password(tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    with redistmp.server("--unixsocket", str(path), "--requirepass", "p"):
        await everything_works(f"unix://:p@{tmp_path}/a%20socket?db=2")


async def test_behind_sentinels_whichever_is_master(tmp_path: Path) -> None:
    """Its death is a miss, and the cache goes on with the replica."""
    with redistmp.watched(tmp_path, "p") as (servers, sentinels), capture_logs() as lines:
        hosts = ",".join(f"127.0.0.1:{port}" for port in (1, *sentinels))
        url = f"redis+sentinel://:p@{hosts}/{redistmp.SERVICE}"
        await everything_works(url)
        async with cache_at(url) as cache:
            heard: list[str] = []
            cache.listen(heard.append)
            await soon(lambda: heard)
            await cache.put({"a": b"1"}, ttl=60)
            os.kill(next(iter(servers.values())), signal.SIGKILL)
            assert [None] == await cache.get(["a"])
            found: list[bytes | None] = [None]
            while found == [None]:
                await cache.put({"b": b"2"}, ttl=60)
                found = await cache.get(["b"])
                await asyncio.sleep(0.05)
            await soon(lambda: heard.count("") > 1)
            await cache.tell("catalog")
            await soon(lambda: "catalog" in heard)

    assert ["redis_failed", "redis_back"] == [line["event"] for line in lines]


async def test_on_a_cluster_whichever_node_is_named() -> None:
    with redistmp.cluster() as nodes:
        for port in nodes:
            await everything_works(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}")


async def test_on_a_cluster_all_of_an_installation_is_on_one_node() -> None:
    """So that one question reaches it; another installation may be elsewhere."""
    with redistmp.cluster() as nodes:
        first, *_ = nodes
        url = f"redis+cluster://127.0.0.1:{first}"
        holders = []
        for installation in ("a", "b", "c", "d"):
            async with cache_at(url, installation) as cache:
                await cache.put({str(number): b"1" for number in range(20)}, ttl=60)
            held = {
                port: len(redistmp.ask(port, "KEYS", f"*{{{installation}}}*")) for port in nodes
            }
            holders += [port for port, keys in held.items() if keys]
            assert [0, 0, 20] == sorted(held.values())

    assert len(set(holders)) > 1


async def test_on_a_cluster_a_node_that_hangs_is_a_miss_until_it_is_back() -> None:
    with redistmp.cluster() as nodes, capture_logs() as lines:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in nodes)
        async with cache_at(url) as cache:
            await cache.put({"a": b"1"}, ttl=60)
            [ours] = [port for port in nodes if redistmp.ask(port, "DBSIZE")]
            os.kill(nodes[ours], signal.SIGSTOP)
            hung = [await cache.get(["a"]) for _ in range(20)]
            os.kill(nodes[ours], signal.SIGCONT)
            async with asyncio.timeout(20):
                while await cache.get(["a"]) == [None]:
                    await asyncio.sleep(0.05)

    assert [[None]] * 20 == hung
    assert ["redis_failed", "redis_back"] == [line["event"] for line in lines]


async def test_a_server_that_has_become_a_replica_is_left_for_the_one_its_name_leads_to(
    tmp_path: Path,
) -> None:
    """A connection to it would stay open, and take no change for ever."""
    with redistmp.server() as (old, _), redistmp.server() as (new, _):
        leads = [old]

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, there = await asyncio.open_connection("127.0.0.1", redistmp.port_of(leads[0]))
            await asyncio.gather(pump(reader, there), pump(back, writer))

        name = await asyncio.start_server(carry, "127.0.0.1", 0)
        async with cache_at(f"redis://127.0.0.1:{name.sockets[0].getsockname()[1]}") as cache:
            await cache.put({"a": b"1"}, ttl=60)
            redistmp.ask(redistmp.port_of(old), "REPLICAOF", "127.0.0.1", redistmp.port_of(new))
            leads[0] = new
            found: list[bytes | None] = [None]
            async with asyncio.timeout(20):
                while found != [b"2"]:
                    await cache.put({"a": b"2"}, ttl=60)
                    found = await cache.get(["a"])
                    await asyncio.sleep(0.05)
        name.close()
        await name.wait_closed()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until there are no more."""
    with contextlib.suppress(ConnectionError):
        while some := await reader.read(1 << 16):
            writer.write(some)
            await writer.drain()
    writer.close()


# --- secrets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [["--requirepass", "right"], ["--rename-command", "AUTH", "nothing"]],
    ids=["wrong", "not even known"],
)
async def test_no_password_is_logged_whatever_redis_answers(options: list[str]) -> None:
    """A Redis that does not know a command repeats what stood behind it."""
    with redistmp.server(*options) as (url, _), capture_logs() as lines:
        at = url.removeprefix("redis://")
        cache = open_cache(f"redis://:{'5ecret' * 50}@{at}")
        await cache.get(["a"])
        await cache.put({"a": b"1"}, ttl=60)
        await cache.aclose()

    assert lines
    assert "5ecret" not in str(lines)


async def test_nor_is_one_that_something_else_repeats() -> None:
    """A proxy before it may have words of its own."""

    async def repeat(peer: wire.Peer) -> None:
        await peer.read_some()
        await peer.write(b"-ERR 5ecret is wrong\r\n")

    async with wire.serve(repeat) as proxy:
        with capture_logs() as lines:
            cache = open_cache(f"redis://:5ecret@127.0.0.1:{urlsplit(proxy.url).port}")
            await cache.get(["a"])
            await cache.aclose()

    assert "is wrong" in str(lines)
    assert "5ecret" not in str(lines)


async def test_a_sentinel_that_is_not_there_is_said_without_a_password() -> None:
    with capture_logs() as lines:
        cache = open_cache("redis+sentinel://:5ecret@127.0.0.1:1,127.0.0.1:2/ours")
        found = await cache.get(["a"])
        await cache.aclose()

    assert ([None], ["redis_failed"]) == (found, [line["event"] for line in lines])
    assert "5ecret" not in str(lines)
