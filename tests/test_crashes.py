"""Kills and pauses at random moments of real gateway processes under traffic; then the reckoning.

The practice panels stay up while the gateways come and go on one SQLite file. When everything has
come to rest, what the customers were told, what the gateway's books say and what the panels have
is compared, order by order and to the last millionth.

The suite makes a few rounds of each. ``CRASH_ROUNDS=60`` makes as many as it says (the limit of time
grows with it), ``CRASH_SEED=7`` chooses other moments and other traffic. A seed repeats the
choices, but not how far real processes have got by then.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from traffic import Customer, Lost, Traffic, Wish, ask

PROGRAM = [sys.executable, "-m", "gateway"]
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "4"))
SEED = int(os.environ.get("CRASH_SEED", "1"))
PATIENCE = 60.0
"""Seconds until everything must have come to rest: leases have to run out, backoffs to end."""
LIMIT = pytest.mark.timeout(60 + 10 * ROUNDS)

TIMEOUT = 0.7
YAML = """
currency: USD
exchange_rates: {INR: "0.0119"}
every: {catalog: 5s, status: 200ms, balance: 500ms}
providers:
  smm1st:
    adapter: smm1st
    url: "http://127.0.0.1:PORT/smm1st/api/v2"
    key: "${SMM1ST_KEY}"
    timeout: 700ms
    limits: {concurrency: 8, per_second: 100}
  smm-panel.in:
    adapter: smm_panel_in
    url: "http://127.0.0.1:PORT/smm-panel.in/api/v2"
    key: "${SMM_PANEL_IN_KEY}"
    timeout: 700ms
    limits: {concurrency: 3, per_second: 30}
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

WEATHER: Sequence[tuple[str, float | None]] = (
    ("slow", 0.2),
    ("slow", 0.4),
    ("slow", 1.0),  # taken, and too late to be heard
    ("502-after", None),
    ("hang", None),
    ("drop-after", None),
    ("drop-before", None),
    ("500-before", 0.3),
    ("refuse", None),
    ("half", None),
)
"""What happens to ``add`` at the panels, and after how many seconds."""
MILD = WEATHER[:2]
"""Slow, but heard."""


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

    async def orders(self) -> list[dict[str, Any]]:
        """Return every order that either panel has, with the panel's name."""
        return [
            row | {"provider": panel}
            for panel in PANELS
            for row in await self.behind(panel, "orders")
        ]

    async def weather(
        self, kinds: Sequence[tuple[str, float | None]], chance: random.Random
    ) -> None:
        """Make trouble for some of the orders that arrive, until it is cancelled."""
        while True:
            fault, seconds = chance.choice(kinds)
            switch = {"fault": fault, "action": "add", "times": chance.randint(1, 3)}
            if seconds is not None:
                switch["seconds"] = seconds
            await self.behind(chance.choice(PANELS), "faults", **switch)
            await asyncio.sleep(chance.uniform(0.05, 0.3))

    async def clear(self) -> None:
        for panel in PANELS:
            await self.behind(panel, "faults", fault="none")


@asynccontextmanager
async def _panels() -> AsyncIterator[Panels]:
    run = await asyncio.create_subprocess_exec(
        *PROGRAM, "sandbox", "--port", "0", "--speed", "60", "--json", stdout=PIPE
    )
    assert run.stdout is not None
    try:
        said = await run.stdout.readuntil(b"\n}\n")
        panels = Panels(int(json.loads(said)["smm1st"]["url"].split(":")[2].split("/")[0]))
        for panel in PANELS:
            await panels.behind(panel, "balance", set=1_000_000)
        yield panels
    finally:
        await _end(run)


class Site:
    """One database in a folder, and the gateway processes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[Process] = []
        kept = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
        self._environment = kept

    async def command(self, *words: str) -> Any:
        """Run a command; returns what it says, exit code 0 required."""
        run = await asyncio.create_subprocess_exec(
            *PROGRAM, *words, "--json",
            cwd=self.folder, env=self._environment, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, err = await run.communicate()
        assert 0 == run.returncode, (words, out[-3000:], err[-3000:])
        return json.loads(out)

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

    async def end(self) -> None:
        for run in self.runs:
            await _end(run)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-6000:]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in found]


@dataclass
class Scene:
    """Everything a test has: the panels, the gateways' site, the customers, the moments."""

    panels: Panels
    site: Site
    traffic: Traffic
    chance: random.Random

    @property
    def ports(self) -> Sequence[int]:
        return self.traffic.ports


@asynccontextmanager
async def _scene(
    folder: Path, *, gateways: int = 1, unavailable: str = "refuse", repeats: bool = True
) -> AsyncIterator[Scene]:
    async with _panels() as panels:
        text = YAML.replace("PORT", str(panels.port)).replace("UNAVAILABLE", unavailable)
        (folder / "providers.yaml").write_text(text)
        (folder / ".env").write_text(KEYS)
        site = Site(folder)
        customers = [
            Customer(
                name, (await site.command("customer", "add", name, "--credit", paid))["key"], paid
            )
            for name, paid in CREDITS.items()
        ]
        await site.command("sync")
        traffic = Traffic(customers, _free_ports(gateways), list(RATES), SEED, repeats=repeats)
        try:
            yield Scene(panels, site, traffic, random.Random(SEED))
        finally:
            await site.end()


