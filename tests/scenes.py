"""Real gateway processes on one database, practice panels, and customers who order all the time.

The panels stay up while the gateways come and go. What a test does to the processes is its own
affair; ``reckoning`` then compares what everybody knows.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.commands.main import app
from traffic import Customer, Lost, Traffic, ask

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


async def end(run: Process, with_: signal.Signals = signal.SIGKILL) -> int:
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
        try:
            writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            said = await reader.read()
        finally:  # whoever asks may be cancelled
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


@contextmanager
def open_panels() -> Iterator[Panels]:
    """Run the panels for as long as the context lasts, whatever becomes of the gateways."""
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


class Site:
    """One database, and the gateway processes on it.

    Attributes:
        database_url: where the truth is.
        folder: with the owner's file, the customers' keys and the log.
        runs: every process that was started.

    """

    def __init__(self, folder: Path, database_url: str, redis_url: str = "") -> None:
        self.folder = folder
        self.runs: list[Process] = []
        self.database_url = database_url
        kept = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
        self._environment = kept | {
            "GATEWAY_DATABASE_URL": database_url,
            "GATEWAY_REDIS_URL": redis_url,
            "GATEWAY_LOG_LEVEL": "warning",
        }

    def declare(self, panels: Panels, unavailable: str = "refuse", waits: float = TIMEOUT) -> None:
        """Write the owner's file."""
        text = YAML.replace("PORT", str(panels.port)).replace("UNAVAILABLE", unavailable)
        (self.folder / "providers.yaml").write_text(text.replace("TIMEOUT", f"{waits}s"))
        (self.folder / ".env").write_text(KEYS)

    async def furnish(self) -> None:
        """Fetch the catalog, and let the customers pay in."""
        await self.command("sync")
        for name, paid in CREDITS.items():
            row = await self.command("customer", "add", name, "--credit", paid)
            (self.folder / f"{name}.key").write_text(row["key"])

    def customers(self) -> list[Customer]:
        return [Customer(name, (self.folder / f"{name}.key").read_text()) for name in CREDITS]

    async def command(self, *words: str) -> Any:
        """Run a command, in this process to save its start; returns what it says."""
        flags = ["--config", str(self.folder / "providers.yaml")]
        flags += ["--database-url", self.database_url]
        result = await asyncio.to_thread(CliRunner().invoke, app, [*flags, *words, "--json"])

        assert 0 == result.exit_code, (words, result.output, result.exception)
        return json.loads(result.stdout)

    async def start(self, *words: str) -> Process:
        """Start a process; whether it gets as far as to do anything is another question."""
        with (self.folder / "log").open("ab") as log:
            run = await asyncio.create_subprocess_exec(
                *PROGRAM, *words, cwd=self.folder, env=self._environment, stdout=DEVNULL, stderr=log
            )
        self.runs.append(run)
        return run

    async def serve(self, port: int, *flags: str) -> Process:
        """Start a gateway."""
        return await self.start("serve", "--port", str(port), *flags)

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
            await end(run)

    def logged(self, words: str) -> bool:
        """Tell whether a process has logged this."""
        return words in (self.folder / "log").read_text()

    def log(self) -> str:
        return (self.folder / "log").read_text()[-6000:]


def free_ports(count: int) -> list[int]:
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


@asynccontextmanager
async def set_up(panels: Panels, site: Site, gateways: int) -> AsyncIterator[Scene]:
    """Open a scene on a furnished site, with ports for so many gateways; ends its processes."""
    # The panels remember the orders of other tests.
    prefix = f"https://example.com/{secrets.token_hex(4)}/"
    traffic = Traffic(prefix, site.customers(), free_ports(gateways), list(RATES), SEED)
    try:
        yield Scene(panels, site, traffic, random.Random(SEED))
    finally:
        await site.end()


@asynccontextmanager
async def busy(scene: Scene, kinds: Weather = STORM) -> AsyncIterator[None]:
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


async def pause(run: Process, seconds: float) -> None:
    """Stop a process where it is, and let it go on."""
    run.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    run.send_signal(signal.SIGCONT)


async def until_under_way(scene: Scene) -> set[int]:
    """Wait until a panel has orders of which nobody was told; returns the ports that were asked."""
    async with asyncio.timeout(PATIENCE):
        while True:
            taken = {one["link"] for one in await scene.panels.orders(scene.traffic.prefix)}
            untold = [one for one in scene.traffic.wishes if not (one.ids or one.refusals)]
            if asked := {one.asking for one in untold if one.asking and one.link in taken}:
                return asked
            await asyncio.sleep(0.02)
