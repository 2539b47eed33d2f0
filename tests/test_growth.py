"""What is done for every order reads as much with thousands of old orders as with a few."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import asyncpg  # type: ignore[import-untyped]

from build import AT, FOLLOWING, choice, claim, placement, put_off, report
from databases import bare_database
from gateway import reporting, transitions
from gateway.app import open_store
from gateway.background import Background
from gateway.model import State
from gateway.store import Placed, Step
from gateway.store.sqlite import SqliteStore
from test_routes import QUEUE, yaml
from world import Panel, World, world

FEW, MANY = 50, 3000
"""Old orders; sixty times as many must not be seen in what is read."""
SLACK = 1.5
"""A deeper tree, a fuller page: a little more is no growth."""
PAGE = 500
BEFORE = AT - 10**10


async def grow(url: str, orders: int) -> None:
    """Write a history: settled orders of one customer, as old ones are."""
    store = await open_store(url)
    (ann, *_) = await store.customers()
    first = choice("p", "1", cost=72_000)
    for start in range(0, orders, PAGE):
        count = min(PAGE, orders - start)
        wanted = [
            placement(ann.id, 90_000, claim=claim(f"key/{number}"), route=first, at=BEFORE + number)
            for number in range(start, start + count)
        ]
        placed = [one.order for one in await store.place(wanted) if isinstance(one, Placed)]
        assert count == len(placed)
        accepted = [
            Step(one.id, transitions.accepted(f"old-{one.id}", 1, BEFORE, FOLLOWING))
            for one in placed
        ]
        await store.advance(accepted)
        done = reporting.reported(report(charge=72_000, remains=0), BEFORE, FOLLOWING)
        await store.advance([Step(one.id, done) for one in placed])
        late = await put_off(store, "p", AT)
        assert count == len(late), "none of them is asked for again"
    await store.close()


async def work(one: World) -> None:
    """Do everything once that is done for orders and customers all the time."""
    gateway = one.gateway
    news: Callable[[], Any] = Background._news.__get__(gateway.background)
    for number in range(5):
        assert "order" in await one.add(link=f"https://example.com/{number}")
    named = await one.add(link="https://example.com/n", idempotency_key="new")
    assert named == await one.add(link="https://example.com/n", idempotency_key="new")
    await gateway.orders.drain(5)
    lost = await one.add(service=102, link="https://example.com/lost")
    await gateway.orders.drain(5)
    assert State.UNKNOWN is (await one.order(lost["order"])).state
    await one.api("status", order=1)
    await one.api("status", orders=",".join(map(str, range(1, 41))))
    await one.api("balance")
    await one.api("refill", order=2)
    await one.api("cancel", orders="3,4")
    await gateway.orders.dispatch()
    await gateway.orders.leftovers()
    await one.look()
    await one.look_refills()
    await gateway.aftersales.cancel_again()
    await gateway.settler.look("p")
    await news()
    assert (0, 0) == await gateway.store.archive(BEFORE, 0, FEW)


def panels() -> tuple[Panel, Panel]:
    """Return one that takes orders and one whose answers get lost."""
    numbers = itertools.count(1_000_000)
    row = {"charge": "0.072", "start_count": "1", "status": "In progress", "remains": "9"}
    p = Panel(
        add=lambda _: {"order": next(numbers)},
        status=lambda form: dict.fromkeys(form["orders"].split(","), row),
        balance={"balance": "100", "currency": "USD"},
    )
    return p, Panel(add=ConnectionResetError(), balance={"balance": "100", "currency": "USD"})


@asynccontextmanager
async def grown(folder: Path, url: str, orders: int) -> AsyncIterator[World]:
    """Open a gateway on a database with so many old orders."""
    p, q = panels()
    file = yaml(orders=QUEUE)
    async with world(folder, file, money="1000", database_url=url, p=p, q=q):
        pass
    await grow(url, orders)
    async with world(folder, file, name="bob", sync=False, database_url=url, p=p, q=q) as one:
        yield one


async def steps_of_sqlite(folder: Path, orders: int) -> int:
    """Return how many steps SQLite's machine takes for the work."""
    steps: Counter[str] = Counter()

    def profile(event: dict[str, Any]) -> None:
        steps[event["sql"]] += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    async with grown(folder, f"sqlite:///{folder}/gateway.db", orders) as one:
        store = one.gateway.store
        assert isinstance(store, SqliteStore)
        for db in (store._reader, store._writer._db):
            db.trace_v2(apsw.SQLITE_TRACE_PROFILE, profile)
        await work(one)
    return sum(steps.values())


async def rows_of_postgres(server: str, folder: Path, orders: int) -> int:
    """Return how many rows and index entries PostgreSQL reads for the work."""
    read = """
        SELECT (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables)
            + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
    """
    async with bare_database(server) as url:
        db = await asyncpg.connect(url)
        try:
            async with grown(folder, url, orders) as one:
                await db.execute("VACUUM ANALYZE")  # as the server does by itself
                await db.execute("SELECT pg_stat_reset()")
                await work(one)
            # Its connections tell what they have read when they are closed.
            others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            while await db.fetchval(others) > 1:
                await asyncio.sleep(0.01)
            await db.execute("SELECT pg_stat_clear_snapshot()")
            return int(await db.fetchval(read))
        finally:
            await db.close()


def _folder(path: Path, orders: int) -> Path:
    folder = path / str(orders)
    folder.mkdir()
    return folder


async def test_sqlite_does_not_work_harder_for_a_longer_history(tmp_path: Path) -> None:
    few, many = [await steps_of_sqlite(_folder(tmp_path, orders), orders) for orders in (FEW, MANY)]

    assert 0 < many < few * SLACK


async def test_postgresql_does_not_work_harder_for_a_longer_history(
    postgres_url: str, tmp_path: Path
) -> None:
    few, many = [
        await rows_of_postgres(postgres_url, _folder(tmp_path, orders), orders)
        for orders in (FEW, MANY)
    ]

    assert 0 < many < few * SLACK
