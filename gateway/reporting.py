"""What a provider's report makes of an order, and whether it can be of that order at all.

Pure, as all that may happen to an order: see ``transitions``.
"""

from msgspec.structs import replace

from gateway.model import SETTLED, Event, Order, Report, State, Status
from gateway.money import MILLION
from gateway.moves import REFUNDED
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Change, Transition
from gateway.transitions import Following, become

_NUMBERS = ("charge", "start_count", "remains", "runs", "posts")
# On every report's way; until Python 3.12 looking up an enum's member is slow.
_PLACED, _PARTIAL = State.PLACED, Status.PARTIAL
SUBSCRIPTIONS_ONLY = frozenset({Status.ACTIVE, Status.PAUSED, Status.EXPIRED})


def understood(order: Order, report: Report) -> Status | None:
    """Return the status that a report gives this order; ``None`` when it says nothing certain.

    That is a word which nobody knows, a subscription's word for another order, or a partial
    delivery of which nobody can tell the share.
    """
    status = report.status
    if order.type == SUBSCRIPTIONS:
        return status
    first = status is _PARTIAL and order.status is not _PARTIAL
    shareless = first and _remains(order, report, status) is None
    return None if shareless or status in SUBSCRIPTIONS_ONLY else status


def reported(report: Report, at: int, following: Following, asked_at: int = 0) -> Transition:
    """Take over what the provider says of an order.

    Nothing changes where it says nothing new, or what nobody knows, or was asked for
    (``asked_at``) before what is known already.
    """
    of: Order | None = None
    made: Change | None = None

    def change(order: Order) -> Change | None:
        nonlocal of, made
        if order is not of:  # else somebody has asked before if it changes anything
            of, made = order, _reported(order, report, at, following, asked_at)
        return made

    return change


def _reported(
    order: Order, report: Report, at: int, following: Following, asked_at: int
) -> Change | None:
    if not (fields := _news(order, report, at, asked_at)):
        return None
    heard = {name: said for name in _NUMBERS if (said := getattr(report, name)) is not None}
    event = Event("status", {"status": report.word, **heard})
    if (ends := "settled_at" in fields) or order.poll_at is not None:
        fields["poll_at"] = following.next(replace(order, **fields) if ends else order, at)
    fields["reported_at"] = asked_at
    return become(order, event, at, fields)


def _news(order: Order, report: Report, at: int, asked_at: int) -> dict[str, object]:
    """Return the fields of an order that a report changes."""
    status = understood(order, report)
    if order.state is not _PLACED or status is None or asked_at < order.reported_at:
        return {}
    said: dict[str, object] = {
        "status": status,
        "start_count": report.start_count,
        "remains": _remains(order, report, status),
        "runs": report.runs,
        "posts": report.posts,
        "orders": report.orders or None,
        "expiry": report.expiry or None,
    }
    charge = report.charge if report.currency in ("", order.cost_currency) else None
    if charge is not None and charge >= 0:
        said["billed"] = charge
        # With those it may be what is left of it, and a subscription's is that of its posts so far.
        if charge and status not in REFUNDED and order.type != SUBSCRIPTIONS:
            said["cost"] = charge  # the whole, which a later share is taken of
    if status in SETTLED and order.settled_at is None:
        said["settled_at"] = at
    return {
        name: value
        for name, value in said.items()
        if value is not None and value != getattr(order, name)
    }


def _remains(order: Order, report: Report, status: Status | None) -> int | None:
    """Return what is left to deliver, in the customer's units: from nothing to all of it.

    A drip-feed row may say only how many runs are done; the rest of the runs is what remains.
    """
    remains = report.remains
    if remains is None and report.runs is not None and order.type != SUBSCRIPTIONS:
        runs, quantity = order.params.get("runs"), order.params.get("quantity")
        if runs and quantity:
            remains = (int(runs) - report.runs) * int(quantity)
    if remains is None:
        return 0 if status is Status.COMPLETED else None
    return min(max(remains, 0), order.size)


def contradicts(order: Order, report: Report) -> bool:
    """Tell whether a report says another charge or quantity than the order has.

    One that is partial or canceled may show what is left of its charge.
    """
    if report.status in REFUNDED or report.charge is None:
        report = replace(report, charge=order.cost, currency="")
    return not fits(order, report)


def fits(order: Order, report: Report) -> bool:
    """Tell whether a report shows the charge that the order has, and no other quantity."""
    if report.charge is None or report.currency not in ("", order.cost_currency):
        return False
    if report.quantity is not None and report.quantity != order.size:
        return False
    return abs(report.charge - order.cost) <= max(order.cost // 1000, MILLION // 100_000)
