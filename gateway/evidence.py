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
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from itertools import product

import msgspec

from gateway import money, moves
from gateway.model import Order
from gateway.moves import Case, Move, Sums, Unclear
from gateway.store import Reading

FEW_SUMS, MOST_SUMS = 8, 1_000
"""Different sums that the doubtful moves may make: these are clear, with more nothing is …"""
CROWDED = 20
"""… and between them, an amount by chance must fit less often than once in so many times."""
TOO_MUCH = "too much is not certain about what happened there at the same time"
READINGS = 3
"""Readings on each side of an order that are compared."""


class Verdict(StrEnum):
    """What the evidence says of an unknown order."""

    PLACED = "placed"
    NOT_PLACED = "not placed"
    OPEN = "open"


class Finding(msgspec.Struct, frozen=True):
    """A verdict, and why; ``doubt``: why nobody but the owner can go by it."""

    verdict: Verdict
    why: str
    doubt: str = ""


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
    known: Sums
    nobody: Mapping[int, Sums]
    least: int
    most: int
    inexact: int


def judge(case: Case) -> dict[int, Finding]:
    """Return what the evidence says of each unknown order, by its id."""
    step = moves.step_of(one.balance for one in case.readings)
    nobody = {
        one.id: moves.unfollowed(one, case.after, step) for one in (*case.unfollowed, *case.unknown)
    }
    known = list(moves.known(case, nobody.keys(), step))

    @cache
    def between(first: Reading, last: Reading) -> _Between | str:
        try:
            return _between(known, nobody, step, first, last)
        except Unclear as unclear:
            return str(unclear)

    return {one.id: _finding(case, one, between) for one in case.unknown}


def _between(
    known: Iterable[Move], nobody: Mapping[int, Move], step: int, first: Reading, last: Reading
) -> _Between:
    """Return what has moved between two readings; raises ``Unclear``."""
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
        except Unclear as unclear:
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
    """Return what two readings say of an order; raises ``Unclear``."""
    if isinstance(moved, str):
        raise Unclear(moved)
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
        raise Unclear(msg)

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
        raise Unclear(msg)
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
    raise Unclear(msg)


def _sums(
    sums: Sums, of_each: Sequence[Sums], least: float = -math.inf, most: float = math.inf
) -> Sums:
    """Return every sum between two amounts that can be made with one amount of each move.

    Raises ``Unclear`` when there are too many.
    """
    lowest, highest = sum(min(one) for one in of_each), sum(max(one) for one in of_each)
    sums = {one: wrong for one, wrong in sums.items() if least - highest <= one <= most - lowest}
    for amounts in sorted(of_each, key=max, reverse=True):  # so that fewer stay within reach
        lowest -= min(amounts)
        highest -= max(amounts)
        made: dict[int, int] = {}
        for (one, inexact), (more, wrong) in product(sums.items(), amounts.items()):
            both = one + more
            if least - highest <= both <= most - lowest:
                made[both] = max(made.get(both, 0), inexact + wrong)
        sums = made
        if len(sums) > MOST_SUMS:
            raise Unclear(TOO_MUCH)
    return sums


def _exactly(
    amount: int, slack: int, order: Order, moved: _Between, others: int | None = None
) -> str | None:
    """Say what makes up an amount where each of the other orders was taken whole or not at all.

    ``others``: what they come to, where that is clear. ``None`` where nothing makes it up. Raises
    ``Unclear`` where most amounts would fit, by chance.
    """
    if others is None:
        others_did = [one for order_id, one in moved.nobody.items() if order_id != order.id]
        most = amount + slack + max(moved.known.values()) + moved.inexact
        sums = _sums(moved.known, others_did, amount - order.cost, most)
    else:
        sums = {one + others: wrong for one, wrong in moved.known.items()}
    near = {one: wrong for one, wrong in sums.items() if abs(amount - one) <= order.cost}
    fits = sum(2 * (slack + one) for one in near.values())
    if len(near) > FEW_SUMS and fits * CROWDED > order.cost:
        raise Unclear(TOO_MUCH)
    fit = [one for one, wrong in near.items() if abs(amount - one) <= slack + wrong]
    if not fit:
        return None
    # Nothing less explains what was seen.
    least = min(fit, key=abs)
    return f", and {money.text(least)} whose time or outcome is not certain" if least else ""


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S")
