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
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from gateway.commands.main import app
from traffic import Customer, Lost, Traffic, Wish, ask

PROGRAM = [sys.executable, "-m", "gateway"]
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
SEED = int(os.environ.get("CRASH_SEED", "1"))
PATIENCE = 60.0
"""Seconds until everything must have come to rest: leases have to run out, backoffs to end."""
LIMIT = pytest.mark.timeout(60 + 10 * ROUNDS)

TIMEOUT = 0.7
"""Seconds that either panel is waited for."""
YAML = """
currency: USD
exchange_rates: {INR: "0.0119"}
every: {catalog: 5s, status: 200ms, balance: 500ms}
providers:
  smm1st:
    adapter: smm1st
    url: "http://127.0.0.1:PORT/smm1st/api/v2"
    key: "${SMM1ST_KEY}"
    timeout: TIMEOUT
    limits: {concurrency: 8, per_second: 100}
  smm-panel.in:
    adapter: smm_panel_in
    url: "http://127.0.0.1:PORT/smm-panel.in/api/v2"
    key: "${SMM_PANEL_IN_KEY}"
    timeout: TIMEOUT
    limits: {concurrency: 2, per_second: 20}
services:
  101: {routes: [smm1st/1, smm-panel.in/1], rate: "1.20"}
  102: {routes: [smm-panel.in/2], rate: "0.70"}
orders: {answer_within: 2s, unavailable: UNAVAILABLE}
"""
RATES = {101: Decimal("0.00120"), 102: Decimal("0.00070")}
"""What a unit costs; whole millionths, so that no sum depends on how anybody rounds."""
OFFERS = {(101, "smm1st"): 1, (101, "smm-panel.in"): 1, (102, "smm-panel.in"): 2}
"""Which service of a provider's is asked for when one of ours is ordered."""
KEYS = "SMM1ST_KEY=sandbox-smm1st\nSMM_PANEL_IN_KEY=sandbox-smm-panel.in\n"
PANELS = ("smm1st", "smm-panel.in")
CREDITS = {"ann": "500", "bob": "500", "cid": "3"}
"""What the customers pay in; the last one's money runs out."""
ENDS = {"completed": "Completed", "partial": "Partial", "canceled": "Canceled"}

Weather = Sequence[Mapping[str, object]]
"""What may happen to ``add`` at the panels, as they take it: a fault, how often, how late."""
STORM: Weather = (
    {"fault": "slow", "times": 2, "seconds": 0.2},
    {"fault": "slow", "times": 2, "seconds": 0.4},
    {"fault": "slow", "times": 2, "seconds": 1.0},  # taken, and too late to be heard
    {"fault": "502-after"},
    {"fault": "hang"},
    {"fault": "drop-after"},
    {"fault": "drop-before"},
    {"fault": "500-before", "seconds": 0.3},
    {"fault": "refuse", "times": 2},
    {"fault": "half"},
)
CROWD: Weather = ({"fault": "slow", "times": 20, "seconds": 0.4},)
"""So slow that orders queue for a place."""
MILD: Weather = tuple(
    {"fault": "slow", "times": 2, "seconds": seconds} for seconds in (0.2, 0.8, 2.4)
)
"""Slow, but heard, by whoever waits so long."""


# --- the processes -----------------------------------------------------------------------------


async def _end(run: Process, with_: signal.Signals = signal.SIGKILL) -> int:
    if run.returncode is None:
        run.send_signal(with_)
    return await asyncio.wait_for(run.wait(), PATIENCE)


