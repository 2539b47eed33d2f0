"""A practice panel: its orders, which progress on a clock, and its books. No HTTP, no spelling."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal

from gateway.sandbox.catalog import NEEDS, PACKAGES, SUBSCRIPTIONS, TRAFFIC, Row
from gateway.sandbox.courses import MINUTE, State, course, subscription, usual

UNLIMITED = 1000
"""Posts of a subscription that was given no number of them."""
LONGEST_NUMBER = 9
DELAYS: frozenset[int] = frozenset(range(601))
"""Minutes that a subscription may wait after a post, where the panel has no list of its own."""


def plain(amount: Decimal) -> str:
    """Write an amount without an exponent and without idle zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Refused(Exception):
    """The panel says no, in these words."""


@dataclass
class Order:
    """An order that the panel has taken; ``posts`` is 0 for all but subscriptions."""

    id: int
    row: Row
    params: Mapping[str, str]
    size: int
    start_count: int
    taken_at: float
    runs: int = 1
    posts: int = 0
    canceled_at: float | None = None

    @property
    def target(self) -> str:
        """What the order is for; its words choose what becomes of it."""
        return self.params.get("link") or self.params.get("username", "")

    def state(self, now: float) -> State:
        """Return how far the order is."""
        if self.canceled_at is None or now < self.canceled_at:
            return self._left_alone(now)
        at_cancel = self._left_alone(self.canceled_at)
        if at_cancel.ended:  # too late: what was on its way goes its way
            return self._left_alone(now)
        delivered = at_cancel.done and not self.posts
        return State("partial" if delivered else "canceled", at_cancel.done)

    def _left_alone(self, now: float) -> State:
        age = now - self.taken_at
        if self.posts:
            return subscription(self.target, self.posts, age)
        return course(self.target)(self.size, age)


@dataclass
class Refill:
    """A refill that the panel has taken."""

    id: int
    order: Order
    taken_at: float

    def word(self, now: float) -> str:
        """Return how far the refill is."""
        age = now - self.taken_at
        if age < MINUTE:
            return "Pending"
        if age < 3 * MINUTE:
            return "In progress"
        return "Rejected" if "refill-rejected" in self.order.target else "Completed"


