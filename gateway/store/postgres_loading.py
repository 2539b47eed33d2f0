"""Rows of another database, taken into PostgreSQL."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.errors import ConfigError
from gateway.store import RESTORED, Row
from gateway.store.postgres_base import PostgresBase
from gateway.store.postgres_rows import Connection, plain
from gateway.store.tables import NOT_EMPTY, OTHER, TABLES

_TYPES = """
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = $1
"""
_IDENTITIES = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = current_schema() AND is_identity = 'YES'
"""
_COUNTER = (
    "INSERT INTO counters VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


class PostgresLoading(PostgresBase):
    """See ``Store``."""

    async def begin_loading(self, pepper: bytes) -> None:
        """Make ready for the rows of the database that has this secret."""

        async def run(db: Connection) -> None:
            begun = await db.fetchval("SELECT value FROM secrets WHERE name = 'loading'")
            full = [await db.fetchval(f"SELECT EXISTS (SELECT FROM {one})") for one in TABLES]
            if begun is None and any(full):
                raise ConfigError(NOT_EMPTY)
            if begun not in (None, pepper):
                raise ConfigError(OTHER)
            await db.execute("DELETE FROM secrets")
            await db.execute("INSERT INTO secrets VALUES ('loading', $1)", pepper)
            # What stands here is a part of a copy, and nobody's books yet.
            await db.execute("ALTER TABLE transfers DISABLE TRIGGER transfers_are_not_emptied")
            await db.execute(f"TRUNCATE {', '.join(TABLES)}")
            await db.execute("ALTER TABLE transfers ENABLE TRIGGER transfers_are_not_emptied")

        await self._transact(run)

    async def load(self, table: str, names: Sequence[str], rows: Sequence[Row]) -> None:
        """Write rows of a table."""
        types = {str(name): str(kind) for name, kind in await self._fetch(_TYPES, table)}
        read = [_READ.get(types[name], _as_it_is) for name in names]
        records = [
            [one if one is None else turn(one) for turn, one in zip(read, row, strict=True)]
            for row in rows
        ]

        async def run(db: Connection) -> None:
            await db.copy_records_to_table(table, columns=list(names), records=records)

        await self._transact(run)

    async def end_loading(self, counters: Mapping[str, int]) -> None:
        """Take up what was loaded."""

        async def run(db: Connection) -> None:
            await db.execute("UPDATE secrets SET name = 'pepper' WHERE name = 'loading'")
            others = dict(counters)
            last = others.pop("order")
            await db.execute("SELECT setval('order_ids', $1, $2)", max(last, 1), last > 0)
            await db.executemany(_COUNTER, others.items())
            for table, column in await db.fetch(_IDENTITIES):
                await db.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), "
                    f'coalesce(max("{column}"), 1), max("{column}") IS NOT NULL) FROM {table}'
                )

        await self._transact(run)

    async def restores(self) -> list[int]:
        """Return when these books came back from a backup."""
        where = f"starts_with(name, '{RESTORED}') ORDER BY value"
        return [int(at) for (at,) in await self._fetch(f"SELECT value FROM counters WHERE {where}")]


def _as_it_is(value: Any) -> Any:  # noqa: ANN401  # whatever a column holds
    return value


_READ: Mapping[str, Callable[[Any], Any]] = {"boolean": bool, "text": plain}
