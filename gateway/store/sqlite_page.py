"""Orders and money on SQLite: what is waiting is read, worked out and written as one page.

Nobody else writes meanwhile, for the transaction has begun: what was read stays so.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import apsw

from gateway.model import Event, Kind, Order, Transfer
from gateway.store import Placement, Row, Step
from gateway.store.page import DAY, Entry, Found, Made, Needs, Page, Written, work_out
from gateway.store.rows import changed, from_row, to_row
from gateway.store.sqlite_rows import insert, select

ORDER = select(Order, "orders", "id = ?")
CLAIM = 'SELECT fingerprint, "order", at FROM claims WHERE customer = ? AND key = ?'
_FENCE = "SELECT name, fence FROM leases WHERE name = ?"
_ACCOUNTS = "SELECT owner, currency, kind, balance FROM accounts WHERE owner = ?"
_SPENT = "SELECT customer, day, amount FROM spending WHERE customer = ? AND day = ?"
_POSTED = "SELECT key, amount FROM transfers WHERE key = ?"
_UPSTREAM = (
    "SELECT provider, upstream_id, id FROM orders "
    "WHERE provider = ? AND upstream_id = ? AND upstream_id <> ''"
)
_LAST_ID = "SELECT value FROM counters WHERE name = 'order'"
_COUNT = "UPDATE counters SET value = max(value, ?) WHERE name = 'order'"

_PLACE, _NOTE = insert(Order, "orders"), insert(Event, "events")
_POST = insert(Transfer, "transfers")
_MOVE = (
    "UPDATE accounts SET balance = balance + ?4 WHERE kind = ?1 AND owner = ?2 AND currency = ?3"
)
_OPEN = "INSERT INTO accounts (kind, owner, currency, balance) VALUES (?, ?, ?, ?)"
_SPEND = (
    "INSERT INTO spending VALUES (?1, ?2, max(?3, 0)) "
    "ON CONFLICT DO UPDATE SET amount = max(amount + ?3, 0)"
)
_FREE = 'DELETE FROM claims WHERE "order" = ?'
_CLAIM = "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)"


def commit(db: apsw.Connection, entries: Sequence[Entry], *, look: bool) -> list[Any]:
    """Return each operation's outcomes, or what it raised; what the others do is written.

    What unique indexes are there to find out is tried without a look, unless ``look`` says so:
    when one of them refuses, that is what the caller repeats it with.
    """
    if not entries:
        return []
    found = _read(db, entries)
    page, outcomes = _worked_out(db, found, entries)
    if look:
        _load(db, found, page.attempted())
        page, outcomes = _worked_out(db, found, entries)
    _write(db, page.written())
    return outcomes


def _worked_out(
    db: apsw.Connection, found: Found, entries: Sequence[Entry]
) -> tuple[Page, list[Any]]:
    page, outcomes = work_out(found, entries)
    while needs := page.missing():
        _load(db, found, needs)
        page, outcomes = work_out(found, entries)
    return page, outcomes


def _read(db: apsw.Connection, entries: Sequence[Entry]) -> Found:
    """Read what is surely needed, and the accounts of all that are named."""
    found = Found()
    every = [item for entry in entries for item in entry.items]
    leases = {entry.under.name for entry in entries if entry.under}
    found.fences = dict(db.executemany(_FENCE, [(name,) for name in leases]))
    steps = {item.order for item in every if isinstance(item, Step)}
    for row in db.executemany(ORDER, [(order,) for order in steps]):
        order = from_row(Order, row)
        found.orders[order.id] = order
    placements = [item for item in every if isinstance(item, Placement)]
    if placements:
        last = db.execute(_LAST_ID).get
        found.ids = list(range(last + 1, last + 1 + len(placements)))
        _read_claims(db, found, placements)
    transfers = [item for item in every if isinstance(item, Transfer)]
    owners = {new.customer for new in placements} | {one.owner for one in transfers}
    for order in found.orders.values():
        owners |= {order.customer, order.provider}
    _read_accounts(db, found, {str(owner) for owner in owners})
    capped = {(new.customer, new.at // DAY) for new in placements if new.cap is not None}
    _load(db, found, Needs(spending=capped, keys={one.key for one in transfers}))
    return found


def _read_claims(db: apsw.Connection, found: Found, placements: Iterable[Placement]) -> None:
    for new in placements:
        if not new.claim:
            continue
        for row in db.execute(CLAIM, (new.customer, new.claim.key)):
            made = found.claims[new.customer, new.claim.key] = Made(*row)
            if made.at >= new.claim.since:
                for kept in db.execute(ORDER, (made.order,)):
                    found.standing[made.order] = from_row(Order, kept)


def _read_accounts(db: apsw.Connection, found: Found, owners: Iterable[str]) -> None:
    rows = db.executemany(_ACCOUNTS, [(owner,) for owner in owners])
    for owner, currency, kind, balance in rows:
        found.accounts.setdefault((owner, currency), {})[Kind(kind)] = balance


def _load(db: apsw.Connection, found: Found, needs: Needs) -> None:
    """Read what turned out to be needed; nobody changes it before all of this is written."""
    if needs.owners:
        found.accounts |= {owner: {} for owner in needs.owners}
        _read_accounts(db, found, {owner for owner, _ in needs.owners})
    found.spending |= dict.fromkeys(needs.spending, 0)
    for customer, day, amount in db.executemany(_SPENT, needs.spending):
        found.spending[customer, day] = amount
    found.posted |= dict(db.executemany(_POSTED, [(key,) for key in needs.keys]))
    for provider, theirs, order in db.executemany(_UPSTREAM, needs.upstream):
        found.upstream[provider, theirs] = order


def _write(db: apsw.Connection, written: Written) -> None:
    if written.placed:
        db.execute(_COUNT, (max(order.id for order in written.placed),))
        db.executemany(_PLACE, map(to_row, written.placed))
    updates: dict[tuple[str, ...], list[Row]] = {}
    for before, order in written.advanced:
        fields = changed(before, order)
        updates.setdefault(tuple(fields), []).append([*fields.values(), order.id])
    for names, rows in updates.items():
        db.executemany(_advance(names), rows)
    db.executemany(_POST, map(to_row, written.transfers))
    db.executemany(_NOTE, map(to_row, written.events))
    db.executemany(_MOVE, written.moved)
    db.executemany(_OPEN, written.opened)
    db.executemany(_SPEND, written.spent)
    db.executemany(_FREE, [(order,) for order in written.freed])
    db.executemany(_CLAIM, [*written.claimed, *(row[:-1] for row in written.reclaimed)])


@cache
def _advance(names: Sequence[str]) -> str:
    settings = ", ".join(f'"{name}" = ?' for name in names)
    return f"UPDATE orders SET {settings} WHERE id = ?"
