"""Waiting for an order that is under way."""

import asyncio

from gateway.flight import Flight


def _aloft(over: asyncio.Event) -> Flight:
    flight = Flight("mine")
    flight.task = asyncio.create_task(_until(over))
    return flight


async def _until(over: asyncio.Event) -> None:
    await over.wait()


async def test_whoever_gives_up_waiting_ends_neither_the_order_nor_the_waiting_of_others() -> None:
    over = asyncio.Event()
    flight = _aloft(over)
    late = asyncio.get_running_loop().time() + 60
    gone, patient = (asyncio.create_task(flight.landed(late)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})

    assert (True, False) == (gone.cancelled(), patient.done())

    over.set()
    await patient

    assert flight.task.done()
    assert not flight.task.cancelled()


async def test_nobody_waits_for_longer_than_he_can() -> None:
    over = asyncio.Event()
    flight = _aloft(over)
    await flight.landed(asyncio.get_running_loop().time())

    assert not flight.task.done()

    over.set()
    await flight.task


async def test_an_order_that_is_over_is_not_waited_for() -> None:
    over = asyncio.Event()
    flight = _aloft(over)
    over.set()
    await flight.task
    async with asyncio.timeout(30):
        await flight.landed(asyncio.get_running_loop().time() + 60)

    assert flight.task.done()
