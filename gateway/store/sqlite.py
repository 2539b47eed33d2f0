"""The store on SQLite: one writer thread that commits together what arrives together.

Every commit is a WAL append with ``synchronous=FULL``: durable before the caller goes on. Point
reads are answered by a second connection on the event loop itself, since at 20 µs each a thread
would cost more than it saves; what reads many rows goes to a thread, on a connection of its own.

apsw brings its own SQLite; a system's may be one that corrupts its WAL.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw

from gateway.errors import CustomerError, ErrorText, LeaseLost, StoreUnavailable
from gateway.model import (
    Cancel,
    Customer,
    Event,
    Kind,
    Offer,
    Order,
    Refill,
    State,
    Transfer,
)
from gateway.store import (
    Balance,
    Change,
    Claim,
    Failure,
    Filter,
    Lease,
    Movement,
    Placed,
    Placement,
    Reading,
    Sighting,
    Snapshot,
    Step,
)
from gateway.store.rows import changed, columns, from_row, listed, to_row
from gateway.store.sqlite_books import Books, NoFunds, SqliteSnapshot
from gateway.store.writer import PATIENCE, Rehearsal, Writer, connect, migrate

T = TypeVar("T")

DAY = 24 * 3600 * 1000
KEPT_READINGS = 30 * DAY


def _select(kind: type[Any], table: str, where: str) -> str:
    return f"SELECT {listed(columns(kind))} FROM {table} WHERE {where}"


def _insert(kind: type[Any], table: str) -> str:
    names = columns(kind)
    return f"INSERT INTO {table} ({listed(names)}) VALUES ({', '.join('?' * len(names))})"


_ORDER = _select(Order, "orders", "id = ?")
_WORD = (
    "CASE WHEN state = 'unknown' OR (state = 'failed' AND status <> 'Canceled') "
    "THEN state ELSE status END"
)


class SqliteStore:
    """See ``Store``."""

    def __init__(self, path: Path, writer: Writer | Rehearsal, books: Books) -> None:
        self._path = path
        self._writer = writer
        self._books = books
        self._reader = connect(path)

    @classmethod
    async def open(cls, path: Path, *, first_id: int = 1, patience: int = PATIENCE) -> Self:
        """Open or create the file, and bring its schema up to date.

        ``patience``: milliseconds to wait for another process that is writing.
        """
        db = await asyncio.to_thread(cls._prepare, path, first_id, patience)
        books = Books()
        return cls(path, Writer(db, books.forget), books)

    @classmethod
    def rehearse(cls, path: Path, *, first_id: int = 1) -> Self:
        """Open a file for a simulation: repeatable, without a thread, and not durable."""
        db = cls._prepare(path, first_id, PATIENCE)
        db.execute("PRAGMA synchronous = OFF")
        books = Books()
        return cls(path, Rehearsal(db, books.forget), books)

    @staticmethod
    def _prepare(path: Path, first_id: int, patience: int) -> apsw.Connection:
        db = connect(path, write=True, patience=patience)
        try:
            migrate(db, path)
            db.execute(
                "UPDATE counters SET value = max(value, ?) WHERE name = 'order'", (first_id - 1,)
            )
        except apsw.Error as error:
            db.close()
            msg = f"{path}: {error}"
            raise StoreUnavailable(msg) from error
        except BaseException:
            db.close()
            raise
        return db

    async def close(self) -> None:
        """Commit what is waiting, and close the file."""
        self._reader.close()
        await self._writer.close()

    def _read(self, statement: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(statement, tuple(bindings)).fetchall()
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from error

    async def inspect(self, look: Callable[[Snapshot], T]) -> T:
        """Run ``look`` on a snapshot, in a thread."""
        return await self._apart(lambda db: look(SqliteSnapshot(db)))

    async def _apart(self, work: Callable[[apsw.Connection], T]) -> T:
        def run() -> T:
            with closing(connect(self._path)) as db:
                try:
                    db.execute("BEGIN")
                    return work(db)
                except apsw.Error as error:
                    raise StoreUnavailable(str(error)) from error

        return run() if isinstance(self._writer, Rehearsal) else await asyncio.to_thread(run)

    # --- orders and money ---------------------------------------------------------------

    async def place(self, placements: Sequence[Placement]) -> list[Placed | ErrorText]:
        """Write new orders with their holds, each whole or not at all."""
        return await self._writer.do(lambda db: [self._place(db, one) for one in placements])

    def _place(self, db: apsw.Connection, new: Placement) -> Placed | ErrorText:
        if new.claim and (standing := _standing(db, new.customer, new.claim)) is not None:
            return standing if isinstance(standing, ErrorText) else Placed(standing, fresh=False)
        order_id = db.execute(
            "UPDATE counters SET value = value + 1 WHERE name = 'order' RETURNING value"
        ).get
        change = new.build(order_id)
        if new.cap is not None and not _within_cap(db, new, change.order.charge):
            return ErrorText.NOT_ENOUGH_FUNDS
        if self._write(db, None, change) is not None:
            return ErrorText.NOT_ENOUGH_FUNDS
        if new.cap is not None:
            db.execute(
                "INSERT INTO spending VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
                (new.customer, new.at // DAY, change.order.charge),
            )
        if new.claim:
            db.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                (new.customer, new.claim.key, new.claim.fingerprint, order_id, new.at),
            )
        return Placed(change.order, fresh=True)

    async def advance(
        self, steps: Sequence[Step], under: Lease | None = None
    ) -> list[Order | Failure]:
        """Take each order one transition further."""

        def run(db: apsw.Connection) -> list[Order | Failure]:
            _hold(db, under)
            return [self._advance(db, step) for step in steps]

        return await self._writer.do(run)

    def _advance(self, db: apsw.Connection, step: Step) -> Order | Failure:
        row = db.execute(_ORDER, (step.order,)).fetchone()
        if row is None:
            return Failure.NO_ORDER
        order = from_row(Order, row)
        change = step.change(order)
        if change is None:
            return order
        return self._write(db, order, change) or change.order

    def _write(self, db: apsw.Connection, before: Order | None, change: Change) -> Failure | None:
        """Write a change whole, or say why nothing of it was written."""
        order = change.order
        db.execute("SAVEPOINT change")
        try:
            if before is None:
                db.execute(_insert(Order, "orders"), to_row(order))
            else:
                fields = changed(before, order)
                names = ", ".join(f'"{name}" = ?' for name in fields)
                db.execute(
                    f"UPDATE orders SET {names} WHERE id = ?",  # columns of ours
                    (*fields.values(), order.id),
                )
            for transfer in change.transfers:
                self._books.post(db, transfer)
        except NoFunds:
            failure = Failure.NO_FUNDS
        except apsw.ConstraintError as error:
            if "upstream_id" not in str(error):
                raise
            failure = Failure.TAKEN
        else:
            if change.event:
                db.execute(_insert(Event, "events"), to_row(change.event))
            if change.frees:
                db.execute('DELETE FROM claims WHERE "order" = ?', (order.id,))
            if before and order.state is State.FAILED and before.state is not State.FAILED:
                # What a daily cap counted is spent no longer.
                db.execute(
                    "UPDATE spending SET amount = max(amount - ?, 0) "
                    "WHERE customer = ? AND day = ?",
                    (order.charge, order.customer, order.created_at // DAY),
                )
            db.execute("RELEASE change")
            return None
        db.execute("ROLLBACK TO change")
        db.execute("RELEASE change")
        self._books.forget()
        return failure

    async def post(self, transfers: Sequence[Transfer]) -> list[bool]:
        """Move money that belongs to no order, all of it or nothing."""

        def run(db: apsw.Connection) -> list[bool]:
            try:
                return [self._books.post(db, transfer) for transfer in transfers]
            except NoFunds:
                raise CustomerError(ErrorText.NOT_ENOUGH_FUNDS) from None

        return await self._writer.do(run)

    async def claim_due(
        self,
        provider: str,
        now: int,
        limit: int,
        next_at: Callable[[Order], int | None],
        under: Lease | None = None,
    ) -> list[Order]:
        """Return orders whose status is due, and put each off."""
        due = (
            _select(Order, "orders", "provider = ? AND poll_at <= ?") + " ORDER BY poll_at LIMIT ?"
        )
        # Most looks find nothing, and need not wait for the writer.
        if not self._read(due, (provider, now, 1)):
            return []

        def run(db: apsw.Connection) -> list[Order]:
            _hold(db, under)
            orders = [from_row(Order, row) for row in db.execute(due, (provider, now, limit))]
            db.executemany(
                "UPDATE orders SET poll_at = ? WHERE id = ?",
                [(next_at(order), order.id) for order in orders],
            )
            return orders

        return await self._writer.do(run)

    async def claimed(self, customer: int, claim: Claim) -> Order | ErrorText | None:
        """Return what ``place`` would say to a repeat."""
        try:
            return _standing(self._reader, customer, claim)
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from error

    async def drop_claims(self, before: int) -> int:
        """Forget claims older than this."""

        def run(db: apsw.Connection) -> int:
            db.execute("DELETE FROM claims WHERE at < ?", (before,))
            return db.changes()

        return await self._writer.do(run)

    # --- reading orders -----------------------------------------------------------------

    async def orders(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return the orders that exist of these."""
        found = {}
        for order_id in ids:
            for row in self._read(_ORDER, (order_id,)):
                found[order_id] = from_row(Order, row)
        return found

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
        statement = _select(Order, "orders", " AND ".join(where)) + " ORDER BY id DESC LIMIT ?"
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
        where = "state = ? AND state IN ('queued', 'sending', 'unknown') AND id > ?"
        bindings: list[str | int] = [state, after]
        if provider:
            where += " AND provider = ?"
            bindings.append(provider)
        return self._orders(where, *bindings, order="id", limit=limit)

    async def followed(self, provider: str, settled_since: int, limit: int) -> list[Order]:
        """Return a provider's orders that are not settled, or were not before that time."""
        where = "provider = ? AND poll_at IS NOT NULL AND (settled_at IS NULL OR settled_at >= ?)"
        statement = _select(Order, "orders", where) + " LIMIT ?"
        return await self._apart(
            lambda db: [
                from_row(Order, row)
                for row in db.execute(statement, (provider, settled_since, limit))
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
                statement = _select(Order, "orders", where) + f" ORDER BY id {direction} LIMIT ?"
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
        statement = _select(Order, "orders", where) + f" ORDER BY {order} LIMIT ?"
        return [from_row(Order, row) for row in self._read(statement, (*bindings, limit))]

    async def cancels_wanted(self, limit: int) -> list[Order]:
        """Return placed orders whose cancel the provider has not heard yet."""
        where = f"cancel = '{Cancel.WANTED}' AND state = '{State.PLACED}'"
        return self._orders(where, order="id", limit=limit)

    async def history(self, order: int) -> tuple[list[Event], list[Transfer]]:
        """Return what happened to an order, and every movement of its money, in order."""
        first, last = f"order/{order}/", f"order/{order}0"  # "0" follows "/"
        events = _select(Event, "events", '"order" = ?') + " ORDER BY version"
        transfers = _select(Transfer, "transfers", "key >= ? AND key < ?") + " ORDER BY id"
        return (
            [from_row(Event, row) for row in self._read(events, (order,))],
            [from_row(Transfer, row) for row in self._read(transfers, (first, last))],
        )

    # --- refills ------------------------------------------------------------------------

    async def add_refills(self, refills: Sequence[Refill], since: int) -> list[tuple[Refill, bool]]:
        """Write new refills, unless one of the same order is under way."""
        under_way = _select(
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
                    db.execute(_insert(Refill, "refills"), (None, *to_row(refill)[1:]))
                    row = (db.last_insert_rowid(), *to_row(refill)[1:])
                written.append((from_row(Refill, row), fresh))
            return written

        return await self._writer.do(run)

    async def set_refills(self, refills: Sequence[Refill], under: Lease | None = None) -> None:
        """Write refills as they are now."""
        rows = [(one.upstream_id, one.status, one.poll_at, one.id) for one in refills]

        def run(db: apsw.Connection) -> None:
            _hold(db, under)
            db.executemany(
                "UPDATE refills SET upstream_id = ?, status = ?, poll_at = ? WHERE id = ?", rows
            )

        await self._writer.do(run)

    async def refills(self, ids: Sequence[int]) -> dict[int, Refill]:
        """Return the refills that exist of these."""
        statement = _select(Refill, "refills", "id = ?")
        return {
            refill_id: from_row(Refill, row)
            for refill_id in ids
            for row in self._read(statement, (refill_id,))
        }

    async def refills_of(self, order: int) -> list[Refill]:
        """Return an order's refills, oldest first."""
        statement = _select(Refill, "refills", '"order" = ?') + " ORDER BY id"
        return [from_row(Refill, row) for row in self._read(statement, (order,))]

    async def due_refills(self, provider: str, now: int, limit: int) -> list[Refill]:
        """Return refills whose status is due."""
        where = "provider = ? AND poll_at <= ?"
        statement = _select(Refill, "refills", where) + " ORDER BY poll_at LIMIT ?"
        return [from_row(Refill, row) for row in self._read(statement, (provider, now, limit))]

    # --- customers ----------------------------------------------------------------------

    async def pepper(self) -> bytes:
        """Return the secret that customers' keys are hashed with."""
        return bytes(self._read("SELECT value FROM secrets WHERE name = 'pepper'")[0][0])

    async def add_customer(self, customer: Customer, digest: bytes) -> Customer | None:
        """Write a new customer."""

        def run(db: apsw.Connection) -> Customer | None:
            if db.execute("SELECT 1 FROM customers WHERE name = ?", (customer.name,)).fetchone():
                return None
            names = columns(Customer)[1:]
            db.execute(
                f"INSERT INTO customers (digest, {listed(names)}) "
                f"VALUES (?, {', '.join('?' * len(names))})",
                (digest, *to_row(customer)[1:]),
            )
            row = (db.last_insert_rowid(), *to_row(customer)[1:])
            return from_row(Customer, row)

        return await self._writer.do(run)

    async def set_customer(self, customer: Customer, digest: bytes | None = None) -> None:
        """Write a customer as he is now, with a new key when one is given."""
        names = columns(Customer)[1:]
        updates = ", ".join(f"{name} = ?" for name in names)
        await self._writer.do(
            lambda db: db.execute(
                f"UPDATE customers SET {updates}, digest = coalesce(?, digest) WHERE id = ?",
                (*to_row(customer)[1:], digest, customer.id),
            ).fetchall()
        )

    async def customer_of(self, digest: bytes) -> Customer | None:
        """Return who holds the key with this digest."""
        rows = self._read(_select(Customer, "customers", "digest = ?"), (digest,))
        return from_row(Customer, rows[0]) if rows else None

    async def customers(self) -> list[Customer]:
        """Return all customers."""
        rows = self._read(_select(Customer, "customers", "1") + " ORDER BY id")
        return [from_row(Customer, row) for row in rows]

    async def balances(self, customers: Sequence[int]) -> dict[int, list[Balance]]:
        """Return the customers' accounts, by currency."""
        found: dict[int, list[Balance]] = {}
        for customer in customers:
            sums: dict[str, dict[str, int]] = {}
            for kind, currency, balance in self._read(
                "SELECT kind, currency, balance FROM accounts WHERE owner = ?", (str(customer),)
            ):
                sums.setdefault(currency, {})[kind] = balance
            found[customer] = [
                Balance(
                    currency,
                    available=one.get(Kind.AVAILABLE, 0),
                    held=one.get(Kind.HELD, 0),
                    sales=one.get(Kind.SALES, 0),
                    owed=-one.get(Kind.OWED, 0),
                )
                for currency, one in sums.items()
            ]
        return found

    # --- providers ----------------------------------------------------------------------

    async def save_offers(
        self, provider: str, offers: Sequence[Offer], at: int, under: Lease | None = None
    ) -> int:
        """Replace a provider's offers, writing only what differs."""
        # Read before the commit: in a large list the writer would keep orders waiting. Should
        # two lists of one provider cross, the next one puts right what they leave.
        known = (await self._offers("provider = ?", provider)).get(provider, {})
        new = {offer.id: offer for offer in offers}
        fresh = [
            (provider, *to_row(offer)) for offer in offers if known.get(offer.id) != (offer, None)
        ]
        gone = [
            (at, provider, one)
            for one, (_, gone_at) in known.items()
            if one not in new and gone_at is None
        ]

        def run(db: apsw.Connection) -> int:
            _hold(db, under)
            names = ("provider", *columns(Offer))
            db.executemany(
                f"INSERT OR REPLACE INTO offers ({listed(names)}) "  # ours
                f"VALUES ({', '.join('?' * len(names))})",
                fresh,
            )
            db.executemany("UPDATE offers SET gone_at = ? WHERE provider = ? AND id = ?", gone)
            step = 1 if fresh or gone else 0
            return int(
                db.execute(
                    "UPDATE counters SET value = value + ? WHERE name = 'offers' RETURNING value",
                    (step,),
                ).get
            )

        return await self._writer.do(run)

    async def offers(self) -> dict[str, dict[str, Offer]]:
        """Return every provider's offers that are not gone."""
        return {
            provider: {one: offer for one, (offer, _) in offers.items()}
            for provider, offers in (await self._offers("gone_at IS NULL")).items()
        }

    async def _offers(
        self, where: str, *bindings: str
    ) -> dict[str, dict[str, tuple[Offer, int | None]]]:
        statement = f"SELECT provider, gone_at, {listed(columns(Offer))} FROM offers WHERE {where}"

        def run(db: apsw.Connection) -> dict[str, dict[str, tuple[Offer, int | None]]]:
            found: dict[str, dict[str, tuple[Offer, int | None]]] = {}
            for provider, gone_at, *row in db.execute(statement, bindings):
                offer = from_row(Offer, row)
                found.setdefault(provider, {})[offer.id] = (offer, gone_at)
            return found

        return await self._apart(run)

    async def edition(self) -> int:
        """Return a number that grows whenever offers change."""
        return int(self._read("SELECT value FROM counters WHERE name = 'offers'")[0][0])

    async def sight(self, sightings: Sequence[Sighting]) -> None:
        """Write what was seen of providers, keeping what was not looked at."""

        def run(db: apsw.Connection) -> None:
            for one in sightings:
                fields = dict(zip(columns(Sighting), to_row(one), strict=True))
                seen = {name: value for name, value in fields.items() if value is not None}
                names = listed(tuple(seen))
                values = ", ".join("?" * len(seen))
                updates = ", ".join(f'"{name}" = excluded."{name}"' for name in seen)
                db.execute(
                    f"INSERT INTO sightings ({names}) VALUES ({values}) "  # ours
                    f"ON CONFLICT (provider) DO UPDATE SET {updates}",
                    tuple(seen.values()),
                )

        await self._writer.do(run)

    async def sightings(self) -> dict[str, Sighting]:
        """Return what was last seen of each provider."""
        rows = self._read(_select(Sighting, "sightings", "1"))
        return {row[0]: from_row(Sighting, row) for row in rows}

    async def in_flight(self) -> dict[str, int]:
        """Return how many orders each provider is being sent, or may have been."""
        rows = self._read(
            "SELECT provider, count(*) FROM orders WHERE state IN ('sending', 'unknown') "
            "GROUP BY provider"
        )
        return {str(provider): int(count) for provider, count in rows}

    async def at_risk(self) -> dict[str, int]:
        """Return what the orders that are not settled should cost, by provider."""
        rows = self._read(
            "SELECT provider, sum(cost) FROM orders WHERE state IN ('sending', 'unknown') "
            "OR (state = 'placed' AND settled_at IS NULL) GROUP BY provider"
        )
        return {str(provider): int(cost) for provider, cost in rows}

    async def add_reading(self, reading: Reading, under: Lease | None = None) -> None:
        """Remember a balance, and forget those of long ago."""
        names = columns(Reading)

        def run(db: apsw.Connection) -> None:
            _hold(db, under)
            db.execute(
                f"INSERT OR REPLACE INTO readings ({listed(names)}) "
                f"VALUES ({', '.join('?' * len(names))})",
                to_row(reading),
            )
            db.execute(
                "DELETE FROM readings WHERE provider = ? AND asked_at < ?",
                (reading.provider, reading.asked_at - KEPT_READINGS),
            )

        await self._writer.do(run)

    async def readings(self, provider: str, since: int) -> list[Reading]:
        """Return the balances that were asked for since, oldest first."""
        where = "provider = ? AND asked_at >= ?"
        statement = _select(Reading, "readings", where) + " ORDER BY asked_at"
        return await self._apart(
            lambda db: [from_row(Reading, row) for row in db.execute(statement, (provider, since))]
        )

    async def movements(self, provider: str, since: int, limit: int) -> list[Movement]:
        """Return what was booked at a provider since, oldest first."""
        where = "owner = ? AND at >= ? AND code IN ('cost', 'rebate', 'deposit')"
        transfers = _select(Transfer, "transfers", where) + " ORDER BY at, id LIMIT ?"
        before = 'SELECT max(at) FROM events WHERE "order" = ? AND version < ?'

        def run(db: apsw.Connection) -> list[Movement]:
            found = []
            for row in db.execute(transfers, (provider, since, limit)).fetchall():
                transfer = from_row(Transfer, row)
                order = None
                earlier = transfer.at
                if transfer.order is not None:
                    (order,) = (
                        from_row(Order, one) for one in db.execute(_ORDER, (transfer.order,))
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

    # --- who does what ------------------------------------------------------------------

    async def lease(
        self, names: Sequence[str], holder: str, now: int, until: int
    ) -> dict[str, Lease]:
        """Take or renew leases until a time."""

        def run(db: apsw.Connection) -> dict[str, Lease]:
            held = {}
            for name in names:
                fence = db.execute(
                    "INSERT INTO leases VALUES (?1, ?2, 1, ?4) ON CONFLICT DO UPDATE SET "
                    "fence = fence + (holder <> excluded.holder), "
                    "holder = excluded.holder, expires_at = excluded.expires_at "
                    "WHERE holder = excluded.holder OR expires_at <= ?3 RETURNING fence",
                    (name, holder, now, until),
                ).get
                if fence is not None:
                    held[name] = Lease(name, holder, fence)
            return held

        return await self._writer.do(run)

    async def release(self, holder: str) -> None:
        """Give back every lease of a holder."""
        await self._writer.do(
            lambda db: db.execute(
                "UPDATE leases SET expires_at = 0 WHERE holder = ?", (holder,)
            ).fetchall()
        )


def _hold(db: apsw.Connection, lease: Lease | None) -> None:
    """Raise ``LeaseLost`` when a lease has passed on."""
    if lease is None:
        return
    fence = db.execute("SELECT fence FROM leases WHERE name = ?", (lease.name,)).get
    if fence != lease.fence:
        msg = f"{lease.name} is done by somebody else by now"
        raise LeaseLost(msg)


def _within_cap(db: apsw.Connection, new: Placement, charge: int) -> bool:
    spent = db.execute(
        "SELECT amount FROM spending WHERE customer = ? AND day = ?", (new.customer, new.at // DAY)
    ).get
    return new.cap is None or (spent or 0) + charge <= new.cap


def _standing(db: apsw.Connection, customer: int, claim: Claim) -> Order | ErrorText | None:
    """Return the order that an earlier claim made, or why a repeat of it is an error."""
    row = db.execute(
        'SELECT fingerprint, "order" FROM claims WHERE customer = ? AND key = ? AND at >= ?',
        (customer, claim.key, claim.since),
    ).fetchone()
    if row is None:
        return None
    fingerprint, order = row
    if bytes(fingerprint) != claim.fingerprint:
        return ErrorText.KEY_REUSED
    if claim.reject:
        return ErrorText.IDENTICAL_ORDER
    found = db.execute(_ORDER, (order,)).fetchone()
    return from_row(Order, found) if found else None
