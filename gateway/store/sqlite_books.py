"""The books on SQLite: posting transfers, and reading everything back for the audit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apsw

from gateway.errors import TransferConflict
from gateway.model import MOVES, Code, Kind, Order, Transfer
from gateway.store import Row
from gateway.store.rows import columns, from_row, listed, to_row


class NoFunds(Exception):  # an outcome on its way to a return value
    """A floor is in the way; the caller's savepoint undoes what came before."""


class Books:
    """Accounts and transfers, for the writing connection."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[Kind, str, str], int] = {}

    def forget(self) -> None:
        """Forget the accounts' row ids: a rollback may have taken some back."""
        self._accounts.clear()

    def post(self, db: apsw.Connection, transfer: Transfer) -> bool:
        """Post a transfer once; ``False`` when its key was posted before.

        Raises ``NoFunds`` at a floor and ``TransferConflict`` for another amount under its key.
        """
        posted = db.execute("SELECT amount FROM transfers WHERE key = ?", (transfer.key,)).get
        if posted is not None:
            if posted != transfer.amount:
                msg = f"{transfer.key} was posted before with another amount"
                raise TransferConflict(msg)
            return False
        if transfer.code is Code.CHARGE:
            self._charge(db, transfer)
        else:
            self._move(db, transfer)
            if MOVES[transfer.code][1] is Kind.AVAILABLE:
                self._collect(db, transfer)
        return True

    def balance(self, db: apsw.Connection, kind: Kind, owner: str, currency: str) -> int:
        """Return an account's balance; an account that does not exist has none."""
        found = db.execute(
            "SELECT balance FROM accounts WHERE owner = ? AND kind = ? AND currency = ?",
            (owner, kind, currency),
        ).get
        return found or 0

    def _move(self, db: apsw.Connection, transfer: Transfer) -> None:
        source, target = MOVES[transfer.code]
        for kind, amount in ((source, -transfer.amount), (target, transfer.amount)):
            account = self._account(db, kind, transfer.owner, transfer.currency)
            try:
                db.execute(
                    "UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, account)
                )
            except apsw.ConstraintError:
                raise NoFunds from None
        db.execute(_INSERT_TRANSFER, to_row(transfer))

    def _charge(self, db: apsw.Connection, transfer: Transfer) -> None:
        """Charge what the balance covers; the rest is owed, for it was delivered."""
        there = self.balance(db, Kind.AVAILABLE, transfer.owner, transfer.currency)
        covered = min(there, transfer.amount)
        if covered:
            self._move(db, _part(transfer, Code.CHARGE, covered))
        if covered < transfer.amount:
            self._move(db, _part(transfer, Code.OWE, transfer.amount - covered))

    def _collect(self, db: apsw.Connection, credit: Transfer) -> None:
        """Let a credit pay what is owed first."""
        owed = -self.balance(db, Kind.OWED, credit.owner, credit.currency)
        if owed > 0:
            there = self.balance(db, Kind.AVAILABLE, credit.owner, credit.currency)
            self._move(db, _part(credit, Code.COLLECT, min(owed, there), under=credit.key))

    def _account(self, db: apsw.Connection, kind: Kind, owner: str, currency: str) -> int:
        account = self._accounts.get((kind, owner, currency))
        if account is None:
            db.execute(
                "INSERT OR IGNORE INTO accounts (owner, kind, currency) VALUES (?, ?, ?)",
                (owner, kind, currency),
            )
            account = db.execute(
                "SELECT id FROM accounts WHERE owner = ? AND kind = ? AND currency = ?",
                (owner, kind, currency),
            ).get
            self._accounts[(kind, owner, currency)] = account
        return account


def _part(whole: Transfer, code: Code, amount: int, *, under: str = "") -> Transfer:
    key = f"{under}/{code}" if under else f"{whole.key.rpartition('/')[0]}/{code}"
    return Transfer(
        key=key,
        code=code,
        owner=whole.owner,
        amount=amount,
        currency=whole.currency,
        order=whole.order,
        at=whole.at,
    )


_INSERT_TRANSFER = (
    f"INSERT INTO transfers ({listed(columns(Transfer))}) "
    f"VALUES ({', '.join('?' * len(columns(Transfer)))})"
)


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

    def rows(
        self, table: str, key: Sequence[str], after: Row | None
    ) -> tuple[list[str], Iterator[Row]]:
        """Return a table's columns and its rows by their key, or those after one."""
        names = [name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")]
        marks = ", ".join("?" * len(key))
        where = f"WHERE ({listed(key)}) > ({marks})" if after else ""
        statement = f"SELECT {listed(names)} FROM {table} {where} ORDER BY {listed(key)}"
        return names, self._db.execute(statement, tuple(after or ()))

    def counters(self) -> Mapping[str, int]:
        """Return the last order's id and the edition of the offers."""
        rows: Iterator[tuple[str, int]] = self._db.execute("SELECT name, value FROM counters")
        return dict(rows)
