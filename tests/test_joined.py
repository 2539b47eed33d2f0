"""Who asks at the same moment reads together, and never what was read before he asked."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.store.joined import Joined


class Books:
    """Balances that take a moment to be read."""

    def __init__(self) -> None:
        self.balance = 1
        self.reads: list[list[str]] = []
        self.fails = False

    async def read(self, keys: Sequence[str]) -> list[int]:
        self.reads.append(list(keys))
        found = [self.balance] * len(keys)
        await asyncio.sleep(0.01)
        if self.fails:
            raise OSError
        return found


async def test_who_asks_at_the_same_moment_reads_together() -> None:
    books = Books()
    joined = Joined(books.read)

    assert [1, 1, 1] == await asyncio.gather(*map(joined.read, ("ann", "bob", "ann")))
    assert [["ann", "bob"]] == books.reads


async def test_who_asks_while_a_read_is_under_way_waits_for_the_next() -> None:
    """What he has heard of since the first began is in it."""
    books = Books()
    joined = Joined(books.read)
    first = joined.read("ann")
    await asyncio.sleep(0)
    books.balance = 2
    second = joined.read("ann")

    assert (1, 2) == (await first, await second)


async def test_a_failure_is_everybodys_who_read_then_and_nobody_elses() -> None:
    books = Books()
    joined = Joined(books.read)
    books.fails = True
    failed = await asyncio.gather(*map(joined.read, "ab"), return_exceptions=True)
    books.fails = False

    assert [OSError, OSError] == [type(one) for one in failed]
    assert 1 == await joined.read("a")


async def test_who_goes_away_takes_nothing_from_the_others() -> None:
    joined = Joined(Books().read)
    leaves, stays = joined.read("ann"), joined.read("ann")
    leaves.cancel()

    assert 1 == await stays
    with pytest.raises(asyncio.CancelledError):
        await leaves
