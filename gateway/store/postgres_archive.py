"""Old settled orders, in tables of their own that nothing looks at all the time."""

from collections.abc import Sequence

from gateway.model import Event, Order, State, Transfer
from gateway.store.postgres_base import PostgresBase
from gateway.store.postgres_rows import Connection, select, things

PART = 10_000_000
"""Orders in each part of the archive."""
_LOOKED_AT = "SELECT id, created_at FROM orders WHERE id > $1 ORDER BY id LIMIT $2"
_SETTLED = f"""
    SELECT id FROM orders
    WHERE id = ANY($1::bigint[]) AND poll_at IS NULL AND (
        state = '{State.FAILED}'
        OR (state = '{State.PLACED}' AND settled_at IS NOT NULL AND upstream_id <> '')
    )
    ORDER BY id FOR UPDATE SKIP LOCKED
"""
_REFILLED = 'SELECT "order" FROM refills WHERE "order" = ANY($1::bigint[])'
_ITS = {
    "orders": "orders.id = leaving.id",
    "events": 'events."order" = leaving.id',
    "transfers": (
        "transfers.key >= 'order/' || leaving.id || '/' "
        "AND transfers.key < 'order/' || leaving.id || '0'"
    ),
}
"""Which rows of each table are an order's; "0" follows "/"."""
_LEAVING = "unnest($1::bigint[]) AS leaving (id)"


class PostgresArchive(PostgresBase):
    """See ``Store``."""

    async def archive(self, before: int, after: int, limit: int) -> tuple[int, int]:
        """Move old settled orders to the archive."""

        async def run(db: Connection) -> tuple[int, int]:
            rows = await db.fetch(_LOOKED_AT, after, limit)
            old = [order for order, created_at in rows if created_at < before]
            if not old:
                return 0, 0
            last = rows[-1][0]
            settled = [order for (order,) in await db.fetch(_SETTLED, old)]
            # Under locks by now, they get no more refills.
            refilled = {order for (order,) in await db.fetch(_REFILLED, settled)}
            leaving = [order for order in settled if order not in refilled]
            if leaving:
                await _move(db, leaving)
            return len(leaving), last

        return await self._transact(run, long=True)

    async def archived(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return those of these orders that are in the archive."""
        kept = select(Order, "archive.orders", "WHERE id = ANY($1::bigint[])")
        return {one.id: one for one in things(Order, await self._fetch(kept, ids))}

    async def history(self, order: int) -> tuple[list[Event], list[Transfer]]:
        """Return what happened to an order, and every movement of its money, in order."""
        events = 'WHERE "order" = $1 ORDER BY version'
        rows = await self._fetch(select(Event, "events", events), order)
        rows = rows or await self._fetch(select(Event, "archive.events", events), order)
        transfers = "WHERE key >= $1 AND key < $2 ORDER BY id"
        between = (f"order/{order}/", f"order/{order}0")
        moved = await self._fetch(select(Transfer, "transfers", transfers), *between)
        if not moved:
            kept = 'WHERE "order" = $1 ORDER BY id'
            moved = await self._fetch(select(Transfer, "archive.transfers", kept), order)
        return things(Event, rows), things(Transfer, moved)


async def _move(db: Connection, orders: Sequence[int]) -> None:
    for part in range(orders[0] // PART, orders[-1] // PART + 1):
        for table in _ITS:
            await db.execute(
                f"CREATE TABLE IF NOT EXISTS archive.{table}_{part} PARTITION OF "
                f"archive.{table} FOR VALUES FROM ({part * PART}) TO ({(part + 1) * PART})"
            )
    for table, its in _ITS.items():
        await db.execute(
            f"INSERT INTO archive.{table} SELECT {table}.* FROM {table}, {_LEAVING} WHERE {its}",
            orders,
        )
    for table, its in reversed(_ITS.items()):
        await db.execute(f"DELETE FROM {table} USING {_LEAVING} WHERE {its}", orders)
    await db.execute('DELETE FROM claims WHERE "order" = ANY($1::bigint[])', orders)
