"""How many orders a second the books take, so many waiting at once: a program of its own.

``python -m benchmarks.commits URL single|together WAITING SECONDS``: ``together`` is the
gateway's store; ``single`` writes the same rows with the same driver, a transaction an order, as
a plain program would. Each is durable before the next one of its waiter begins.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

import apsw
import asyncpg  # type: ignore[import-untyped]
import msgspec

from benchmarks.history import CHARGE, COST
from benchmarks.load import Sample
from gateway import transitions
from gateway.app import open_store
from gateway.errors import ErrorText
from gateway.model import Offer, Order
from gateway.store import Change, Placement
from gateway.store.rows import columns, listed, to_row
from gateway.transitions import Choice

CUSTOMERS = 16
CONNECTIONS = 16
_OFFER = Offer("1", "name", "Default", "category", Decimal("0.9"), 50, 10_000)
_CHOICE = Choice("panel", _OFFER, COST, "USD", "1")
_NAMES = columns(Order)
_SPEND = """
    UPDATE accounts SET balance = balance - {0}
    WHERE owner = {1} AND kind = 'available' AND currency = 'USD'
"""
_HOLD = """
    INSERT INTO accounts (kind, owner, currency, balance) VALUES ('held', {1}, 'USD', {0})
    ON CONFLICT (owner, kind, currency) DO UPDATE SET balance = accounts.balance + excluded.balance
"""
_TRANSFER = 'INSERT INTO transfers (key, code, owner, amount, currency, "order", at) VALUES '

Place = Callable[[int], Awaitable[None]]
"""Places one order of a customer, durably."""


def _build(customer: int) -> Callable[[int], Change]:
    draft = Order(
        customer=customer,
        service=1,
        type="Default",
        params={"link": "https://instagram.com/p/1", "quantity": "100"},
        size=100,
        charge=CHARGE,
        currency="USD",
    )
    return transitions.opened(draft, _CHOICE, time.time_ns() // 1_000_000, "a mark")


async def _together(url: str) -> Place:
    store = await open_store(url)

    async def place(customer: int) -> None:
        (placed,) = await store.place([Placement(customer, _build(customer), 1)])
        if isinstance(placed, ErrorText):
            raise TypeError(placed)

    return place


async def _single_sqlite(url: str) -> Place:
    db = apsw.Connection(url.removeprefix("sqlite:///"))
    db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
    count = "UPDATE counters SET value = value + 1 WHERE name = 'order' RETURNING value"
    order = f"INSERT INTO orders ({listed(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"
    spend, hold = _SPEND.format("?1", "?2"), _HOLD.format("?1", "?2")

    async def place(customer: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        change = _build(customer)(db.execute(count).get)
        db.execute(order, to_row(change.order))
        for one in change.transfers:
            db.execute(spend, (one.amount, one.owner))
            db.execute(hold, (one.amount, one.owner))
            db.execute(f"{_TRANSFER} (?, ?, ?, ?, ?, ?, ?)", to_row(one))
        db.execute("COMMIT")
        await asyncio.sleep(0)

    return place


async def _single_postgres(url: str) -> Place:
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    numbers = ", ".join(f"${index}" for index in range(1, len(_NAMES) + 1))
    order = f"INSERT INTO orders ({listed(_NAMES)}) VALUES ({numbers})"
    spend, hold = _SPEND.format("$1", "$2"), _HOLD.format("$1", "$2")

    async def place(customer: int) -> None:
        async with pool.acquire() as db, db.transaction():
            change = _build(customer)(await db.fetchval("SELECT nextval('order_ids')"))
            await db.execute(order, *to_row(change.order))
            for one in change.transfers:
                await db.execute(spend, one.amount, one.owner)
                await db.execute(hold, one.amount, one.owner)
                await db.execute(f"{_TRANSFER} ($1, $2, $3, $4, $5, $6, $7)", *to_row(one))

    return place


async def _measure(place: Place, waiting: int, seconds: float) -> Sample:
    customers = itertools.cycle(range(1, CUSTOMERS + 1))
    took: list[float] = []
    clock = time.perf_counter
    until = clock() + seconds

    async def wait() -> None:
        while (began := clock()) < until:
            await place(next(customers))
            took.append(clock() - began)

    spent, began = sum(os.times()[:2]), clock()
    await asyncio.gather(*(wait() for _ in range(waiting)))
    lasted, spent = clock() - began, sum(os.times()[:2]) - spent
    took.sort()
    return Sample(
        requests=len(took),
        rate=len(took) / lasted,
        size=0,
        p50=took[len(took) // 2] * 1000,
        p99=took[len(took) * 99 // 100] * 1000,
        cpu=spent * 1000 / len(took),
    )


async def main(url: str, how: str, waiting: str, seconds: str) -> None:
    """Measure, and print the sample as JSON."""
    if how == "together":
        place = await _together(url)
    else:
        place = await (_single_postgres if url.startswith("postgresql") else _single_sqlite)(url)
    await _measure(place, int(waiting), 0.3)
    print(msgspec.json.encode(await _measure(place, int(waiting), float(seconds))).decode())
    os._exit(0)  # everything that was answered is durable


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
