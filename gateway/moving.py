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

from gateway import ledger, transitions
from gateway.errors import StoreUnavailable
from gateway.model import State
from gateway.store import RESTORED, Snapshot, Step, Store
from gateway.store.tables import OUTDATED, TABLES

T = TypeVar("T")

PAGE = 5_000
"""Rows in one commit."""


async def move(
    source: Store,
    target: Store,
    told: Callable[[str, int], None],
    restored_at: int | None = None,
) -> tuple[ledger.Audit, ledger.Audit, int]:
    """Copy everything to an empty database; returns the audits of both.

    Unless both are clean and of the same books, the target stays unfinished. ``told`` hears of
    each table how many rows of it are there by now. ``restored_at``: the source is a backup, and
    has fallen behind: what is on its way there becomes unknown before anybody can send it again,
    and the last outcome is how many orders that are.

    Raises ``ConfigError`` when the target is not empty, ``StoreUnavailable`` when it differs.
    """
    await target.begin_loading(await source.pepper())
    loop = asyncio.get_running_loop()

    def done(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    copied = dict.fromkeys(TABLES, 0)

    def copy(books: Snapshot) -> tuple[ledger.Audit, Mapping[str, int]]:
        for table, key in TABLES.items():
            if restored_at is not None and table in OUTDATED:
                continue
            names, rows = books.rows(table, key)
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
    doubted = 0
    if restored_at is not None:
        doubted = await _doubt(target, restored_at)
        counters = {**counters, f"{RESTORED}{restored_at}": restored_at}
    after = await target.inspect(ledger.audit)
    if before.ok and after.ok:
        if (before.transfers, before.accounts) != (after.transfers, after.accounts):
            raise StoreUnavailable("the copy has other books than the original; nothing is in use")
        await target.end_loading(counters)
    return before, after, doubted


async def _doubt(store: Store, at: int) -> int:
    """Make every order unknown that is on its way in a backup; returns how many."""
    words = "restored from a backup; it may have been sent since that was made"
    change = transitions.unknown(words, None, at)
    doubted = 0
    for state in (State.QUEUED, State.SENDING):
        while page := await store.undecided(state, PAGE):
            await store.advance([Step(order.id, change) for order in page])
            doubted += len(page)
    return doubted


def _count(books: Snapshot) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table: sum(1 for _ in books.rows(table, key)[1]) for table, key in TABLES.items()}


def _pages(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    left = iter(rows)
    while page := list(islice(left, PAGE)):
        yield page
