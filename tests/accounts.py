"""A provider's account as it truly is, and what a gateway gets to know of it.

A test says what happened when: orders taken and refunded, deposits, somebody else's spending,
balances asked for. What the gateway has booked by then comes from its own transitions, so that a
``Case`` has in it just what the store would give.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

import build
from gateway import ledger, money, reporting, transitions
from gateway.evidence import READINGS, Finding, judge
from gateway.model import Order, Report, State, Status
from gateway.money import Money
from gateway.moves import Case
from gateway.store import Movement, Reading, Transition

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
AFTER = 10 * MINUTE
WITHIN = 90 * SECOND
START = build.AT
TELLING = frozenset({"accepted", "status"})
"""Events after which it is known how far an order was at its provider."""


@dataclass
class Shift:
    """Money that left the account (less than zero: came in).

    Attributes:
        shows: from then on every balance has it; between ``at`` and then, any may.
        told: how much of it the gateway can know of, sooner or later.

    """

    at: int
    amount: int
    shows: int
    told: int


@dataclass
class Ours:
    """An order: what the gateway knows of it, and what became of it at the provider.

    Attributes:
        price: what the provider has taken for it; ``None``: it has not taken it.
        stages: from when on it has which status and remains, oldest first.
        back: what has come back of it.

    """

    order: Order
    price: int | None = None
    stages: list[tuple[int, Status, int]] = field(default_factory=list)
    back: int = 0
    booked: list[tuple[Any, int]] = field(default_factory=list)
    told_at: int = 0

    def step(self, change: Transition, at: int) -> None:
        """Let something be known of it."""
        done = change(self.order)
        if done is None:
            return
        self.order = done.order
        earlier = self.told_at or self.order.created_at
        theirs = [one for one in done.transfers if one.owner == self.order.provider]
        self.booked += [(one, earlier) for one in theirs]
        if done.event and done.event.kind in TELLING:
            self.told_at = at


def whole(charge: int, _: int) -> int:
    """Tell the whole charge, also after a refund."""
    return charge


def what_is_left(charge: int, back: int) -> int:
    """Tell what an order has cost by now."""
    return charge - back


class Account:
    """Our account at one provider; times are milliseconds since ``START``."""

    def __init__(
        self,
        opening: int = 98_765_430,
        *,
        step: int = 10,
        tells: Callable[[int, int], int | None] = what_is_left,
    ) -> None:
        self.opening = opening
        self.step = step
        self.tells = tells
        self.orders: list[Ours] = []
        self.shifts: list[Shift] = []
        self.readings: list[Reading] = []
        self.shown: list[set[int]] = []
        self.deposits: list[Movement] = []

    # --- what happens there -------------------------------------------------------------------

    def send(self, at: int, cost: int, *, kind: str = "Default", **params: str) -> Ours:
        """Mark an order as being sent."""
        order_id = len(self.orders) + 1
        draft = build.draft(1, kind=kind, size=1000, params=params or None)
        choice = build.choice(cost=cost)
        ours = Ours(transitions.opened(draft, choice, START + at)(order_id).order)
        self.orders.append(ours)
        return ours

    def take(self, ours: Ours, at: int, price: int | None = None, told: int | None = None) -> None:
        """Let the provider take an order."""
        ours.price = ours.order.cost if price is None else price
        ours.stages.append((START + at, Status.IN_PROGRESS, ours.order.size))
        told = ours.price if told is None else told
        shows = ours.order.attempt_at - START + AFTER
        self.move(at, ours.price, shows=shows, told=told)

    def refund(
        self, ours: Ours, at: int, remains: int | None = None, told: int | None = None
    ) -> int:
        """Let the provider refund an order: what remains of it, or all; returns how much."""
        assert ours.price is not None
        left = 0
        if remains is not None:
            left = money.share(ours.price, ours.order.size - remains, ours.order.size)
        amount = ours.price - ours.back - left
        ours.back += amount
        status = Status.CANCELED if remains is None else Status.PARTIAL
        ours.stages.append((START + at, status, remains or 0))
        self.move(at, -amount, told=-amount if told is None else told)
        return amount

    def move(self, at: int, amount: int, *, shows: int | None = None, told: int = 0) -> None:
        """Let money leave the account; ``told``: how much of it the gateway will know of."""
        shows = at + AFTER if shows is None else shows
        self.shifts.append(Shift(START + at, amount, START + shows, told))

    # --- what the gateway sees ----------------------------------------------------------------

    def accept(self, ours: Ours, at: int) -> None:
        """Let the provider's answer to an order arrive."""
        its_id = str(1000 + ours.order.id)
        ours.step(transitions.accepted(its_id, 1, START + at, build.FOLLOWING), START + at)

    def lose(self, ours: Ours, at: int) -> None:
        """Let the outcome of an order be unknown from now on."""
        ours.step(transitions.unknown("timeout", 1, START + at), START + at)

    def settle(self, ours: Ours, at: int, its_id: str | None) -> None:
        """Let the owner decide an order, or name it."""
        change = transitions.settled(its_id, START + at, build.FOLLOWING)
        ours.step(change, START + at)

    def buy(self, at: int, cost: int, price: int | None = None) -> Ours:
        """Send an order that is taken and answered at once."""
        ours = self.send(at, cost)
        self.take(ours, at, price)
        self.accept(ours, at + SECOND)
        return ours

    def ask(self, asked_at: int, so_at: int, at: int) -> None:
        """Ask for all orders that have an id: what is so at one time is written down at another."""
        for ours in self.orders:
            if ours.order.state is State.PLACED and ours.order.upstream_id and ours.stages:
                self._report(ours, asked_at, so_at, at)

    def _report(self, ours: Ours, asked_at: int, so_at: int, at: int) -> None:
        stages = [one for one in ours.stages if one[0] <= START + so_at]
        if not stages:
            return
        _, status, remains = stages[-1]
        assert ours.price is not None
        left = ours.price
        if status is Status.PARTIAL:
            left = money.share(ours.price, ours.order.size - remains, ours.order.size)
        elif status is Status.CANCELED:
            left = 0
        report = Report(
            status,
            str(status),
            charge=self.tells(ours.price, ours.price - left),
            remains=remains,
        )
        change = reporting.reported(report, START + at, build.FOLLOWING, START + asked_at)
        ours.step(change, START + at)

    def look(
        self,
        at: int,
        *,
        took: int = 0,
        so_at: int | None = None,
        checked: bool = True,
        shows: Callable[[Shift], bool] = lambda _: True,
        balance: int | None = None,
    ) -> None:
        """See the balance; ``shows`` tells whether one that need not be in it yet is."""
        so_at = at if so_at is None else so_at
        seen = set()
        for number, shift in enumerate(self.shifts):
            if START + so_at >= shift.shows or (START + so_at > shift.at and shows(shift)):
                seen.add(number)
        true = self.opening - sum(self.shifts[one].amount for one in seen)
        told = true // self.step * self.step if balance is None else balance
        reading = Reading("alpha", START + at, START + at + took, told, "INR", checked)
        self.readings.append(reading)
        self.shown.append(seen)
        if checked:
            self.ask(at + took, at + took, at + took)

    def deposit(self, at: int, amount: int, *, booked: int | None = None) -> None:
        """Pay money in; ``booked``: when the owner tells of it."""
        self.move(at, -amount, told=0 if booked is None else -amount)
        if booked is not None:
            self.book(booked, amount)

    def book(self, at: int, amount: int) -> None:
        """Let the owner tell of a deposit."""
        number = str(len(self.deposits))
        transfer = ledger.deposit("alpha", Money(amount, "INR"), number, START + at)
        self.deposits.append(Movement(transfer, None, START + at))

    def case(self) -> Case:
        """Return what the store would give to judge by."""
        orders = [ours.order for ours in self.orders]
        unknown = [one for one in orders if one.state is State.UNKNOWN]
        unfollowed = [
            one
            for one in orders
            if one.state is State.SENDING
            or (one.state is State.PLACED and not one.upstream_id)
            or (one.state is State.FAILED and one.upstream_id)
        ]
        oldest = min(one.attempt_at for one in unknown)
        before = [one for one in self.readings if one.answered_at <= oldest]
        readings = self.readings[max(len(before) - READINGS, 0) :]
        since = (readings[0].asked_at if readings else oldest) - AFTER
        movements = [
            Movement(transfer, ours.order, earlier)
            for ours in self.orders
            for transfer, earlier in ours.booked
        ]
        movements = [one for one in (*movements, *self.deposits) if one.transfer.at >= since]
        movements.sort(key=lambda one: one.transfer.at)
        return Case(readings, unknown, unfollowed, movements, AFTER, WITHIN)

    def judge(self) -> dict[int, Finding]:
        """Return what the evidence says."""
        return judge(self.case())


def changed(case: Case, **fields: Any) -> Case:
    """Return a case in which something is otherwise."""
    return msgspec.structs.replace(case, **fields)
