"""The first try of a commit on PostgreSQL: without a lock, in one statement that commits itself."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.model import Order
from gateway.store.optimistic import Attempt, Memory
from gateway.store.page import Entry
from gateway.store.postgres_rows import Connection, select, things
from gateway.store.postgres_sets import sets

BUSY = 1.0
"""Seconds without a new order after which ids drawn ahead would be out of turn."""

_ORDERS = select(Order, "orders", "WHERE id = ANY($1::bigint[])")
_DRAW = "array(SELECT nextval('order_ids') FROM generate_series(1, ${}::bigint))"


class Ids:
    """Ids of orders, drawn ahead for as long as there are new ones all the time.

    When that ends, those that nobody came for are never used.
    """

    def __init__(self) -> None:
        self._drawn: list[int] = []
        self._busy_until = 0.0

    def take(self, count: int) -> list[int]:
        """Take so many, or what there is."""
        if not self.busy:
            self._drawn = []
        taken, self._drawn = self._drawn[:count], self._drawn[count:]
        return taken

    def put(self, ids: Iterable[int]) -> None:
        """Keep these for the next orders."""
        self._drawn = sorted([*self._drawn, *ids])
        self._busy_until = asyncio.get_running_loop().time() + BUSY

    @property
    def busy(self) -> bool:
        """Whether there have been new orders lately."""
        return asyncio.get_running_loop().time() < self._busy_until


def unused(ids: Iterable[int], placed: Iterable[Order]) -> set[int]:
    """Return those of these ids that no order has got."""
    return set(ids) - {order.id for order in placed}


async def draw(db: Connection, ids: list[int], count: int) -> None:
    """Draw as many ids as are lacking."""
    if count > len(ids):
        ids += await db.fetchval(f"SELECT {_DRAW.format(1)}", count - len(ids))


class PostgresMemory(Memory):
    """What a process remembers, and the ids that it has drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = Ids()


class PostgresAttempt(Attempt):
    """See ``Attempt``; all of it is one statement, which writes everything or nothing."""

    def __init__(self, entries: Sequence[Entry], memory: PostgresMemory) -> None:
        super().__init__(entries, memory)
        self._ids = memory.ids
        self._new = len(self.placements)
        self.found.ids = memory.ids.take(self._new)

    async def __call__(self, db: Connection) -> dict[int, list[Any]]:
        """Return what became of the operations that were written, by their places in the list."""
        if self.unknown:
            rows = await db.fetch(_ORDERS, list(self.unknown))
            self.found.orders |= {order.id: order for order in things(Order, rows)}
        await draw(db, self.found.ids, self._new)
        page, outcomes = self.work_out()
        if not outcomes:
            return outcomes
        leases = (self.entries[place].under for place in outcomes)
        written = page.written()
        parts = sets(written, {lease for lease in leases if lease})
        if not parts:
            return outcomes
        ahead = len(written.placed) if self._ids.busy else 0
        statement = parts.statement(_DRAW.format(len(parts.bindings) + 1))
        drawn = await db.fetchval(statement, *parts.bindings, ahead)
        if self._new:
            self._ids.put([*drawn, *unused(self.found.ids, written.placed)])
        self.remember(page)
        return outcomes

    def give_up(self) -> None:
        """Forget what it was worked out on; nothing of it was written."""
        self.forget()
        if self._new:
            self._ids.put(self.found.ids)
