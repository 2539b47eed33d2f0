"""Orders, their money and their refills, on PostgreSQL."""

from collections.abc import Sequence
from typing import cast

from gateway.errors import ErrorText, StoreUnavailable
from gateway.model import Cancel, Order, Refill, RefillStatus, State, Transfer
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
from gateway.store.postgres_base import PostgresBase, hold
from gateway.store.postgres_rows import Connection, Part, Sets, plain, select, things, types
from gateway.store.rows import CORRECTED, HEARD, columns, from_row, listed, to_row

_WORD = (
    "CASE WHEN state = 'unknown' OR (state = 'failed' AND status <> 'Canceled') "
    "THEN state ELSE status END"
)
_DUE = select(Due, "orders", "WHERE provider = $1 AND poll_at <= $2 ORDER BY poll_at LIMIT $3")
_LOCK = "SELECT id FROM orders WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE"
_CLAIMED = select(
    Order,
    "orders",
    'RIGHT JOIN claims ON orders.id = claims."order" '
    "WHERE claims.customer = $1 AND claims.key = $2 AND claims.at >= $3",
).replace("SELECT ", 'SELECT claims.fingerprint, claims."order", claims.at, ', 1)
# An order's change of this version came after the one before it; its beginning has no event.
_EARLIER = (
    'FROM events WHERE events."order" = transfers."order" '
    "AND events.version < split_part(transfers.key, '/', 3)::bigint AND kind"
)
_MOVED = select(
    Transfer,
    "transfers",
    """LEFT JOIN orders ON orders.id = transfers."order"
    WHERE transfers.owner = $1 AND transfers.at >= $2 AND code IN ('cost', 'rebate', 'deposit')
    ORDER BY transfers.at, transfers.id LIMIT $3""",
).replace(
    "SELECT ",
    f"""SELECT CASE WHEN transfers."order" IS NULL THEN transfers.at ELSE coalesce((
        SELECT max(at) {_EARLIER} IN ({HEARD})
        AND version > coalesce((SELECT max(version) {_EARLIER} = {CORRECTED}), 0)
    ), orders.created_at) END,
    {select(Order, "orders", "").removeprefix("SELECT ").removesuffix(" FROM orders ")}, """,
    1,
)
_UNDER_WAY = (RefillStatus.PENDING, RefillStatus.IN_PROGRESS)
_REFILL = types(Refill)
_ADD_REFILL = (
    f"INSERT INTO refills ({listed(columns(Refill)[1:])}) "
    f"VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {listed(columns(Refill))}"
)
_SETTABLE = {name: _REFILL[name] for name in ("id", "upstream_id", "status", "poll_at")}

_SET_REFILLS = Part(
    "set",
    "UPDATE refills SET upstream_id = new.upstream_id, status = new.status, poll_at = new.poll_at "
    "FROM {new} WHERE refills.id = new.id",
    _SETTABLE,
)


