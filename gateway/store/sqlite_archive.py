"""Old settled orders, in a second SQLite file beside the first.

An order is written there, durably, before it leaves here; should the gateway stop in between, it
stands in both, and what is here counts.
"""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from gateway.errors import StoreUnavailable
from gateway.model import Event, Order, Transfer
from gateway.store.rows import columns, from_row, listed
from gateway.store.sqlite_file import SqliteFile
from gateway.store.sqlite_rows import select
from gateway.store.writer import connect

T = TypeVar("T", bound=msgspec.Struct)

_KEYS = {"orders": ("id",), "events": ("order", "version"), "transfers": ("order", "id")}
_LOOKED_AT = "SELECT id, created_at FROM live.orders WHERE id > ? ORDER BY id LIMIT ?"
_OLD = """
    SELECT id, version FROM live.orders AS one
    WHERE id > ? AND id <= ? AND created_at < ? AND poll_at IS NULL
    AND (state = 'failed' OR (state = 'placed' AND settled_at IS NOT NULL AND upstream_id <> ''))
    AND NOT EXISTS (SELECT 1 FROM live.refills WHERE "order" = one.id)
    ORDER BY id
"""
_ITS = {
    "orders": "id = ?1",
    "events": '"order" = ?1',
    "transfers": "key >= 'order/' || ?1 || '/' AND key < 'order/' || ?1 || '0'",
}
"""Which rows of each table are an order's; "0" follows "/"."""


def beside(path: Path) -> Path:
    """Return where the archive of a file is."""
    return path.with_name(f"{path.name}.archive")


def join(db: apsw.Connection, path: Path) -> None:
    """Let a connection that only reads see what is archived as if it were still here."""
    if not beside(path).exists():
        return
    db.execute("ATTACH ? AS archive", (str(beside(path)),))
    db.execute("PRAGMA query_only = OFF")
    for table, (of, *_) in _KEYS.items():
        names = listed(_names(db, f"main.table_info({table})"))
        db.execute(
            f"CREATE TEMP VIEW {table} AS SELECT {names} FROM main.{table} "
            f"UNION ALL SELECT {names} FROM archive.{table} AS kept "
            f'WHERE NOT EXISTS (SELECT 1 FROM main.orders AS here WHERE here.id = kept."{of}")'
        )
    db.execute("PRAGMA query_only = ON")


class SqliteArchive(SqliteFile):
    """See ``Store``."""

    async def archive(self, before: int, after: int, limit: int) -> tuple[int, int]:
        """Move old settled orders to the archive."""
        old, last = await asyncio.to_thread(_copy, self._path, before, after, limit)
        if not old:
            return 0, last
        return await self._writer.do(lambda db: sum(_leave(db, *one) for one in old)), last

    async def archived(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return those of these orders that are in the archive."""
        rows = [row for one in ids for row in self._kept(Order, "orders", one)]
        return {order.id: order for order in (from_row(Order, row) for row in rows)}

    def _kept(self, kind: type[Any], table: str, order: int) -> list[tuple[Any, ...]]:
        """Return an order's rows of a table in the archive."""
        if not beside(self._path).exists():
            return []
        of, *rest = _KEYS[table]
        sort = f' ORDER BY "{rest[0]}"' if rest else ""
        statement = f'SELECT {listed(columns(kind))} FROM {table} WHERE "{of}" = ?{sort}'
        try:
            if self._archive is None:
                self._archive = connect(beside(self._path))
            return self._archive.execute(statement, (order,)).fetchall()
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from error

    async def history(self, order: int) -> tuple[list[Event], list[Transfer]]:
        """Return what happened to an order, and every movement of its money, in order."""
        return self._of(Event, "events", order), self._of(Transfer, "transfers", order)

    def _of(self, kind: type[T], table: str, order: int) -> list[T]:
        """Return an order's things of a kind, in turn, wherever they are."""
        sort = _KEYS[table][1]
        statement = f'{select(kind, table, _ITS[table])} ORDER BY "{sort}"'
        rows = self._read(statement, (order,)) or self._kept(kind, table, order)
        return [from_row(kind, row) for row in rows]


def _copy(path: Path, before: int, after: int, limit: int) -> tuple[list[tuple[int, int]], int]:
    """Write old orders to the archive.

    Returns the ids and versions that are there now, and the last id that was looked at; 0 when
    all of those orders are too young.
    """
    with closing(connect(beside(path), write=True)) as db:
        try:
            db.execute("ATTACH ? AS live", (str(path),))
            for table, key in _KEYS.items():
                _fit(db, table, key)
            db.execute("BEGIN IMMEDIATE")
            rows = [(one, at) for one, at in db.execute(_LOOKED_AT, (after, limit))]
            last = rows[-1][0] if any(at < before for _, at in rows) else 0
            old = [(one, version) for one, version in db.execute(_OLD, (after, last, before))]
            for table in _KEYS:
                names = listed(_names(db, f"live.table_info({table})"))
                db.executemany(
                    f"INSERT OR REPLACE INTO main.{table} ({names}) "
                    f"SELECT {names} FROM live.{table} WHERE {_ITS[table]}",
                    [(order,) for order, _ in old],
                )
            db.execute("COMMIT")
        except apsw.Error as error:
            raise StoreUnavailable(f"{beside(path)}: {error}") from error
    return old, last


def _fit(db: apsw.Connection, table: str, key: Sequence[str]) -> None:
    """Give the archive's table the columns that the live one has."""
    names = listed(_names(db, f"live.table_info({table})"))
    db.execute(
        f"CREATE TABLE IF NOT EXISTS main.{table} ({names}, PRIMARY KEY ({listed(key)})) "
        "WITHOUT ROWID"
    )
    there = _names(db, f"main.table_info({table})")
    for _, name, _, _, default, _ in db.execute(f"PRAGMA live.table_info({table})").fetchall():
        if name not in there:
            ending = "" if default is None else f" DEFAULT {default}"
            db.execute(f'ALTER TABLE main.{table} ADD COLUMN "{name}"{ending}')


def _names(db: apsw.Connection, table: str) -> list[str]:
    return [str(name) for _, name, *_ in db.execute(f"PRAGMA {table}")]


def _leave(db: apsw.Connection, order: int, version: int) -> bool:
    """Take an order out that is in the archive, unless something has become of it since."""
    same = (
        "SELECT version = ?2 FROM orders WHERE id = ?1 "
        'AND NOT EXISTS (SELECT 1 FROM refills WHERE refills."order" = ?1)'
    )
    if not db.execute(same, (order, version)).get:
        return False
    db.execute("INSERT INTO leaving VALUES (?)", (order,))
    for table in ("transfers", "events", "orders"):
        db.execute(f"DELETE FROM {table} WHERE {_ITS[table]}", (order,))
    db.execute('DELETE FROM claims WHERE "order" = ?', (order,))
    db.execute("DELETE FROM leaving")
    return True
