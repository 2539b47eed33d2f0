"""From one database to another, of whichever kinds: every table, row by row, proven at the end.

The source is read at one moment, whatever is written to it meanwhile. The target can be used by
nobody until the books of both have been recomputed and are the same; a copy that was broken off
is taken up again where the longest tables were left.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from gateway import ledger
from gateway.errors import StoreUnavailable
from gateway.store import Snapshot, Store
from gateway.store.tables import APPENDED, TABLES

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

    def copy(books: Snapshot) -> tuple[ledger.Audit, Mapping[str, int]]:
        for table, key in TABLES.items():
            after = done(target.last_loaded(table, key)) if table in APPENDED else None
            names, rows = books.rows(table, key, after)
            copied = 0
            for page in _pages(rows):
                done(target.load(table, names, page))
                copied += len(page)
                told(table, copied)
        return ledger.audit(books), books.counters()

    before, counters = await source.inspect(copy)
    after = await target.inspect(ledger.audit)
    if before.ok and after.ok:
        if (before.transfers, before.accounts) != (after.transfers, after.accounts):
            raise StoreUnavailable("the copy has other books than the original; nothing is in use")
        await target.end_loading(counters)
    return before, after


def _pages(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    left = iter(rows)
    while page := list(islice(left, PAGE)):
        yield page
