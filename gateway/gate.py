"""How many may be inside at once, and how many may enter in a second; first come, first served."""

import asyncio
from collections import deque

HAIR = 1e-6
"""The part of an entry that does not count: a timer may be early by a step of the clock."""


class Gate:
    """Lets in whoever may enter now, and the others in the order in which they came.

    Args:
        most: how many may be inside at once.
        per_second: how many may enter in a second, which is also how many may enter together
            after a pause; ``None``: any number.

    """

    def __init__(self, most: int, per_second: int | None = None) -> None:
        self._free = most
        self._per_second = per_second
        self._level = 0.0  # a bucket that every entry fills and that time empties
        self._level_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def enter_now(self) -> bool:
        """Enter if that is possible without waiting, and without passing those who wait."""
        if self._waiting or not self._free or self._wait():
            return False
        self._take()
        return True

    async def enter(self) -> None:
        """Wait until there is room."""
        if self.enter_now():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was let in, and has gone
            else:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Make room for the next."""
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._free:
            if seconds := self._wait():
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(seconds, self._again)
                return
            turn = self._waiting.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)

    def _again(self) -> None:
        self._timer = None
        self._admit()

    def _take(self) -> None:
        self._free -= 1
        self._level += 1

    def _wait(self) -> float:
        """Return the seconds until the pace lets somebody in."""
        if self._per_second is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._level = max(self._level - (now - self._level_at) * self._per_second, 0.0)
        self._level_at = now
        over = self._level + 1 - self._per_second
        return over / self._per_second if over > HAIR else 0.0