@asynccontextmanager
async def _busy(
    scene: Scene, kinds: Sequence[tuple[str, float | None]] = WEATHER
) -> AsyncIterator[None]:
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


def _restless(row: Row, taken: Mapping[tuple[str, str], Row]) -> bool:
    """Tell whether something must still happen to an order: it is under way, or behind."""
    if row["upstream_id"] is None:
        return row["status"] not in ("failed", "Canceled", "unknown")
    theirs = taken.get((row["provider"], row["upstream_id"]))
    return theirs is not None and ENDS.get(theirs["status"]) != row["status"]


async def _rest(scene: Scene) -> Books:
    """Wait until nothing moves any more, and every order has reached its end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    listing = ("order", "list", "--limit", "1000000")
    while True:
        await scene.panels.behind("smm1st", "clock", forward=3600)
        taken = await scene.panels.orders()
        rows = await scene.site.command(*listing)
        by_id = {(one["provider"], str(one["order"])): one for one in taken}
        moving = [row for row in rows if _restless(row, by_id)]
        if not moving:
            customers = await scene.site.command("customer", "list")
            if rows == await scene.site.command(*listing) and taken == await scene.panels.orders():
                break
        assert loop.time() < until, (moving[:5], scene.site.log())
        await asyncio.sleep(0.3)
    return Books(rows, taken, {one["name"]: one for one in customers}, scene.traffic.wishes)


async def _reckon(scene: Scene) -> Books:
    """Compare all that was said, booked and bought; everything that is wrong, at once."""
    books = await _rest(scene)
    wrong = [*scene.traffic.surprises, *_told(books), *_bought(books), *_money(books)]
    wrong += (await scene.site.command("audit"))["problems"]

    assert [] == wrong, scene.site.log()
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
            elif (row["link"], row["customer"]) != (wish.link, wish.customer.name):
                yield f"order {order} was acknowledged for {wish.link}, and is {row}"
        rows = books.rows_of(wish)
        alive = [row["id"] for row in rows if not _failed(row)]
        if len(alive) > 1 or (len(rows) > 1 and not wish.key):
            yield f"{wish.link}, wanted once, is the orders {[row['id'] for row in rows]}"
        if wish.refusals and not wish.ids and not wish.lost and alive:
            yield f"order {alive} was refused with {wish.refusals}, and stands"


def _bought(books: Books) -> Iterator[str]:
    """Every order is at its provider once, or it failed, or it is not known and held."""
    links = [one["link"] for one in books.taken]
    yield from (f"{link} is at the providers twice" for link in set(links) if links.count(link) > 1)
    ordered = {row["link"] for row in books.rows}
    yield from (f"{link} is at a provider and in no book" for link in set(links) - ordered)
    for row in books.rows:
        if row["status"] == "unknown":
            expected = None
        elif _failed(row):
            expected = []
        else:
            expected = [
                {
                    "provider": row["provider"],
                    "order": int(row["upstream_id"]),
                    "service": OFFERS[row["service"], row["provider"]],
                    "size": row["quantity"],
                }
            ]
        # A failed order may have a later one of the same wish, whose link is the same.
        alone = sum(one["link"] == row["link"] for one in books.rows) == 1
        there = [
            {name: one[name] for name in ("provider", "order", "service", "size")}
            for one in books.at_panels(row["link"])
        ]
        if expected is not None and there != expected and (alone or expected):
            yield f"order {row['id']} ({row['status']}) should be {expected}, and is {there}"


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
        right = {"balance": left, "held": held, "spent": spent, "owed": Decimal(0)}
        booked = {what: Decimal(books.customers[name][what]) for what in right}
        if booked != right:
            yield f"{name} has {booked} instead of {right}"


def _charge(books: Books, row: Row) -> Decimal:
    """Return what an order should be charged or held, from what the panel has delivered."""
    if _failed(row):
        return Decimal(0)
    whole = RATES[row["service"]] * row["quantity"]
    if row["status"] in ("unknown", "Completed"):
        return whole
    if row["status"] == "Canceled":
        return Decimal(0)
    (theirs,) = books.at_panels(row["link"])
    return RATES[row["service"]] * theirs["done"]


# --- the rounds --------------------------------------------------------------------------------


@LIMIT
@pytest.mark.parametrize("unavailable", ["refuse", "queue"])
async def test_after_kills_at_any_moment_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, unavailable: str
) -> None:
    async with _scene(tmp_path, unavailable=unavailable) as scene:
        (port,) = scene.ports
        async with _busy(scene):
            for _ in range(ROUNDS):
                run = await scene.site.start(port)
                if scene.chance.random() < 0.8:  # else it may die while it is starting
                    await scene.site.answering(port)
                await asyncio.sleep(scene.chance.uniform(0.1, 1.5))
                await _end(run, signal.SIGKILL)
            await scene.site.start(port)
            await scene.site.answering(port)
        await _reckon(scene)

        assert scene.traffic.lost, "no kill met an order under way"
        assert scene.traffic.acknowledged
