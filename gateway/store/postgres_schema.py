"""The schema on PostgreSQL: numbered files, applied by whoever starts first."""

import re
from importlib import resources

from gateway.errors import ConfigError
from gateway.store.postgres_rows import Connection

_MIGRATION = re.compile(r"(\d{4})_\w+\.sql")
_LOCK = int.from_bytes(b"gateway")
"""Of the advisory lock that starts wait for."""
_OLDEST = 13
"""The PostgreSQL that this is written for, or newer."""
_VERSIONS = """
    CREATE TABLE IF NOT EXISTS schema_versions (
        version BIGINT PRIMARY KEY,
        at TIMESTAMPTZ NOT NULL DEFAULT now()
    )
"""
# Ids begin at the first one that the owner wants, and never go back.
_LIFT = """
    SELECT setval('order_ids', $1, false) FROM order_ids
    WHERE $1 > last_value + CASE WHEN is_called THEN 1 ELSE 0 END
"""


def migrations() -> list[tuple[int, str]]:
    """Return the numbered statements that make the schema, in order."""
    files = resources.files("gateway.store").joinpath("migrations/postgres").iterdir()
    return sorted(
        (int(match[1]), file.read_text())
        for file in files
        if (match := _MIGRATION.fullmatch(file.name))
    )


async def bring_up_to_date(db: Connection, first_id: int) -> None:
    """Bring the schema up to this program's, as a whole; a newer program's is refused.

    Where there is nothing to do, nothing is written: a server that takes no writes just now may
    be started on all the same.
    """
    major = db.get_server_version().major
    if major < _OLDEST:
        raise ConfigError(f"PostgreSQL {major} is too old; install {_OLDEST} or newer")
    encoding = await db.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise ConfigError(f"the database is in {encoding}; create one with ENCODING 'UTF8'")
    newest = migrations()[-1][0]
    if await _version(db) == newest and not await _is_low(db, first_id):
        return
    async with db.transaction():
        await db.execute("SET LOCAL lock_timeout = 0")
        await db.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await db.execute(_VERSIONS)
        for number, statements in migrations():
            if number > await _version(db):
                await db.execute(statements)
                await db.execute("INSERT INTO schema_versions VALUES ($1)", number)
        await db.execute(_LIFT, first_id)


async def _version(db: Connection) -> int:
    if await db.fetchval("SELECT to_regclass('schema_versions')") is None:
        return 0
    version: int = await db.fetchval("SELECT coalesce(max(version), 0) FROM schema_versions")
    newest = migrations()[-1][0]
    if version > newest:
        raise ConfigError(
            f"the database: written by a newer version of the gateway "
            f"(schema {version}, this program knows {newest}); install that version"
        )
    return version


async def _is_low(db: Connection, first_id: int) -> bool:
    found = await db.fetchrow("SELECT last_value, is_called FROM order_ids")
    return bool(first_id > found["last_value"] + found["is_called"])