class Panels:
    """The practice panels in a process of their own, seen from behind the counter."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def behind(self, panel: str, what: str, **asked: object) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps(asked)
        head = f"POST /{panel}/sandbox/{what} HTTP/1.1\r\nHost: x\r\nConnection: close"
        writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
        return json.loads(said.partition(b"\r\n\r\n")[2])

    async def orders(self, prefix: str) -> list[dict[str, Any]]:
        """Return the orders that either panel has for links of this prefix, with its name."""
        return [
            row | {"provider": panel}
            for panel in PANELS
            for row in await self.behind(panel, "orders")
            if row["link"].startswith(prefix)
        ]

    async def weather(self, kinds: Weather, chance: random.Random) -> None:
        """Make trouble for some of the orders that arrive, until it is cancelled."""
        while True:
            await self.behind(chance.choice(PANELS), "faults", action="add", **chance.choice(kinds))
            await asyncio.sleep(chance.uniform(0.1, 0.6))

    async def clear(self) -> None:
        for panel in PANELS:
            await self.behind(panel, "faults", fault="none")


@pytest.fixture(scope="module")
def panels() -> Iterator[Panels]:
    """Return the panels; they stay, whatever becomes of the gateways."""
    words = [*PROGRAM, "sandbox", "--port", "0", "--speed", "60", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        said = b""
        while not said.endswith(b"\n}\n"):
            said += run.stdout.readline()
        panels = Panels(int(json.loads(said)["smm1st"]["url"].split(":")[2].split("/")[0]))
        for panel in PANELS:  # more than all tests can spend
            asyncio.run(panels.behind(panel, "balance", set=1_000_000))
        yield panels
        run.terminate()


@pytest.fixture(scope="module")
def furnished(panels: Panels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a database: its catalog is fetched, its customers have paid in."""
    folder = tmp_path_factory.mktemp("furnished")
    (folder / "providers.yaml").write_text(_yaml(panels))
    (folder / ".env").write_text(KEYS)

    async def furnish() -> None:
        site = Site(folder)
        await site.command("sync")
        for name, paid in CREDITS.items():
            row = await site.command("customer", "add", name, "--credit", paid)
            (folder / f"{name}.key").write_text(row["key"])

    asyncio.run(furnish())
    return folder


def _yaml(panels: Panels, unavailable: str = "refuse", waits: float = TIMEOUT) -> str:
    text = YAML.replace("PORT", str(panels.port)).replace("UNAVAILABLE", unavailable)
    return text.replace("TIMEOUT", f"{waits}s")


class Site:
    """One database in a folder, and the gateway processes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[Process] = []
        kept = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
        self._environment = kept | {"GATEWAY_LOG_LEVEL": "warning"}

    async def command(self, *words: str) -> Any:
        """Run a command, in this process to save its start; returns what it says."""
        flags = ["--config", str(self.folder / "providers.yaml")]
        flags += ["--database-url", f"sqlite:///{self.folder / 'gateway.db'}"]
        result = await asyncio.to_thread(CliRunner().invoke, app, [*flags, *words, "--json"])

        assert 0 == result.exit_code, (words, result.output, result.exception)
        return json.loads(result.stdout)

    def writable(self) -> bool:
        """Tell whether the database can be written to at this moment."""
        with contextlib.closing(apsw.Connection(str(self.folder / "gateway.db"))) as db:
            try:
                db.execute("BEGIN IMMEDIATE; ROLLBACK")
            except apsw.BusyError:
                return False
        return True

    async def start(self, port: int) -> Process:
        """Start a gateway; whether it gets as far as to answer is another question."""
        with (self.folder / "log").open("ab") as log:
            run = await asyncio.create_subprocess_exec(
                *PROGRAM, "serve", "--port", str(port),
                cwd=self.folder, env=self._environment, stdout=DEVNULL, stderr=log,
            )  # fmt: skip
        self.runs.append(run)
        return run

    async def answering(self, port: int) -> None:
        """Wait until a gateway answers customers."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(Lost):
                    await ask(port, "/api/v2", {"action": "balance"}, patience=PATIENCE)
                    return
                await asyncio.sleep(0.05)

    def running(self) -> list[Process]:
        return [run for run in self.runs if run.returncode is None]

    async def end(self) -> None:
        for run in self.running():
            await _end(run)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-6000:]


def _free_ports(count: int) -> list[int]:
    """Return ports that the system gives to nobody by itself.

    Programs go on connecting while no gateway is there. Among the ports that outgoing connections
    take, one of them would sooner or later be connected to itself.
    """
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


@dataclass
class Scene:
    """Everything a test has: the panels, the gateways' site, the customers, the moments."""

    panels: Panels
    site: Site
    traffic: Traffic
    chance: random.Random


Open = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def opened(panels: Panels, furnished: Path, tmp_path: Path) -> Open:
    """Return what opens a scene of its own, on a copy of the furnished database."""

    @asynccontextmanager
    async def opened(
        *, gateways: int = 1, unavailable: str = "refuse", waits: float = TIMEOUT
    ) -> AsyncIterator[Scene]:
        shutil.copytree(furnished, tmp_path, dirs_exist_ok=True)
        (tmp_path / "providers.yaml").write_text(_yaml(panels, unavailable, waits))
        customers = [Customer(name, (tmp_path / f"{name}.key").read_text()) for name in CREDITS]
        # The panels remember the orders of other tests.
        prefix = f"https://example.com/{secrets.token_hex(4)}/"
        ports = _free_ports(gateways)
        traffic = Traffic(prefix, customers, ports, list(RATES), SEED)
        site = Site(tmp_path)
        try:
            yield Scene(panels, site, traffic, random.Random(SEED))
        finally:
            await site.end()

    return opened


