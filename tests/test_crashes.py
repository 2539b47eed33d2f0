"""Kills and pauses at random moments of real gateway processes under traffic; then the reckoning.

The practice panels stay up while the gateways come and go on one SQLite file. When everything has
come to rest, what the customers were told, what the gateway's books say and what the panels have
is compared, order by order and to the last millionth.

The suite makes a few rounds of each. ``CRASH_ROUNDS=60`` makes as many as it says (the limit of
time grows with it), ``CRASH_SEED=7`` chooses other moments and other traffic. A seed repeats the
choices, but not how far real processes have got by then.
"""

import asyncio
import contextlib
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import apsw
import pytest

from reckoning import EVERY_ORDER, reckon, undecided
from scenes import (
    CROWD,
    LIMIT,
    MILD,
    PATIENCE,
    ROUNDS,
    STORM,
    TIMEOUT,
    Panels,
    Scene,
    Site,
    busy,
    end,
    open_panels,
    pause,
    set_up,
    until_under_way,
)


def _database(folder: Path) -> Path:
    return folder / "gateway.db"


def _site(folder: Path) -> Site:
    return Site(folder, f"sqlite:///{_database(folder)}")


@pytest.fixture(scope="module")
def panels() -> Iterator[Panels]:
    """Return the panels."""
    with open_panels() as panels:
        yield panels


@pytest.fixture(scope="module")
def furnished(panels: Panels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a database: its catalog is fetched, its customers have paid in."""
    folder = tmp_path_factory.mktemp("furnished")
    site = _site(folder)
    site.declare(panels)
    asyncio.run(site.furnish())
    return folder


Open = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def opened(panels: Panels, furnished: Path, tmp_path: Path) -> Open:
    """Return what opens a scene of its own, on a copy of the furnished database."""

    @asynccontextmanager
    async def opened(
        *, gateways: int = 1, unavailable: str = "refuse", waits: float = TIMEOUT
    ) -> AsyncIterator[Scene]:
        shutil.copytree(furnished, tmp_path, dirs_exist_ok=True)
        site = _site(tmp_path)
        site.declare(panels, unavailable, waits)
        async with set_up(panels, site, gateways) as scene:
            yield scene

    return opened


# --- the rounds --------------------------------------------------------------------------------


@LIMIT
@pytest.mark.parametrize("unavailable", ["refuse", "queue"])
async def test_after_kills_at_any_moment_nothing_is_lost_and_nothing_doubled(
    opened: Open, unavailable: str
) -> None:
    async with opened(unavailable=unavailable) as scene:
        (port,) = scene.traffic.ports
        async with busy(scene):
            for _ in range(ROUNDS):
                run = await scene.site.serve(port)
                if scene.chance.random() < 0.8:  # else it may die while it is starting
                    await scene.site.answering(port)
                await asyncio.sleep(scene.chance.uniform(0.1, 1.2))
                await end(run, signal.SIGKILL)
            await scene.site.serve(port)
            await scene.site.answering(port)
        await reckon(scene)

        assert scene.traffic.lost, "no kill met an order under way"
        assert scene.traffic.acknowledged


@LIMIT
async def test_after_pauses_longer_than_a_providers_timeout_nothing_is_lost_or_doubled(
    opened: Open,
) -> None:
    async with opened() as scene:
        (port,) = scene.traffic.ports
        run = await scene.site.serve(port)
        await scene.site.answering(port)
        async with busy(scene):
            for _ in range(ROUNDS):
                await asyncio.sleep(scene.chance.uniform(0.3, 1.0))
                await pause(run, TIMEOUT + scene.chance.uniform(0.1, 1.5))
        books = await reckon(scene)

        assert any(row["upstream_id"] for row in books.rows)


@LIMIT
async def test_of_two_gateways_on_one_database_either_may_die_sleep_or_be_replaced(
    opened: Open,
) -> None:
    async with opened(gateways=2, unavailable="queue") as scene:
        runs = {port: await scene.site.serve(port) for port in scene.traffic.ports}
        for port in runs:
            await scene.site.answering(port)
        async with busy(scene, (*STORM, *CROWD, *CROWD, *CROWD)):
            for _ in range(ROUNDS):
                await asyncio.sleep(scene.chance.uniform(0.2, 0.8))
                port = scene.chance.choice(scene.traffic.ports)
                if scene.chance.random() < 0.5:
                    await pause(runs[port], TIMEOUT + scene.chance.uniform(0.1, 1.5))
                    continue
                if scene.chance.random() < 0.5:
                    await end(runs[port], signal.SIGKILL)
                else:
                    await scene.site.answering(port)

                    assert 0 == await end(runs[port], signal.SIGTERM), scene.site.log()
                runs[port] = await scene.site.serve(port)
            for port in runs:
                await scene.site.answering(port)
        await reckon(scene)

        assert scene.traffic.acknowledged


@LIMIT
async def test_an_order_that_waits_in_one_gateway_and_is_sent_by_another_is_sent_once(
    opened: Open,
) -> None:
    async with opened(gateways=2, unavailable="queue") as scene:
        idle, crowded = scene.traffic.ports
        await scene.site.serve(idle)  # alone, it takes up all the background work
        await scene.site.answering(idle)
        run = await scene.site.serve(crowded)
        await scene.site.answering(crowded)
        scene.traffic.ports = [crowded]
        async with busy(scene, CROWD):
            await asyncio.sleep(ROUNDS)  # either may send what waits
            left = await _kill_with_a_queue(scene, run)
            scene.traffic.ports = [idle]
        books = await reckon(scene)

        assert left & {row["id"] for row in books.rows if row["upstream_id"]}


async def _kill_with_a_queue(scene: Scene, run: Process) -> set[int]:
    """Kill a gateway; returns the orders that were with nobody, and that others are left to send.

    It is stopped first, so that what is seen is what it leaves.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            run.send_signal(signal.SIGSTOP)
            rows = await scene.site.command(*EVERY_ORDER)
            if left := {row["id"] for row in rows if undecided(row) and row["provider"] is None}:
                await end(run)
                return left
            run.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.1)


