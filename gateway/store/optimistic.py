"""The first try of a commit: from memory, without a look at what is there.

An order is mostly taken further by whoever has just written it. What he remembers is most likely
still so, and a balance most likely covers what moves; so everything is worked out on these
grounds, and written under guards by which all of it is written or nothing. What cannot be decided
like that is left to those who look.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.errors import ErrorText
from gateway.model import Order
from gateway.store import Placed, Placement
from gateway.store.page import Entry, Found, Page

REMEMBERED = 5000
"""About how many orders are remembered, half of them for sure: those that were written last."""


class Memory:
    """What a process has written lately, of which others may have made something else.

    Attributes:
        short: customers whose last order was not covered.

    """

    def __init__(self) -> None:
        self._orders: dict[int, Order] = {}
        self._older: dict[int, Order] = {}  # unless they are among those
        self.short: set[int] = set()

    def get(self, order: int) -> Order | None:
        """Return an order as it was written last, if it is remembered."""
        return self._orders.get(order) or self._older.get(order)

    def remember(self, orders: Mapping[int, Order]) -> None:
        """Remember orders as they are now."""
        self._orders |= orders
        if len(self._orders) > REMEMBERED // 2:
            self._orders, self._older = {}, self._orders

    def forget(self, orders: Iterable[int]) -> None:
        """Forget orders that may be otherwise."""
        for order in orders:
            self._orders.pop(order, None)
            self._older.pop(order, None)

    def clear(self) -> None:
        """Forget all orders: what was written last was not."""
        self._orders, self._older = {}, {}

    def learn(self, entry: Entry, outcomes: Sequence[Any]) -> None:
        """Remember what an operation has come to."""
        self.forget(later.order for later in entry.later)
        if entry.steps:
            self.remember({one.id: one for one in outcomes if isinstance(one, Order)})
        elif entry.placements:
            for new, placed in zip(entry.placements, outcomes, strict=True):
                if isinstance(placed, Placed):
                    self.remember({placed.order.id: placed.order})
                    self.short.discard(new.customer)
                elif placed is ErrorText.NOT_ENOUGH_FUNDS:
                    self.short.add(new.customer)


class Attempt:
    """What becomes of a list without a look; false where there is no point in trying.

    Attributes:
        entries: those that are tried, by their places in the list.
        placements: the new orders of these.
        found: what it is worked out on. Whoever writes it puts ids for new orders there, and
            reads the orders that are ``unknown``.

    """

    def __init__(self, entries: Sequence[Entry], memory: Memory) -> None:
        self._memory = memory
        self.entries = {place: entry for place, entry in enumerate(entries) if self._hopeful(entry)}
        self.placements: list[Placement] = []
        self.unknown: set[int] = set()
        self.found = found = Found(optimistic=True)
        for entry in self.entries.values():
            self.placements += entry.placements
            if entry.under:
                found.fences[entry.under.name] = entry.under.fence
            for step in entry.steps:
                known = found.orders.get(step.order) or memory.get(step.order)
                if known is None or (step.seen and step.seen.version >= known.version):
                    known = step.seen
                if known:
                    found.orders[step.order] = known
                else:
                    self.unknown.add(step.order)
        self.unknown -= found.orders.keys()

    def __bool__(self) -> bool:
        return bool(self.entries)

    def remember(self, page: Page) -> None:
        """Remember a page that was written."""
        self._memory.forget([later.order for later in page.later])
        self._memory.remember(page.changed)

    def forget(self) -> None:
        """Forget what it was worked out on; nothing of it was written."""
        self._memory.forget(self.found.orders)

    def work_out(self) -> tuple[Page, dict[int, list[Any]]]:
        """Go through the entries until only such are left as can be written.

        Returns the page of these, and their outcomes by their places in the list.
        """
        places = list(self.entries)
        while True:
            page = Page(self.found)
            outcomes = {}
            for place in places:
                before = page.changes
                try:
                    made = page.do(self.entries[place])
                except Exception:  # noqa: BLE001, S112  # those who look will find the same
                    continue
                # Of what changes nothing nobody knows if it is so.
                if page.changes - before == len(made) and page.missing() is None:
                    outcomes[place] = made
            if len(outcomes) == len(places):
                return page, outcomes
            places = list(outcomes)

    def _hopeful(self, entry: Entry) -> bool:
        """Tell whether there is a point in trying."""
        for new in entry.placements:
            if new.cap is not None or new.customer in self._memory.short:
                return False
        return not entry.transfers
