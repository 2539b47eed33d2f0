"""The store on SQLite: one writer thread that commits together what arrives together.

Every commit is a WAL append with ``synchronous=FULL``: durable before the caller goes on. Point
reads are answered by a second connection on the event loop itself, since at 20 µs each a thread
would cost more than it saves; what reads many rows goes to a thread, on a connection of its own.

apsw brings its own SQLite; a system's may be one that corrupts its WAL.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import apsw

from gateway.errors import StoreUnavailable
from gateway.store import Snapshot
from gateway.store.sqlite_archive import SqliteArchive, join
from gateway.store.sqlite_customers import SqliteCustomers
from gateway.store.sqlite_imports import SqliteImports
from gateway.store.sqlite_loading import SqliteLoading
from gateway.store.sqlite_offers import SqliteOffers
from gateway.store.sqlite_orders import SqliteOrders
from gateway.store.sqlite_providers import SqliteProviders
from gateway.store.sqlite_snapshot import SqliteSnapshot
from gateway.store.writer import PATIENCE, Rehearsal, Writer, connect, migrate

T = TypeVar("T")


class SqliteStore(
    SqliteOrders,
    SqliteArchive,
    SqliteCustomers,
    SqliteProviders,
    SqliteImports,
    SqliteOffers,
    SqliteLoading,
):
    """See ``Store``."""

    @classmethod
    async def open(cls, path: Path, *, first_id: int = 1, patience: int = PATIENCE) -> Self:
        """Open or create the file, and bring its schema up to date.

        ``patience``: milliseconds to wait for another process that is writing.
        """
        db = await asyncio.to_thread(cls._prepare, path, first_id, patience)
        return cls(path, Writer(db))

    @classmethod
    def rehearse(cls, path: Path, *, first_id: int = 1) -> Self:
        """Open a file for a simulation: repeatable, without a thread, and not durable."""
        db = cls._prepare(path, first_id, PATIENCE)
        db.execute("PRAGMA synchronous = OFF")
        return cls(path, Rehearsal(db))

    @staticmethod
    def _prepare(path: Path, first_id: int, patience: int) -> apsw.Connection:
        db = connect(path, write=True, patience=patience)
        try:
            migrate(db, path)
            if db.execute("SELECT value FROM counters WHERE name = 'order'").get < first_id - 1:
                raised = "UPDATE counters SET value = max(value, ?) WHERE name = 'order'"
                db.execute(raised, (first_id - 1,))
        except apsw.Error as error:
            db.close()
            msg = f"{path}: {error}"
            raise StoreUnavailable(msg) from error
        except BaseException:
            db.close()
            raise
        return db

    async def inspect(self, look: Callable[[Snapshot], T]) -> T:
        """Run ``look`` on a snapshot, in a thread."""

        def run(db: apsw.Connection) -> T:
            # The archive after the file: what leaves the file meanwhile is then seen here.
            db.execute("SELECT count(*) FROM main.counters").fetchall()
            join(db, self._path)
            return look(SqliteSnapshot(db))

        return await self._apart(run, long=True)
