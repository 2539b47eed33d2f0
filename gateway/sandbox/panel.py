"""A practice panel: its orders, which progress on a clock, and its books. No HTTP, no spelling.

What becomes of an order is chosen by a word in its link (or username), as test card numbers
choose what becomes of a payment; see README.md in this folder.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from gateway.sandbox.catalog import NEEDS, Row

MINUTE = 60.0
WHOLE = 10 * MINUTE
"""Seconds that an order takes at speed 1."""


class Refused(Exception):  # noqa: N818  # what the panel says, not a failure of it
    """The panel says no, in these words."""


@dataclass(frozen=True)
class State:
    """How far an order is, in the panel's own neutral words.

    ``done`` units of the order's size are delivered; more than the size when it overdelivers.
    """

    word: str
    done: int


@dataclass
class Order:
    """An order that the panel has taken."""

    id: int
    row: Row
    params: Mapping[str, str]
    size: int
    start_count: int
    taken_at: float
    canceled_at: float | None = None

    @property
    def target(self) -> str:
        """What the order is for; its words choose what becomes of it."""
        return self.params.get("link") or self.params.get("username", "")

    @property
    def runs(self) -> int:
        """How many runs a drip-feed has; 1 for any other order."""
        return int(self.params.get("runs") or 1)

    @property
    def posts(self) -> int:
        """How many posts a subscription is for."""
        return int(self.params.get("posts") or 0) or 1000

    def state(self, now: float) -> State:
        """Return how far the order is."""
        if self.canceled_at is not None and now >= self.canceled_at:
            before = self._own_course(self.canceled_at - self.taken_at)
            if before.word in ("completed", "canceled", "partial"):
                return before
            return State("partial" if before.done else "canceled", before.done)
        return self._own_course(now - self.taken_at)

    def _own_course(self, age: float) -> State:
        if self.row.type == "Subscriptions":
            posts = min(max(int((age - MINUTE) / (1.5 * MINUTE)), 0), self.posts)
            finished = posts == self.posts
            return State("completed" if finished else "active", posts)
        for word, course in COURSES.items():
            if word in self.target:
                return course(self.size, age)
        return _usual(self.size, age)


def _share(size: int, age: float) -> int:
    return int(size * Fraction(min(max(age - 2 * MINUTE, 0), WHOLE - 2 * MINUTE)) / (8 * 60))


def _usual(size: int, age: float) -> State:
    if age < MINUTE:
        return State("pending", 0)
    if age < 2 * MINUTE:
        return State("processing", 0)
    done = _share(size, age)
    return State("completed" if done >= size else "in progress", done)


def _partial(size: int, age: float) -> State:
    done = size - size * 3 // 10
    reached = _usual(size, age)
    return reached if reached.done < done else State("partial", done)


def _canceled(size: int, age: float) -> State:
    return State("canceled", 0) if age >= 3 * MINUTE else _usual(size, age)


def _late(size: int, age: float) -> State:
    if age < 12 * MINUTE:
        return _usual(size, age)
    if age < 15 * MINUTE:
        return State("partial", size // 2)
    return State("canceled", 0)


def _slow(size: int, age: float) -> State:
    return State("pending", 0) if age < 1000 * MINUTE else _usual(size, age - 1000 * MINUTE)


def _over(size: int, age: float) -> State:
    reached = _usual(size, age)
    return replace(reached, done=size + size // 20) if reached.word == "completed" else reached


def _odd(size: int, age: float) -> State:
    reached = _usual(size, age)
    return replace(reached, word="odd") if reached.word == "in progress" else reached


COURSES: dict[str, Callable[[int, float], State]] = {
    "late-cancel": _late,
    "slow-start": _slow,
    "overdeliver": _over,
    "odd-status": _odd,
    "partial": _partial,
    "cancel": _canceled,
}


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
    """One panel: a catalog, orders, refills, and an account with our money."""

    rows: dict[int, Row]
    deposit: Decimal
    clock: Callable[[], float]
    chance: random.Random
    first_order: int = 23501
    orders: dict[int, Order] = field(default_factory=dict)
    refills: dict[int, Refill] = field(default_factory=dict)

    def add(self, params: Mapping[str, str]) -> Order:
        """Take an order, or say why not."""
        row = self.rows.get(_number(params.get("service", ""), "Invalid service ID"))
        if row is None:
            raise Refused("Invalid service ID")
        for need in NEEDS[row.type]:
            if not params.get(need):
                raise Refused("Incorrect request")
        if " " in params.get("link", ""):
            raise Refused("Bad link")
        size = self._size(row, params)
        order = Order(
            id=self.first_order + len(self.orders),
            row=row,
            params=dict(params),
            size=size,
            start_count=self.chance.randrange(100, 9000),
            taken_at=self.clock(),
        )
        if row.type != "Subscriptions" and self._price(row, size) > self.balance():
            raise Refused("Not enough funds")
        self.orders[order.id] = order
        return order

    def _size(self, row: Row, params: Mapping[str, str]) -> int:
        if row.type in ("Package", "Custom Comments Package"):
            return 1
        if row.type == "Subscriptions":
            least = _number(params["min"], "Invalid quantity")
            most = _number(params["max"], "Invalid quantity")
            if not row.min <= least <= most <= row.max:
                raise Refused("Invalid quantity")
            return most * (int(params.get("posts") or 0) or 1000)
        if "quantity" in NEEDS[row.type]:
            size = _number(params["quantity"], "Invalid quantity")
        else:
            lines = params["comments" if "comments" in NEEDS[row.type] else "usernames"]
            size = sum(1 for line in lines.splitlines() if line.strip())
        if not row.min <= size <= row.max:
            raise Refused("Invalid quantity")
        runs = _number(params.get("runs") or "1", "Incorrect runs")
        if runs > 1:
            if not row.dripfeed:
                raise Refused("Dripfeed is not supported by this service")
            _number(params.get("interval") or "x", "Incorrect interval")
        return size * max(runs, 1)

    def _price(self, row: Row, size: int) -> Decimal:
        if row.type in ("Package", "Custom Comments Package"):
            return row.rate
        # Five decimals, as the panels show them; half up, as PHP rounds.
        return (row.rate * size / 1000).quantize(Decimal("0.00001"), ROUND_HALF_UP)

    def charge(self, order: Order) -> Decimal:
        """Return what the order costs as it stands now; partial orders are charged by share."""
        state = order.state(self.clock())
        if order.row.type == "Subscriptions":
            return self._price(order.row, state.done * int(order.params["max"]))
        if state.word == "canceled":
            return Decimal(0)
        size = state.done if state.word == "partial" else order.size
        return self._price(order.row, min(size, order.size))

    def balance(self) -> Decimal:
        """Return what is left on the account."""
        return self.deposit - sum((self.charge(one) for one in self.orders.values()), Decimal(0))

    def order(self, text: str) -> Order:
        """Return one of our orders."""
        found = self.orders.get(int(text)) if text.isascii() and text.isdigit() else None
        if found is None:
            raise Refused("Incorrect order ID")
        return found

    def refill(self, text: str) -> Refill:
        """Take a refill for a completed order of a service that has refills."""
        order = self.order(text)
        finished = order.state(self.clock()).word in ("completed", "partial")
        if not order.row.refill or not finished:
            raise Refused("Refill is not available")
        refill = Refill(9871 + len(self.refills), order, self.clock())
        self.refills[refill.id] = refill
        return refill

    def refill_word(self, text: str) -> str:
        """Return how far a refill is."""
        found = self.refills.get(int(text)) if text.isascii() and text.isdigit() else None
        if found is None:
            raise Refused("Refill not found")
        return found.word(self.clock())

    def cancel(self, text: str) -> Order:
        """Take a cancel; it comes true half a minute later."""
        order = self.order(text)
        running = order.state(self.clock()).word not in ("completed", "partial", "canceled")
        if not order.row.cancel or not running:
            raise Refused("Cancel is not available")
        if order.canceled_at is None:
            order.canceled_at = self.clock() + MINUTE / 2
        return order


def _number(text: str, words: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise Refused(words)
    return int(text)
