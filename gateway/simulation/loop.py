"""Event loops on one clock that nobody waits for, each of them a process.

A loop does one thing at a time when it is told to: a *step* is one callback, which is what happens
between two awaits. Time passes when no loop has anything left to do now. So a process is killed
by never stepping its loop again, and stopped, as by SIGSTOP, by not stepping it for a while; none
of its clean-up gets a chance to run. With the same seed, everything happens in the same order.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

START = 1_800_000_000_000
"""When every simulation begins, in milliseconds."""
HAIR = 0.0001
"""Seconds that a step takes."""
PATIENCE = 10_000
"""Steps that a loop gets to come to its end when everything is over."""


class Standstill(Exception):
    """No loop has anything to do, now or later."""


class Clock:
    """Seconds since the beginning; they pass when the scheduler says so."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        """Return the seconds since the beginning."""
        return self.passed

    def now(self) -> int:
        """Return the time of day in milliseconds, as the gateway takes it."""
        return START + round(self.passed * 1000)


class Loop(asyncio.BaseEventLoop):
    """An event loop that is stepped from outside; it knows neither files nor threads.

    Attributes:
        stopped: whether it does nothing for a while, or for ever.
        steps: how many steps it has done.
        wrong: what was raised and nobody took.

    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.stopped = False
        self.steps = 0
        self.wrong: list[str] = []
        self._clock = clock
        self._count = itertools.count()
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- for asyncio ------------------------------------------------------------------------

    def time(self) -> float:
        """Return the seconds on the clock that all loops share."""
        return self._clock.passed

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        """Do this in one of the next steps, in the order of asking."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Do this after so many seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Do this when the clock has come so far."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._count), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Start a coroutine; the loop holds on to it until it has ended."""
        task = super().create_task(coro, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def get_debug(self) -> bool:
        """Tell asyncio that nobody debugs it."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember what was raised and nobody took."""
        self.wrong.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asyncio says so; the handle is passed over when its time comes."""

    # --- for the scheduler ------------------------------------------------------------------

    def busy(self) -> bool:
        """Tell whether there is something to do at this moment."""
        while self._timers and self._timers[0][0] <= self._clock.passed:
            self._ready.append(heapq.heappop(self._timers)[2])
        while self._ready and self._ready[0].cancelled():
            self._ready.popleft()
        return bool(self._ready)

    def next_at(self) -> float | None:
        """Return when there will be something to do, if ever."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def step(self) -> None:
        """Do one thing."""
        self.steps += 1
        events._set_running_loop(self)  # noqa: SLF001  # asyncio's own door for other loops
        try:
            self._ready.popleft()._run()  # noqa: SLF001  # as every loop does
        finally:
            events._set_running_loop(None)  # noqa: SLF001

    def end(self) -> None:
        """Let every task end, when what they do no longer matters."""
        for _ in range(PATIENCE):
            for task in [one for one in self._tasks if not one.cancelling()]:
                task.cancel()
            if not self.busy():
                break
            self.step()
        self.close()


class Scheduler:
    """Steps all loops; of those that have something to do, chance chooses the next."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self.loops: list[Loop] = []
        self._clock = clock
        self._chance = chance

    def turn(self) -> Loop:
        """Do one step of one loop, letting time pass until there is one; returns the loop."""
        while True:
            busy = [one for one in self.loops if not one.stopped and one.busy()]
            if busy:
                loop = busy[0] if len(busy) == 1 else self._chance.choice(busy)
                self._clock.passed += HAIR
                loop.step()
                return loop
            times = [at for one in self.loops if not one.stopped and (at := one.next_at())]
            if not times:
                raise Standstill
            self._clock.passed = max(self._clock.passed, min(times))


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    with contextlib.closing(work):
        try:
            work.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
    raise RuntimeError("it waits for something")
