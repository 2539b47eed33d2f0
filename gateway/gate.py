"""How many may be inside at once, and how many may enter in a second; first come, first served."""

import asyncio
from collections import deque

SECOND = 1.0
HAIR = 1e-6
"""The part of a second that does not count: a timer may be early by a step of the clock."""


FAVOR = 4
"""Calls that come first before one of the others is let in, so that none waits for ever."""


class Gate:
    """Lets in whoever may enter now, and the others in the order in which they came.

    Args:
        most: how many may be inside at once.
        per_second: how many may enter within any second; ``None``: any number.

    """

    def __init__(self, most: int, per_second: int | None = None) -> None:
        self._free = most
        self._per_second = per_second
        self._entered: deque[float] = deque(maxlen=per_second or 0)  # the last ones, and when
        self._first: deque[asyncio.Future[float]] = deque()
        self._others: deque[asyncio.Future[float]] = deque()
        self._favored = 0
        self._timer: asyncio.TimerHandle | None = None

    def enter_now(self) -> float | None:
        """Enter if that is possible without waiting, and without passing those who wait.

        Returns when that was, on the event loop's clock.
        """
        if self._first or self._others or not self._free or self._wait():
            return None
        return self._take()

    async def enter(self, *, first: bool = False) -> float:
        """Wait until there is room; returns when that was.

        ``first``: before those who are not so urgent.
        """
        if (entered := self.enter_now()) is not None:
            return entered
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        (self._first if first else self._others).append(turn)
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave(unused=turn.result())  # it was let in, and has gone
            raise

    def leave(self, *, unused: float | None = None) -> None:
        """Make room for the next; ``unused``: as if whoever entered then had not."""
        self._free += 1
        if unused is not None and unused in self._entered:
            self._entered.remove(unused)
        self._admit()

    def _admit(self) -> None:
        while (self._first or self._others) and self._free:
            if seconds := self._wait():
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(seconds, self._again)
                return
            turn = self._next().popleft()
            if not turn.cancelled():  # who has given up is passed over
                turn.set_result(self._take())

    def _next(self) -> deque[asyncio.Future[float]]:
        favored = self._first and (self._favored < FAVOR or not self._others)
        self._favored = self._favored + 1 if favored else 0
        return self._first if favored else self._others

    def _again(self) -> None:
        self._timer = None
        self._admit()

    def _take(self) -> float:
        self._free -= 1
        now = asyncio.get_running_loop().time()
        self._entered.append(now)
        return now

    def _wait(self) -> float:
        """Return the seconds until the pace lets somebody in."""
        if self._per_second is None or len(self._entered) < self._per_second:
            return 0.0
        left = self._entered[0] + SECOND - asyncio.get_running_loop().time()
        return left if left > HAIR else 0.0
