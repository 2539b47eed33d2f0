"""Customers and their balances, on SQLite."""

from collections.abc import Sequence

import apsw

from gateway.errors import ConfigError
from gateway.model import Customer, Kind
from gateway.store import Balance
from gateway.store.page import DAY
from gateway.store.rows import changed, columns, from_row, listed, to_row
from gateway.store.sqlite_file import SqliteFile
from gateway.store.sqlite_page import SPENT
from gateway.store.sqlite_rows import select
from gateway.store.tables import UNFINISHED

_AVAILABLE = "SELECT balance FROM accounts WHERE owner = ? AND kind = ? AND currency = ?"


class SqliteCustomers(SqliteFile):
    """See ``Store``."""

    async def pepper(self) -> bytes:
        """Return the secret that customers' keys are hashed with."""
        found = self._read("SELECT value FROM secrets WHERE name = 'pepper'")
        if not found:
            raise ConfigError(UNFINISHED)
        return bytes(found[0][0])

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

    async def set_customer(
        self, before: Customer, after: Customer, digest: bytes | None = None
    ) -> None:
        """Write in what a customer is different now, and a new key when one is given."""
        values = changed(before, after)
        updates = "".join(f"{name} = ?, " for name in values)
        await self._writer.do(
            lambda db: db.execute(
                f"UPDATE customers SET {updates} digest = coalesce(?, digest) WHERE id = ?",
                (*values.values(), digest, after.id),
            ).fetchall()
        )

    async def customer_of(self, digest: bytes) -> Customer | None:
        """Return who holds the key with this digest."""
        rows = self._read(select(Customer, "customers", "digest = ?"), (digest,))
        return from_row(Customer, rows[0]) if rows else None

    async def customers(self) -> list[Customer]:
        """Return all customers."""
        rows = self._read(select(Customer, "customers", "1") + " ORDER BY id")
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

    def available(self, customer: int, currency: str) -> int:
        """Return what a customer may spend."""
        found = self._read(_AVAILABLE, (str(customer), Kind.AVAILABLE, currency))
        return found[0][0] if found else 0

    async def ordered(self, customer: int, at: int) -> int:
        """Return what counts against a customer's cap of the day of a time."""
        found = self._read(SPENT, (customer, at // DAY))
        return found[0][2] if found else 0
