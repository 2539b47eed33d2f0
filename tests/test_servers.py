"""The real servers that tests are promised can be had on this machine."""

import asyncpg  # type: ignore[import-untyped]


async def test_postgresql_answers(postgres_url: str) -> None:
    """A real server, reached as the program would reach it."""
    connection = await asyncpg.connect(postgres_url)
    try:
        answer = await connection.fetchval("select 1")
    finally:
        await connection.close()

    assert answer == 1