@asynccontextmanager
async def _busy(scene: Scene, kinds: Weather = STORM) -> AsyncIterator[None]:
    """Customers order in changing weather, inside of the context; after it all has its answer."""
    weather = asyncio.create_task(scene.panels.weather(kinds, scene.chance))
    try:
        async with scene.traffic.flowing():
            yield
            weather.cancel()
            await asyncio.wait({weather})
            await scene.panels.clear()
    finally:
        weather.cancel()
        await asyncio.gather(weather, return_exceptions=True)


# --- the reckoning -----------------------------------------------------------------------------

Row = Mapping[str, Any]
AGREED = ("provider", "order", "service", "size")
"""What our books and a panel say of an order in the same words."""
EVERY_ORDER = ("order", "list", "--limit", "1000000")


@dataclass
class Books:
    """What is known when everything is at rest: by the gateway, at the panels, by customers."""

    rows: list[dict[str, Any]]
    taken: list[dict[str, Any]]
    customers: dict[str, dict[str, Any]]
    wishes: list[Wish]

    def rows_of(self, wish: Wish) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["link"] == wish.link]

    def at_panels(self, link: str) -> list[dict[str, Any]]:
        return [one for one in self.taken if one["link"] == link]


def _failed(row: Row) -> bool:
    """Tell whether no provider has it: refused, or given up after its customer had the id."""
    return row["upstream_id"] is None and row["status"] in ("failed", "Canceled")


def _undecided(row: Row) -> bool:
    """Tell whether an order is queued or being sent."""
    return row["upstream_id"] is None and row["status"] not in ("failed", "Canceled", "unknown")


def _restless(row: Row, taken: Mapping[tuple[str, str], Row]) -> bool:
    """Tell whether something must still happen to an order: it is under way, or behind."""
    if row["upstream_id"] is None:
        return _undecided(row)
    theirs = taken.get((row["provider"], row["upstream_id"]))
    return theirs is not None and ENDS.get(theirs["status"]) != row["status"]


