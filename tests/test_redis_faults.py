"""Whatever happens to Redis, customers get the same answers, and it is used again by itself.

Two whole gateways live through the same story: one without Redis, and one with a real
redis-server to which a test does something. Everything that the second one answers must be what
the first one answers.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from structlog.testing import capture_logs
from structlog.typing import EventDict

import redistmp
from gateway import config
from gateway.adapters import ADAPTERS
from gateway.app import Running, open_gateway
from gateway.endpoint import Endpoint
from gateway.settings import Settings
from gateway.upstream import Upstream
from world import YAML, Clock, Panel, World

AWAY = "203.0.113.7"


def panel() -> Panel:
    """Return a panel at which each order is a little further at each look."""
    looks: dict[str, int] = {}

    def status(form: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for order in form.get("orders", form.get("order", "")).split(","):
            looks[order] = looks.get(order, 0) + 1
            left = max(90 - looks[order], 0)
            found[order] = {"status": "In progress", "remains": str(left), "start_count": "7"}
        return found if "orders" in form else next(iter(found.values()))

    return Panel(status=status, refill={"refill": 5}, cancel=[{"order": 1, "cancel": 1}])


@contextlib.asynccontextmanager
async def serving(
    folder: Path, redis_url: str = "", yaml: str = YAML, *, key: str = ""
) -> AsyncIterator[World]:
    """Open a gateway and let it serve, with everything that goes on meanwhile."""
    one = panel()

    async def carry(request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl((await request.aread()).decode(), keep_blank_values=True))
        form.pop("key")
        return await one(form)

    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    adapters = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    owner = config.parse(yaml, "providers.yaml", {"KEY": "upstream-secret"}, adapters)
    database = f"sqlite:///{folder / 'gateway.db'}"
    settings = Settings(config=folder / "none", database_url=database, redis_url=redis_url)
    upstream, clock = Upstream(httpx.MockTransport(carry)), Clock()
    async with open_gateway(owner, settings, upstream=upstream, now=clock) as gateway:
        running = Running(gateway, settings, [], (), work=False)
        await running.start()
        endpoint = Endpoint(
            gateway.auth,
            gateway.shop,
            gateway.listing,
            gateway.orders,
            gateway.aftersales,
            gateway.store,
            Starlette(),
            limits=gateway.limits,
        )
        transport = httpx.ASGITransport(endpoint, client=(AWAY, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            world = World(gateway, {"p": one}, client, clock)
            await gateway.sync.fetch("p")
            world.key = key or await world.customer_with("100")
            yield world
        await running.stop()


class Story:
    """What two customers live through, each at one gateway."""

    def __init__(self, without: World, with_: World) -> None:
        self.worlds = without, with_
        self.chapter = 0

    async def goes_on(self) -> None:
        """Do everything that a customer does, at both gateways, and compare."""
        self.chapter += 1
        expected, actual = [await self._tell(one) for one in self.worlds]

        assert expected == actual

    async def _tell(self, one: World) -> list[Any]:
        said = [await one.add(link=f"https://example.com/{self.chapter}")]
        first = max(self.chapter - 5, 1)
        orders = ",".join(map(str, [*range(first, self.chapter + 1), 999]))
        for _ in range(2):
            said.append(await one.api("status", order=self.chapter))
            said.append(await one.api("status", orders=orders))
            said.append(await one.look())
        said.append(await one.api("status", orders=orders))
        said.append(await one.api("services"))
        said.append(await one.api("refill", order=self.chapter))
        said.append(await one.api("cancel", orders=f"{self.chapter},999"))
        said.append(await one.api("balance"))
        return said


@dataclass
class Server:
    """A Redis, and what is done to it."""

    port: int
    pid: int
    running: contextlib.ExitStack
    password: str = ""

    def ask(self, *words: object) -> Any:
        return redistmp.ask(self.port, *words, password=self.password)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def start(self) -> None:
        _, self.pid = self.running.enter_context(redistmp.server(port=self.port))

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def fill(self) -> None:
        self.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")

    def make_room(self) -> None:
        self.ask("CONFIG", "SET", "maxmemory", "0")

    def follow_nobody(self) -> None:
        self.ask("REPLICAOF", "127.0.0.1", "1")

    def lead(self) -> None:
        self.ask("REPLICAOF", "NO", "ONE")

    def lock(self) -> None:
        self.ask("CONFIG", "SET", "requirepass", "another")
        self.password = "another"
        for kind in ("normal", "pubsub"):
            self.ask("CLIENT", "KILL", "TYPE", kind)

    def unlock(self) -> None:
        self.ask("CONFIG", "SET", "requirepass", "")
        self.password = ""

    def empty(self) -> None:
        self.ask("FLUSHALL")

    def nothing(self) -> None:
        """Leave it as it is."""


FAILED = ["redis_failed", "redis_back"]
REFUSED = ["redis_storing_failed", "redis_storing_back"]

FAULTS: dict[str, tuple[Callable[[Server], None], Callable[[Server], None], list[str]]] = {
    "killed": (Server.kill, Server.start, FAILED),
    "paused": (Server.pause, Server.go_on, FAILED),
    "restarted": (Server.restart, Server.nothing, FAILED),
    "full": (Server.fill, Server.make_room, REFUSED),
    "read-only": (Server.follow_nobody, Server.lead, REFUSED),
    "locked by another password": (Server.lock, Server.unlock, FAILED),
    "emptied": (Server.empty, Server.nothing, []),
}


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.ExitStack() as running:
        url, pid = running.enter_context(redistmp.server())
        yield Server(redistmp.port_of(url), pid, running)


def failures() -> float:
    return REGISTRY.get_sample_value("gateway_cache_failures_total") or 0.0


def said(lines: list[EventDict]) -> list[str]:
    """Return what was logged of Redis."""
    return [line["event"] for line in lines if line["event"].startswith("redis")]


async def in_use(story: Story, server: Server) -> bool:
    """Tell whether what is answered twice comes from Redis the second time."""
    one = story.worlds[1]
    await one.api("status", order=1)
    before = server.ask("INFO", "stats")["keyspace_hits"]
    await one.api("status", order=1)
    return bool(server.ask("INFO", "stats")["keyspace_hits"] > before)


async def until_in_use(story: Story, server: Server) -> None:
    async with asyncio.timeout(25):
        while not await in_use(story, server):
            await story.goes_on()
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_answers_stay_the_same_and_redis_is_used_again_by_itself(
    fault: str, tmp_path: Path, server: Server
) -> None:
    """With one warning, and a number that grows; no old answer comes back with Redis."""
    begin, end, lines_of = FAULTS[fault]
    with capture_logs() as lines:
        async with (
            serving(tmp_path / "without") as without,
            serving(tmp_path / "with", f"redis://127.0.0.1:{server.port}") as with_,
        ):
            story = Story(without, with_)
            await story.goes_on()
            assert await in_use(story, server)
            assert [] == said(lines)
            before = failures()
            begin(server)
            for _ in range(4):
                await story.goes_on()
                await asyncio.sleep(0.2)
            during = failures()
            end(server)
            await until_in_use(story, server)
            await story.goes_on()

            assert lines_of == said(lines)
            assert bool(lines_of) == (during > before)
            assert [] == await with_.audit()


async def test_a_redis_that_comes_late_is_used_from_then_on(tmp_path: Path, server: Server) -> None:
    server.kill()
    with capture_logs() as lines:
        async with (
            serving(tmp_path / "without") as without,
            serving(tmp_path / "with", f"redis://127.0.0.1:{server.port}") as with_,
        ):
            story = Story(without, with_)
            for _ in range(3):
                await story.goes_on()
            server.start()
            await until_in_use(story, server)

    assert FAILED == said(lines)


async def test_a_wrong_password_is_no_obstacle_and_is_not_shown(
    tmp_path: Path, server: Server
) -> None:
    server.lock()
    url = f"redis://:5ecret@127.0.0.1:{server.port}"
    with capture_logs() as lines:
        async with (
            serving(tmp_path / "without") as without,
            serving(tmp_path / "with", url) as with_,
        ):
            story = Story(without, with_)
            for _ in range(3):
                await story.goes_on()
            server.ask("CONFIG", "SET", "requirepass", "5ecret")
            server.password = "5ecret"
            await until_in_use(story, server)

    assert FAILED == said(lines)
    assert "5ecret" not in str(lines)


async def test_who_asks_at_the_same_moment_is_answered_by_one_question(
    tmp_path: Path, server: Server
) -> None:
    async with serving(tmp_path, f"redis://127.0.0.1:{server.port}") as one:
        for number in range(5):
            await one.add(link=f"https://example.com/{number}")
        await one.api("status", orders="1,2,3,4,5")
        server.ask("CONFIG", "RESETSTAT")
        before = failures()
        rows = await asyncio.gather(
            *(one.gateway.statuses.read(one.customer, [1 + n % 5, 999]) for n in range(200))
        )
        counted = server.ask("INFO", "commandstats")

    assert {1} == {len(row) for row in rows}
    assert before == failures()
    assert 1 == counted["cmdstat_mget"]["calls"]
    assert "cmdstat_psetex" not in counted, "nobody found anything missing"


async def test_a_limit_holds_at_two_gateways_together(tmp_path: Path, server: Server) -> None:
    """Without a word between a request and its answer."""
    url, yaml = f"redis://127.0.0.1:{server.port}", YAML + "limits: {per_key: 20}\n"
    async with (
        serving(tmp_path, url, yaml) as one,
        serving(tmp_path, url, yaml, key=one.key) as other,
    ):
        answers = [await asked(one) for _ in range(300)]
        let = 0
        async with asyncio.timeout(20):
            while await asked(other) == 200:
                let += 1
                await asyncio.sleep(0.02)

    assert 200 <= answers.count(200) < 300
    assert let < 150, "of the two hundred that it would let in alone"


async def asked(one: World) -> int:
    answer = await one.client.post("/api/v2", data={"key": one.key, "action": "balance"})
    return answer.status_code
