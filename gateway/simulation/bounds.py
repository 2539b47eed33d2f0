"""What the owner's file allows, compared with what each process does at its providers."""

from collections import Counter, deque
from collections.abc import Callable, Mapping

from gateway.config import Provider

HAIR = 0.1
"""Seconds that a process takes at the most from one thing to the next."""


class Calls:
    """The calls of one process, and since when it has been at work without a pause.

    Each method that takes note of something returns what is wrong with it; empty: nothing.
    """

    def __init__(self, allowed: Mapping[str, Provider], clock: Callable[[], float]) -> None:
        self._allowed = allowed
        self._clock = clock
        self._awake_since = clock()
        self._open: Counter[str] = Counter()
        self._begun: dict[str, deque[float]] = {}

    def go_on(self) -> None:
        """Take note that it was stopped, and goes on."""
        self._awake_since = self._clock()

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
