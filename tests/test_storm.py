"""Gateways and background processes on one PostgreSQL and one Redis, in everything that ends them.

Three processes serve and two do the background work while customers order. Of each kind one is
killed and one is stopped for longer than its leases last, again and again, and the database is
restarted under all of them. Then comes the reckoning: nothing lost, nothing doubled.

``CRASH_ROUNDS`` and ``CRASH_SEED`` mean what they mean to the other crashes; the database goes down
once for every three rounds.
"""

import asyncio
import itertools
import signal
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import asyncpg  # type: ignore[import-untyped]
import pytest

import redistmp
from databases import bare_database
from gateway import ledger
from gateway.background import LEASE
from gateway.model import Status
from gateway.store.postgres import READERS, PostgresStore
from pgtmp import Server, server
from reckoning import reckon
from scenes import (
    CROWD,
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
    set_up,
    until_under_way,
)
from world import Panel, world

STORMS = pytest.mark.timeout(120 + 10 * ROUNDS)
LONG = 3
"""Rounds that last as long as one of these, in which somebody sleeps through his leases."""
LEASE_MS = int(LEASE * 1000)
NO_ANSWER_FOR = 120.0
"""Seconds for which a provider is waited for where nothing but a lease may end the waiting."""


@pytest.fixture(scope="module")
def panels() -> Iterator[Panels]:
    """Return the panels."""
    with open_panels() as panels:
        yield panels


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server for this module, since what is done to it would disturb other tests."""
    with server() as one:
        yield one


@asynccontextmanager
async def on_servers(
    own: Server,
    panels: Panels,
    folder: Path,
    *,
    gateways: int = 0,
    unavailable: str = "refuse",
    waits: float = TIMEOUT,
) -> AsyncIterator[Scene]:
    """Open a scene on a database of PostgreSQL, and a Redis of its own."""
    with redistmp.redis() as redis_url:
        async with bare_database(own.url) as url:
            site = Site(folder, url, redis_url)
            site.declare(panels, unavailable, waits)
            await site.furnish()
            async with set_up(panels, site, gateways) as scene:
                yield scene


async def _fetch(site: Site, statement: str, *bindings: object) -> list[Any]:
    db = await asyncpg.connect(site.database_url)
    try:
        rows: list[Any] = await db.fetch(statement, *bindings)
        return rows
    finally:
        await db.close()


# --- the storm ---------------------------------------------------------------------------------


class Post:
    """A post that is never left: whatever becomes of a process, the next one takes its place.

    Attributes:
        port: where it serves; 0 when it does the background work.
        run: the process that is there.

    """

    def __init__(self, site: Site, port: int = 0) -> None:
        self.port = port
        self.run: Process | None = None
        self._site = site

    def _start(self) -> Awaitable[Process]:
        if self.port:
            return self._site.serve(self.port, "--no-background")
        return self._site.start("background")

    async def keep(self) -> None:
        """Keep it until it is cancelled; the last process stays."""
        while True:
            self.run = await self._start()
            await self.run.wait()
            await asyncio.sleep(0.1)

    def tell(self, what: signal.Signals) -> None:
        """Send a signal to whoever is there."""
        if self.run and self.run.returncode is None:
            self.run.send_signal(what)


@asynccontextmanager
async def _kept(posts: Sequence[Post]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(post.keep()) for post in posts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _trouble(
    scene: Scene, choose: Callable[[Sequence[Post]], Awaitable[Post]], posts: Sequence[Post]
) -> None:
    """Stop one of these for longer than its leases last, and kill some of the others meanwhile.

    ``choose`` says which, and when.
    """
    asleep = await choose(posts)
    asleep.tell(signal.SIGSTOP)
    awake = [post for post in posts if post is not asleep]
    for _ in awake:
        await asyncio.sleep(scene.chance.uniform(1.05, 1.25) * LEASE / len(awake))
        (await choose(awake)).tell(signal.SIGKILL)
    asleep.tell(signal.SIGCONT)


async def _anybody(scene: Scene, posts: Sequence[Post]) -> Post:
    return scene.chance.choice(posts)


async def _sending(scene: Scene, posts: Sequence[Post]) -> Post:
    """Wait until one of these has sent an order, and nobody knows what came of it."""
    while True:
        asked = await until_under_way(scene)
        if found := [post for post in posts if post.port in asked]:
            return scene.chance.choice(found)
        await asyncio.sleep(0.02)


async def _restart(scene: Scene, own: Server) -> None:
    """Restart the database in good order, or as if the power had gone."""
    await asyncio.sleep(scene.chance.uniform(0.2, 0.8) * LEASE)
    own.stop(scene.chance.choice((signal.SIGINT, signal.SIGQUIT)))
    await asyncio.sleep(scene.chance.uniform(0.1, 1.0))
    own.start()


@STORMS
async def test_whoever_is_killed_stopped_or_restarted_nothing_is_lost_and_nothing_doubled(
    own: Server, panels: Panels, tmp_path: Path
) -> None:
    async with on_servers(own, panels, tmp_path, gateways=3, unavailable="queue") as scene:
        ports = scene.traffic.ports
        serving = [Post(scene.site, port) for port in ports]
        working = [Post(scene.site) for _ in range(2)]
        async with _kept([*serving, *working]):
            for port in ports:
                await scene.site.answering(port)
            async with busy(scene, (*STORM, *CROWD, *CROWD, *CROWD)):
                for _ in range(-(-ROUNDS // LONG)):
                    await asyncio.gather(
                        _trouble(scene, partial(_sending, scene), serving),
                        _trouble(scene, partial(_anybody, scene), working),
                        _restart(scene, own),
                    )
                for port in ports:
                    await scene.site.answering(port)
        await reckon(scene)

        assert scene.traffic.lost, "no kill met an order under way"
        assert scene.traffic.acknowledged
        assert [] == await _crossed(scene.site)


async def _crossed(site: Site) -> list[Any]:
    """Return the balances that were written though a later look had been written before."""
    return await _fetch(
        site,
        """SELECT one.provider, one.asked_at, one.answered_at, later.asked_at
        FROM readings AS one JOIN readings AS later ON later.provider = one.provider
        AND later.asked_at > one.asked_at AND later.answered_at < one.answered_at""",
    )


# --- who does the work -------------------------------------------------------------------------


class Held(NamedTuple):
    """Who does a piece of the work, the how manyeth that is, and until when (milliseconds)."""

    holder: str
    fence: int
    until: int


Work = Mapping[str, Held]
BALANCE = "balance of smm1st"
"""A piece of the work, and how it is seen to be done."""
LOOKS = "SELECT asked_at, answered_at FROM readings WHERE provider = 'smm1st'"
REFUSED = "a round was for nothing"
"""What a process logs whose work was taken over while it was doing it."""


async def _work(site: Site) -> Work:
    """Return who does what, or did it last."""
    leases = "SELECT name, holder, fence, expires_at FROM leases WHERE name NOT LIKE 'process %'"
    return {name: Held(*rest) for name, *rest in await _fetch(site, leases)}


def _shares(work: Work) -> Counter[str]:
    """Return how much each does."""
    return Counter(one.holder for one in work.values())


async def _until_shared(site: Site, by: int) -> Work:
    """Wait until all the work is done, by so many, each of whom does as much as the others."""
    async with asyncio.timeout(PATIENCE):
        while True:
            work = await _work(site)
            shares = sorted(_shares(work).values())
            if len(shares) == by and shares[-1] - shares[0] <= 1:
                return work
            await asyncio.sleep(0.05)


async def _taken_over(site: Site, before: Work) -> dict[str, int]:
    """Wait until everything is done by others; returns when they took it up."""
    taken: dict[str, int] = {}
    async with asyncio.timeout(PATIENCE):
        while taken.keys() < before.keys():
            for name, held in (await _work(site)).items():
                if held.fence > before[name].fence:
                    taken.setdefault(name, held.until - LEASE_MS)
            await asyncio.sleep(0.05)
    return taken


async def _in_the_middle_of_a_look(panels: Panels) -> None:
    """Wait until a provider is looking up a balance, which it will answer a little later."""
    await panels.behind("smm1st", "faults", action="balance", fault="slow", seconds=1.0)
    async with asyncio.timeout(PATIENCE):
        while await panels.behind("smm1st", "faults"):
            await asyncio.sleep(0.02)


@STORMS
async def test_work_is_shared_taken_over_from_the_dead_and_refused_from_who_slept_through_it(
    own: Server, panels: Panels, tmp_path: Path
) -> None:
    """One sleeps in the middle of a look at a balance, of which only he knows what it said."""
    async with on_servers(own, panels, tmp_path, waits=NO_ANSWER_FOR) as scene:
        site = scene.site
        first = await site.start("background")
        (holder,) = _shares(await _until_shared(site, by=1))
        second = await site.start("background")
        shared = await _until_shared(site, by=2)

        await _in_the_middle_of_a_look(panels)
        his = shared[BALANCE].holder == holder
        sleeper, other = (first, second) if his else (second, first)
        sleeper.send_signal(signal.SIGSTOP)
        await end(other)
        before = await _work(site)
        await site.start("background")
        taken = await _taken_over(site, before)

        work = await _work(site)
        assert {name: one.fence + 1 for name, one in before.items()} == {
            name: one.fence for name, one in work.items()
        }
        early = [name for name, one in before.items() if taken[name] < one.until]
        late = [name for name, one in before.items() if taken[name] > one.until + LEASE_MS]
        assert ([], []) == (early, late)

        sleeper.send_signal(signal.SIGCONT)
        woken = await _until_shared(site, by=2)
        at = taken[BALANCE]
        while not (stale := await _written_late(site, at)) and not site.logged(REFUSED):
            await asyncio.sleep(0.05)
        await reckon(scene)

        assert {one.holder for one in shared.values()} != {one.holder for one in woken.values()}
        assert [] == stale
        assert await _fetch(site, f"{LOOKS} AND asked_at >= $1", at)


async def _written_late(site: Site, at: int) -> list[Any]:
    """Return the looks that were begun before a time, and written after it."""
    return await _fetch(site, f"{LOOKS} AND asked_at < $1 AND answered_at >= $1", at)


# --- connections -------------------------------------------------------------------------------


async def test_connections_that_the_server_has_just_ended_fail_nobody(own: Server) -> None:
    """Neither are they taken for sound, nor one after the other for the only one that is gone."""
    async with bare_database(own.url) as url:
        store = await PostgresStore.open(url)
        try:
            for _ in range(20):
                await asyncio.gather(*(store.edition() for _ in range(READERS)))
                ending = Thread(target=lambda: asyncio.run(_end_connections(url)))
                ending.start()
                ending.join()  # so that this loop hears of all of them in the same moment

                for _ in range(READERS + 1):
                    assert 0 == await store.edition()
        finally:
            await store.close()


async def _end_connections(url: str) -> None:
    """End all connections to a database but this one, and wait until they are gone."""
    db = await asyncpg.connect(url)
    try:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
        mine = db.get_server_pid()
        await db.fetch(f"SELECT pg_terminate_backend(pid) {others}", mine)
        while await db.fetchval(f"SELECT count(*) {others}", mine):
            await asyncio.sleep(0.01)
    finally:
        await db.close()


# --- statuses that cross -----------------------------------------------------------------------

SAID = (("Completed", 0), ("Canceled", 100), ("Partial", 30))
"""What a provider says of an order of 100, one after the other: status and remains."""


async def test_statuses_may_arrive_at_two_processes_in_any_order(
    own: Server, tmp_path: Path
) -> None:
    """Whatever was asked for last has the last word, and the money is what that word says."""
    answers: list[asyncio.Future[dict[str, str]]] = []

    async def status(_: Mapping[str, str]) -> dict[str, str]:
        answers.append(asyncio.get_running_loop().create_future())
        return await answers[-1]

    p = Panel(status=status)
    async with (
        bare_database(own.url) as url,
        world(tmp_path, database_url=url, p=p) as one,
        world(tmp_path, database_url=url, name="bob", p=p) as another,
    ):
        ends = set()
        for number, arrival in enumerate(itertools.permutations(range(len(SAID)))):
            said = await one.add(link=f"https://example.com/{number}")
            answers.clear()
            asked = []
            for process in itertools.islice(itertools.cycle((one, another)), len(SAID)):
                one.clock.forward(1000)
                another.clock.at = one.clock.at
                order = await process.order(said["order"])
                asked.append(asyncio.create_task(process.gateway.follow.ask("p", [order])))
                while len(answers) < len(asked):
                    await asyncio.sleep(0)
            for turn in arrival:
                word, remains = SAID[turn]
                answers[turn].set_result({"status": word, "remains": str(remains)})
                await asked[turn]
            after = await another.order(said["order"])
            ends.add((after.status, after.remains, after.charge, ledger.net(after)))

        ((word, left, charge, net),) = ends
        assert (Status.PARTIAL, 30, charge * 70) == (word, left, net * 100)
        assert 100_000_000 - number * net - net == round(float(await one.balance()) * 1_000_000)
        assert [] == await one.audit()
