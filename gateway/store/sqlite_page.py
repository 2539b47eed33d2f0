"""Orders and money on SQLite: what is waiting is read, worked out and written as one page.

Nobody else writes meanwhile, for the transaction has begun: what was read stays so.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import apsw

from gateway.model import Event, Kind, Order, Transfer
from gateway.store import Placement, Row
from gateway.store.optimistic import Attempt, Memory
from gateway.store.page import DAY, Entry, Found, Made, Needs, Page, Written, work_out
from gateway.store.rows import changed, from_row, row_of
from gateway.store.sqlite_rows import AMONG, among, insert, read, select

ORDER = select(Order, "orders", "id = ?")
CLAIM = 'SELECT fingerprint, "order", at FROM claims WHERE customer = ? AND key = ?'
_FENCE = "SELECT name, fence FROM leases WHERE name = ?"
_ACCOUNTS = "SELECT owner, currency, kind, balance FROM accounts WHERE owner = ?"
SPENT = "SELECT customer, day, amount FROM spending WHERE customer = ? AND day = ?"
_POSTED = "SELECT key, amount FROM transfers WHERE key = ?"
_UPSTREAM = (
    "SELECT provider, upstream_id, id FROM orders "
    "WHERE provider = ? AND upstream_id = ? AND upstream_id <> ''"
)
_LAST_ID = "SELECT value FROM counters WHERE name = 'order'"
_COUNT = "UPDATE counters SET value = max(value, ?) WHERE name = 'order'"

_PLACE, _order = insert(Order, "orders"), row_of(Order)
_NOTE, _event = insert(Event, "events"), row_of(Event)
_POST, _transfer = insert(Transfer, "transfers"), row_of(Transfer)
_MOVE = (
    "UPDATE accounts SET balance = balance + ?4 WHERE kind = ?1 AND owner = ?2 AND currency = ?3"
)
_OPEN = "INSERT INTO accounts (kind, owner, currency, balance) VALUES (?, ?, ?, ?)"
_SPEND = (
    "INSERT INTO spending VALUES (?1, ?2, max(?3, 0)) "
    "ON CONFLICT DO UPDATE SET amount = max(amount + ?3, 0)"
)
_PUT_OFF = "UPDATE orders SET poll_at = ?3 WHERE id = ?1 AND poll_at = ?2"
_FREE = 'DELETE FROM claims WHERE "order" = ?'
_CLAIM = "INSERT INTO claims VALUES (?, ?, ?, ?, ?)"
_RECLAIM = "REPLACE INTO claims VALUES (?, ?, ?, ?, ?)"


class Otherwise(apsw.ConstraintError):
    """What is written is not all as it was remembered; like a unique index it asks for a look."""


def commit(
    db: apsw.Connection, entries: Sequence[Entry], memory: Memory, *, look: bool
) -> list[Any]:
    """Return each operation's outcomes, or what it raised; what the others do is written.

    What can be is tried from memory, and what unique indexes are there to find out is tried
    without a look, unless ``look`` says so: that is what the caller repeats it with when it raises
    ``ConstraintError``. When it is rolled back, the memory is wrong.
    """
    written: dict[int, Any] = {} if look else _try(db, Attempt(entries, memory))
    if len(written) < len(entries):
        left = [place for place in range(len(entries)) if place not in written]
        looked = _look(db, [entries[place] for place in left], look=look)
        for place, outcomes in zip(left, looked, strict=True):
            written[place] = outcomes
            if not isinstance(outcomes, Exception):
                memory.learn(entries[place], outcomes)
    return [written[place] for place in range(len(entries))]


def _try(db: apsw.Connection, attempt: Attempt) -> dict[int, list[Any]]:
    """Write what can be written without a look; returns its outcomes, by places in the list."""
    if not attempt:
        return {}
    _read_fences(db, attempt.found, attempt.found.fences)
    _read_orders(db, attempt.found, attempt.unknown)
    _read_new(db, attempt.found, attempt.placements)
    page, outcomes = attempt.work_out()
    if outcomes:
        _write(db, page.written())
        attempt.remember(page)
    return outcomes


def _look(db: apsw.Connection, entries: Sequence[Entry], *, look: bool) -> list[Any]:
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
    _read_fences(db, found, {entry.under.name for entry in entries if entry.under})
    _read_orders(db, found, {step.order for entry in entries for step in entry.steps})
    placements = [new for entry in entries for new in entry.placements]
    _read_new(db, found, placements)
    transfers = [one for entry in entries for one in entry.transfers]
    owners = {new.customer for new in placements} | {one.owner for one in transfers}
    for order in found.orders.values():
        owners |= {order.customer, order.provider}
    _read_accounts(db, found, {str(owner) for owner in owners})
    capped = {(new.customer, new.at // DAY) for new in placements if new.cap is not None}
    _load(db, found, Needs(spending=capped, keys={one.key for one in transfers}))
    return found


def _read_fences(db: apsw.Connection, found: Found, names: Collection[str]) -> None:
    if names:
        found.fences = dict(db.executemany(_FENCE, [(name,) for name in names]))


def _read_orders(db: apsw.Connection, found: Found, ids: Collection[int]) -> None:
    if ids:
        found.orders |= {one.id: one for one in read(db, Order, "orders", AMONG, among(ids))}


def _read_new(db: apsw.Connection, found: Found, placements: Sequence[Placement]) -> None:
    """Read what new orders need."""
    if placements:
        last = db.execute(_LAST_ID).get
        found.ids = list(range(last + 1, last + 1 + len(placements)))
        _read_claims(db, found, placements)


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
    for customer, day, amount in db.executemany(SPENT, needs.spending):
        found.spending[customer, day] = amount
    found.posted |= dict(db.executemany(_POSTED, [(key,) for key in needs.keys]))
    for provider, theirs, order in db.executemany(_UPSTREAM, needs.upstream):
        found.upstream[provider, theirs] = order


def _write(db: apsw.Connection, written: Written) -> None:
    """Write a page; raises ``Otherwise`` where something is not as it was found."""
    before = db.total_changes()
    rows = 0
    for statement, sets in _statements(written):
        if sets:
            rows += len(sets)
            db.executemany(statement, sets)
    if db.total_changes() - before != rows:
        raise Otherwise("something is not as it is remembered")
    if written.later:
        db.executemany(_PUT_OFF, written.later)
    if written.freed:
        db.executemany(_FREE, [(order,) for order in written.freed])


def _statements(written: Written) -> Iterator[tuple[str, Sequence[Row]]]:
    """Go through what is to change exactly as many rows as it has."""
    if placed := written.placed:
        yield _COUNT, [(max([order.id for order in placed]),)]
        yield _PLACE, list(map(_order, placed))
    if written.advanced:
        updates: dict[tuple[str, ...], list[Row]] = {}
        for old, order in written.advanced:
            fields = changed(old, order)
            row = [*fields.values(), old.id, old.version, old.poll_at]
            updates.setdefault(tuple(fields), []).append(row)
        for names, changes in updates.items():
            yield _advance(names), changes
    yield _POST, list(map(_transfer, written.transfers))
    yield _NOTE, list(map(_event, written.events))
    yield _MOVE, written.moved
    yield _OPEN, written.opened
    yield _SPEND, written.spent
    yield _CLAIM, written.claimed
    yield _RECLAIM, [row[:-1] for row in written.reclaimed]


@cache
def _advance(names: Sequence[str]) -> str:
    """Return the statement for these columns of an order as it was found.

    The version counts every change of an order but one: when it is to be asked for.
    """
    settings = ", ".join(f'"{name}" = ?' for name in names)
    return f"UPDATE orders SET {settings} WHERE id = ? AND version = ? AND poll_at IS ?"
