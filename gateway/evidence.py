"""What a provider's balance says of orders whose outcome nobody heard. Pure.

Two readings of our balance enclose an order: one that was answered before it was sent, one that
was asked for when its cost would surely show. What the balance lost between them has to be the
sum of what moved it: orders that the provider took, refunds, deposits. Each of these happened at
some time within bounds that we know, so some may lie on either side of a reading. An unknown
order is *placed* when every way to make the sum come out includes it, *not placed* when none
does, and *open* otherwise: when both are possible, when nothing fits (somebody else spends on
this account, or tops it up), when a price is not confirmed yet. Two readings must say the same.

The only assumption is the owner's ``settle.after``: by then the balance shows what was taken.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import product

import msgspec

from gateway import ledger, money
from gateway.model import Code, Order, State, Status
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Movement, Reading

MOST_UNKNOWN = 10
"""Other unknown orders that are weighed with one; with more it is left open."""
COARSEST = 10_000
"""A hundredth of a unit of currency, in millionths: no panel tells its amounts less exactly."""
MOST_SUMS = 50_000
"""Different sums that the doubtful movements may make; more are left open."""
READINGS = 3
"""Readings on each side of an order that are compared."""
PURCHASE_AND_CORRECTION = 2
REFUNDED = frozenset({Status.PARTIAL, Status.CANCELED})
BOOKED_LATE = 24 * 3600 * 1000
"""Milliseconds by which an owner may book a deposit after he has made it."""


class Verdict(StrEnum):
    """What the evidence says of an unknown order."""

    PLACED = "placed"
    NOT_PLACED = "not placed"
    OPEN = "open"


class Finding(msgspec.Struct, frozen=True):
    """A verdict, and why."""

    verdict: Verdict
    why: str


class Case(msgspec.Struct, frozen=True):
    """All that is known of one provider's account around its unknown orders.

    Attributes:
        unknown: orders that it may have taken; those being sent at this moment too.
        lost: orders that it took after they were given up, which no transfer tells of.
        after: milliseconds by which its balance surely shows what it has taken.
        now: the time of judging.

    """

    readings: Sequence[Reading]
    unknown: Sequence[Order]
    movements: Sequence[Movement]
    lost: Sequence[Order]
    after: int
    now: int


class _Move(msgspec.Struct, frozen=True):
    """What left our account (less than zero: came in), and when at the earliest and latest."""

    amount: int
    earliest: int
    latest: int
    doubtful: bool = False


class _Unclear(Exception):
    """Nothing can be said, for this reason."""


def judge(case: Case) -> dict[int, Finding]:
    """Return what the evidence says of each unknown order, by its id."""
    return {
        order.id: _finding(case, order) for order in case.unknown if order.state is State.UNKNOWN
    }


def _finding(case: Case, order: Order) -> Finding:
    shown_at = order.attempt_at + case.after
    currency = order.cost_currency
    fit = [one for one in case.readings if one.currency == currency]
    before = [one for one in fit if one.answered_at <= order.attempt_at][-READINGS:]
    after = [one for one in fit if one.asked_at >= shown_at and one.checked]
    after = [*after[:READINGS], *after[READINGS:][-READINGS:]]
    if not before:
        return Finding(Verdict.OPEN, "no balance was seen before it was sent")
    if not after:
        return Finding(Verdict.OPEN, "no balance was seen since that would surely show it")
    said: dict[Verdict, set[int]] = {Verdict.PLACED: set(), Verdict.NOT_PLACED: set()}
    reasons: list[str] = []
    for first, last in product(reversed(before), after):
        try:
            verdict, why = _compare(case, order, first, last)
        except _Unclear as unclear:
            reasons.append(str(unclear))
        else:
            said[verdict].add(last.asked_at)
            reasons.insert(0, why)
    if all(said.values()):
        return Finding(Verdict.OPEN, "the readings of the balance contradict each other")
    for verdict, readings in said.items():
        if len(readings) > 1:
            return Finding(verdict, reasons[0])
    confirm = "; a second reading has to confirm it" if any(said.values()) else ""
    return Finding(Verdict.OPEN, f"{reasons[0]}{confirm}")


def _compare(case: Case, order: Order, first: Reading, last: Reading) -> tuple[Verdict, str]:
    """Return what two readings say of an order; raises ``_Unclear``."""
    moves = list(_moves(case, first.asked_at))
    certain = sum(one.amount for one in moves if _inside(one, first, last))
    sums = _sums([one.amount for one in moves if _astride(one, first, last)])
    rest = first.balance - last.balance - certain
    seen = (
        f"between {_time(first.answered_at)} and {_time(last.asked_at)} the balance lost "
        f"{money.text(rest)} {last.currency} beyond what is known"
    )
    slack = _unit(case) * (2 + sum(_inside(one, first, last) for one in moves))
    if order.cost <= 2 * slack:
        msg = f"its cost of {money.text(order.cost)} is too small to be seen in this balance"
        raise _Unclear(msg)
    others = [one for one in case.unknown if one.id != order.id and _near(case, one, first, last)]
    if len(others) >= MOST_UNKNOWN:
        msg = f"{len(others)} other orders are unknown at the same time"
        raise _Unclear(msg)
    for other in others:
        sums |= {one + other.cost for one in sums}
    placed, not_placed = (
        [one for one in sums if abs(rest - cost - one) <= slack] for cost in (order.cost, 0)
    )
    if placed and not_placed:
        msg = f"{seen}, which fits with this order and without it"
        raise _Unclear(msg)
    costs = money.text(order.cost)
    if placed:
        more = _beside(placed)
        return Verdict.PLACED, f"{seen}: the {costs} that this order costs{more}"
    if not_placed:
        more = _beside(not_placed)
        return Verdict.NOT_PLACED, f"{seen}{more}; this order would have cost {costs}"
    msg = f"{seen}, which nothing explains; was there a deposit, or somebody else's order?"
    raise _Unclear(msg)


def _beside(sums: Iterable[int]) -> str:
    """Say what else has moved, where nothing less explains what was seen."""
    least = min(sums, key=abs)
    return f", and {money.text(least)} whose time or outcome is not certain" if least else ""


def _moves(case: Case, since: int) -> Iterable[_Move]:
    """Yield what moved our account since then, as far as it is known."""
    orders: dict[int, list[Movement]] = {}
    for movement in case.movements:
        booked = movement.transfer
        if movement.order is None:
            yield _Move(-booked.amount, booked.at - BOOKED_LATE, booked.at + case.after)
        else:
            orders.setdefault(movement.order.id, []).append(movement)
    for movements in orders.values():
        yield from _moves_of(case, movements, since)
    for order in case.lost:
        taken = order.attempt_at + case.after
        yield _Move(order.cost, order.attempt_at, max(taken, case.now), doubtful=True)


def _moves_of(case: Case, movements: Sequence[Movement], since: int) -> Iterable[_Move]:
    """Yield what an order moved: its purchase, and what came back of it."""
    (order, *_) = (one.order for one in movements if one.order)
    bought_by = order.attempt_at + case.after
    if order.type == SUBSCRIPTIONS:  # paid ahead or by the post: each panel has its own way
        for one in movements:
            yield _Move(_signed(one), one.since, one.transfer.at + case.after, doubtful=True)
        return
    cost = ledger.cost(order)
    refunded = order.status in REFUNDED
    # Else it may have come at another price, and nobody can tell how much of it came back.
    known = order.billed in (None, order.cost, cost)
    if bought_by >= since:
        # Of an order that nothing came back of, what it says that it cost is what it took; a
        # second booking is then only what we had expected wrongly.
        plain = not refunded and len(movements) <= PURCHASE_AND_CORRECTION
        if (order.billed is None and order.upstream_id) or not (plain or known):
            msg = f"the provider has not said clearly what order {order.id} cost"
            raise _Unclear(msg)
        yield _Move(cost if plain else order.cost, order.attempt_at, bought_by)
        movements = () if plain else movements[1:]
    back = all(one.transfer.code is Code.REBATE for one in movements)
    certain = refunded and known and back
    for one in movements:
        shown_by = one.transfer.at + case.after
        yield _Move(_signed(one), one.since, shown_by, doubtful=not certain)


def _signed(movement: Movement) -> int:
    amount = movement.transfer.amount
    return amount if movement.transfer.code is Code.COST else -amount


def _inside(move: _Move, first: Reading, last: Reading) -> bool:
    certain = move.earliest >= first.answered_at and move.latest <= last.asked_at
    return certain and not move.doubtful


def _astride(move: _Move, first: Reading, last: Reading) -> bool:
    apart = move.latest < first.asked_at or move.earliest > last.answered_at
    return not apart and not _inside(move, first, last)


def _near(case: Case, order: Order, first: Reading, last: Reading) -> bool:
    """Tell whether an unknown order's cost may be part of what happened between two readings."""
    return order.attempt_at <= last.answered_at and order.attempt_at + case.after >= first.asked_at


def _sums(amounts: Iterable[int]) -> set[int]:
    """Return every sum that some of the amounts can make."""
    sums = {0}
    for amount in amounts:
        sums |= {one + amount for one in sums}
        if len(sums) > MOST_SUMS:
            msg = "too much happened there at the times when the balance was seen"
            raise _Unclear(msg)
    return sums


def _unit(case: Case) -> int:
    """Return the smallest step in which this provider's amounts are told, in millionths."""
    told = {one.balance for one in case.readings}
    told |= {one.order.billed for one in case.movements if one.order and one.order.billed}
    unit = COARSEST
    while any(one % unit for one in told):
        unit //= 10
    return unit


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S")
