"""Customers and their balances, on PostgreSQL."""

from collections.abc import Awaitable, Sequence
from functools import cached_property

from gateway.errors import ConfigError
from gateway.model import Customer, Kind
from gateway.store import Balance
from gateway.store.joined import Joined
from gateway.store.page import DAY
from gateway.store.postgres_base import PostgresBase
from gateway.store.postgres_rows import Connection, select, things
from gateway.store.rows import changed, columns, from_row, listed, to_row
from gateway.store.tables import UNFINISHED

_NAMES = columns(Customer)[1:]
_MARKS = [f"${number}" for number, _ in enumerate(_NAMES, 2)]
# A name that is taken takes no id.
_ADD = f"""
    INSERT INTO customers (digest, {listed(_NAMES)})
    SELECT $1, {", ".join(_MARKS)} WHERE NOT EXISTS (SELECT FROM customers WHERE name = {_MARKS[0]})
    ON CONFLICT (name) DO NOTHING RETURNING {listed(columns(Customer))}
"""

_AVAILABLE = """
    SELECT owner, currency, balance FROM unnest($2::text[], $3::text[]) AS wanted (owner, currency)
    JOIN accounts USING (owner, currency) WHERE kind = $1
"""
_ORDERED = "SELECT amount FROM spending WHERE customer = $1 AND day = $2"


class PostgresCustomers(PostgresBase):
    """See ``Store``."""

    async def pepper(self) -> bytes:
        """Return the secret that customers' keys are hashed with."""
        found = await self._fetch("SELECT value FROM secrets WHERE name = 'pepper'")
        if not found:
            raise ConfigError(UNFINISHED)
        return bytes(found[0][0])

    async def add_customer(self, customer: Customer, digest: bytes) -> Customer | None:
        """Write a new customer."""

        async def run(db: Connection) -> Customer | None:
            row = await db.fetchrow(_ADD, digest, *to_row(customer)[1:])
            return from_row(Customer, row) if row else None

        return await self._transact(run)

    async def set_customer(
        self, before: Customer, after: Customer, digest: bytes | None = None
    ) -> None:
        """Write in what a customer is different now, and a new key when one is given."""
        values = changed(before, after)
        updates = "".join(f"{name} = ${at}, " for at, name in enumerate(values, 3))
        update = f"UPDATE customers SET {updates} digest = coalesce($1, digest) WHERE id = $2"

        async def run(db: Connection) -> None:
            await db.execute(update, digest, after.id, *values.values())

        await self._transact(run)

    async def customer_of(self, digest: bytes) -> Customer | None:
        """Return who holds the key with this digest."""
        rows = await self._fetch(select(Customer, "customers", "WHERE digest = $1"), digest)
        return from_row(Customer, rows[0]) if rows else None

    async def customers(self) -> list[Customer]:
        """Return all customers."""
        return things(Customer, await self._fetch(select(Customer, "customers", "ORDER BY id")))

    async def balances(self, customers: Sequence[int]) -> dict[int, list[Balance]]:
        """Return the customers' accounts, by currency."""
        rows = await self._fetch(
            "SELECT owner, currency, kind, balance FROM accounts WHERE owner = ANY($1::text[]) "
            "ORDER BY kind, currency",
            [str(customer) for customer in customers],
        )
        sums: dict[int, dict[str, dict[str, int]]] = {customer: {} for customer in customers}
        for owner, currency, kind, balance in rows:
            sums[int(owner)].setdefault(currency, {})[kind] = balance
        return {
            customer: [
                Balance(
                    currency,
                    available=one.get(Kind.AVAILABLE, 0),
                    held=one.get(Kind.HELD, 0),
                    sales=one.get(Kind.SALES, 0),
                    owed=-one.get(Kind.OWED, 0),
                )
                for currency, one in found.items()
            ]
            for customer, found in sums.items()
        }

    def available(self, customer: int, currency: str) -> Awaitable[int]:
        """Return what a customer may spend; who asks at the same moment reads together."""
        return self._purses.read((str(customer), currency))

    @cached_property
    def _purses(self) -> Joined[tuple[str, str], int]:
        return Joined(self._available)

    async def _available(self, wanted: Sequence[tuple[str, str]]) -> list[int]:
        rows = await self._fetch(_AVAILABLE, Kind.AVAILABLE, *zip(*wanted, strict=True))
        found = {(owner, currency): balance for owner, currency, balance in rows}
        return [found.get(one, 0) for one in wanted]

    async def ordered(self, customer: int, at: int) -> int:
        """Return what counts against a customer's cap of the day of a time."""
        found = await self._fetch(_ORDERED, customer, at // DAY)
        return int(found[0][0]) if found else 0
