"""Reading the books back on SQLite, for the audit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apsw

from gateway.model import Code, Order
from gateway.store import Row
from gateway.store.rows import columns, from_row, listed

_MISPLACED = f"""
    SELECT transfers.key, orders.id FROM transfers JOIN orders ON orders.id = transfers."order"
    WHERE CASE WHEN code IN ('{Code.COST}', '{Code.REBATE}')
        THEN (transfers.owner, transfers.currency) <> (orders.provider, orders.cost_currency)
        ELSE (transfers.owner, transfers.currency) <> (CAST(customer AS TEXT), orders.currency)
    END
"""


class SqliteSnapshot:
    """The books as they stood when the transaction of this connection began."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def count_transfers(self) -> int:
        """Return how many transfers there are."""
        return int(self._db.execute("SELECT count(*) FROM transfers").get)

    def transfer_sums(self) -> Iterator[tuple[str, str, str, int]]:
        """Return (code, owner, currency, sum) of all transfers."""
        return self._db.execute(
            "SELECT code, owner, currency, sum(amount) FROM transfers GROUP BY 1, 2, 3"
        )

    def accounts(self) -> Iterator[tuple[str, str, str, int]]:
        """Return (kind, owner, currency, balance) of all accounts."""
        return self._db.execute("SELECT kind, owner, currency, balance FROM accounts")

    def orders(self) -> Iterator[tuple[Order, Mapping[str, int]]]:
        """Return every order with the sums of its transfers by code."""
        sums: Iterator[tuple[int, str, int]] = self._db.execute(
            'SELECT "order", code, sum(amount) FROM transfers WHERE "order" IS NOT NULL '
            "GROUP BY 1, 2 ORDER BY 1"
        )
        ahead = next(sums, None)
        rows: Iterator[tuple[Any, ...]] = self._db.execute(
            f"SELECT {listed(columns(Order))} FROM orders ORDER BY id"
        )
        for row in rows:
            order = from_row(Order, row)
            mine = {}
            while ahead and ahead[0] <= order.id:
                if ahead[0] == order.id:
                    mine[ahead[1]] = ahead[2]
                ahead = next(sums, None)
            yield order, mine

    def violations(self) -> list[str]:
        """Return what the schema promises and yet does not hold."""
        found = [
            f"transfer {key} is of order {order}, which does not exist"
            for key, order in self._db.execute(
                'SELECT key, "order" FROM transfers WHERE "order" IS NOT NULL '
                'AND "order" NOT IN (SELECT id FROM orders)'
            )
        ]
        found += [
            f"transfer {key} is of another owner or currency than order {order}"
            for key, order in self._db.execute(_MISPLACED)
        ]
        found += [
            f"the database: {text}"
            for (text,) in self._db.execute("PRAGMA quick_check(10)")
            if text != "ok"
        ]
        found += [
            f"the database: row {row} of {table} names no row of {parent}"
            for table, row, parent, _ in self._db.execute("PRAGMA foreign_key_check")
        ]
        return found

    def rows(self, table: str, key: Sequence[str]) -> tuple[list[str], Iterator[Row]]:
        """Return a table's columns and its rows by their key."""
        names = [name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")]
        return names, self._db.execute(
            f"SELECT {listed(names)} FROM {table} ORDER BY {listed(key)}"
        )

    def counters(self) -> Mapping[str, int]:
        """Return the last order's id, the edition of the offers, and when they were restored."""
        rows: Iterator[tuple[str, int]] = self._db.execute("SELECT name, value FROM counters")
        return dict(rows)
