"""What a page writes, as one statement on PostgreSQL."""

from collections.abc import Iterable, Sequence
from operator import itemgetter

from msgspec.structs import astuple

from gateway.model import Event, Kind, Order, Transfer
from gateway.store import Lease
from gateway.store.page import Written
from gateway.store.postgres_rows import Row, Sets, insert, types
from gateway.store.rows import to_row

GATES = (Kind.AVAILABLE, Kind.PURSE)
"""Whoever moves an owner's money locks this account of his before all others."""
_ORDER, _EVENT, _TRANSFER = types(Order), types(Event), types(Transfer)
_LASTING = ("customer", "service", "type", "params", "size", "charge", "currency", "created_at")
_CHANGING = {name: kind for name, kind in _ORDER.items() if name not in _LASTING}
_all = itemgetter(*range(len(_ORDER)))
_lasts = itemgetter(*(at for at, name in enumerate(_ORDER) if name in _LASTING))
_changes = itemgetter(*(at for at, name in enumerate(_ORDER) if name in _CHANGING))
_HOLD = (
    "SELECT FROM leases, {new} WHERE (leases.name, leases.fence) = (new.name, new.fence) "
    "FOR SHARE OF leases"
)
_LATER = {"id": "bigint", "due": "bigint", "poll_at": "bigint"}
# What somebody else is writing at this moment can wait for the next look.
_PUT_OFF = (
    "UPDATE orders SET poll_at = free.poll_at FROM (SELECT orders.id, new.poll_at FROM {new} "
    "JOIN orders ON (orders.id, orders.poll_at) = (new.id, new.due) "
    "FOR NO KEY UPDATE OF orders SKIP LOCKED) AS free WHERE orders.id = free.id"
)
_SPENDING = {"customer": "bigint", "day": "bigint", "amount": "bigint"}
_SPEND = (
    "INSERT INTO spending SELECT * FROM {new} "
    "ON CONFLICT (customer, day) DO UPDATE SET amount = spending.amount + excluded.amount"
)
_UNSPEND = (
    "UPDATE spending SET amount = greatest(spending.amount + new.amount, 0) FROM {new} "
    "WHERE (spending.customer, spending.day) = (new.customer, new.day)"
)
_MOVED = {"kind": "text", "owner": "text", "currency": "text", "balance": "bigint"}
_MOVE = (
    "UPDATE accounts SET balance = accounts.balance + new.balance FROM {new} WHERE "
    "(accounts.owner, accounts.kind, accounts.currency) = (new.owner, new.kind, new.currency) "
    "RETURNING 1"
)
# Whoever makes the same account at this moment adds to it, too.
_OPEN = (
    f"{insert(_MOVED, 'accounts')} ON CONFLICT (owner, kind, currency) "
    "DO UPDATE SET balance = accounts.balance + excluded.balance"
)
_CLAIM = {
    "customer": "bigint",
    "key": "text",
    "fingerprint": "bytea",
    "order": "bigint",
    "at": "bigint",
}
_RECLAIMED = {**_CLAIM, "before": "bigint"}
_RECLAIM = (
    'UPDATE claims SET fingerprint = new.fingerprint, "order" = new."order", at = new.at '
    "FROM {new} WHERE (claims.customer, claims.key) = (new.customer, new.key) "
    'AND claims."order" = new.before RETURNING 1'
)
_FREE = 'DELETE FROM claims USING {new} WHERE claims."order" = new."order"'


def sets(written: Written, leases: Iterable[Lease] = ()) -> Sets:
    """Return the statement that writes it all, unless something is not as it was found.

    ``leases``: those that must not have passed on, where they have not been locked before.
    """
    parts = Sets()
    fences = sorted((lease.name, lease.fence) for lease in leases)
    parts.add("held", _HOLD, {"name": "text", "fence": "bigint"}, fences, every=True)
    _add_advanced(parts, written.advanced)
    parts.add("moved", _MOVE, _MOVED, sorted(written.moved, key=_turn), every=True)
    parts.add("later", _PUT_OFF, _LATER, written.later)
    parts.add("placed", insert(_ORDER, "orders"), _ORDER, _rows(written.placed))
    parts.add("posted", insert(_TRANSFER, "transfers"), _TRANSFER, _rows(written.transfers))
    parts.add("opened", _OPEN, _MOVED, sorted(written.opened, key=_turn))
    parts.add("noted", insert(_EVENT, "events"), _EVENT, _rows(written.events))
    parts.add("spent", _SPEND, _SPENDING, [row for row in written.spent if row[2] > 0])
    parts.add("unspent", _UNSPEND, _SPENDING, [row for row in written.spent if row[2] < 0])
    parts.add("freed", _FREE, {"order": "bigint"}, [(order,) for order in written.freed])
    parts.add("claimed", insert(_CLAIM, "claims"), _CLAIM, written.claimed)
    parts.add("reclaimed", _RECLAIM, _RECLAIMED, written.reclaimed, every=True)
    return parts


def _turn(row: Row) -> tuple[bool, str, str, str]:
    """Return whose turn it is: the gates come first, as with those who lock before they look."""
    kind, owner, currency, _ = row
    return kind not in GATES, owner, currency, kind


def _add_advanced(parts: Sets, advanced: Sequence[tuple[Order, Order]]) -> None:
    """Set all that may change; the rest too, should that have changed for once.

    The version counts every change of an order but one: when it is to be asked for.
    """
    kinds, cells = _CHANGING, _changes
    if any(_lasts(astuple(old)) != _lasts(astuple(new)) for old, new in advanced):
        kinds, cells = _ORDER, _all
    names = ", ".join(f'"{name}" = new."{name}"' for name in kinds if name != "id")
    update = (
        f"UPDATE orders SET {names} FROM {{new}} WHERE orders.id = new.id "
        "AND orders.version = new.before AND orders.poll_at IS NOT DISTINCT FROM new.due "
        "RETURNING 1"
    )
    rows = [
        [*cells(to_row(new)), old.version, old.poll_at]
        for old, new in sorted(advanced, key=lambda pair: pair[0].id)
    ]
    parts.add("advanced", update, {**kinds, "before": "bigint", "due": "bigint"}, rows, every=True)


def _rows(things: Sequence[Order] | Sequence[Event] | Sequence[Transfer]) -> list[Row]:
    return [to_row(one) for one in things]
