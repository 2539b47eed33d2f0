"""Event loops whose time passes only when nobody has anything to do: days in milliseconds.

Several loops may share one ``Time``: each is then a process of its own on the same clock, and one
that is not being run is stopped, as by SIGSTOP, until it is run again.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START = 1_800_000_000_000


class Time:
    """Seconds that have passed."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> int:
        """Return the time of day, in milliseconds."""
        return START + round(self.passed * 1000)


class _Selector(selectors.DefaultSelector):
    """Does not wait: what it would have waited has passed."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now."""
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if not found and timeout:
            self._time.passed += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, or on one that it shares; it knows no threads."""

    def __init__(self, time: Time | None = None) -> None:
        self.clock = time or Time()
        super().__init__(_Selector(self.clock))

    def time(self) -> float:
        """Return the seconds that have passed."""
        return self.clock.passed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until this is done."""
        return self.run_until_complete(work)

    def run_for(self, seconds: float) -> None:
        """Run for so long."""
        self.run_until_complete(asyncio.sleep(seconds))
