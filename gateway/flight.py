"""An order on its way to a provider: what it has taken up there, and who waits for it."""

import asyncio
import secrets

from gateway.line import Line, Place
from gateway.model import Order


class Flight:
    """One order under way, in this process.

    Attributes:
        sender: the mark by which this flight knows the order for its own.
        answered: the customer has the order's id, whatever comes; so the order may wait longer.
        waiting: it waits for a place, and nothing is lost if it is stopped.
        place: room for its call.
        not_after: when, on the event loop's clock, it is too late to write what was marked.

    """

    order: Order
    task: asyncio.Task[Order]

    def __init__(self, *, answered: bool = False) -> None:
        self.sender = secrets.token_hex(8)
        self.answered = answered
        self.waiting = False
        self.place: Place | None = None
        self.not_after = 0.0
        self._line: Line | None = None
        self._cost = 0

    def choose(self, line: Line, cost: int) -> None:
        """Turn to a provider: count on the cost there, and take a place if one is free."""
        if line is not self._line or cost != self._cost:
            self.turn_away()
            line.reserve(cost)
            self._line, self._cost = line, cost
        if self.place is None and (place := line.place_now()):
            self.enter(place)

    def reckon(self, cost: int) -> None:
        """Count on another cost at the provider, and keep the place there."""
        assert self._line is not None  # noqa: S101  # it has turned to one
        self._line.unreserve(self._cost, taken=False)
        self._line.reserve(cost)
        self._cost = cost

    def enter(self, place: Place) -> None:
        """Take a place; the order is to be written within the provider's timeout from now."""
        assert self._line is not None  # noqa: S101  # a place is at the provider that was chosen
        self.place = place
        self.not_after = asyncio.get_running_loop().time() + self._line.timeout

    @property
    def provider(self) -> str:
        """The provider that it has turned to."""
        return self._line.name if self._line else ""

    def turn_away(self, *, taken: bool = False, unused: bool = False) -> None:
        """Give up the place and what was counted on.

        ``taken``: the provider may have the order; ``unused``: it was not even asked.
        """
        if self.place:
            self.place.leave(unused=unused)
            self.place = None
        if self._line:
            self._line.unreserve(self._cost, taken=taken)
            self._line = None


class Aloft:
    """What this process has under way; it outlasts a change of the owner's file.

    Attributes:
        flights: by the ids of the orders.
        unsure: marks of orders that were not sent, and of which nobody knows if they were written,
            and since when.

    """

    def __init__(self) -> None:
        self.flights: dict[int, Flight] = {}
        self.unsure: dict[str, int] = {}
