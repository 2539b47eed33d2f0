"""Who writes is answered, whichever event loop he runs on."""

import asyncio
import threading
from pathlib import Path

import build
from gateway.store.sqlite import SqliteStore


def test_a_loop_that_stopped_in_the_turn_of_its_last_operation_holds_up_nobody(
    tmp_path: Path,
) -> None:
    first = asyncio.new_event_loop()
    store = first.run_until_complete(SqliteStore.open(tmp_path / "gateway.db"))
    ann = first.run_until_complete(build.customer(store, credit=10**7))

    waiting = []

    def last() -> None:
        waiting.append(first.create_task(store.place([build.placement(ann.id)])))
        first.call_soon(first.stop)

    first.call_soon(last)
    first.run_forever()

    async def next_one() -> bool:
        placing = asyncio.ensure_future(store.place([build.placement(ann.id)]))
        done, _ = await asyncio.wait([placing], timeout=2)
        return bool(done)

    answered = asyncio.run(next_one())
    first.run_until_complete(store.close())
    first.close()

    assert answered


def test_two_loops_in_two_threads_are_both_answered(tmp_path: Path) -> None:
    async def opened() -> tuple[SqliteStore, int]:
        store = await SqliteStore.open(tmp_path / "gateway.db")
        return store, (await build.customer(store, credit=10**12)).id

    store, ann = asyncio.run(opened())
    late: list[int] = []

    def work() -> None:
        async def some() -> None:
            for number in range(400):
                try:
                    await asyncio.wait_for(store.place([build.placement(ann)]), 3)
                except TimeoutError:
                    late.append(number)
                    return

        asyncio.run(some())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(store.close())

    assert [] == late