@dataclass
class Panel:
    """One panel: a catalog, orders, refills, and an account with our money.

    Orders and refills are found by their ids as text, as callers write them.
    """

    rows: dict[int, Row]
    deposit: Decimal
    clock: Callable[[], float]
    chance: random.Random
    delays: frozenset[int] = DELAYS
    first_order: int = 23501
    first_refill: int = 9871
    orders: dict[str, Order] = field(default_factory=dict)
    refills: dict[str, Refill] = field(default_factory=dict)
    # An order that nothing will change costs the same at any time. Only the others are asked what
    # they cost whenever the balance is, so that it stays cheap among a million orders.
    _settled: Decimal = Decimal(0)
    _moving: dict[int, Order] = field(default_factory=dict)

    def add(self, params: Mapping[str, str]) -> Order:
        """Take an order, or say why not."""
        row = self.rows.get(_number(params.get("service", ""), "Invalid service ID"))
        if row is None:
            raise Refused("Invalid service ID")
        needs = NEEDS[row.type]
        if row.type == "Web Traffic" and params.get("type_of_traffic") in TRAFFIC:
            needs += (TRAFFIC[params["type_of_traffic"]],)
        if not all(params.get(need) for need in needs):
            raise Refused("Incorrect request")
        if " " in params.get("link", ""):
            raise Refused("Bad link")
        runs = _runs(row, params)
        order = Order(
            id=self.first_order + len(self.orders),
            row=row,
            params=dict(params),
            size=_size(row, params) * runs,
            start_count=self.chance.randrange(100, 9000),
            taken_at=self.clock(),
            runs=runs,
            posts=self._posts(params) if row.type == SUBSCRIPTIONS else 0,
        )
        if self.charge(order) > self.balance():
            raise Refused("Not enough funds")
        self.orders[str(order.id)] = order
        if order.posts or course(order.target) is not usual:
            self._moving[order.id] = order
        else:
            self._settled += self.charge(order)
        return order

    def _posts(self, params: Mapping[str, str]) -> int:
        """Return how many posts a subscription is for; refuse what else is wrong with it."""
        words = "Incorrect request"
        if _number(params["delay"], words) not in self.delays:
            raise Refused(words)
        if params.get("expiry"):
            day, month, year = (
                _number(part, words) for part in (params["expiry"] + "//").split("/")[:3]
            )
            try:
                date(year, month, day)
            except ValueError:
                raise Refused(words) from None
        return _number(params.get("posts") or "0", words) or UNLIMITED

    def charge(self, order: Order) -> Decimal:
        """Return what the order costs as it stands now; partial orders are charged by share."""
        state = order.state(self.clock())
        if order.posts:
            return _price(order.row, state.done * order.size)
        if state.word == "canceled":
            return Decimal(0)
        return _price(order.row, state.done if state.word == "partial" else order.size)

    def balance(self) -> Decimal:
        """Return what is left on the account."""
        moving = sum((self.charge(one) for one in self._moving.values()), Decimal(0))
        return self.deposit - self._settled - moving

    def order(self, text: str) -> Order:
        """Return one of our orders."""
        if text not in self.orders:
            raise Refused("Incorrect order ID")
        return self.orders[text]

    def refill(self, text: str) -> Refill:
        """Take a refill for a finished order of a service that has refills."""
        order = self.order(text)
        finished = order.state(self.clock()).word in ("completed", "partial")
        if not order.row.refill or not finished:
            raise Refused("Refill is not available")
        refill = Refill(self.first_refill + len(self.refills), order, self.clock())
        self.refills[str(refill.id)] = refill
        return refill

    def refill_word(self, text: str) -> str:
        """Return how far a refill is."""
        if text not in self.refills:
            raise Refused("Refill not found")
        return self.refills[text].word(self.clock())

    def cancel(self, text: str) -> None:
        """Take a cancel; it comes true half a minute later."""
        order = self.order(text)
        if not order.row.cancel or order.state(self.clock()).ended:
            raise Refused("Cancel is not available")
        if order.canceled_at is not None:
            return
        if order.id not in self._moving:
            self._settled -= self.charge(order)
            self._moving[order.id] = order
        order.canceled_at = self.clock() + MINUTE / 2


def _size(row: Row, params: Mapping[str, str]) -> int:
    """Return how many units are ordered: of one run, or for one post."""
    if row.type in PACKAGES:
        return 1
    words = "Invalid quantity"
    if row.type == SUBSCRIPTIONS:
        sizes = [_number(params["min"], words), _number(params["max"], words)]
    elif "quantity" in NEEDS[row.type]:
        sizes = [_number(params["quantity"], words)]
    else:
        lines = params["comments" if "comments" in NEEDS[row.type] else "usernames"]
        sizes = [sum(1 for line in lines.split("\n") if line.strip())]
    if sizes != sorted(sizes) or not all(row.min <= size <= row.max for size in sizes):
        raise Refused(words)
    return sizes[-1]


def _runs(row: Row, params: Mapping[str, str]) -> int:
    """Return in how many runs the order is delivered."""
    runs = _number(params.get("runs") or "1", "Incorrect runs") or 1
    if runs > 1:
        if not row.dripfeed:
            raise Refused("Dripfeed is not supported by this service")
        _number(params.get("interval", ""), "Incorrect interval")
    return runs


def _price(row: Row, size: int) -> Decimal:
    if row.type in PACKAGES:
        return row.rate * size
    # Five decimals, as the panels show them; half up, as PHP rounds.
    return (row.rate * size / 1000).quantize(Decimal("0.00001"), ROUND_HALF_UP)


def _number(text: str, words: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
        raise Refused(words)
    return int(text)