@LIMIT
async def test_a_gateway_that_sleeps_until_its_work_was_taken_over_harms_nothing_when_it_wakes(
    opened: Open,
) -> None:
    async with opened(gateways=2) as scene:
        first, second = scene.traffic.ports
        holder = await scene.site.serve(first)  # alone, it takes up all the background work
        await scene.site.answering(first)
        await scene.site.serve(second)
        await scene.site.answering(second)
        scene.traffic.ports = [first]
        async with busy(scene, CROWD):
            left = await _pause_under_way(scene, holder)
            scene.traffic.ports = [second]
            await _until_decided(scene, left)
            holder.send_signal(signal.SIGCONT)
            scene.traffic.ports = [first, second]
            await asyncio.sleep(scene.chance.uniform(0.3, 1.0))
        books = await reckon(scene)

        assert any(row["upstream_id"] for row in books.rows)


async def _pause_under_way(scene: Scene, run: Process) -> set[int]:
    """Stop a gateway while it is sending orders; returns those of which it had no answer yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await until_under_way(scene)
            run.send_signal(signal.SIGSTOP)
            if _writable(scene.site):  # else it was stopped in a commit, for which all have to wait
                rows = await scene.site.command(*EVERY_ORDER)
                if left := {row["id"] for row in rows if undecided(row)}:
                    return left
            run.send_signal(signal.SIGCONT)


def _writable(site: Site) -> bool:
    """Tell whether the database can be written to at this moment."""
    with contextlib.closing(apsw.Connection(str(_database(site.folder)))) as db:
        try:
            db.execute("BEGIN IMMEDIATE; ROLLBACK")
        except apsw.BusyError:
            return False
    return True


async def _until_decided(scene: Scene, orders: set[int]) -> None:
    """Wait until another gateway has noticed that nobody is sending these any more."""
    async with asyncio.timeout(PATIENCE):
        while any(
            undecided(row) for row in await scene.site.command(*EVERY_ORDER) if row["id"] in orders
        ):
            await asyncio.sleep(0.1)


# --- the graceful stop -------------------------------------------------------------------------


@LIMIT
async def test_a_graceful_stop_gives_every_order_under_way_its_answer_and_takes_no_new_ones(
    opened: Open,
) -> None:
    async with opened(waits=10) as scene:
        scene.traffic.patience = PATIENCE  # nobody hangs up but the gateway
        (port,) = scene.traffic.ports
        async with busy(scene, MILD):
            for _ in range(ROUNDS):
                run = await scene.site.serve(port)
                await scene.site.answering(port)
                await until_under_way(scene)
                stopping = asyncio.create_task(end(run, signal.SIGTERM))
                reached = await _reached_while(port, run)

                assert 0 == await stopping, scene.site.log()
                assert [False] == reached[-1:]
                assert sorted(reached, reverse=True) == reached, "it took new connections again"
            await scene.site.serve(port)
            await scene.site.answering(port)
        books = await reckon(scene)

        answered = {wish.link for wish in books.wishes if wish.ids or wish.refusals}
        assert set() == {row["link"] for row in books.rows} - answered
        assert [] == [row for row in books.rows if row["status"] == "unknown"]


async def _reached_while(port: int, run: Process) -> list[bool]:
    """Return, of each try until a process is gone, whether a new connection to it was taken."""
    reached = []
    gone = False
    while not gone:
        gone = run.returncode is not None
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            reached.append(False)
        else:
            reached.append(True)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await asyncio.sleep(0.02)
    return reached
