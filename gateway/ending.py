"""The end of tasks: each within bounds, whatever it waits for; and it is said if it has not come.

A cancel is only asked for. A library may take it for a time limit of its own that ends at the same
moment, and a task may wait, on its way out, for a server that does not answer any more. Whoever
waited for that would never end himself.
"""

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any

import structlog

ENDING = 3.0
"""Seconds that a task has to end when it is told to."""
AGAIN = 1.0
"""Seconds after which one that goes on is told again."""

log = structlog.get_logger()


async def end(tasks: Iterable[asyncio.Task[Any]], within: float = ENDING) -> None:
    """Cancel tasks and wait for their end, for so many seconds at most.

    What goes on after that is left to itself, and the log says which it is and where; it also says
    which of them failed.
    """
    clock = asyncio.get_running_loop().time
    every = set(tasks)
    left = {task for task in every if not task.done()}
    until = clock() + within
    while left and (rest := until - clock()) > 0:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=min(AGAIN, rest))
    for task in left:
        log.error("a task does not end", task=task.get_name(), where=_where(task))
    for task in every - left:
        if not task.cancelled() and (failure := task.exception()):
            log.error("a task failed", task=task.get_name(), exc_info=failure)


def _where(task: asyncio.Task[Any]) -> str:
    """Return what a task waits in, the innermost function first: names, and no value."""
    names: list[str] = []
    one: Any = task.get_coro()
    while inspect.iscoroutine(one):
        names.insert(0, f"{one.__qualname__}:{one.cr_frame.f_lineno if one.cr_frame else 0}")
        one = one.cr_await
    return " < ".join(names)