async def _rest(scene: Scene) -> None:
    """Wait until nothing is under way any more, and every order has reached its end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        await scene.panels.behind("smm1st", "clock", forward=3600)
        taken = await scene.panels.orders(scene.traffic.prefix)
        by_id = {(one["provider"], str(one["order"])): one for one in taken}
        rows = await scene.site.command(*EVERY_ORDER)
        moving = [row for row in rows if _restless(row, by_id)]
        if not moving:
            return
        assert loop.time() < until, (moving[:5], scene.site.log())
        await asyncio.sleep(0.3)


async def _reckon(scene: Scene) -> Books:
    """Stop everything that is at rest, and compare all that was said, booked and bought."""
    await _rest(scene)

    assert {0} == {await _end(run, signal.SIGTERM) for run in scene.site.running()}
    rows = await scene.site.command(*EVERY_ORDER)
    customers = await scene.site.command("customer", "list")
    audit = await scene.site.command("audit")
    taken = await scene.panels.orders(scene.traffic.prefix)
    by_name = {one["name"]: one for one in customers}
    books = Books(rows, taken, by_name, scene.traffic.wishes)
    wrong = [*scene.traffic.surprises, *_told(books), *_bought(books), *_money(books)]

    assert [] == [*wrong, *audit["problems"]], scene.site.log()
    return books


def _told(books: Books) -> Iterator[str]:
    """What customers were told is so: an acknowledged order exists, a key has one."""
    by_id = {row["id"]: row for row in books.rows}
    for wish in books.wishes:
        if len(set(wish.ids)) > 1:
            yield f"{wish.link} was given several ids: {wish.ids}"
        for order in set(wish.ids):
            row = by_id.get(order)
            if row is None:
                yield f"order {order} was acknowledged, and does not exist"
            elif row["link"] != wish.link or row["customer"] != wish.customer.name:
                yield f"order {order} was acknowledged for {wish.link}, and is {row}"
        rows = books.rows_of(wish)
        alive = [row["id"] for row in rows if not _failed(row)]
        if len(alive) > 1 or (len(rows) > 1 and not wish.key):
            yield f"{wish.link}, wanted once, is the orders {[row['id'] for row in rows]}"
        if wish.refusals and not wish.ids and not wish.lost and alive:
            yield f"order {alive} was refused with {wish.refusals}, and stands"


def _bought(books: Books) -> Iterator[str]:
    """Every order is at its provider once; or it failed, or is not known, and is there or not."""
    orders: dict[str, list[Row]] = {one["link"]: [] for one in books.taken}
    for row in books.rows:
        orders.setdefault(row["link"], []).append(row)
    for link, rows in orders.items():
        there = books.at_panels(link)
        if not rows:
            yield f"{there} is at a provider and in no book"
        if len(there) > 1:
            yield f"{rows} is at the providers more than once: {there}"
        alive = [row for row in rows if not _failed(row)]
        if [row["status"] for row in alive] == ["unknown"]:
            continue
        expected = [
            {
                "provider": row["provider"],
                "order": int(row["upstream_id"]),
                "service": OFFERS[row["service"], row["provider"]],
                "size": row["quantity"],
            }
            for row in alive
            if row["upstream_id"]
        ]
        if expected != [{name: one[name] for name in AGREED} for one in there]:
            yield f"the providers should have {expected} of {rows}, and have {there}"


def _money(books: Books) -> Iterator[str]:
    """Each order costs what it should, and each customer has what his orders left him."""
    for name, paid in CREDITS.items():
        mine = [row for row in books.rows if row["customer"] == name]
        for row in mine:
            if Decimal(row["charge"]) != (right := _charge(books, row)):
                yield f"order {row['id']} is charged {row['charge']} instead of {right}: {row}"
        held = sum((_charge(books, row) for row in mine if row["status"] == "unknown"), Decimal(0))
        spent = sum((_charge(books, row) for row in mine), Decimal(0)) - held
        left = Decimal(paid) - held - spent
        due = {"balance": left, "held": held, "spent": spent, "owed": Decimal(0)}
        booked = {what: Decimal(books.customers[name][what]) for what in due}
        if booked != due:
            yield f"{name} has {booked} instead of {due}"


def _charge(books: Books, row: Row) -> Decimal:
    """Return what an order should be charged or held, from what the panel has delivered."""
    if _failed(row):
        return Decimal(0)
    rate = RATES[row["service"]]
    if row["status"] in ("unknown", "Completed"):
        return rate * int(row["quantity"])
    if row["status"] == "Canceled":
        return Decimal(0)
    (theirs,) = books.at_panels(row["link"])
    return rate * int(theirs["done"])


# --- the rounds --------------------------------------------------------------------------------


@LIMIT
@pytest.mark.parametrize("unavailable", ["refuse", "queue"])
async def test_after_kills_at_any_moment_nothing_is_lost_and_nothing_doubled(
    opened: Open, unavailable: str
) -> None:
    async with opened(unavailable=unavailable) as scene:
        (port,) = scene.traffic.ports
        async with _busy(scene):
            for _ in range(ROUNDS):
                run = await scene.site.start(port)
                if scene.chance.random() < 0.8:  # else it may die while it is starting
                    await scene.site.answering(port)
                await asyncio.sleep(scene.chance.uniform(0.1, 1.2))
                await _end(run, signal.SIGKILL)
            await scene.site.start(port)
            await scene.site.answering(port)
        await _reckon(scene)

        assert scene.traffic.lost, "no kill met an order under way"
        assert scene.traffic.acknowledged


@LIMIT
async def test_after_pauses_longer_than_a_providers_timeout_nothing_is_lost_or_doubled(
    opened: Open,
) -> None:
    async with opened() as scene:
        (port,) = scene.traffic.ports
        run = await scene.site.start(port)
        await scene.site.answering(port)
        async with _busy(scene):
            for _ in range(ROUNDS):
                await asyncio.sleep(scene.chance.uniform(0.3, 1.0))
                await _pause(run, TIMEOUT + scene.chance.uniform(0.1, 1.5))
        books = await _reckon(scene)

        assert any(row["upstream_id"] for row in books.rows)


@LIMIT
async def test_of_two_gateways_on_one_database_either_may_die_sleep_or_be_replaced(
    opened: Open,
) -> None:
    async with opened(gateways=2, unavailable="queue") as scene:
        runs = {port: await scene.site.start(port) for port in scene.traffic.ports}
        for port in runs:
            await scene.site.answering(port)
        async with _busy(scene, (*STORM, *CROWD, *CROWD, *CROWD)):
            for _ in range(ROUNDS):
                await asyncio.sleep(scene.chance.uniform(0.2, 0.8))
                port = scene.chance.choice(scene.traffic.ports)
                if scene.chance.random() < 0.5:
                    await _pause(runs[port], TIMEOUT + scene.chance.uniform(0.1, 1.5))
                    continue
                if scene.chance.random() < 0.5:
                    await _end(runs[port], signal.SIGKILL)
                else:
                    await scene.site.answering(port)

                    assert 0 == await _end(runs[port], signal.SIGTERM), scene.site.log()
                runs[port] = await scene.site.start(port)
            for port in runs:
                await scene.site.answering(port)
        await _reckon(scene)

        assert scene.traffic.acknowledged


@LIMIT
async def test_an_order_that_waits_in_one_gateway_and_is_sent_by_another_is_sent_once(
    opened: Open,
) -> None:
    async with opened(gateways=2, unavailable="queue") as scene:
        idle, crowded = scene.traffic.ports
        await scene.site.start(idle)  # alone, it takes up all the background work
        await scene.site.answering(idle)
        await scene.site.start(crowded)
        await scene.site.answering(crowded)
        scene.traffic.ports = [crowded]
        async with _busy(scene, CROWD):
            await asyncio.sleep(ROUNDS)
        books = await _reckon(scene)

        assert any(row["upstream_id"] for row in books.rows)


@LIMIT
async def test_a_gateway_that_sleeps_until_its_work_was_taken_over_harms_nothing_when_it_wakes(
    opened: Open,
) -> None:
    async with opened(gateways=2) as scene:
        first, second = scene.traffic.ports
        holder = await scene.site.start(first)  # alone, it takes up all the background work
        await scene.site.answering(first)
        await scene.site.start(second)
        await scene.site.answering(second)
        scene.traffic.ports = [first]
        async with _busy(scene, CROWD):
            left = await _pause_under_way(scene, holder)
            scene.traffic.ports = [second]
            await _until_decided(scene, left)
            holder.send_signal(signal.SIGCONT)
            scene.traffic.ports = [first, second]
            await asyncio.sleep(scene.chance.uniform(0.3, 1.0))
        books = await _reckon(scene)

        assert any(row["upstream_id"] for row in books.rows)


async def _pause(run: Process, seconds: float) -> None:
    run.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    run.send_signal(signal.SIGCONT)


async def _until_under_way(scene: Scene) -> None:
    """Wait until a panel has orders of which nobody was told anything yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            open_ = {one.link for one in scene.traffic.wishes if not (one.ids or one.refusals)}
            taken = await scene.panels.orders(scene.traffic.prefix)
            if open_ & {one["link"] for one in taken}:
                return
            await asyncio.sleep(0.02)