class PostgresOrders(PostgresBase):
    """See ``Store``."""

    # --- orders and money ---------------------------------------------------------------

    async def place(self, placements: Sequence[Placement]) -> list[Placed | ErrorText]:
        """Write new orders with their holds, each whole or not at all."""
        return cast("list[Placed | ErrorText]", await self._writer.do(Entry(placements)))

    async def advance(
        self,
        steps: Sequence[Step],
        under: Lease | None = None,
        later: Sequence[Later] = (),
    ) -> list[Order | Failure]:
        """Take each order one transition further, and put off others."""
        entry = Entry(steps=steps, under=under, later=later)
        return cast("list[Order | Failure]", await self._writer.do(entry))

    async def post(self, transfers: Sequence[Transfer]) -> list[bool]:
        """Move money that belongs to no order, all of it or nothing."""
        return cast("list[bool]", await self._writer.do(Entry(transfers=transfers)))

    async def claimed(self, customer: int, claim: Claim) -> Order | ErrorText | None:
        """Return what ``place`` would say to a repeat."""
        rows = await self._fetch(_CLAIMED, customer, plain(claim.key), claim.since)
        for fingerprint, order, at, *row in rows:
            standing = from_row(Order, row) if row[0] is not None else None
            return repeated(claim, Made(fingerprint, order, at), standing)
        return None

    async def drop_claims(self, before: int) -> int:
        """Forget claims older than this."""

        async def run(db: Connection) -> int:
            count: str = await db.execute("DELETE FROM claims WHERE at < $1", before)
            return int(count.removeprefix("DELETE "))

        return await self._transact(run)

    # --- reading orders -----------------------------------------------------------------

    async def _orders(self, rest: str, *bindings: object, long: bool = False) -> list[Order]:
        rows = await self._fetch(select(Order, "orders", rest), *bindings, long=long)
        return things(Order, rows)

    async def due(self, provider: str, now: int, limit: int) -> list[Due]:
        """Return orders whose status is to be asked for."""
        return [Due(*row) for row in await self._fetch(_DUE, provider, now, limit)]

    async def orders(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return the orders that exist of these."""
        found = await self._orders("WHERE id = ANY($1::bigint[])", ids)
        return {order.id: order for order in found}

    async def find_orders(self, wanted: Filter) -> list[Order]:
        """Return orders, newest first."""
        where: list[str] = ["created_at >= $1"]
        bindings: list[str | int] = [wanted.since]
        for condition, value in (
            (f"lower({_WORD}) = ", wanted.status.lower()),
            ("customer = ", wanted.customer),
            ("provider = ", wanted.provider),
        ):
            if value is not None and value != "":
                bindings.append(value)
                where.append(f"{condition}${len(bindings)}")
        rest = f"WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT {wanted.limit:d}"
        return await self._orders(rest, *bindings, long=True)

    async def undecided(
        self, state: State, limit: int, *, provider: str = "", after: int = 0
    ) -> list[Order]:
        """Return orders in a state before ``placed``, oldest first."""
        # The condition is spelled out so that the partial index serves.
        rest = (
            "WHERE state = $1 AND state IN ('queued', 'sending', 'unknown') AND id > $2 "
            "AND ($3 = '' OR provider = $3) ORDER BY id LIMIT $4"
        )
        return await self._orders(rest, state, after, provider, limit)

    async def followed(self, provider: str, after: int, limit: int) -> list[Order]:
        """Return a provider's orders that are still asked for, oldest first, above an id."""
        # The sum keeps PostgreSQL from reading all orders by their ids: far fewer are asked for.
        rest = "WHERE provider = $1 AND poll_at IS NOT NULL AND id > $2 ORDER BY id + 0 LIMIT $3"
        return await self._orders(rest, provider, after, limit, long=True)

    async def without_id(self, provider: str) -> list[Order]:
        """Return orders that the provider is known to have, but not under which id."""
        rest = f"WHERE provider = $1 AND state = '{State.PLACED}' AND upstream_id = '' ORDER BY id"
        return await self._orders(rest, provider)

    async def neighbours(self, provider: str, order: int, near: int) -> list[Order]:
        """Return orders with an id of the provider's: ``near`` before and after this one."""
        found = []
        for side, direction in (("<", "DESC"), (">", "ASC")):
            found += await self._orders(
                f"WHERE id {side} $1 AND provider = $2 AND upstream_id <> '' "
                f"ORDER BY id {direction} LIMIT $3",
                *(order, provider, near),
                long=True,
            )
        return found

    async def known_ids(self, provider: str, upstream_ids: Sequence[str]) -> set[str]:
        """Return which of these ids of the provider's are orders of ours."""
        rows = await self._fetch(
            "SELECT upstream_id FROM orders "
            "WHERE provider = $1 AND upstream_id <> '' AND upstream_id = ANY($2::text[])",
            provider,
            [plain(one) for one in upstream_ids],
        )
        return {theirs for (theirs,) in rows}

    async def cancels_wanted(self, limit: int) -> list[Order]:
        """Return placed orders whose cancel the provider has not heard yet."""
        where = f"cancel = '{Cancel.WANTED}' AND state = '{State.PLACED}' AND upstream_id <> ''"
        return await self._orders(f"WHERE {where} ORDER BY id LIMIT $1", limit)

    async def movements(self, provider: str, since: int, limit: int) -> list[Movement]:
        """Return what was booked at a provider since, oldest first."""
        found = []
        many = len(columns(Order))
        for earlier, *row in await self._fetch(_MOVED, provider, since, limit, long=True):
            order = from_row(Order, row[:many]) if row[0] is not None else None
            found.append(Movement(from_row(Transfer, row[many:]), order, earlier))
        return found

    async def taken_too_late(self, provider: str, since: int) -> list[Order]:
        """Return orders that a provider took after they were given up, sent since then."""
        where = (
            f"WHERE provider = $1 AND attempt_at >= $2 AND state = '{State.FAILED}' "
            "AND upstream_id <> '' ORDER BY id"
        )
        return await self._orders(where, provider, since)

    # --- refills ------------------------------------------------------------------------

    async def add_refills(self, refills: Sequence[Refill], since: int) -> list[tuple[Refill, bool]]:
        """Write new refills, unless one of the same order is under way."""
        known = select(
            Refill,
            "refills",
            'WHERE "order" = ANY($1::bigint[]) AND created_at >= $2 AND status = ANY($3::text[]) '
            "ORDER BY id DESC",
        )
        orders = sorted({refill.order for refill in refills})

        async def run(db: Connection) -> list[tuple[Refill, bool]]:
            if len(await db.fetch(_LOCK, orders)) < len(orders):
                raise StoreUnavailable("an order was archived at this moment; ask again")
            rows = await db.fetch(known, orders, since, _UNDER_WAY)
            under_way = {refill.order: refill for refill in things(Refill, rows)}
            written = []
            for refill in refills:
                standing = under_way.get(refill.order)
                if standing is None:
                    row = await db.fetchrow(_ADD_REFILL, *to_row(refill)[1:])
                    new = from_row(Refill, row)
                    if new.created_at >= since and new.status in _UNDER_WAY:
                        under_way[new.order] = new
                    written.append((new, True))
                else:
                    written.append((standing, False))
            return written

        return await self._transact(run)

    async def set_refills(self, refills: Sequence[Refill], under: Lease | None = None) -> None:
        """Write refills as they are now."""
        rows = [(one.id, one.upstream_id, one.status, one.poll_at) for one in refills]
        sets = Sets()
        sets.add(_SET_REFILLS, rows)

        async def run(db: Connection) -> None:
            await hold(db, under)
            if sets:
                await db.fetchval(sets.statement(), *sets.bindings)

        await self._transact(run)

    async def refills(self, ids: Sequence[int]) -> dict[int, Refill]:
        """Return the refills that exist of these."""
        rows = await self._fetch(select(Refill, "refills", "WHERE id = ANY($1::bigint[])"), ids)
        return {refill.id: refill for refill in things(Refill, rows)}

    async def refills_of(self, order: int) -> list[Refill]:
        """Return an order's refills, oldest first."""
        rest = 'WHERE "order" = $1 ORDER BY id'
        return things(Refill, await self._fetch(select(Refill, "refills", rest), order))

    async def due_refills(self, provider: str, now: int, limit: int) -> list[Refill]:
        """Return refills whose status is due."""
        rest = "WHERE provider = $1 AND poll_at <= $2 ORDER BY poll_at LIMIT $3"
        return things(
            Refill, await self._fetch(select(Refill, "refills", rest), provider, now, limit)
        )
