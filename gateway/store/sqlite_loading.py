"""Rows of another database, taken into a SQLite file."""

from collections.abc import Mapping, Sequence

import apsw

from gateway.errors import ConfigError
from gateway.store import RESTORED, Row
from gateway.store.rows import listed
from gateway.store.sqlite_file import SqliteFile
from gateway.store.tables import NOT_EMPTY, OTHER, TABLES

_GUARD = "SELECT sql FROM sqlite_schema WHERE name = 'transfers_are_not_deleted'"


class SqliteLoading(SqliteFile):
    """See ``Store``."""

    async def begin_loading(self, pepper: bytes) -> None:
        """Make ready for the rows of the database that has this secret."""

        def run(db: apsw.Connection) -> None:
            begun = db.execute("SELECT value FROM secrets WHERE name = 'loading'").get
            full = any(db.execute(f"SELECT EXISTS (SELECT 1 FROM {one})").get for one in TABLES)
            if begun is None and full:
                raise ConfigError(NOT_EMPTY)
            if begun not in (None, pepper):
                raise ConfigError(OTHER)
            db.execute("DELETE FROM secrets")
            db.execute("INSERT INTO secrets VALUES ('loading', ?)", (pepper,))
            # What stands here is a part of a copy, and nobody's books yet.
            guard = db.execute(_GUARD).get
            db.execute("DROP TRIGGER transfers_are_not_deleted")
            for table in reversed(list(TABLES)):
                db.execute(f"DELETE FROM {table}")
            db.execute(guard)

        await self._writer.do(run)

    async def load(self, table: str, names: Sequence[str], rows: Sequence[Row]) -> None:
        """Write rows of a table."""
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table} ({listed(names)}) VALUES ({marks})"
        plain = [[int(one) if isinstance(one, bool) else one for one in row] for row in rows]
        await self._writer.do(lambda db: db.executemany(statement, plain).fetchall())

    async def end_loading(self, counters: Mapping[str, int]) -> None:
        """Take up what was loaded."""

        def run(db: apsw.Connection) -> None:
            db.execute("UPDATE secrets SET name = 'pepper' WHERE name = 'loading'")
            for name, value in counters.items():
                db.execute("REPLACE INTO counters VALUES (?, ?)", (name, value))

        await self._writer.do(run)

    async def restores(self) -> list[int]:
        """Return when these books came back from a backup."""
        where = f"name GLOB '{RESTORED}*' ORDER BY value"
        return [int(at) for (at,) in self._read(f"SELECT value FROM counters WHERE {where}")]
