"""What the owner's file allows, compared with what each process does at its providers.

What a process cannot know is not held against it: what others have done within the last second,
or while it was stopped.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping

from gateway.background import LOOK_FOR_NEWS
from gateway.config import Provider
from gateway.model import Order, State
from gateway.money import MILLION, text

HAIR = 0.1
"""Seconds that a process takes at the most from one thing to the next."""
NEWS = LOOK_FOR_NEWS + HAIR
"""Seconds for which a process need not know what others have done."""


class Calls:
    """The calls of one process, and when it was stopped.

    Each method that takes note of something returns what is wrong with it; empty: nothing.
    """

    def __init__(self, allowed: Mapping[str, Provider], clock: Callable[[], float]) -> None:
        self._allowed = allowed
        self._clock = clock
        self._stopped_at = self._awake_since = clock()
        self._open: Counter[str] = Counter()
        self._begun: dict[str, deque[float]] = {}

    def stop(self) -> None:
        """It does nothing from now on."""
        if self._clock() - self._awake_since >= NEWS:  # else it has not learnt anything new
            self._stopped_at = self._clock()

    def go_on(self) -> None:
        """It does again what it did."""
        self._awake_since = self._clock()

    def knows_until(self) -> float:
        """Return up to when it has to know what others have done, in seconds on the clock."""
        now = self._clock()
        return (self._stopped_at if now - self._awake_since < NEWS else now) - NEWS

    def begin(self, provider: str) -> str:
        """Take note of a call that begins now."""
        limits = self._allowed[provider].limits
        self._open[provider] += 1
        if self._open[provider] > limits.concurrency:
            return f"{provider} is asked {self._open[provider]} things at once by one process"
        # Those that had their turn before a pause come after it all at once.
        since = max(self._clock() - 1, self._awake_since) + HAIR
        lately = self._begun.setdefault(provider, deque())
        lately.append(self._clock())
        while lately and lately[0] < since:
            lately.popleft()
        if limits.per_second is not None and len(lately) > limits.per_second:
            return f"{provider} is asked {len(lately)} times within a second by one process"
        return ""

    def end(self, provider: str) -> None:
        """Take note of the end of one."""
        self._open[provider] -= 1


class Risk:
    """What is with providers and not settled: never more than ``max_unsettled``."""

    def __init__(self, allowed: Mapping[str, Provider], clock: Callable[[], float]) -> None:
        self._allowed = allowed
        self._clock = clock
        self._marked: dict[int, tuple[Calls, float]] = {}

    def mark(self, marked: Collection[Order], orders: Collection[Order], process: Calls) -> str:
        """Take note of what a process is about to send; returns what is wrong with that."""
        now, known_until = self._clock(), process.knows_until()
        self._marked |= {order.id: (process, now) for order in marked}
        at_risk: Counter[str] = Counter()
        for order in orders:
            by, at = self._marked.get(order.id, (process, now))
            if _at_risk(order) and (by is process or at <= known_until):
                at_risk[order.provider] += order.cost
        for provider in {order.provider: None for order in marked}:
            most = self._allowed[provider].max_unsettled
            if most is not None and at_risk[provider] > most * MILLION:
                return f"{text(at_risk[provider])} is at risk at {provider}, of at most {most}"
        return ""


def _at_risk(order: Order) -> bool:
    undecided = order.state in (State.SENDING, State.UNKNOWN)
    return undecided or (order.state is State.PLACED and order.settled_at is None)
