"""Heavy work off the event loop, one piece at a time.

A thread that computes takes turns with the event loop: with one such thread a request waits for a
turn of a few milliseconds, with many for many of them. So all that reads, compares and writes out
catalogs goes through one.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

SMALL = 500
"""Rows of a list that are judged or written out on the event loop itself: some milliseconds."""

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy")


async def offload(work: Callable[[], T], size: int) -> T:
    """Do some work, apart if it is about more than a few things; returns its result."""
    return work() if size <= SMALL else await apart(work)


async def apart(work: Callable[[], T]) -> T:
    """Do some work in the thread, after what is there already."""
    return await asyncio.get_running_loop().run_in_executor(_thread, work)
