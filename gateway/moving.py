"""From one database to another, of whichever kinds: every table, row by row, proven at the end.

The source is read at one moment, whatever is written to it meanwhile. The target can be used by
nobody until the books of both have been recomputed and are the same, and each table has as many
rows. A copy that was broken off begins anew: what was added to the source meanwhile may stand
anywhere among the rows that were copied before.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from gateway import ledger
from gateway.errors import StoreUnavailable
from gateway.store import Snapshot, Store
from gateway.store.tables import TABLES

T = TypeVar("T")

PAGE = 5_000
"""Rows in one commit."""


async def move(
    source: Store, target: Store, told: Callable[[str, int], None]
) -> tuple[ledger.Audit, ledger.Audit]:
    """Copy everything to an empty database; returns the audits of both.

    Unless both are clean and of the same books, the target stays unfinished. ``told`` hears of
    each table how many rows of it are there by now.

    Raises ``ConfigError`` when the target is not empty, ``StoreUnavailable`` when it differs.
    """
    await target.begin_loading(await source.pepper())
    loop = asyncio.get_running_loop()

    def done(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    copied = dict.fromkeys(TABLES, 0)

    def copy(books: Snapshot) -> tuple[ledger.Audit, Mapping[str, int]]:
        for table, key in TABLES.items():
            names, rows = books.rows(table, key, None)
            for page in _pages(rows):
                done(target.load(table, names, page))
                copied[table] += len(page)
                told(table, copied[table])
        return ledger.audit(books), books.counters()

    before, counters = await source.inspect(copy)
    there = await target.inspect(_count)
    if there != copied:
        wrong = ", ".join(table for table in TABLES if there[table] != copied[table])
        raise StoreUnavailable(f"the copy has not the rows of the original: {wrong}")
    after = await target.inspect(ledger.audit)
    if before.ok and after.ok:
        if (before.transfers, before.accounts) != (after.transfers, after.accounts):
            raise StoreUnavailable("the copy has other books than the original; nothing is in use")
        await target.end_loading(counters)
    return before, after


def _count(books: Snapshot) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table: sum(1 for _ in books.rows(table, key, None)[1]) for table, key in TABLES.items()}


def _pages(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    left = iter(rows)
    while page := list(islice(left, PAGE)):
        yield page
