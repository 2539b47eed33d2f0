"""What a status answer says: nothing that was not so when its customer was last answered."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec

import build
from build import AT, placement
from gateway import reporting
from gateway.cache import MemoryCache
from gateway.cache_shared import RedisCache
from gateway.model import Order, Status
from gateway.statuses import Statuses
from gateway.store import Step, Store
from gateway.store.sqlite import SqliteStore
from redistmp import redis
from world import world

DELAY = 0.1


class Slow:
    """A store that has read, and is not back yet."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read = asyncio.Event()
        self.back = asyncio.Event()

    async def orders(self, ids: Sequence[int]) -> dict[int, Order]:
        found = await self.store.orders(ids)
        self.read.set()
        await self.back.wait()
        return found

    async def archived(self, ids: Sequence[int]) -> dict[int, Order]:
        return await self.store.archived(ids)


@asynccontextmanager
async def slow_stores(url: str) -> AsyncIterator[str]:
    """Stand before a Redis, and carry every script to it late; all else at once."""
    at = urlsplit(url)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(at.hostname, at.port)

        async def back() -> None:
            while data := await up_reader.read(65536):
                writer.write(data)

        task = asyncio.create_task(back())
        while data := await reader.read(65536):
            if b"EVAL" in data:
                await asyncio.sleep(DELAY)
            up_writer.write(data)
        task.cancel()
        up_writer.close()
        writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield f"redis://127.0.0.1:{port}/0"
    server.close()


async def test_a_row_that_changed_while_it_was_read_is_not_kept(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "gateway.db")
    ann = await build.customer(store, credit=10**7)
    one = await build.order(store, placement(ann.id))
    slow, cache = Slow(store), MemoryCache()
    statuses = Statuses(cast(Store, slow), cache)
    reading = asyncio.create_task(statuses.read(ann, [one.id]))
    await slow.read.wait()
    after = await build.advance(store, one.id, build.accepted("9"))
    statuses.changed([one.id])
    await statuses.forget([after])
    slow.back.set()
    await reading
    known = statuses.known(ann, [str(one.id)])
    await store.close()

    assert known is None


async def test_a_row_that_changed_while_it_was_on_its_way_to_redis_is_not_kept(
    tmp_path: Path,
) -> None:
    """The news of its change may overtake it."""
    store = await SqliteStore.open(tmp_path / "gateway.db")
    ann = await build.customer(store, credit=10**7)
    one = await build.order(store, placement(ann.id))
    await build.advance(store, one.id, build.accepted("9"))
    with redis() as url:
        async with slow_stores(url) as through:
            cache = RedisCache(through)
            statuses = Statuses(store, cache)
            await cache.drop(["connected"])
            reading = asyncio.create_task(statuses.read(ann, [one.id]))
            await asyncio.sleep(DELAY / 2)  # it is read, and on its way to Redis
            (after,) = await store.advance(
                [Step(one.id, reporting.reported(build.report(), AT, build.FOLLOWING))]
            )
            assert isinstance(after, Order)
            statuses.changed([one.id])
            await statuses.forget([after])  # its customer may be told of it from here on
            await reading
            await asyncio.sleep(DELAY)
            found = await statuses.read(ann, [one.id])
            await cache.aclose()
    await store.close()

    assert "Completed" == msgspec.json.decode(found[one.id])["status"]


async def test_a_row_that_changed_while_the_owners_file_was_read_anew_is_not_kept(
    tmp_path: Path,
) -> None:
    """Who reads for the gateway before is told of what the gateway after it writes."""
    async with world(tmp_path) as w:
        one = (await w.add())["order"]
        before = w.gateway.statuses
        slow = Slow(w.gateway.store)
        before._store = cast(Store, slow)
        reading = asyncio.create_task(before.read(w.customer, [one]))
        await slow.read.wait()
        gateway = await w.gateway.changed(w.gateway.config)
        change = reporting.reported(build.report(), w.clock(), build.FOLLOWING, w.clock())
        await gateway.follow.advance([Step(one, change)])
        assert Status.COMPLETED is (await w.order(one)).status
        slow.back.set()
        await reading
        (row,) = (await gateway.statuses.read(w.customer, [one])).values()

    assert "Completed" == msgspec.json.decode(row)["status"]
