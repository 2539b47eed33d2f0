"""The first try of a commit: from memory, without a look at what is there.

An order is mostly taken further by whoever has just written it. What he remembers is most likely
still so, and a balance most likely covers what moves; so everything is worked out on these
grounds, and written under guards by which all of it is written or nothing. What cannot be decided
like that is left to those who look.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from gateway.errors import ErrorText
from gateway.model import Order
from gateway.store import Placed
from gateway.store.page import Entry, Found, Page

REMEMBERED = 5000
"""Orders that are remembered, those that were written last."""


class Memory:
    """What a process has written lately, of which others may have made something else.

    Attributes:
        short: customers whose last order was not covered.

    """

    def __init__(self) -> None:
        self.orders: OrderedDict[int, Order] = OrderedDict()
        self.short: set[int] = set()

    def remember(self, order: Order) -> None:
        """Remember an order as it is now."""
        self.orders[order.id] = order
        self.orders.move_to_end(order.id)
        if len(self.orders) > REMEMBERED:
            self.orders.popitem(last=False)

    def clear(self) -> None:
        """Forget all orders: what was written last was not."""
        self.orders.clear()

    def learn(self, entry: Entry, outcomes: Sequence[Any]) -> None:
        """Remember what an operation has come to."""
        for later in entry.later:
            self.orders.pop(later.order, None)
        if entry.steps:
            for order in outcomes:
                if isinstance(order, Order):
                    self.remember(order)
        elif entry.placements:
            for new, placed in zip(entry.placements, outcomes, strict=True):
                if isinstance(placed, Placed):
                    self.remember(placed.order)
                    self.short.discard(new.customer)
                elif placed is ErrorText.NOT_ENOUGH_FUNDS:
                    self.short.add(new.customer)


class Attempt:
    """What becomes of a list without a look; false where there is no point in trying.

    Attributes:
        entries: those that are tried, by their places in the list.
        found: what it is worked out on. Whoever writes it puts ids for ``new`` orders there, and
            reads the orders that are ``unknown``.

    """

    def __init__(self, entries: Sequence[Entry], memory: Memory) -> None:
        self._memory = memory
        self.entries = {place: entry for place, entry in enumerate(entries) if self._hopeful(entry)}
        steps = [step for entry in self.entries.values() for step in entry.steps]
        self._steps = {step.order for step in steps}
        self.new = sum([len(entry.placements) for entry in self.entries.values()])
        orders = {step.order: step.seen for step in steps if step.seen}
        for order in self._steps & memory.orders.keys():
            known = memory.orders[order]
            if order not in orders or orders[order].version < known.version:
                orders[order] = known
        self.unknown = self._steps - orders.keys()
        leases = (entry.under for entry in self.entries.values() if entry.under)
        fences = {lease.name: lease.fence for lease in leases}
        self.found = Found(optimistic=True, orders=orders, fences=fences)

    def __bool__(self) -> bool:
        return bool(self.entries)

    def forget(self) -> None:
        """Forget what it was worked out on; nothing of it was written."""
        for order in self._steps:
            self._memory.orders.pop(order, None)

    def work_out(self) -> tuple[Page, dict[int, list[Any]]]:
        """Go through the entries until only such are left as can be written.

        Returns the page of these, and their outcomes by their places in the list.
        """
        places = list(self.entries)
        while True:
            page = Page(self.found)
            outcomes = {}
            for place in places:
                try:
                    made = page.do(self.entries[place])
                except Exception:  # noqa: BLE001, S112  # those who look will find the same
                    continue
                if page.missing() is None and self._certain(made):
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

    def _certain(self, outcomes: Sequence[Any]) -> bool:
        """Tell whether all of it is written; of what is not written nobody knows if it is so."""
        for outcome in outcomes:
            if isinstance(outcome, Placed):
                if not outcome.fresh:
                    return False
            elif not isinstance(outcome, Order) or outcome is self.found.orders.get(outcome.id):
                return False
        return True
