"""Orders, their money and their refills, on SQLite."""

from collections.abc import Sequence
from typing import TypeVar

import apsw

from gateway.errors import ErrorText, StoreUnavailable
from gateway.model import Cancel, Order, Refill, State, Transfer
from gateway.store import (
    Claim,
    Due,
    Failure,
    Filter,
    Later,
    Lease,
    Movement,
    Placed,
    Placement,
    Step,
)
from gateway.store.page import Entry, Made, repeated
from gateway.store.rows import CORRECTED, HEARD, from_row, to_row
from gateway.store.sqlite_file import SqliteFile, hold
from gateway.store.sqlite_page import CLAIM, ORDER
from gateway.store.sqlite_rows import AMONG, UNDECIDED, among, insert, select

T = TypeVar("T")

_WORD = (
    "CASE WHEN state = 'unknown' OR (state = 'failed' AND status <> 'Canceled') "
    "THEN state ELSE status END"
)
_ORDER_STANDS = "SELECT 1 FROM orders WHERE id = ?"


class SqliteOrders(SqliteFile):
    """See ``Store``."""

    # --- orders and money ---------------------------------------------------------------

    async def place(self, placements: Sequence[Placement]) -> list[Placed | ErrorText]:
        """Write new orders with their holds, each whole or not at all."""
        return await self._writer.do(Entry(placements))

    async def advance(
        self,
        steps: Sequence[Step],
        under: Lease | None = None,
        later: Sequence[Later] = (),
    ) -> list[Order | Failure]:
        """Take each order one transition further, and put off others."""
        entry = Entry(steps=steps, under=under, later=later)
        return await self._writer.do(entry)

    async def post(self, transfers: Sequence[Transfer]) -> list[bool]:
        """Move money that belongs to no order, all of it or nothing."""
        return await self._writer.do(Entry(transfers=transfers))

    async def claimed(self, customer: int, claim: Claim) -> Order | ErrorText | None:
        """Return what ``place`` would say to a repeat."""
        for row in self._read(CLAIM, (customer, claim.key)):
            made = Made(*row)
            if made.at >= claim.since:
                order = (await self.orders([made.order])).get(made.order)
                return repeated(claim, made, order)
        return None

    async def drop_claims(self, before: int) -> int:
        """Forget claims older than this."""

        def run(db: apsw.Connection) -> int:
            db.execute("DELETE FROM claims WHERE at < ?", (before,))
            return db.changes()

        return await self._writer.do(run)

    # --- reading orders -----------------------------------------------------------------

    async def due(self, provider: str, now: int, limit: int) -> list[Due]:
        """Return orders whose status is to be asked for."""
        where = "provider = ? AND poll_at <= ? ORDER BY poll_at LIMIT ?"
        return self._read_all(Due, "orders", where, provider, now, limit)

    async def orders(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return the orders that exist of these."""
        found = self._read_all(Order, "orders", AMONG, among(ids))
        by_id = {order.id: order for order in found}
        return {one: by_id[one] for one in ids if one in by_id}

    async def find_orders(self, wanted: Filter) -> list[Order]:
        """Return orders, newest first."""
        where: list[str] = ["created_at >= ?"]
        bindings: list[str | int] = [wanted.since]
        for condition, value in (
            (f"{_WORD} = ? COLLATE NOCASE", wanted.status),
            ("customer = ?", wanted.customer),
            ("provider = ?", wanted.provider),
        ):
            if value is not None and value != "":
                where.append(condition)
                bindings.append(value)
        statement = select(Order, "orders", " AND ".join(where)) + " ORDER BY id DESC LIMIT ?"
        return await self._apart(
            lambda db: [
                from_row(Order, row) for row in db.execute(statement, (*bindings, wanted.limit))
            ]
        )

    async def undecided(
        self, state: State, limit: int, *, provider: str = "", after: int = 0
    ) -> list[Order]:
        """Return orders in a state before ``placed``, oldest first."""
        # The condition is spelled out so that SQLite sees that the partial index serves.
        where = f"state = ? AND {UNDECIDED} AND id > ?"
        bindings: list[str | int] = [state, after]
        if provider:
            where += " AND provider = ?"
            bindings.append(provider)
        return self._orders(where, *bindings, order="id", limit=limit)

    async def followed(self, provider: str, after: int, limit: int) -> list[Order]:
        """Return a provider's orders that are still asked for, oldest first, above an id."""
        # The sign keeps SQLite from reading all orders by their ids: far fewer are asked for.
        where = "provider = ? AND poll_at IS NOT NULL AND +id > ?"
        statement = select(Order, "orders", where) + " ORDER BY +id LIMIT ?"
        return await self._apart(
            lambda db: [
                from_row(Order, row) for row in db.execute(statement, (provider, after, limit))
            ]
        )

    async def without_id(self, provider: str) -> list[Order]:
        """Return orders that the provider is known to have, but not under which id."""
        where = f"provider = ? AND state = '{State.PLACED}' AND upstream_id = ''"
        return self._orders(where, provider, order="id")

    async def neighbours(self, provider: str, order: int, near: int) -> list[Order]:
        """Return orders with an id of the provider's: ``near`` before and after this one."""

        def run(db: apsw.Connection) -> list[Order]:
            found = []
            for side, direction in (("<", "DESC"), (">", "ASC")):
                where = f"id {side} ? AND provider = ? AND upstream_id <> ''"
                statement = select(Order, "orders", where) + f" ORDER BY id {direction} LIMIT ?"
                rows = db.execute(statement, (order, provider, near))
                found += [from_row(Order, row) for row in rows]
            return found

        return await self._apart(run)

    async def known_ids(self, provider: str, upstream_ids: Sequence[str]) -> set[str]:
        """Return which of these ids of the provider's are orders of ours."""
        marks = ", ".join("?" * len(upstream_ids))
        where = f"provider = ? AND upstream_id <> '' AND upstream_id IN ({marks})"
        rows = self._read(
            f"SELECT upstream_id FROM orders WHERE {where}", (provider, *upstream_ids)
        )
        return {str(row[0]) for row in rows}

    def _orders(self, where: str, *bindings: str | int, order: str, limit: int = -1) -> list[Order]:
        where = f"{where} ORDER BY {order} LIMIT ?"
        return self._read_all(Order, "orders", where, *bindings, limit)

    async def cancels_wanted(self, limit: int) -> list[Order]:
        """Return placed orders whose cancel the provider has not heard yet."""
        where = f"cancel = '{Cancel.WANTED}' AND state = '{State.PLACED}' AND upstream_id <> ''"
        return self._orders(where, order="id", limit=limit)

    async def movements(self, provider: str, since: int, limit: int) -> list[Movement]:
        """Return what was booked at a provider since, oldest first."""
        where = "owner = ? AND at >= ? AND (code = 'cost' OR code = 'rebate' OR code = 'deposit')"
        transfers = select(Transfer, "transfers", where) + " ORDER BY at, id LIMIT ?"
        earlier_on = 'FROM events WHERE "order" = ?1 AND version < ?2 AND kind'
        before = (
            f"SELECT max(at) {earlier_on} IN ({HEARD}) AND version > "
            f"coalesce((SELECT max(version) {earlier_on} = {CORRECTED}), 0)"
        )

        def run(db: apsw.Connection) -> list[Movement]:
            found = []
            for row in db.execute(transfers, (provider, since, limit)).fetchall():
                transfer = from_row(Transfer, row)
                order = None
                earlier = transfer.at
                if transfer.order is not None:
                    (order,) = (
                        from_row(Order, one) for one in db.execute(ORDER, (transfer.order,))
                    )
                    version = int(transfer.key.split("/")[2])
                    earlier = db.execute(before, (order.id, version)).get or order.created_at
                found.append(Movement(transfer, order, earlier))
            return found

        return await self._apart(run)

    async def taken_too_late(self, provider: str, since: int) -> list[Order]:
        """Return orders that a provider took after they were given up, sent since then."""
        where = (
            f"provider = ? AND attempt_at >= ? AND state = '{State.FAILED}' AND upstream_id <> ''"
        )
        return self._orders(where, provider, since, order="id")

    # --- refills ------------------------------------------------------------------------

    async def add_refills(self, refills: Sequence[Refill], since: int) -> list[tuple[Refill, bool]]:
        """Write new refills, unless one of the same order is under way."""
        under_way = select(
            Refill,
            "refills",
            "\"order\" = ? AND created_at >= ? AND status IN ('Pending', 'In progress')",
        )

        def run(db: apsw.Connection) -> list[tuple[Refill, bool]]:
            written = []
            for refill in refills:
                row = db.execute(under_way, (refill.order, since)).fetchone()
                fresh = row is None
                if row is None:
                    if not db.execute(_ORDER_STANDS, (refill.order,)).fetchone():
                        raise StoreUnavailable("an order was archived at this moment; ask again")
                    db.execute(insert(Refill, "refills"), (None, *to_row(refill)[1:]))
                    row = (db.last_insert_rowid(), *to_row(refill)[1:])
                written.append((from_row(Refill, row), fresh))
            return written

        return await self._writer.do(run)

    async def set_refills(self, refills: Sequence[Refill], under: Lease | None = None) -> None:
        """Write refills as they are now."""
        rows = [(one.upstream_id, one.status, one.poll_at, one.id) for one in refills]

        def run(db: apsw.Connection) -> None:
            hold(db, under)
            db.executemany(
                "UPDATE refills SET upstream_id = ?, status = ?, poll_at = ? WHERE id = ?", rows
            )

        await self._writer.do(run)

    async def refills(self, ids: Sequence[int]) -> dict[int, Refill]:
        """Return the refills that exist of these."""
        found = self._read_all(Refill, "refills", AMONG, among(ids))
        return {refill.id: refill for refill in found}

    async def refills_of(self, order: int) -> list[Refill]:
        """Return an order's refills, oldest first."""
        return self._read_all(Refill, "refills", '"order" = ? ORDER BY id', order)

    async def due_refills(self, provider: str, now: int, limit: int) -> list[Refill]:
        """Return refills whose status is due."""
        where = "provider = ? AND poll_at <= ? ORDER BY poll_at LIMIT ?"
        return self._read_all(Refill, "refills", where, provider, now, limit)
