"""What moved our account at a provider, as far as we were told. Pure.

Each purchase, refund and deposit is a *move*: it shows in the balance at some time within bounds
that we know, so between two readings of it it may have come to one amount or another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from gateway import ledger
from gateway.model import Code, Order, State, Status
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Movement, Reading

COARSEST = 10_000
"""A hundredth of a unit of currency, in millionths: no panel tells its amounts less exactly."""
REFUNDED = frozenset({Status.PARTIAL, Status.CANCELED})
BOOKED_LATE = 24 * 3600 * 1000
"""Milliseconds by which an owner may book a deposit after he has made it."""

Sums = Mapping[int, int]
"""Possible amounts, and by how much less than what each may be wrong."""


class Case(msgspec.Struct, frozen=True):
    """All that is known of one provider's account around its unknown orders.

    Attributes:
        unknown: the orders to judge.
        unfollowed: others that it may have taken, and that no report tells of: being sent at
            this moment, given up though it gave an id, or placed under an id nobody knows.
        movements: what was booked, oldest first, since ``after`` before the first reading.
        after: milliseconds by which its balance surely shows what it has taken.
        within: milliseconds that a report may be old when it is written down.

    """

    readings: Sequence[Reading]
    unknown: Sequence[Order]
    unfollowed: Sequence[Order]
    movements: Sequence[Movement]
    after: int
    within: int


class Unclear(Exception):
    """Nothing can be said, for this reason."""


class Move(msgspec.Struct, frozen=True):
    """Something that took from our account (less than zero: brought), and what it may come to.

    Attributes:
        earliest, latest: it shows in the balance at some time between these.
        inside: the amounts that are possible when both lie between two readings.
        astride: … when one of the readings may fall between them.
        past: … when it showed before the first of the readings.
        inexact: by how much less than this any amount may be wrong.
        unclear: why nobody can tell, where there are no amounts.

    """

    earliest: int
    latest: int
    inside: tuple[int, ...] = ()
    astride: tuple[int, ...] = ()
    past: tuple[int, ...] = (0,)
    inexact: int = 0
    unclear: str = ""

    def between(self, first: Reading, last: Reading) -> Sums:
        """Return what it may have come to between two readings; raises ``Unclear``."""
        if self.earliest > last.answered_at:
            return {0: 0}
        if self.latest < first.asked_at:
            amounts = self.past
        elif self.earliest >= first.answered_at and self.latest <= last.asked_at:
            amounts = self.inside
        else:
            amounts = self.astride
        if not amounts:
            raise Unclear(self.unclear)
        return {one: self.inexact if one else 0 for one in amounts}


def _certain(amount: int, when: tuple[int, int], inexact: int = 0) -> Move:
    return Move(*when, (amount,), (0, amount), inexact=inexact)


def _doubtful(amount: int, when: tuple[int, int], inexact: int) -> Move:
    return Move(*when, (0, amount), (0, amount), inexact=inexact)


def step_of(amounts: Iterable[int]) -> int:
    """Return the smallest step, in millionths, in which these amounts can have been told."""
    step = COARSEST
    for amount in amounts:
        while amount % step:
            step //= 10
    return step


def unfollowed(order: Order, after: int, step: int) -> Move:
    """Return what an order moved that may have been taken, and may have been refunded since."""
    cost = order.cost
    return Move(
        order.attempt_at,
        order.attempt_at + after,
        inside=(0, cost),
        astride=(0, cost, -cost),
        past=(0, -cost),
        inexact=step,
    )


def known(case: Case, nobody_knows: Iterable[int], step: int) -> Iterator[Move]:
    """Yield what moved our account, as far as we were told."""
    told = [one.order.billed for one in case.movements if one.order and one.order.billed]
    step = max(step, step_of(told)) if told else step
    orders: dict[int, list[Movement]] = {}
    for movement in case.movements:
        booked = movement.transfer
        if movement.order is None:
            yield _certain(-booked.amount, (booked.at - BOOKED_LATE, booked.at + case.after))
        elif movement.order.id not in nobody_knows and _is_there(movement.order, booked.owner):
            orders.setdefault(movement.order.id, []).append(movement)
    for movements in orders.values():
        (order, *_) = (one.order for one in movements if one.order)
        followed = _posts if order.type == SUBSCRIPTIONS else _followed
        yield from followed(case, order, movements, step)


def _is_there(order: Order, provider: str) -> bool:
    """Tell whether a provider has an order; else all that was booked of it is booked back."""
    return order.state is State.PLACED and order.provider == provider


def _posts(case: Case, order: Order, movements: Iterable[Movement], step: int) -> Iterator[Move]:
    """Yield what the posts of a subscription moved; each may have been charged by itself."""
    post = ledger.cost(msgspec.structs.replace(order, billed=None, posts=1)) or order.cost
    for one in movements:
        amount = post if one.transfer.code is Code.COST else -post
        for _ in range(-(-one.transfer.amount // post)):
            yield _doubtful(amount, _when(case, one), step)


def _followed(case: Case, order: Order, movements: Sequence[Movement], step: int) -> Iterator[Move]:
    """Yield what an order moved: its purchase, and what came back of it."""
    bought = (order.attempt_at, order.attempt_at + case.after)
    accepted = movements[0].transfer
    listed = accepted.code is Code.COST and accepted.at <= bought[1]
    later = movements[1:] if listed else movements
    refunds = _refunds(order, later)
    others = later[: len(later) - len(refunds)]
    if listed and accepted.amount == order.cost and order.status is not Status.PARTIAL:
        step = 0  # else it may have been told, or shared, rounded
    if not listed or len(others) > 1:  # else it only puts right what the order should have cost
        for one in others:
            yield _doubtful(_signed(one), _when(case, one), step)
    unreported = refunds and refunds[0].since <= (accepted.at if listed else order.attempt_at)
    if _is_clear(order, step, reported_before=not unreported):
        yield _certain(order.cost, bought, step)
        for one in refunds:
            yield _certain(_signed(one), _when(case, one), step)
        return
    # Whatever it has cost, a canceled one comes to nothing once all of it is back.
    gone = bool(refunds) and order.status is Status.CANCELED and not order.billed
    yield Move(
        bought[0],
        max([bought[1], *(_when(case, one)[1] for one in refunds)]),
        inside=(0,) if gone else (),
        unclear=f"the provider has not said clearly what order {order.id} cost",
    )


def _refunds(order: Order, movements: Sequence[Movement]) -> Sequence[Movement]:
    """Return the last bookings, those that make up what came back of an order."""
    left = order.cost - ledger.cost(order) if order.status in REFUNDED else 0
    first = len(movements)
    while first and left > 0 and movements[first - 1].transfer.code is Code.REBATE:
        first -= 1
        left -= movements[first].transfer.amount
    return movements[first:] if left >= 0 else ()


def _is_clear(order: Order, step: int, *, reported_before: bool) -> bool:
    """Tell whether what an order cost, and what came back of it, can be told from its reports.

    Some panels go on showing the whole charge after a refund, some show what is left of it. Of
    one that shows less, the price is known only if it was reported before the refund.
    """
    if order.billed is None:
        return False
    left = ledger.cost(msgspec.structs.replace(order, billed=None))
    if abs(order.billed - order.cost) <= step or (left and abs(order.billed - left) <= step):
        return True
    return order.status in REFUNDED and order.billed <= left and reported_before


def _when(case: Case, movement: Movement) -> tuple[int, int]:
    return movement.since - case.within, movement.transfer.at + case.after


def _signed(movement: Movement) -> int:
    amount = movement.transfer.amount
    return amount if movement.transfer.code is Code.COST else -amount