async def _pause_under_way(scene: Scene, run: Process) -> set[int]:
    """Stop a gateway while it is sending orders; returns those of which it had no answer yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await _until_under_way(scene)
            run.send_signal(signal.SIGSTOP)
            if scene.site.writable():  # else it was stopped in a commit, for which all have to wait
                rows = await scene.site.command(*EVERY_ORDER)
                if left := {row["id"] for row in rows if _undecided(row)}:
                    return left
            run.send_signal(signal.SIGCONT)


async def _until_decided(scene: Scene, orders: set[int]) -> None:
    """Wait until another gateway has noticed that nobody is sending these any more."""
    async with asyncio.timeout(PATIENCE):
        while any(
            _undecided(row) for row in await scene.site.command(*EVERY_ORDER) if row["id"] in orders
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
        async with _busy(scene, MILD):
            for _ in range(ROUNDS):
                run = await scene.site.start(port)
                await scene.site.answering(port)
                await _until_under_way(scene)
                stopping = asyncio.create_task(_end(run, signal.SIGTERM))
                reached = await _reached_while(port, run)

                assert 0 == await stopping, scene.site.log()
                assert [False] == reached[-1:]
                assert sorted(reached, reverse=True) == reached, "it took new connections again"
            await scene.site.start(port)
            await scene.site.answering(port)
        books = await _reckon(scene)

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
