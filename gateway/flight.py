"""An order on its way to a provider: what it has taken up there, and who waits for it."""

import asyncio
import itertools
import secrets

from gateway.line import Admission, Line, Place
from gateway.model import Order


class Flight:
    """One order under way, in this process.

    Attributes:
        sender: the mark by which this flight knows the order for its own.
        answered: the customer has the order's id, whatever comes; so the order may wait longer.
        waiting: it waits for a place, and nothing is lost if it is stopped.
        admission: what it has taken up at the provider that it has turned to.

    """

    order: Order
    task: asyncio.Task[None]

    def __init__(self, sender: str, *, answered: bool = False) -> None:
        self.sender = sender
        self.answered = answered
        self.waiting = False
        self.admission: Admission | None = None

    def choose(self, line: Line, cost: int) -> Admission:
        """Turn to a provider: be admitted there, and take a place if one is free.

        Raises ``Unreachable`` when the provider can't have an order of this cost now.
        """
        if self.admission and self.admission.line is line:
            self.admission.reckon(cost)
        else:
            self.turn_away()
            self.admission = line.admit(cost)
        if self.admission.place is None:
            self.admission.place = line.place_now()
        return self.admission

    @property
    def place(self) -> Place | None:
        """Room for its call, if it has any."""
        return self.admission.place if self.admission else None

    @property
    def provider(self) -> str:
        """The provider that it has turned to."""
        return self.admission.line.name if self.admission else ""

    async def landed(self, until: float) -> None:
        """Wait for its end, but no longer than until then, on the event loop's clock."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def end(_: object = None) -> None:
            if not over.done():
                over.set_result(None)

        # What ``asyncio.wait`` does for one task alone, at a third of its cost.
        timer = loop.call_at(until, end)
        self.task.add_done_callback(end)
        try:
            await over
        finally:
            timer.cancel()
            self.task.remove_done_callback(end)

    def turn_away(self, *, taken: bool = False, unused: bool = False) -> None:
        """Give up what it has taken up; see ``Admission.end``."""
        if self.admission:
            self.admission.end(taken=taken, unused=unused)
            self.admission = None


class Aloft:
    """What this process has under way; it outlasts a change of the owner's file.

    Attributes:
        flights: by the ids of the orders.
        unsure: marks of orders that were not sent, and of which nobody knows if they were written,
            and when they were first looked for.

    """

    def __init__(self) -> None:
        self.flights: dict[int, Flight] = {}
        self.unsure: dict[str, int] = {}
        # A number for each is enough beside what nobody else has; to draw each one costs ten times
        # as much, and the turn of the interpreter besides.
        self._own = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def flight(self, *, answered: bool = False) -> Flight:
        """Return a new flight, under a mark that no other flight has, in whatever process."""
        return Flight(f"{self._own}-{next(self._numbers)}", answered=answered)
