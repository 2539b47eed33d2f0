"""Reading the books back on PostgreSQL, for the audit."""

from collections.abc import Iterator, Mapping, Sequence

from gateway.model import Code, Order
from gateway.store import Row
from gateway.store.postgres_base import Look
from gateway.store.postgres_rows import select
from gateway.store.rows import from_row, listed

_COLUMNS = """
    SELECT column_name::text FROM information_schema.columns
    WHERE table_schema <> 'archive' AND table_name = $1
    GROUP BY column_name ORDER BY min(ordinal_position)
"""
_SUMS = (
    'SELECT "order", code, sum(amount) FROM transfers WHERE "order" IS NOT NULL '
    "GROUP BY 1, 2 ORDER BY 1"
)
_BROKEN = {
    "transfer {} is of order {}, which does not exist": """
        SELECT key, "order" FROM transfers WHERE "order" IS NOT NULL
        AND NOT EXISTS (SELECT FROM orders WHERE orders.id = transfers."order")
    """,
    "transfer {} is of another owner or currency than order {}": f"""
        SELECT transfers.key, orders.id FROM transfers JOIN orders ON orders.id = transfers."order"
        WHERE CASE WHEN code IN ('{Code.COST}', '{Code.REBATE}')
            THEN (transfers.owner, transfers.currency) <> (orders.provider, orders.cost_currency)
            ELSE (transfers.owner, transfers.currency) <> (customer::text, orders.currency)
        END
    """,
    "the database: row {} of orders names no row of customers": """
        SELECT id FROM orders
        WHERE NOT EXISTS (SELECT FROM customers WHERE customers.id = orders.customer)
    """,
    "the database: row {} of refills names no row of orders": """
        SELECT id FROM refills
        WHERE NOT EXISTS (SELECT FROM orders WHERE orders.id = refills."order")
    """,
    "the database: CHECK constraint failed in accounts": """
        SELECT FROM accounts WHERE balance < 0 AND kind NOT IN ('funds', 'owed', 'paid', 'purse')
        LIMIT 1
    """,
    "the database: CHECK constraint failed in transfers": """
        SELECT FROM transfers WHERE amount <= 0 LIMIT 1
    """,
    "the database: CHECK constraint failed in spending": """
        SELECT FROM spending WHERE amount < 0 LIMIT 1
    """,
}


class PostgresSnapshot:
    """The books as they stood when the transaction of this connection began."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def count_transfers(self) -> int:
        """Return how many transfers there are."""
        ((count,),) = self._look("SELECT count(*) FROM transfers")
        return int(count)

    def transfer_sums(self) -> Iterator[tuple[str, str, str, int]]:
        """Return (code, owner, currency, sum) of all transfers."""
        for code, owner, currency, amount in self._look(
            "SELECT code, owner, currency, sum(amount) FROM transfers GROUP BY 1, 2, 3"
        ):
            yield code, owner, currency, int(amount)

    def accounts(self) -> Iterator[tuple[str, str, str, int]]:
        """Return (kind, owner, currency, balance) of all accounts."""
        rows = self._look("SELECT kind, owner, currency, balance FROM accounts")
        return ((kind, owner, currency, balance) for kind, owner, currency, balance in rows)

    def orders(self) -> Iterator[tuple[Order, Mapping[str, int]]]:
        """Return every order with the sums of its transfers by code."""
        sums = self._look(_SUMS)
        ahead = next(sums, None)
        for row in self._look(select(Order, "orders", "ORDER BY id")):
            order = from_row(Order, row)
            mine = {}
            while ahead and ahead[0] <= order.id:
                if ahead[0] == order.id:
                    mine[ahead[1]] = int(ahead[2])
                ahead = next(sums, None)
            yield order, mine

    def violations(self) -> list[str]:
        """Return what the schema promises and yet does not hold."""
        return [words.format(*row) for words, found in _BROKEN.items() for row in self._look(found)]

    def rows(self, table: str, key: Sequence[str]) -> tuple[list[str], Iterator[Row]]:
        """Return a table's columns and its rows by their key."""
        names = [name for (name,) in self._look(_COLUMNS, table)]
        return names, self._look(f"SELECT {listed(names)} FROM {table} ORDER BY {listed(key)}")

    def counters(self) -> Mapping[str, int]:
        """Return the last order's id, the edition of the offers, and when they were restored."""
        ((last,),) = self._look("SELECT last_value - (NOT is_called)::int FROM order_ids")
        rows = self._look("SELECT name, value FROM counters")
        return {"order": last} | {str(name): int(value) for name, value in rows}
