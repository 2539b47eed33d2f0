"""A repeat under an idempotency key: one order, one id, whoever answers and whenever."""

import asyncio
from pathlib import Path

from gateway.model import State
from test_routes import ALONE, NARROW, QUEUE, line, states, two, yaml
from world import Form, Panel

KEY = {"idempotency_key": "k"}
REFUSAL = {"error": "Bad link"}


class Slow:
    """A panel that answers the first order when it may, with a refusal; it takes the others."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def __call__(self, _: Form) -> object:
        if self.asked.is_set():
            return {"order": 900}
        self.asked.set()
        await self.may.wait()
        return REFUSAL


async def test_a_repeat_of_a_refused_order_hears_so_though_its_key_is_used_again(
    tmp_path: Path,
) -> None:
    """Also by another process, which looks a moment later and finds the next order's key."""
    slow = Slow()
    file = yaml(first=ALONE)
    async with (
        two(tmp_path, file, Panel(add=slow)) as one,
        two(tmp_path, file, Panel(), again=True) as other,
    ):
        other.key = one.key
        first = asyncio.create_task(one.add(**KEY))
        await slow.asked.wait()
        repeat = asyncio.create_task(other.add(**KEY))
        await asyncio.sleep(0.05)
        slow.may.set()

        assert REFUSAL == await first
        assert {"order": 2} == await one.add(**KEY)
        assert REFUSAL == await repeat
        assert [State.FAILED, State.PLACED] == await states(one, 1, 2)


async def test_whoever_has_an_id_keeps_it_though_the_order_is_refused_later(
    tmp_path: Path,
) -> None:
    """His key means that order from then on, in every process."""
    slow = Slow()
    file = yaml(first=ALONE, answer_within="50ms")
    async with (
        two(tmp_path, file, Panel(add=slow)) as one,
        two(tmp_path, file, Panel(), again=True) as other,
    ):
        other.key = one.key
        first = await one.add(**KEY)
        slow.may.set()
        await one.gateway.orders.drain(5)
        (event, *_) = (await one.gateway.store.history(1))[0]

        assert ({"order": 1}, State.FAILED) == (first, (await one.order(1)).state)
        assert "told" == event.kind
        assert [{"order": 1}] * 2 == [await one.add(**KEY), await other.add(**KEY)]
        assert "Canceled" == (await one.api("status", order=1))["status"]


async def test_a_repeat_that_waits_gets_the_id_though_the_file_changes_meanwhile(
    tmp_path: Path,
) -> None:
    """What waits for a place of the old gateway is left to the new one."""
    file = yaml(p=NARROW, first=ALONE, orders=QUEUE, answer_within="300ms")
    async with two(tmp_path, file, Panel()) as one:
        place = line(one).place_now()
        assert place is not None
        assert {"order": 1} == await one.add(**KEY)
        repeat = asyncio.create_task(one.add(**KEY))
        await asyncio.sleep(0.05)
        await one.gateway.orders.drain(1)
        place.leave()

        assert {"order": 1} == await repeat


async def test_what_may_have_been_written_is_looked_for_a_minute_after_the_database_is_back(
    tmp_path: Path,
) -> None:
    """However long it was away: the minute begins with the first look that succeeds."""
    async with two(tmp_path, yaml(first=ALONE), Panel()) as one:
        orders, unsure = one.gateway.orders, one.gateway.aloft.unsure
        unsure["a mark"] = 0
        left = []
        for minutes in (60, 1, 0.1):
            one.clock.forward(int(minutes * 60_000))
            await orders.take_back()
            left.append(len(unsure))

        assert [1, 1, 0] == left
