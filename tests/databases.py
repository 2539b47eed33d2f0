"""PostgreSQL databases for tests: empty, and with the schema unless something else is asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]

from gateway.store.postgres import PostgresStore

_numbers = count(1)
_free: dict[str, list[str]] = {}

# To make a database takes half a second, to empty one a few milliseconds.
_EMPTY = """
    SET session_replication_role = replica;
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
            AND tablename NOT IN ('schema_versions', 'secrets', 'counters')
        LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
        FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'
        LOOP PERFORM setval(name::regclass, 1, false); END LOOP;
        UPDATE counters SET value = 0;
    END $$
"""


@asynccontextmanager
async def database(server: str) -> AsyncIterator[str]:
    """Lend an empty database on the server with this URL, with the schema; yields its URL."""
    free = _free.setdefault(server, [])
    if free:
        url = free.pop()
    else:
        url = await _made(server)
        await (await PostgresStore.open(url)).close()
    yield url
    db = await asyncpg.connect(url)
    try:
        await db.execute(_EMPTY)
    finally:
        await db.close()
    free.append(url)


@asynccontextmanager
async def bare_database(server: str, encoding: str = "UTF8") -> AsyncIterator[str]:
    """Make a database without anything in it, to do to it whatever one likes; yields its URL."""
    url = await _made(server, f"ENCODING '{encoding}' LOCALE 'C'")
    yield url
    db = await asyncpg.connect(server)
    try:
        await db.execute(f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")
    finally:
        await db.close()


async def _made(server: str, how: str = "") -> str:
    name = f"test_{next(_numbers)}"
    db = await asyncpg.connect(server)
    try:
        await db.execute(f"CREATE DATABASE {name} TEMPLATE template0 {how}")
    finally:
        await db.close()
    return urlsplit(server)._replace(path=f"/{name}").geturl()
