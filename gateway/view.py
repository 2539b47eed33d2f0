"""An order as its customer reads it. Pure."""

from gateway import ledger, money
from gateway.model import Order, State, Status
from gateway.order_types import SUBSCRIPTIONS


def view(order: Order) -> dict[str, object]:
    """Return an order's status as its customer reads it, always with the five fields."""
    canceled = order.state is State.FAILED or order.status is Status.CANCELED
    remains = order.remains
    if canceled:
        remains = order.size
    elif remains is None:
        remains = 0 if order.status is Status.COMPLETED else order.size
    charge = order.charge if order.state in ledger.UNDECIDED else ledger.net(order)
    row: dict[str, object] = {
        "charge": money.text(charge),
        "start_count": str(order.start_count or 0),
        "status": Status.CANCELED if canceled else order.status,
        "remains": str(min(max(remains, 0), order.size)),
        "currency": order.currency,
    }
    if order.type == SUBSCRIPTIONS:
        row |= {"posts": order.posts or 0}
        if order.expiry:
            row["expiry"] = order.expiry
    elif "runs" in order.params:
        row["runs"] = _runs(order, remains)
    return row


def _runs(order: Order, remains: int) -> int:
    """Return how many runs of a drip-feed are done; reckoned where the provider doesn't say."""
    if order.runs is not None:
        return order.runs
    return max(order.size - remains, 0) // int(order.params["quantity"])
