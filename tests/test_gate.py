"""The gate before a provider: first come first served, and never more than was agreed."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.gate import HAIR, Gate
from virtual import VirtualLoop

LOOPS = {"virtual": VirtualLoop}


async def settled() -> None:
    """Let everybody go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


def passed() -> float:
    return asyncio.get_running_loop().time()


class Crowd:
    """Those who want in, as the gate should treat them."""

    def __init__(self, most: int, per_second: int | None = None) -> None:
        self.gate = Gate(most, per_second)
        self.most = most
        self.per_second = per_second
        self.visits: list[asyncio.Task[None]] = []
        self.entered: list[tuple[int, float]] = []
        self.inside: set[int] = set()
        self.canceled: set[int] = set()

    async def visit(self, number: int) -> None:
        await self.gate.enter()
        self.inside.add(number)
        self.entered.append((number, passed()))
        assert len(self.inside) <= self.most

    def come(self) -> None:
        number = len(self.visits)
        self.visits.append(asyncio.create_task(self.visit(number)))

    def come_now(self) -> None:
        """Enter only if that is possible at once; it passes nobody by."""
        if self.gate.enter_now() is not None:
            self.gate.leave()
            assert not self.waiting or len(self.inside) < self.most

    def go(self) -> None:
        if self.inside:
            self.inside.remove(min(self.inside))
            self.gate.leave()

    def cancel(self, which: int) -> None:
        """Somebody who has not entered loses patience, perhaps just as he is let in."""
        outside = self.waiting
        if outside:
            number = outside[which % len(outside)]
            self.visits[number].cancel()
            self.canceled.add(number)

    @property
    def waiting(self) -> list[int]:
        done = {number for number, _ in self.entered} | self.canceled
        return [number for number in range(len(self.visits)) if number not in done]

    async def end(self) -> None:
        """Let everybody in and out, and see that nobody was forgotten and no place is lost."""
        while self.waiting:
            self.go()
            await asyncio.sleep(2)
        while self.inside:
            self.go()
        await asyncio.sleep(2)
        room = min(self.most, self.per_second or self.most)
        assert [True] * room == [self.gate.enter_now() is not None for _ in range(room)]
        assert self.gate.enter_now() is None
        await asyncio.gather(*self.visits, return_exceptions=True)


def in_order(entered: Sequence[tuple[int, float]]) -> bool:
    numbers = [number for number, _ in entered]
    return numbers == sorted(numbers)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.booleans()),
        st.tuples(st.just("come now"), st.booleans()),
        st.tuples(st.just("go"), st.booleans()),
        st.tuples(st.integers(0, 5), st.booleans()),
        st.tuples(st.sampled_from([0.01, 0.4, 1.0, 3.0]), st.just(True)),
    ),
    max_size=60,
)


@given(most=st.integers(1, 4), per_second=st.none() | st.integers(1, 5), steps=STEPS)
def test_whoever_comes_goes_or_gives_up_nobody_is_passed_by_and_no_place_is_lost(
    most: int, per_second: int | None, steps: list[tuple[str | int | float, bool]]
) -> None:
    """Any of it may happen in the same turn of the loop, before anybody has noticed."""

    async def live() -> None:
        crowd = Crowd(most, per_second)
        for step, noticed in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, int):
                crowd.cancel(step)
            else:
                {"come": crowd.come, "come now": crowd.come_now, "go": crowd.go}[step]()
            if noticed:
                await settled()
                if crowd.waiting and per_second is None:
                    assert most == len(crowd.inside), "somebody waits beside a free place"
        await settled()
        await crowd.end()

        assert in_order(crowd.entered)
        assert len(crowd.visits) == len(crowd.entered) + len(crowd.canceled)
        if per_second:
            times = [at for _, at in crowd.entered]
            apart = [b - a for a, b in zip(times, times[per_second:], strict=False)]
            assert all(one >= 1 - HAIR for one in apart)

    loop = VirtualLoop()
    try:
        loop.run(live())
    finally:
        loop.close()


async def test_a_hundred_at_once_enter_in_the_order_in_which_they_came() -> None:
    crowd = Crowd(8)
    for _ in range(100):
        crowd.come()
    await settled()
    assert 8 == len(crowd.inside)

    while crowd.waiting:
        crowd.go()
        await settled()

    assert list(range(100)) == [number for number, _ in crowd.entered]


async def test_no_second_has_more_entries_than_the_pace() -> None:
    """Not even the one after a pause, when a whole second's worth may enter together."""
    crowd = Crowd(1000, per_second=10)
    await asyncio.sleep(60)
    for _ in range(95):
        crowd.come()
    await asyncio.sleep(20)

    times = [at for _, at in crowd.entered]
    assert 95 == len(times)
    for start in times:
        assert 10 >= sum(start <= at < start + 1 - HAIR for at in times)
    assert [10] * 9 + [5] == [sum(int(at - 60) == second for at in times) for second in range(10)]


async def test_a_pace_is_kept_by_those_who_enter_at_once_too() -> None:
    gate = Gate(1000, per_second=3)

    assert [True, True, True, False] == [gate.enter_now() is not None for _ in range(4)]
    await asyncio.sleep(1)
    assert [True, True, True, False] == [gate.enter_now() is not None for _ in range(4)]


async def test_who_leaves_without_having_asked_takes_back_his_own_entry() -> None:
    """Not the newest one's, whose call was made: the second after that would see one too many."""
    gate = Gate(10, per_second=2)
    unused = gate.enter_now()
    await asyncio.sleep(0.8)
    used = gate.enter_now()
    gate.leave(unused=unused)
    await asyncio.sleep(0.3)

    assert used is not None
    assert [True, False] == [gate.enter_now() is not None for _ in range(2)]


async def test_nobody_enters_at_once_while_others_wait() -> None:
    gate = Gate(1)
    assert gate.enter_now() is not None
    waiting = asyncio.create_task(gate.enter())
    await settled()
    gate.leave()

    assert gate.enter_now() is None, "it is the place of the one who waited"
    await waiting


async def test_nobody_enters_at_once_in_the_moment_before_the_next_is_let_in() -> None:
    gate = Gate(10, per_second=1)
    assert gate.enter_now() is not None
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(1 - HAIR / 2)

    assert gate.enter_now() is None
    await waiting


@pytest.mark.parametrize("before", [True, False], ids=["gives up first", "is let in first"])
async def test_one_who_gives_up_in_the_turn_in_which_he_is_let_in_keeps_no_place(
    before: bool,
) -> None:
    gate = Gate(1)
    assert gate.enter_now() is not None
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await settled()
    if before:
        first.cancel()
        gate.leave()
    else:
        gate.leave()
        first.cancel()
    await settled()

    assert first.cancelled()
    assert second.done()
    assert not second.cancelled()
    gate.leave()
    assert gate.enter_now() is not None
