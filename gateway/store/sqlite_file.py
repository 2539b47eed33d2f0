"""One SQLite file: a connection that writes, one that reads, one more for each long look."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from gateway.errors import LeaseLost, StoreUnavailable
from gateway.offload import apart
from gateway.store import Lease
from gateway.store.sqlite_rows import read
from gateway.store.writer import Rehearsal, Writer, connect

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


def hold(db: apsw.Connection, lease: Lease | None) -> None:
    """Raise ``LeaseLost`` when a lease has passed on."""
    if lease is None:
        return
    fence = db.execute("SELECT fence FROM leases WHERE name = ?", (lease.name,)).get
    if fence != lease.fence:
        msg = f"{lease.name} is done by somebody else by now"
        raise LeaseLost(msg)


class SqliteFile:
    """What the operations of every kind share."""

    def __init__(self, path: Path, writer: Writer | Rehearsal) -> None:
        self._path = path
        self._writer = writer
        self._reader = connect(path)
        self._archive: apsw.Connection | None = None

    async def close(self) -> None:
        """Commit what is waiting, and close the file."""
        self._reader.close()
        if self._archive:
            self._archive.close()
        await self._writer.close()

    def _read(self, statement: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(statement, tuple(bindings)).fetchall()
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from error

    def _read_all(self, kind: type[S], table: str, where: str, *bindings: str | int) -> list[S]:
        """Return things of a kind, on the event loop itself: so there should not be many."""
        try:
            return read(self._reader, kind, table, where, *bindings)
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from error

    async def _apart(self, work: Callable[[apsw.Connection], T], *, long: bool = False) -> T:
        """Do some work on a snapshot; ``long``: it takes minutes, and others need not wait."""

        def run() -> T:
            with closing(connect(self._path)) as db:
                try:
                    db.execute("BEGIN")
                    return work(db)
                except apsw.Error as error:
                    raise StoreUnavailable(str(error)) from error

        if isinstance(self._writer, Rehearsal):
            return run()
        return await (asyncio.to_thread(run) if long else apart(run))
