"""Heavy work off the event loop, one piece at a time.

A thread that computes takes turns with the event loop: with one such thread a request waits for a
turn of a few milliseconds, with many for many of them. So all that reads and compares catalogs
goes through one, and what customers wait for through another, since it takes a second until the
first has done with a few catalogs.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Many: TypeAlias = dict[Any, Any] | list[Any] | set[Any]

SMALL = 500
"""Rows of a list that are judged or written out on the event loop itself: some milliseconds."""

TURN = 0.001
"""Seconds that a thread computes while the event loop waits for its turn."""

HUMBLE = 5
"""By how much such a thread is nicer than the others: on one core it gets a quarter of it while
the event loop has work, and all of it as soon as that waits. Where other processes want that core
all the time the loop pays for it, since it may wait for an interpreter whose holder they keep
waiting; that is the rarer case, and costs less than is gained in the other."""


def _be_humble() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(HUMBLE)


_catalogs = ThreadPoolExecutor(1, "catalogs", initializer=_be_humble)
_answers = ThreadPoolExecutor(1, "answers", initializer=_be_humble)


async def offload(work: Callable[[], T], size: int) -> T:
    """Do some work, apart if it is about more than a few things; returns its result."""
    return work() if size <= SMALL else await apart(work)


async def answer(work: Callable[[], T], size: int) -> T:
    """Do some work that a customer waits for: apart if it is large, but behind no catalog."""
    return work() if size <= SMALL else await soon(work)


async def soon(work: Callable[[], T]) -> T:
    """Do some work apart that somebody waits for, behind no catalog."""
    return await apart(work, _answers)


async def apart(work: Callable[[], T], thread: Executor = _catalogs) -> T:
    """Do some work in a thread, after what is there already."""
    with gently():
        return await asyncio.get_running_loop().run_in_executor(thread, work)


def free(*many: Many) -> None:
    """Free many things by and by: to free all at once is one step, which everybody waits for."""
    for things in many:
        while things:
            if isinstance(things, list):
                del things[-SMALL:]
            elif isinstance(things, dict):
                things.popitem()
            else:
                things.pop()


async def let_go(*many: Many) -> None:
    """Free many things, apart."""
    await offload(partial(free, *many), sum(map(len, many)))


@contextmanager
def gently() -> Iterator[None]:
    """Let the event loop have its turn sooner for as long as something heavy is under way.

    Nor does the collector run, which would go through a million new things in one pause; nothing
    that catalogs are made of needs it.
    """
    _Turns.heavy += 1
    gc.disable()
    sys.setswitchinterval(TURN)
    try:
        yield
    finally:
        _Turns.heavy -= 1
        if not _Turns.heavy:
            sys.setswitchinterval(_Turns.usual)
            gc.enable()


class _Turns:
    heavy = 0
    usual = sys.getswitchinterval()
