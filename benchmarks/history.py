"""Orders in bulk, as years of business leave them behind: written by the database itself.

They are whole: each has its events and its transfers, and the accounts hold their sums, so the
audit finds nothing wrong with them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import apsw
import asyncpg  # type: ignore[import-untyped]

from benchmarks.machine import Trouble
from gateway.model import MOVES, Code

CUSTOMER = 1
"""Whose orders they are; added before."""
COST, CHARGE = 90_000, 112_500
"""What each costs us and the customer, in millionths."""
CHUNK = 500_000
"""Orders in one statement."""
_YEAR = 365 * 24 * 3600 * 1000

_EVENTS_OF = (
    (2, "accepted", '{"attempt":1,"provider":"panel","service":"1"}'),
    (3, "status", '{"status":"Completed"}'),
)
_TRANSFERS_OF = (
    (1, Code.HOLD, f"{CUSTOMER}", CHARGE),
    (2, Code.CAPTURE, f"{CUSTOMER}", CHARGE),
    (2, Code.COST, "panel", COST),
)
_ORDERS = """
    INSERT INTO orders (id, version, customer, service, type, params, size, charge, currency,
        state, provider, route, upstream_id, attempt, attempt_at, cost, cost_currency, exchange,
        status, start_count, remains, orders, expiry, cancel, error, created_at, settled_at,
        poll_at)
    SELECT n, {version}, {customer}, 1, 'Default',
        '{{"link":"https://instagram.com/p/' || n || '","quantity":"100"}}', 100, {charge}, 'USD',
        'placed', 'panel', '1', CAST(n AS TEXT), 1, {at}, {cost}, 'USD', '1',
        '{status}', {start_count}, {remains}, '[]', '', '', '', {at}, {settled_at}, {poll_at}
    FROM {numbers}
"""
_EVENTS = """
    INSERT INTO events ("order", version, at, kind, detail)
    SELECT n, {version}, {at} + {version}, '{kind}', '{detail}' FROM {numbers}
"""
_TRANSFERS = """
    INSERT INTO transfers (key, code, owner, amount, currency, "order", at)
    SELECT 'order/' || n || '/{version}/{code}', '{code}', '{owner}', {amount}, 'USD', n,
        {at} + {version}
    FROM {numbers}
"""
_ACCOUNTS = """
    INSERT INTO accounts (kind, owner, currency) VALUES ('{kind}', '{owner}', 'USD')
        ON CONFLICT DO NOTHING;
    UPDATE accounts SET balance = balance + {amount}
        WHERE kind = '{kind}' AND owner = '{owner}' AND currency = 'USD';
"""
_SQLITE = """
    (WITH RECURSIVE s (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM s WHERE n < {last})
    SELECT n FROM s)
"""
_POSTGRES = "generate_series({first}::bigint, {last}::bigint) AS s (n)"


def fill(url: str, orders: int, *, due: int | None = None) -> None:
    """Write orders 1, 2, … of the first customer into a new database.

    ``due``: they were just placed, and their status is to be asked for in so many milliseconds;
    else they are long done.
    """
    if url.startswith("postgresql"):
        asyncio.run(_fill_postgres(url, orders, due=due))
    else:
        _fill_sqlite(url.removeprefix("sqlite:///"), orders, due=due)


def _fill_sqlite(path: str, orders: int, *, due: int | None) -> None:
    db = apsw.Connection(path)
    # Whatever becomes of a file that is being made, it is made anew.
    db.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000")
    for statement in _statements(_SQLITE, orders, due=due):
        db.execute(statement)
    db.execute("UPDATE counters SET value = max(value, ?) WHERE name = 'order'", (orders,))
    db.execute("PRAGMA journal_mode = WAL")
    db.close()


async def _fill_postgres(url: str, orders: int, *, due: int | None) -> None:
    db = await asyncpg.connect(url)
    for statement in _statements(_POSTGRES, orders, due=due):
        await db.execute(statement)
    await db.execute(f"SELECT setval('order_ids', {orders})")
    await db.execute("VACUUM ANALYZE")  # else it comes later, in the middle of a measurement
    await db.execute("CHECKPOINT")
    await db.close()


def _statements(numbers: str, orders: int, *, due: int | None) -> Iterator[str]:
    now = time.time_ns() // 1_000_000
    # Done, they are spread over the year before the last one: too old to be asked for.
    at = f"({now})" if due is not None else f"({now - 2 * _YEAR} + n * {_YEAR} / {orders})"
    facts = {
        "at": at,
        "customer": CUSTOMER,
        "charge": CHARGE,
        "cost": COST,
        "version": 3 if due is None else 2,
        "status": "Completed" if due is None else "Pending",
        "start_count": "10" if due is None else "NULL",
        "remains": "0" if due is None else "NULL",
        "settled_at": f"({at} + 3600000)" if due is None else "NULL",
        "poll_at": "NULL" if due is None else f"{now + due}",
    }
    parts = [_ORDERS.format(**facts, numbers="{numbers}")]
    for version, kind, detail in _EVENTS_OF[: 2 if due is None else 1]:
        own = facts | {"version": version, "kind": kind, "detail": detail}
        parts.append(_EVENTS.format(**own, numbers="{numbers}"))
    for version, code, owner, amount in _TRANSFERS_OF:
        own = facts | {"version": version, "code": code, "owner": owner, "amount": amount}
        parts.append(_TRANSFERS.format(**own, numbers="{numbers}"))
    for first in range(1, orders + 1, CHUNK):
        some = numbers.format(first=first, last=min(first + CHUNK - 1, orders))
        yield from (part.replace("{numbers}", some) for part in parts)
    for _, code, owner, amount in _TRANSFERS_OF:
        source, target = MOVES[code]
        for kind, signed in ((source, -amount), (target, amount)):
            yield _ACCOUNTS.format(kind=kind, owner=owner, amount=signed * orders)


def prove(url: str, orders: int) -> None:
    """See that an SQLite file has so many orders, all placed, and that its accounts hold the sums.

    It is what the program's own audit looks at first, done by the database.
    """
    db = apsw.Connection(url.removeprefix("sqlite:///"))
    found = db.execute("SELECT count(*), sum(state = 'placed') FROM orders").get
    if found != (orders, orders):
        raise Trouble(f"of {orders} orders the books have {found[0]}, {found[1]} of them placed")
    expected: Counter[tuple[str, str]] = Counter()
    sums = "SELECT code, owner, sum(amount) FROM transfers GROUP BY code, owner"
    for code, owner, amount in db.execute(sums):
        source, target = MOVES[Code(code)]
        expected[(source, owner)] -= amount
        expected[(target, owner)] += amount
    balances = {
        (kind, owner): balance
        for kind, owner, balance in db.execute("SELECT kind, owner, balance FROM accounts")
    }
    db.close()
    if {key: value for key, value in expected.items() if value} != {
        key: value for key, value in balances.items() if value
    }:
        raise Trouble("the books do not add up")
