"""An order as its customer reads it. Pure."""

from gateway import ledger, money
from gateway.model import Order, State, Status
from gateway.order_types import SUBSCRIPTIONS


def view(order: Order) -> dict[str, object]:
    """Return an order's status as its customer reads it, always with the five fields."""
    left = remains(order)
    charge = order.charge if order.state in ledger.UNDECIDED else ledger.net(order)
    row: dict[str, object] = {
        "charge": money.text(charge),
        "start_count": str(order.start_count or 0),
        "status": Status.CANCELED if _is_canceled(order) else order.status,
        "remains": str(left),
        "currency": order.currency,
    }
    if order.type == SUBSCRIPTIONS:
        row |= {"posts": order.posts or 0}
        if order.expiry:
            row["expiry"] = order.expiry
    elif "runs" in order.params:
        row["runs"] = _runs(order, left)
    return row


def remains(order: Order) -> int:
    """Return how many units are not delivered, for the owner, too: of a canceled order all.

    A subscription is charged by the post, so of one that was canceled the rest.
    """
    if order.type == SUBSCRIPTIONS and order.state is State.PLACED:
        return order.size - min(ledger.delivered(order) or 0, order.size)
    if _is_canceled(order):
        return order.size
    if order.remains is None:
        return 0 if order.status is Status.COMPLETED else order.size
    return min(max(order.remains, 0), order.size)


def _is_canceled(order: Order) -> bool:
    return order.state is State.FAILED or order.status is Status.CANCELED


def _runs(order: Order, left: int) -> int:
    """Return how many runs of a drip-feed are done; reckoned where the provider doesn't say."""
    if order.runs is not None:
        return order.runs
    return (order.size - left) // int(order.params["quantity"])
