"""What a provider's balance says of orders whose outcome nobody heard. Pure.

Two readings of our balance enclose an order: one that was answered before it was sent, one that
was asked for when its cost would surely show. What the balance lost between them has to be the
sum of what moved it: orders that the provider took, refunds, deposits. Each of these is a *move*:
it showed at some time within bounds that we know, so between two readings it may have come to
one amount or another; an order that nobody can follow to any part of its cost, since the rest
may have come back. An unknown order is *placed* when every way to make the sum come out includes
it, *not placed* when none does, and *open* otherwise: when both are possible, when nothing fits
exactly (somebody else spends on this account, or tops it up), when a price is not confirmed yet.
Two readings must say the same.

What is relied on: by the owner's ``settle.after`` the balance shows what was taken, and what a
report says came back; no refund shows before its report could. What no balance can tell is money
that nobody told us of, and that comes to exactly what orders cost: somebody else's spending or
top-up on this account, another price of an order that nobody can follow, a part of this one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from itertools import product

import msgspec

from gateway import ledger, money
from gateway.model import Code, Order, State, Status
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Movement, Reading

COARSEST = 10_000
"""A hundredth of a unit of currency, in millionths: no panel tells its amounts less exactly."""
FEW_SUMS, MOST_SUMS = 8, 1_000
"""Different sums that the doubtful moves may make: these are clear, with more nothing is …"""
CROWDED = 20
"""… and between them, an amount by chance must fit less often than once in so many times."""
TOO_MUCH = "too much is not certain about what happened there at the same time"
READINGS = 3
"""Readings on each side of an order that are compared."""
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


_Sums = Mapping[int, int]
"""Possible amounts, and by how much less than what each may be wrong."""


class _Unclear(Exception):
    """Nothing can be said, for this reason."""


class _Move(msgspec.Struct, frozen=True):
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

    def between(self, first: Reading, last: Reading) -> _Sums:
        """Return what it may have come to between two readings; raises ``_Unclear``."""
        if self.earliest > last.answered_at:
            return {0: 0}
        if self.latest < first.asked_at:
            amounts = self.past
        elif self.earliest >= first.answered_at and self.latest <= last.asked_at:
            amounts = self.inside
        else:
            amounts = self.astride
        if not amounts:
            raise _Unclear(self.unclear)
        return {one: self.inexact if one else 0 for one in amounts}


def _certain(amount: int, when: tuple[int, int], inexact: int = 0) -> _Move:
    return _Move(*when, (amount,), (0, amount), inexact=inexact)


def _doubtful(amount: int, when: tuple[int, int], inexact: int) -> _Move:
    return _Move(*when, (0, amount), (0, amount), inexact=inexact)


class _Between(msgspec.Struct, frozen=True):
    """What has moved between two readings of a balance.

    Attributes:
        certain: what the moves that nobody doubts come to.
        slack: by how much less than this the balances and those moves may be wrong.
        known: what the doubtful ones may come to together.
        nobody: by order, what one may come to that nobody can follow: this, or any part of it.
        least, most: what those may come to together, …
        inexact: … which may be wrong by less than this.

    """

    first: Reading
    last: Reading
    certain: int
    slack: int
    known: _Sums
    nobody: Mapping[int, _Sums]
    least: int
    most: int
    inexact: int


def judge(case: Case) -> dict[int, Finding]:
    """Return what the evidence says of each unknown order, by its id."""
    step = _step(one.balance for one in case.readings)
    nobody = {
        one.id: _unfollowed(one, case.after, step) for one in (*case.unfollowed, *case.unknown)
    }
    known = list(_known(case, nobody.keys(), step))

    @cache
    def between(first: Reading, last: Reading) -> _Between | str:
        try:
            return _between(known, nobody, step, first, last)
        except _Unclear as unclear:
            return str(unclear)

    return {one.id: _finding(case, one, between) for one in case.unknown}


def _between(
    known: Iterable[_Move], nobody: Mapping[int, _Move], step: int, first: Reading, last: Reading
) -> _Between:
    """Return what has moved between two readings; raises ``_Unclear``."""
    came_to = [one.between(first, last) for one in known]
    certain = [next(iter(one.items())) for one in came_to if len(one) == 1]
    unfollowed = {order: one.between(first, last) for order, one in nobody.items()}
    unfollowed = {order: one for order, one in unfollowed.items() if len(one) > 1}
    return _Between(
        first,
        last,
        sum(amount for amount, _ in certain),
        step + sum(inexact for _, inexact in certain),
        _sums({0: 0}, [one for one in came_to if len(one) > 1]),
        unfollowed,
        sum(min(one) for one in unfollowed.values()),
        sum(max(one) for one in unfollowed.values()),
        sum(max(one.values()) for one in unfollowed.values()),
    )


def _step(amounts: Iterable[int]) -> int:
    """Return the smallest step, in millionths, in which these amounts can have been told."""
    step = COARSEST
    for amount in amounts:
        while amount % step:
            step //= 10
    return step


def _finding(
    case: Case, order: Order, between: Callable[[Reading, Reading], _Between | str]
) -> Finding:
    shown_at = order.attempt_at + case.after
    fit = [one for one in case.readings if one.currency == order.cost_currency]
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
        moved = between(first, last)
        try:
            verdict, why = _compare(order, moved)
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


def _compare(order: Order, moved: _Between | str) -> tuple[Verdict, str]:
    """Return what two readings say of an order; raises ``_Unclear``."""
    if isinstance(moved, str):
        raise _Unclear(moved)
    rest = moved.first.balance - moved.last.balance - moved.certain
    less = rest - order.cost
    seen = (
        f"between {_time(moved.first.answered_at)} and {_time(moved.last.asked_at)} the balance "
        f"lost {money.text(rest)} {moved.last.currency} beyond what is known"
    )
    this = moved.nobody[order.id]
    own = max(this.values())
    none_of_others, all_of_others = moved.least - min(this), moved.most - max(this)
    # Two balances are told less exactly than they are kept; so may be what an order costs.
    slack = moved.slack + moved.inexact - own
    inexact = max(moved.known.values())
    if order.cost <= 2 * (own + slack + inexact):
        msg = f"its cost of {money.text(order.cost)} is too small to be seen in this balance"
        raise _Unclear(msg)

    def fits(least: int, most: int, slack: int, parts: tuple[int, int]) -> bool:
        """Tell whether an amount between these may be missing, with such parts of the others."""
        low, high = parts
        return any(
            least - high - slack - wrong <= one <= most - low + slack + wrong
            for one, wrong in moved.known.items()
        )

    any_part = none_of_others, all_of_others
    without, whole = fits(rest, rest, slack, any_part), fits(less, less, slack + own, any_part)
    # A part of this one may have come back, and what is left of it look like what another cost;
    # only that the same came back of an order that was taken before is too much of an accident.
    in_part = fits(
        less, rest - 2 * (slack + inexact), slack, any_part if all_of_others > 0 else (0, 0)
    )
    if without and (whole or in_part):
        msg = f"{seen}, which fits with this order and without it"
        raise _Unclear(msg)
    costs = money.text(order.cost)
    if whole:
        beside = _exactly(less, moved.slack + own, order, moved)
        if beside is not None:
            return Verdict.PLACED, f"{seen}: the {costs} that this order costs{beside}"
    elif without:
        # None of others that may have been taken was: else a part of this one would fit, too.
        others = none_of_others if all_of_others > 0 else None
        beside = _exactly(rest, moved.slack, order, moved, others)
        if beside is not None:
            return Verdict.NOT_PLACED, f"{seen}{beside}; this order would have cost {costs}"
    msg = f"{seen}, which nothing explains; was there a deposit, or somebody else's order?"
    raise _Unclear(msg)


def _sums(
    sums: _Sums, moves: Sequence[_Sums], least: float = -math.inf, most: float = math.inf
) -> _Sums:
    """Return every sum between two amounts that can be made with one amount of each move.

    Raises ``_Unclear`` when there are too many.
    """
    lowest, highest = sum(min(one) for one in moves), sum(max(one) for one in moves)
    sums = {one: wrong for one, wrong in sums.items() if least - highest <= one <= most - lowest}
    for amounts in sorted(moves, key=max, reverse=True):  # so that fewer stay within reach
        lowest -= min(amounts)
        highest -= max(amounts)
        made: dict[int, int] = {}
        for (one, inexact), (more, wrong) in product(sums.items(), amounts.items()):
            both = one + more
            if least - highest <= both <= most - lowest:
                made[both] = max(made.get(both, 0), inexact + wrong)
        sums = made
        if len(sums) > MOST_SUMS:
            raise _Unclear(TOO_MUCH)
    return sums


def _exactly(
    amount: int, slack: int, order: Order, moved: _Between, others: int | None = None
) -> str | None:
    """Say what makes up an amount where each of the other orders was taken whole or not at all.

    ``others``: what they come to, where that is clear. ``None`` where nothing makes it up. Raises
    ``_Unclear`` where most amounts would fit, by chance.
    """
    if others is None:
        moves = [one for order_id, one in moved.nobody.items() if order_id != order.id]
        most = amount + slack + max(moved.known.values()) + moved.inexact
        sums = _sums(moved.known, moves, amount - order.cost, most)
    else:
        sums = {one + others: wrong for one, wrong in moved.known.items()}
    near = {one: wrong for one, wrong in sums.items() if abs(amount - one) <= order.cost}
    fits = sum(2 * (slack + one) for one in near.values())
    if len(near) > FEW_SUMS and fits * CROWDED > order.cost:
        raise _Unclear(TOO_MUCH)
    fit = [one for one, wrong in near.items() if abs(amount - one) <= slack + wrong]
    if not fit:
        return None
    # Nothing less explains what was seen.
    least = min(fit, key=abs)
    return f", and {money.text(least)} whose time or outcome is not certain" if least else ""


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S")


# --- what is known ----------------------------------------------------------------------------


def _unfollowed(order: Order, after: int, step: int) -> _Move:
    """Return what an order moved that may have been taken, and may have been refunded since."""
    cost = order.cost
    return _Move(
        order.attempt_at,
        order.attempt_at + after,
        inside=(0, cost),
        astride=(0, cost, -cost),
        past=(0, -cost),
        inexact=step,
    )


def _known(case: Case, nobody_knows: Iterable[int], step: int) -> Iterator[_Move]:
    """Yield what moved our account, as far as we were told."""
    told = [one.order.billed for one in case.movements if one.order and one.order.billed]
    step = max(step, _step(told)) if told else step
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


def _posts(case: Case, order: Order, movements: Iterable[Movement], step: int) -> Iterator[_Move]:
    """Yield what the posts of a subscription moved; each may have been charged by itself."""
    post = ledger.cost(msgspec.structs.replace(order, billed=None, posts=1)) or order.cost
    for one in movements:
        amount = post if one.transfer.code is Code.COST else -post
        for _ in range(-(-one.transfer.amount // post)):
            yield _doubtful(amount, _when(case, one), step)


def _followed(
    case: Case, order: Order, movements: Sequence[Movement], step: int
) -> Iterator[_Move]:
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
    yield _Move(
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
