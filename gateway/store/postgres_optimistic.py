"""The first try of a commit on PostgreSQL: from memory, without a lock, in one statement.

An order is mostly taken further by whoever has just written it. What he remembers is most likely
still so, and a balance most likely covers what moves; so everything is worked out on these
grounds, and written by a statement that commits itself, under guards by which it writes all of it
or nothing. What cannot be decided like that is left to those who lock and look.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.errors import ErrorText
from gateway.model import Order
from gateway.store import Placed, Placement, Step
from gateway.store.page import Entry, Found, Page
from gateway.store.postgres_rows import Connection, select, things
from gateway.store.postgres_sets import sets

REMEMBERED = 5000
"""Orders that are remembered, those that were written last."""
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


class Memory:
    """What a process has written lately, of which others may have made something else.

    Attributes:
        short: customers whose last order was not covered.

    """

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.short: set[int] = set()
        self.ids = Ids()

    def remember(self, order: Order) -> None:
        """Remember an order as it is now."""
        self.orders.pop(order.id, None)
        self.orders[order.id] = order
        if len(self.orders) > REMEMBERED:
            del self.orders[next(iter(self.orders))]

    def learn(self, entry: Entry, outcomes: Sequence[Any]) -> None:
        """Remember what an operation has come to."""
        for item, outcome in zip(entry.items, outcomes, strict=True):
            if isinstance(outcome, Order):
                self.remember(outcome)
            elif isinstance(outcome, Placed):
                self.remember(outcome.order)
                self.short.discard(outcome.order.customer)
            elif isinstance(item, Placement) and outcome is ErrorText.NOT_ENOUGH_FUNDS:
                self.short.add(item.customer)


class Attempt:
    """What becomes of a list without a look; false where there is no point in trying."""

    def __init__(self, entries: Sequence[Entry], memory: Memory) -> None:
        self._memory = memory
        self._entries = {
            place: entry for place, entry in enumerate(entries) if self._hopeful(entry)
        }
        every = [item for entry in self._entries.values() for item in entry.items]
        self._steps = {item.order for item in every if isinstance(item, Step)}
        self._new = sum(isinstance(item, Placement) for item in every)
        leases = (entry.under for entry in self._entries.values() if entry.under)
        self._found = Found(
            optimistic=True,
            fences={lease.name: lease.fence for lease in leases},
            ids=memory.ids.take(self._new),
        )

    def __bool__(self) -> bool:
        return bool(self._entries)

    async def __call__(self, db: Connection) -> dict[int, list[Any]]:
        """Return what became of the operations that were written, by their places in the list."""
        await self._recall(db)
        page, outcomes = self._work_out()
        if not outcomes:
            return outcomes
        leases = (self._entries[place].under for place in outcomes)
        written = page.written()
        parts = sets(written, {lease for lease in leases if lease})
        ahead = len(written.placed) if self._memory.ids.busy else 0
        statement = parts.statement(_DRAW.format(len(parts.bindings) + 1))
        drawn = await db.fetchval(statement, *parts.bindings, ahead)
        if self._new:
            self._memory.ids.put([*drawn, *unused(self._found.ids, written.placed)])
        return outcomes

    def give_up(self) -> None:
        """Forget what it was worked out on; nothing of it was written."""
        for order in self._steps:
            self._memory.orders.pop(order, None)
        if self._new:
            self._memory.ids.put(self._found.ids)

    def _hopeful(self, entry: Entry) -> bool:
        """Tell whether there is a point in trying."""
        return all(
            isinstance(item, Step)
            or (
                isinstance(item, Placement)
                and item.cap is None
                and item.customer not in self._memory.short
            )
            for item in entry.items
        )

    async def _recall(self, db: Connection) -> None:
        """Read what is not remembered."""
        found, known = self._found, self._memory.orders
        found.orders = {order: known[order] for order in self._steps if order in known}
        if unknown := [order for order in self._steps if order not in known]:
            rows = await db.fetch(_ORDERS, unknown)
            found.orders |= {order.id: order for order in things(Order, rows)}
        await draw(db, found.ids, self._new)

    def _work_out(self) -> tuple[Page, dict[int, list[Any]]]:
        """Go through the entries until only such are left as can be written."""
        places = list(self._entries)
        while True:
            page = Page(self._found)
            outcomes = {}
            for place in places:
                try:
                    found = page.do(self._entries[place])
                except Exception:  # noqa: BLE001, S112  # those who look will find the same
                    continue
                if not page.missing() and self._certain(found):
                    outcomes[place] = found
            if len(outcomes) == len(places):
                return page, outcomes
            places = list(outcomes)

    def _certain(self, outcomes: Sequence[Any]) -> bool:
        """Tell whether all of it is written; of what is not written nobody knows if it is so."""
        return all(
            outcome.fresh
            if isinstance(outcome, Placed)
            else isinstance(outcome, Order) and outcome is not self._found.orders.get(outcome.id)
            for outcome in outcomes
        )
