"""What may happen to an order, each as a pure function from the order as it is to what it becomes.

The store calls them inside its transaction, on the row as it is then, so two processes that learn
of the same thing in any order end at the same place. ``None`` means that nothing changes.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from gateway import ledger
from gateway.errors import ErrorText
from gateway.model import (
    CORRECTED,
    SETTLED,
    Cancel,
    Event,
    Offer,
    Order,
    State,
    Status,
    Transfer,
)
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Change, Due, Transition

TOO_LATE = "accepted too late"
"""An event: a provider has taken an order that was settled otherwise meanwhile."""

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class Choice(msgspec.Struct, frozen=True):
    """The route that an attempt takes: everything of it that the order remembers.

    Attributes:
        cost: what it should cost there, in millionths of ``currency``.
        exchange: one unit of ``currency`` in the gateway's currency, as text.

    """

    provider: str
    offer: Offer
    cost: int
    currency: str
    exchange: str


class Following(msgspec.Struct, frozen=True):
    """How often statuses are asked for, in milliseconds.

    Attributes:
        every: between two looks at a young order.
        follow_for: how long after it was settled an order is looked at.

    """

    every: int
    follow_for: int

    def next(self, order: Order | Due, now: int) -> int | None:
        """Return when to ask for the order's status next: the older, the less often."""
        if order.settled_at is not None:
            since = now - order.settled_at
            if since > self.follow_for:
                return None
            return now + min(max(since, 10 * self.every), 24 * HOUR)
        return now + min(max((now - order.created_at) // 20, self.every), 30 * MINUTE)


FIRST = 1
"""The version of an order that nothing has happened to."""
# On every order's way; until Python 3.12 looking up an enum's member is slow.
_QUEUED, _SENDING, _PLACED, _FAILED = State.QUEUED, State.SENDING, State.PLACED, State.FAILED
_CANCELED: Mapping[str, object] = {
    "state": State.FAILED,
    "status": Status.CANCELED,
    "cancel": Cancel.ASKED,
    "error": str(ErrorText.UNAVAILABLE),
}
"""What an order becomes that no provider has, and that its customer wants canceled."""


def become(
    order: Order, event: Event, at: int, fields: Mapping[str, object], *, frees: bool = False
) -> Change:
    """Return what gives an order these fields, with the money that follows from it.

    ``event`` says why; ``frees``: its claim may be used again.
    """
    if fields.get("state") is _FAILED:
        fields = {**fields, "capped": False}
    after = replace(order, version=order.version + 1, **fields)
    stamped = Event(event.kind, event.detail, at, after.id, after.version)
    return Change(after, ledger.movements(order, after, at), stamped, frees)


def _taking(choice: Choice, attempt: int, at: int, sender: str) -> dict[str, object]:
    return {
        "state": _SENDING,
        "provider": choice.provider,
        "route": choice.offer.id,
        "cost": choice.cost,
        "cost_currency": choice.currency,
        "exchange": Decimal(choice.exchange),
        "attempt": attempt,
        "attempt_at": at,
        "sender": sender,
    }


def opened(
    draft: Order, choice: Choice | None, at: int, sender: str = "", *, waits: bool = False
) -> Callable[[int], Change]:
    """Return what makes a new order of a draft, under the id that the store gives it.

    ``choice``: the route that it takes at once; ``sender``: the mark of whoever places it;
    ``waits``: he waits for a place to send it.
    """
    if choice:
        fields = _taking(choice, 1, at, sender)
    else:
        fields = {"state": _QUEUED, "attempt": 0, "queued_at": at, "sender": sender}
        fields["attempt_at"] = at if waits else 0

    def build(order_id: int) -> Change:
        after = replace(draft, id=order_id, version=FIRST, created_at=at, **fields)
        return Change(after, ledger.movements(None, after, at))

    return build


def sending(choice: Choice, at: int, sender: str = "") -> Transition:
    """A queued order takes a route; who finds his own mark on it afterwards is to send it."""

    def change(order: Order) -> Change | None:
        if order.state is not State.QUEUED:
            return None
        event = Event("sending", {"provider": choice.provider, "service": choice.offer.id})
        return become(order, event, at, _taking(choice, order.attempt + 1, at, sender))

    return change


def told(at: int) -> Transition:
    """A repeat of an order under way gets its id from a process that does not send it."""

    def change(order: Order) -> Change | None:
        if order.state not in (State.QUEUED, State.SENDING):
            return None
        return become(order, Event("told"), at, {})

    return change


def given_up(
    words: str, text: ErrorText, at: int, *, late: bool, unheard: int | None = None
) -> Transition:
    """A queued order finds no route: it is released; ``late``: its customer has its id by now.

    ``unheard``: see ``refused``.
    """

    def change(order: Order) -> Change | None:
        if order.state is not State.QUEUED:
            return None
        fields: dict[str, object] = {"state": State.FAILED, "error": str(text)}
        if late:
            fields["status"] = Status.CANCELED
        frees = order.version == unheard
        return become(order, Event("given up", {"words": words}), at, fields, frees=frees)

    return change


def never_sent(words: str, sender: str, at: int) -> Transition:
    """Release what whoever placed it has surely not sent, whatever others call it by now."""

    def change(order: Order) -> Change | None:
        if order.sender != sender or order.state not in ledger.UNDECIDED:
            return None
        fields = {"state": State.FAILED, "error": str(ErrorText.UNAVAILABLE)}
        frees = order.version == FIRST
        return become(order, Event("taken back", {"words": words}), at, fields, frees=frees)

    return change


def accepted(upstream_id: str, attempt: int, at: int, following: Following) -> Transition:
    """The provider gave an order id: an answer, though it may come after we stopped waiting."""

    def change(order: Order) -> Change | None:
        if order.upstream_id == upstream_id:
            return None
        if order.attempt == attempt and (order.state in ledger.UNDECIDED or awaits_id(order)):
            return _placed(order, Event("accepted", _attempt(order, upstream_id)), at, following)
        # It was given up meanwhile: no money follows, but the owner must be able to see it, and
        # nothing else may take that id for its own.
        event = Event(TOO_LATE, {"attempt": attempt, "upstream_id": upstream_id})
        # Under the provider of another attempt it would be somebody else's id.
        same = order.attempt == attempt and not order.upstream_id
        keeps = same and order.state is State.FAILED
        return become(order, event, at, {"upstream_id": upstream_id} if keeps else {})

    return change


def awaits_id(order: Order) -> bool:
    """Tell whether the provider is known to have the order, but not under which id."""
    return order.state is _PLACED and not order.upstream_id


def _placed(order: Order, event: Event, at: int, following: Following) -> Change:
    theirs = str(event.detail.get("upstream_id") or "")
    poll_at = at + following.every if theirs else None
    fields = {"state": _PLACED, "upstream_id": theirs, "error": "", "poll_at": poll_at}
    return become(order, event, at, fields)


def _attempt(order: Order, upstream_id: str = "", words: str = "") -> dict[str, str | int | None]:
    detail: dict[str, str | int | None] = {
        "attempt": order.attempt,
        "provider": order.provider,
        "service": order.route,
        "began_at": order.attempt_at,
    }
    if upstream_id:
        detail["upstream_id"] = upstream_id
    if words:
        detail["words"] = words
    return detail


def refused(
    kind: str,
    words: str,
    attempt: int,
    at: int,
    *,
    then: Choice | ErrorText | None,
    unheard: int | None = None,
) -> Transition:
    """An attempt provably came to nothing.

    ``then`` is the next route, or what the customer is told, or ``None`` to wait for a route.
    ``unheard`` is the version up to which nobody had the order's id: if it still has that, its
    claim is free again, since whoever ordered hears the refusal instead.
    """

    def change(order: Order) -> Change | None:
        if order.attempt != attempt or order.state not in (State.SENDING, State.UNKNOWN):
            return None
        event = Event(kind, _attempt(order, words=words))
        if order.cancel is Cancel.WANTED and not isinstance(then, ErrorText):
            # Nobody has it and the customer does not want it: it goes nowhere else.
            return become(order, event, at, _CANCELED)
        if isinstance(then, Choice):
            return become(order, event, at, _taking(then, attempt + 1, at, order.sender))
        if then is None:
            waits = {"state": State.QUEUED, "queued_at": order.queued_at or at}
            return become(order, event, at, waits)
        fields = {"state": State.FAILED, "error": str(then)}
        return become(order, event, at, fields, frees=order.version == unheard)

    return change


def unknown(words: str, attempt: int | None, at: int) -> Transition:
    """The provider may have taken it: the hold stays until there is evidence.

    ``attempt``: ``None`` for any, also one that is not in these books, of an order that was queued.
    """

    def change(order: Order) -> Change | None:
        sent = order.state is State.SENDING and attempt in (None, order.attempt)
        if not sent and (attempt is not None or order.state is not State.QUEUED):
            return None
        event = Event("unknown", _attempt(order, words=words))
        return become(order, event, at, {"state": State.UNKNOWN})

    return change


def settled(
    upstream_id: str | None,
    at: int,
    following: Following,
    by: str = "owner",
    why: str = "",
    *,
    denied: bool = False,
) -> Transition:
    """An unknown order is decided: placed, under this id if it is known, or (``None``) not placed.

    One that was settled as placed without an id gets it the same way. ``denied``: one that is
    placed and not over ends as not placed, too; it keeps its id, which may have been its own.
    """

    def change(order: Order) -> Change | None:
        detail = {"by": by, **_attempt(order, upstream_id or "", why)}
        placed = {**detail, "cost": order.cost}  # as expected, for ``corrected``
        if upstream_id and awaits_id(order):
            return _placed(order, Event("identified", placed), at, following)
        ends = denied and order.state is State.PLACED and cancelable(order)
        if order.state is not State.UNKNOWN and not ends:
            return None
        if upstream_id is not None and not order.provider:
            return None  # restored from when it was queued: nobody could be asked for it
        if upstream_id is not None:
            return _placed(order, Event("settled as placed", placed), at, following)
        event = Event("settled as not placed", detail)
        fields = {"state": State.FAILED, "error": ErrorText.UNAVAILABLE, "poll_at": None}
        return become(order, event, at, fields)

    return change


_UNREPORTED: Mapping[str, object] = {
    "status": Status.PENDING,
    "start_count": None,
    "remains": None,
    "runs": None,
    "posts": None,
    "orders": (),
    "expiry": "",
    "billed": None,
    "settled_at": None,
}
"""An order of which its provider has said nothing yet."""


def is_wrong(order: Order, upstream_id: str | None, events: Iterable[Event]) -> bool:
    """Tell whether an owner who gives an order this id (empty: none) says that it has a wrong one.

    One that its provider gave it is the right one, only one that was given by hand or found may
    be wrong. ``events``: all of the order's, oldest first.
    """
    by_hand = "by" in _naming(order.upstream_id, events)
    return by_hand and order.state is State.PLACED and upstream_id not in (None, order.upstream_id)


def _naming(upstream_id: str, events: Iterable[Event]) -> Mapping[str, str | int | None]:
    """Return the detail of the event by which an order has this id."""
    named = [one.detail for one in events if one.detail.get("upstream_id") == upstream_id]
    return named[-1] if named else {}


def corrected(
    wrong: str,
    upstream_id: str,
    events: Iterable[Event],
    transfers: Iterable[Transfer],
    at: int,
) -> Transition:
    """A placed order gets another id than the wrong one it was given, or (empty) none yet.

    What was reported under that was said of another order, so it is as it was when it was placed,
    and asked for at once. ``events``, ``transfers``: all of the order's, oldest first, which tell
    what it was to cost.
    """
    expected = _naming(wrong, events).get("cost")
    booked = ledger.cost_when_placed(transfers)

    def change(order: Order) -> Change | None:
        if order.state is not State.PLACED or order.upstream_id != wrong:
            return None
        # Events from before they told it: what was booked does, but not of a subscription.
        before = order.cost if order.type == SUBSCRIPTIONS else booked
        cost = before if expected is None else expected
        told = order.cancel is Cancel.ASKED  # of another order: it is asked for once more
        fields: dict[str, object] = {
            "upstream_id": upstream_id,
            "cost": cost,
            "cancel": Cancel.WANTED if told else order.cancel,
            "reported_at": at,  # what was asked under the wrong id comes too late
            "poll_at": at if upstream_id else None,
        }
        detail = {"by": "owner", "before": wrong, "upstream_id": upstream_id or None, "cost": cost}
        return become(order, Event(CORRECTED, detail), at, {**_UNREPORTED, **fields})

    return change


def retried(at: int) -> Transition:
    """The owner sends a failed order again: it is held anew, and waits for a route.

    Not one that a provider took after it was given up: it would be there twice.
    """

    def change(order: Order) -> Change | None:
        if order.state is not State.FAILED or order.upstream_id:
            return None
        fields = {"state": State.QUEUED, "queued_at": at, "error": ""}
        fields |= {"status": Status.PENDING, "cancel": Cancel.NONE}
        return become(order, Event("retried", {"by": "owner"}), at, fields)

    return change


def cancel_wanted(at: int) -> Transition:
    """A cancel is asked for; an order that was never sent is canceled at once."""

    def change(order: Order) -> Change | None:
        event = Event("cancel wanted")
        if order.state is State.QUEUED:
            return become(order, event, at, _CANCELED)
        if order.cancel is not Cancel.NONE or not cancelable(order):
            return None
        return become(order, event, at, {"cancel": Cancel.WANTED})

    return change


def cancelable(order: Order) -> bool:
    """Tell whether asking for a cancel can still make sense."""
    return order.state is not State.FAILED and order.status not in SETTLED


def cancel_answered(words: str | None, at: int) -> Transition:
    """The provider took the cancel (``None``), or refused it with these words."""

    def change(order: Order) -> Change | None:
        if order.cancel is not Cancel.WANTED:
            return None
        if words is None:
            return become(order, Event("cancel taken"), at, {"cancel": Cancel.ASKED})
        event = Event("cancel refused", {"words": words})
        return become(order, event, at, {"cancel": Cancel.NONE})

    return change
