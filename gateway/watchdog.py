"""How long the event loop is held: measured always, said when it is long, with where it was.

One loop does everything in turn, so whoever computes or blocks in it holds all the others. A beat
in the loop measures how late it comes: a pause of the loop is a beat that comes late by as much,
less what was left until it was due. So it is due every 10 ms while the loop has work, and seldom
while it has none, when each would wake a sleeping processor. A thread of its own looks only when a
beat is overdue, and then notes what the loop is busy with: names of functions, and no value.
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from gateway.logs import Seldom
from gateway.metrics import loop_lag

OFTEN, SELDOM = 0.01, 0.2
"""Seconds between two beats of a loop that has work, and of one that has none."""
BUSY = 0.03
"""The share of its time that a loop computes when it has work."""
STAYS_BUSY = 2.0
"""Seconds for which a loop that had work is taken to have some; then it is seen whether it still
has. That is judged between two seldom beats alone: a processor that was asleep takes so long over
a hundred of them in a second that they would look like work, and so go on for ever. A pause in
that one interval out of two seconds looks shorter than it is."""
NOTED = 0.01
"""Seconds of lateness from which on it is noted where the loop is, and told to who debugs."""
LONG = 0.1
"""Seconds that are worth a warning, as asyncio's own debugging has it."""
DEPTH = 6
"""Functions that are named of a stack, from the innermost outwards."""
BENEATH = frozenset(
    {"asyncio.base_events", "asyncio.events", "asyncio.runners", "concurrent.futures.thread"}
    | {"queue", "threading"}
)
"""Modules that are below whatever a loop or a thread does, or that wait for something to do."""
IDLE = "nothing: it waits for its turn"
"""Where a loop is that something else keeps from going on, such as a thread that computes."""

log = structlog.get_logger()


@contextmanager
def watching() -> Iterator[None]:
    """Watch the running event loop for as long as the context lasts."""
    watchdog = _Watchdog(asyncio.get_running_loop())
    try:
        yield
    finally:
        watchdog.stop()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._ended = False
        self._seen: dict[str, str] = {}
        self._warning = Seldom()
        self._collecting = self._collected = 0.0
        self._at, self._spent = time.perf_counter(), time.thread_time()
        self._every, self._busy_until = SELDOM, 0.0
        self._due = self._at
        self._beat()
        gc.callbacks.append(self._collect)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Beat no more; the thread ends when it next looks."""
        self._ended = True
        self._timer.cancel()
        gc.callbacks.remove(self._collect)

    def _beat(self) -> None:
        now, spent = time.perf_counter(), time.thread_time()
        late, cpu = max(now - self._due, 0.0), spent - self._spent
        if self._every == SELDOM and cpu > BUSY * (now - self._at):
            self._busy_until = now + STAYS_BUSY
        self._every = OFTEN if now < self._busy_until else SELDOM
        self._at, self._spent, self._due = now, spent, now + self._every
        self._timer = self._loop.call_later(self._every, self._beat)
        loop_lag.observe(late)
        if late >= NOTED:
            self._tell(late, cpu)
        self._collected = 0.0

    def _tell(self, late: float, cpu: float) -> None:
        """Say how late the loop is and where it was, and what it computed since the last beat.

        Little computing in a long pause: it blocked, or a thread beside it computed, or the
        machine had no time for us. ``gc_ms`` is the garbage collector's part, wherever it ran.
        """
        times = {"ms": late, "cpu_ms": cpu, "gc_ms": self._collected}
        said = {name: round(seconds * 1000) for name, seconds in times.items()} | self._seen
        self._seen = {}
        if late < LONG:
            log.debug("the event loop was held", **said)
        else:
            self._warning.log(log.warning, "the event loop was held", **said)

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        """Add up what the garbage collector takes, in whichever thread: all others wait for it."""
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected += time.perf_counter() - self._collecting

    def _watch(self) -> None:
        """Look where the loop is when a beat is overdue, and again at twice the time."""
        overdue, patience = 0.0, NOTED
        while not self._ended:
            due = self._due
            if due != overdue:
                overdue, patience = due, NOTED
            left = due + patience - time.perf_counter()
            if left > 0:
                time.sleep(left)
            else:
                seen = _looked(self._thread)
                if due == self._due:  # else it has gone on meanwhile
                    self._seen = seen
                patience *= 2


def _looked(loop: int) -> dict[str, str]:
    """Return where the loop's thread is, and what computes beside it.

    A thread that computes can hold the loop as well, inside of a single step that gives up
    nothing until it is done.
    """
    frames = sys._current_frames()  # noqa: SLF001  # its documented name
    found = {"where": _stack(frames.pop(loop)) or IDLE} if loop in frames else {}
    frames.pop(threading.get_ident())
    working = filter(None, map(_stack, frames.values()))
    return found | {"beside": "; ".join(working)}


def _stack(innermost: FrameType) -> str:
    """Return the names of a stack's functions, the innermost first; empty if it only waits."""
    names: list[str] = []
    frame: FrameType | None = innermost
    while frame and len(names) < DEPTH:
        module, code = frame.f_globals.get("__name__"), frame.f_code
        if module in BENEATH:
            break
        names.append(f"{module}.{code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names)
