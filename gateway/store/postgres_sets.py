"""What a page writes, as one statement on PostgreSQL."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from msgspec.structs import astuple

from gateway.model import Event, Kind, Order, Transfer
from gateway.store import Lease
from gateway.store.page import Written
from gateway.store.postgres_rows import Part, Row, Sets, insert, types
from gateway.store.rows import row_of

GATES = (Kind.AVAILABLE, Kind.PURSE)
"""Whoever moves an owner's money locks this account of his before all others."""
_ORDER, _EVENT, _TRANSFER = types(Order), types(Event), types(Transfer)
_order, _event, _transfer = row_of(Order), row_of(Event), row_of(Transfer)
_LASTING = ("customer", "service", "type", "params", "size", "charge", "currency", "created_at")
_CHANGING = {name: kind for name, kind in _ORDER.items() if name not in _LASTING}
_all = itemgetter(*range(len(_ORDER)))
_lasts = itemgetter(*(at for at, name in enumerate(_ORDER) if name in _LASTING))
_changes = itemgetter(*(at for at, name in enumerate(_ORDER) if name in _CHANGING))
_HELD = Part(
    "held",
    "SELECT FROM leases, {new} WHERE (leases.name, leases.fence) = (new.name, new.fence) "
    "FOR SHARE OF leases",
    {"name": "text", "fence": "bigint"},
    every=True,
)
# What somebody else is writing at this moment can wait for the next look.
_LATER = Part(
    "later",
    "UPDATE orders SET poll_at = free.poll_at FROM (SELECT orders.id, new.poll_at FROM {new} "
    "JOIN orders ON (orders.id, orders.poll_at) = (new.id, new.due) "
    "FOR NO KEY UPDATE OF orders SKIP LOCKED) AS free WHERE orders.id = free.id",
    {"id": "bigint", "due": "bigint", "poll_at": "bigint"},
)
_SPENDING = {"customer": "bigint", "day": "bigint", "amount": "bigint"}
_SPENT = Part(
    "spent",
    "INSERT INTO spending SELECT * FROM {new} "
    "ON CONFLICT (customer, day) DO UPDATE SET amount = spending.amount + excluded.amount",
    _SPENDING,
)
_UNSPENT = Part(
    "unspent",
    "UPDATE spending SET amount = greatest(spending.amount + new.amount, 0) FROM {new} "
    "WHERE (spending.customer, spending.day) = (new.customer, new.day)",
    _SPENDING,
)
_ACCOUNT = {"kind": "text", "owner": "text", "currency": "text", "balance": "bigint"}
_MOVED = Part(
    "moved",
    "UPDATE accounts SET balance = accounts.balance + new.balance FROM {new} WHERE "
    "(accounts.owner, accounts.kind, accounts.currency) = (new.owner, new.kind, new.currency) "
    "RETURNING 1",
    _ACCOUNT,
    every=True,
)
# Whoever makes the same account at this moment adds to it, too.
_OPENED = Part(
    "opened",
    f"{insert(_ACCOUNT, 'accounts')} ON CONFLICT (owner, kind, currency) "
    "DO UPDATE SET balance = accounts.balance + excluded.balance",
    _ACCOUNT,
)
_PLACED = Part("placed", insert(_ORDER, "orders"), _ORDER)
_POSTED = Part("posted", insert(_TRANSFER, "transfers"), _TRANSFER)
_NOTED = Part("noted", insert(_EVENT, "events"), _EVENT)
_CLAIM = {
    "customer": "bigint",
    "key": "text",
    "fingerprint": "bytea",
    "order": "bigint",
    "at": "bigint",
}
_CLAIMED = Part("claimed", insert(_CLAIM, "claims"), _CLAIM)
_RECLAIMED = Part(
    "reclaimed",
    'UPDATE claims SET fingerprint = new.fingerprint, "order" = new."order", at = new.at '
    "FROM {new} WHERE (claims.customer, claims.key) = (new.customer, new.key) "
    'AND claims."order" = new.before RETURNING 1',
    {**_CLAIM, "before": "bigint"},
    every=True,
)
_FREED = Part(
    "freed",
    'DELETE FROM claims USING {new} WHERE claims."order" = new."order"',
    {"order": "bigint"},
)


def _advancing(kinds: Mapping[str, str]) -> Part:
    """Return the part that sets these columns of orders.

    The version counts every change of an order but one: when it is to be asked for.
    """
    names = ", ".join(f'"{name}" = new."{name}"' for name in kinds if name != "id")
    update = (
        f"UPDATE orders SET {names} FROM {{new}} WHERE orders.id = new.id "
        "AND orders.version = new.before AND orders.poll_at IS NOT DISTINCT FROM new.due "
        "RETURNING 1"
    )
    return Part("advanced", update, {**kinds, "before": "bigint", "due": "bigint"}, every=True)


_ADVANCED, _REPLACED = _advancing(_CHANGING), _advancing(_ORDER)


def sets(written: Written, leases: Iterable[Lease] = ()) -> Sets:
    """Return the statement that writes it all, unless something is not as it was found.

    ``leases``: those that must not have passed on, where they have not been locked before.
    """
    parts = Sets()
    parts.add(_HELD, sorted((lease.name, lease.fence) for lease in leases))
    _add_advanced(parts, written.advanced)
    parts.add(_MOVED, sorted(written.moved, key=_turn))
    parts.add(_LATER, written.later)
    parts.add(_PLACED, list(map(_order, written.placed)))
    parts.add(_POSTED, list(map(_transfer, written.transfers)))
    parts.add(_OPENED, sorted(written.opened, key=_turn))
    parts.add(_NOTED, list(map(_event, written.events)))
    parts.add(_SPENT, [row for row in written.spent if row[2] > 0])
    parts.add(_UNSPENT, [row for row in written.spent if row[2] < 0])
    parts.add(_FREED, [(order,) for order in written.freed])
    parts.add(_CLAIMED, written.claimed)
    parts.add(_RECLAIMED, written.reclaimed)
    return parts


def _turn(row: Row) -> tuple[bool, str, str, str]:
    """Return whose turn it is: the gates come first, as with those who lock before they look."""
    kind, owner, currency, _ = row
    return kind not in GATES, owner, currency, kind


def _add_advanced(parts: Sets, advanced: Sequence[tuple[Order, Order]]) -> None:
    """Set all that may change; the rest too, should that have changed for once."""
    part, cells = _ADVANCED, _changes
    if any(_lasts(astuple(old)) != _lasts(astuple(new)) for old, new in advanced):
        part, cells = _REPLACED, _all
    rows = [
        [*cells(_order(new)), old.version, old.poll_at]
        for old, new in sorted(advanced, key=lambda pair: pair[0].id)
    ]
    parts.add(part, rows)
