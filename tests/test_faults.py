"""Whatever the wire to a panel does, no order is there twice and no money goes astray.

All of it is real: a gateway with the transport that it has in production, two practice panels
behind a real server, and ``faultproxy`` on the way to the first. Gateway and panels share a clock
that passes when it is told to. What is true is asked behind the panels' counters.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from uvicorn.server import ServerState

import faultproxy
import wire
from faultproxy import FAULTS, Fault, Proxy
from gateway import config, sandbox
from gateway.adapters import ADAPTERS
from gateway.app import Gateway, open_gateway
from gateway.endpoint import Endpoint
from gateway.errors import CallFailed
from gateway.model import Cancel, Order, RefillStatus, State, Status
from gateway.settings import Settings
from world import Clock, World

LOOPS = {"uvloop": uvloop.new_event_loop}  # what the gateway runs on

YAML = """
currency: USD
providers:
  p:
    adapter: smmai
    url: "P"
    key: ${P_KEY}
    timeout: 20s
    limits: {concurrency: 100, per_second: 10000}
    settle: {mode: auto}
  q:
    adapter: smm1st
    url: "Q"
    key: ${Q_KEY}
    timeout: 20s
    limits: {concurrency: 100, per_second: 10000}
services:
  101: {routes: [p/1, q/1]}
"""
SOON = 0.4
"""The patience with a wire that would tax any."""
MINUTE = 60_000
SETTLED = 15 * MINUTE
"""By then whatever a practice panel does to an order is done, and evidence is conclusive."""

LOST = {name: fault for name, fault in FAULTS.items() if not fault.told}
COMING = {name: fault for name, fault in FAULTS.items() if fault.told}


class Trade(World):
    """A gateway with a customer, and the two panels where it buys."""

    def __init__(
        self,
        gateway: Gateway,
        client: httpx.AsyncClient,
        clock: Clock,
        panels: sandbox.Sandbox,
        proxy: Proxy,
    ) -> None:
        super().__init__(gateway, {}, client, clock)
        self.sandbox = panels
        self.p = panels.stalls["smmai"]
        self.q = panels.stalls["smm1st"]
        self.proxy = proxy

    async def meet(self, fault: Fault, action: str) -> None:
        """Have the next call of this action meet a fault, with little patience if it needs that."""
        await self.proxy.meet(fault, action)
        if fault.waits:
            self.gateway.router.line("p").timeout = SOON

    async def recovered(self) -> None:
        """Let the wire come to rest; what comes now is carried with patience."""
        await self.proxy.quiet()
        self.gateway.router.line("p").timeout = 20.0

    async def rounds(self) -> None:
        """Let the background come by until everything has come to its end."""
        for _ in range(3):
            self.clock.forward(SETTLED)
            await self.gateway.orders.dispatch()
            await self.gateway.orders.leftovers()
            await self.gateway.aftersales.cancel_again()
            for name in ("p", "q"):
                await self.gateway.follow.look(name, 1000)
                await self.gateway.follow.look_refills(name, 1000)

    def taken(self) -> tuple[int, int]:
        """Return how many orders each panel has."""
        return len(self.p.panel.orders), len(self.q.panel.orders)


@asynccontextmanager
async def served(app: sandbox.Sandbox) -> AsyncIterator[tuple[str, int]]:
    """Serve the panels as uvicorn does, without its signals and its seconds of grace."""
    options = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    options.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    protocol = partial(options.http_protocol_class, options, state, {})  # type: ignore[call-arg]
    server = await loop.create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        while state.connections:  # those who called have gone
            await asyncio.sleep(0.001)


@asynccontextmanager
async def opened(
    folder: Path, yaml: str, clock: Callable[[], int]
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """Open a gateway as it is in production, and a client of its endpoint."""
    adapters = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    keys = {"P_KEY": "sandbox-smmai", "Q_KEY": "sandbox-smm1st"}
    owner = config.parse(yaml, "providers.yaml", keys, adapters)
    settings = Settings(database_url=f"sqlite:///{folder / 'gateway.db'}")
    async with open_gateway(owner, settings, now=clock) as gateway:
        endpoint = Endpoint(
            gateway.auth,
            gateway.shop,
            gateway.listing,
            gateway.orders,
            gateway.aftersales,
            gateway.store,
            Starlette(),
        )
        transport = httpx.ASGITransport(endpoint)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield gateway, client
            await gateway.orders.drain(5)
            await gateway.aftersales.drain(5)


def placed_at(yaml: str, p: int, q: int) -> str:
    """Fill in on which ports the panels can be reached."""
    yaml = yaml.replace('"P"', f"http://127.0.0.1:{p}/smmai/api/v2")
    return yaml.replace('"Q"', f"http://127.0.0.1:{q}/smm1st/api/v2")


@asynccontextmanager
async def trade(folder: Path, yaml: str = YAML) -> AsyncIterator[Trade]:
    """Open everything, with both catalogs fetched and 100 USD on the customer's account."""
    clock = Clock()
    panels = sandbox.create(clock=lambda: clock.at / 1000)
    async with served(panels) as address, faultproxy.before(address) as proxy:
        yaml = placed_at(yaml, proxy.port, address[1])
        async with opened(folder, yaml, clock) as (gateway, client):
            one = Trade(gateway, client, clock, panels, proxy)
            for provider in ("p", "q"):
                await gateway.sync.fetch(provider)
                await gateway.settler.look(provider)
            one.key = await one.customer_with("100")
            yield one

            assert [] == await one.audit()


# --- add ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
async def test_an_order_is_with_the_panel_once_or_unknown(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    async with trade(tmp_path) as one:
        await one.meet(fault, "add")
        added = await one.add()
        await one.recovered()
        await one.rounds()
        order = await one.order(1)

        assert {"order": 1} == added
        assert "99.91" == await one.balance()
        if fault.told:
            assert (State.PLACED, "23501") == (order.state, order.upstream_id)
        elif fault.unsure and order.provider == "q":
            assert (State.PLACED, 2) == (order.state, order.attempt)
        else:
            assert (State.UNKNOWN, Status.PENDING) == (order.state, order.status)
        assert (int(fault.heard), int(order.provider == "q")) == one.taken()
        assert int(fault.heard) == one.proxy.heard("add")


@pytest.mark.parametrize("name", LOST)
async def test_what_the_wire_hid_the_balance_tells(tmp_path: Path, name: str) -> None:
    fault = LOST[name]
    async with trade(tmp_path) as one:
        await one.meet(fault, "add")
        await one.add()
        await one.recovered()
        for _ in range(2):
            one.clock.forward(SETTLED)
            await one.gateway.settler.look("p")
        order = await one.order(1)

        if order.provider == "p":
            settled = (State.PLACED, "99.91") if fault.heard else (State.FAILED, "100.00")
            assert settled == (order.state, await one.balance())
        assert int(order.state is State.PLACED) == sum(one.taken())


@pytest.mark.parametrize("name", COMING)
async def test_a_wire_that_only_dawdles_or_babbles_harms_no_order_after_it(
    tmp_path: Path, name: str
) -> None:
    async with trade(tmp_path) as one:
        await one.meet(COMING[name], "add")
        orders = []
        for n in range(3):
            added = await one.add(link=f"https://example.com/{n}")
            orders.append(await one.order(added["order"]))
            await one.proxy.quiet()

        there = {str(its.id): its.target for its in one.p.panel.orders.values()}
        assert there == {order.upstream_id: order.params["link"] for order in orders}
        assert {State.PLACED} == {order.state for order in orders}


async def test_an_id_that_another_order_has_is_not_believed(tmp_path: Path) -> None:
    """A panel, or what stands before it, may mix up its answers; the money must not follow."""
    async with trade(tmp_path) as one:
        await one.add(link="https://example.com/first")
        await one.meet(faultproxy.answered_by(one.proxy.answered[-1]), "add")
        added = await one.add(link="https://example.com/second")
        await one.recovered()
        await one.rounds()
        first, second = await one.order(1), await one.order(2)

        assert {"order": 2} == added
        assert (State.PLACED, State.UNKNOWN) == (first.state, second.state)
        assert ("23501", "") == (first.upstream_id, second.upstream_id)
        assert (2, 0) == one.taken()


async def test_an_order_goes_to_the_next_route_when_nobody_listens(tmp_path: Path) -> None:
    async with trade(tmp_path) as one:
        await one.proxy.close()
        added = await one.add()
        order = await one.order(1)

        assert {"order": 1} == added
        assert ("q", 2, State.PLACED) == (order.provider, order.attempt, order.state)
        assert (0, 1) == one.taken()


async def test_an_order_that_no_route_heard_is_refused_and_its_money_is_back(
    tmp_path: Path,
) -> None:
    async with trade(tmp_path, YAML.replace(", q/1", "")) as one:
        await one.proxy.close()
        added = await one.add()
        balance = await one.balance()
        await one.proxy.open()
        await one.rounds()

        assert ({"error": "Service is unavailable"}, "100.00") == (added, balance)
        assert State.FAILED is (await one.order(1)).state
        assert (0, 0) == one.taken()


@pytest.mark.parametrize("door", ["closed", "full", "nowhere", "speaks no TLS"])
async def test_an_order_that_found_no_way_in_was_never_heard(tmp_path: Path, door: str) -> None:
    """The panel has moved: its list is known from before, and it cannot be reached."""
    async with trade(tmp_path) as one:
        here = f"http://127.0.0.1:{one.proxy.port}"
        with wire.full_house() as full:
            there = {
                "closed": f"http://127.0.0.1:{wire.closed_port()}",
                "full": full,
                "nowhere": "http://panel.invalid",
                "speaks no TLS": here.replace("http", "https"),
            }[door]
            yaml = YAML.replace('"P"', f"{there}/api/v2", 1).replace("20s", f"{SOON}s", 1)
            yaml = yaml.replace('"Q"', "http://127.0.0.1:1/", 1)
            async with opened(tmp_path, yaml, one.clock) as (gateway, client):
                moved = Trade(gateway, client, one.clock, one.sandbox, one.proxy)
                moved.key = one.key
                added = await moved.add()

            assert {"error": "Service is unavailable"} == added
            assert ("100.00", 0, (0, 0)) == (
                await one.balance(),
                one.proxy.heard("add"),
                one.taken(),
            )


# --- status -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAULTS, "nobody listens"])
async def test_a_status_comes_with_the_next_round_and_money_follows_only_what_was_said(
    tmp_path: Path, name: str
) -> None:
    async with trade(tmp_path) as one:
        for course in ("usual", "partial", "cancel"):
            await one.add(link=f"https://example.com/{course}")
        orders = "1,2,3"
        news = {"1": "Completed", "2": "Partial", "3": "Canceled"}
        seen = []
        async with trouble(one, name, "status"):
            await one.look()
            seen.append((await said(one, orders), await one.balance()))
        await one.look()
        seen.append((await said(one, orders), await one.balance()))

        silent = (dict.fromkeys(news, "Pending"), "99.73")
        spoken = (news, "99.847")
        assert [spoken if name in COMING else silent, spoken] == seen
        assert (3, 0) == one.taken()


async def said(one: Trade, orders: str) -> dict[str, str]:
    """Return what the customer is told of each order."""
    rows = await one.api("status", orders=orders)
    return {order: row["status"] for order, row in rows.items()}


@asynccontextmanager
async def trouble(one: Trade, name: str, action: str) -> AsyncIterator[None]:
    """Have the next call of an action meet a fault by name, or nobody, until the block ends."""
    if name == "nobody listens":
        await one.proxy.close()
        yield
        await one.proxy.open()
    else:
        await one.meet(FAULTS[name], action)
        yield
        await one.recovered()


# --- refill and refill_status -------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
async def test_a_refill_that_may_have_been_heard_is_not_told_as_refused(
    tmp_path: Path, name: str
) -> None:
    fault = FAULTS[name]
    async with trade(tmp_path) as one:
        await one.add()
        await one.look()
        async with trouble(one, name, "refill"):
            first = await one.api("refill", order=1)
        refused = fault.unsure and "error" in first
        if not refused:
            again = await one.api("refill", order=1)
            assert ({"refill": "1"}, {"refill": "1"}) == (first, again)
            assert "Pending" == (await one.api("refill_status", refill=1))["status"]
            assert int(fault.heard) == len(one.p.panel.refills)
        one.clock.forward(25 * 60 * MINUTE)
        await one.rounds()
        later = await one.api("refill", order=1)

        assert {"refill": "2"} == later
        assert int(fault.heard) + 1 == len(one.p.panel.refills)
        assert ("99.91", (1, 0)) == (await one.balance(), one.taken())


async def test_a_refill_that_nobody_heard_is_refused_and_can_be_asked_for_again(
    tmp_path: Path,
) -> None:
    async with trade(tmp_path) as one:
        await one.add()
        await one.look()
        async with trouble(one, "nobody listens", "refill"):
            first = await one.api("refill", order=1)
        there = len(one.p.panel.refills)
        second = await one.api("refill", order=1)

        assert ({"error": "Service is unavailable"}, 0) == (first, there)
        assert ({"refill": "2"}, 1) == (second, len(one.p.panel.refills))


@pytest.mark.parametrize("name", [*FAULTS, "nobody listens"])
async def test_how_far_a_refill_is_comes_with_the_next_round(tmp_path: Path, name: str) -> None:
    async with trade(tmp_path) as one:
        await one.add()
        await one.look()
        await one.api("refill", order=1)
        seen = []
        async with trouble(one, name, "refill_status"):
            await one.look_refills()
            seen.append((await one.api("refill_status", refill=1))["status"])
        await one.look_refills()
        seen.append((await one.api("refill_status", refill=1))["status"])

        silent = RefillStatus.COMPLETED if name in COMING else RefillStatus.PENDING
        assert [silent, RefillStatus.COMPLETED] == seen
        assert (1, "99.91") == (len(one.p.panel.refills), await one.balance())


# --- cancel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAULTS, "nobody listens"])
@pytest.mark.parametrize("passes", [0, MINUTE], ids=["at once", "a minute later"])
async def test_a_cancel_is_told_until_it_is_heard_and_pays_back_what_was_not_delivered(
    tmp_path: Path, name: str, passes: int
) -> None:
    """After a minute a panel that had heard of it has canceled, and says no to the repeat."""
    async with trade(tmp_path) as one:
        await one.add()
        async with trouble(one, name, "cancel"):
            told = await one.api("cancel", orders="1,2")
        held = (await one.order(1)).cancel, await one.balance()
        one.clock.forward(passes)
        await one.gateway.aftersales.cancel_again()
        repeated = one.proxy.heard("cancel")
        await one.look()

        assert [{"order": 1, "cancel": 1}, {"order": 2, "cancel": INCORRECT}] == told
        assert (Cancel.ASKED if name in COMING else Cancel.WANTED, "99.91") == held
        heard = name in FAULTS and FAULTS[name].heard
        assert int(heard) + int(name not in COMING) == repeated
        assert ({"1": "Canceled"}, "100.00") == (await said(one, "1"), await one.balance())
        assert 0 == await one.gateway.aftersales.cancel_again()
        assert (1, 0) == one.taken()


INCORRECT = {"error": "Incorrect order ID"}


# --- balance and services -----------------------------------------------------------------------

TROUBLES = {**{name: fault.told for name, fault in FAULTS.items()}, "nobody listens": False}
"""Every trouble by its name, and whether the answer comes in spite of it."""


async def test_a_balance_is_seen_right_or_not_at_all(tmp_path: Path) -> None:
    seen = {}
    async with trade(tmp_path) as one:
        for number, name in enumerate(TROUBLES):
            behind(one, "balance", set=f"{number}.34567")
            one.clock.forward(MINUTE)
            async with trouble(one, name, "balance"):
                comes = await attempt(one.gateway.settler.look("p"))
            (last,) = (await one.gateway.store.readings("p", 0))[-1:]
            seen[name] = last.answered_at == one.clock.at
            assert seen[name] is comes
            assert not comes or last.balance == number * 1_000_000 + 345_670
            one.clock.forward(MINUTE)
            assert await attempt(one.gateway.settler.look("p"))
            assert number * 1_000_000 + 345_670 == one.gateway.router.line("p").purse

    assert TROUBLES == seen


async def test_a_list_is_taken_over_whole_or_the_last_one_stays_in_force(tmp_path: Path) -> None:
    seen = {}
    async with trade(tmp_path) as one:
        rate = "0.90"
        for number, name in enumerate(TROUBLES):
            before, rate = rate, f"0.{number + 50}"
            behind(one, "services", service=1, rate=rate)
            async with trouble(one, name, "services"):
                seen[name] = await attempt(one.gateway.sync.fetch("p"))
                (row,) = await one.api("services")
            assert (rate if seen[name] else before) == row["rate"]
            await one.gateway.sync.fetch("p")
            (row,) = await one.api("services")
            assert rate == row["rate"]

    assert TROUBLES == seen


def behind(one: Trade, what: str, **asked: object) -> None:
    """Change something behind the panel's counter."""
    one.p.ask(what, json.dumps(asked).encode())


async def attempt(work: Awaitable[object]) -> bool:
    """Tell whether a round of the background came to something."""
    try:
        await work
    except CallFailed:
        return False
    return True


# --- everything at once -------------------------------------------------------------------------

STORM = """
currency: USD
every: {catalog: 300ms, status: 100ms}
providers:
  p:
    adapter: smmai
    url: "P"
    key: ${P_KEY}
    timeout: 500ms
    limits: {concurrency: 100, per_second: 10000}
  q: {adapter: smm1st, url: "Q", key: "${Q_KEY}"}
services:
  101: {routes: [p/1]}
  102: {routes: [p/1, q/1]}
"""
COURSES = ("usual", "usual", "partial", "cancel", "late-cancel")


@pytest.mark.parametrize("seed", range(3))
async def test_after_a_storm_everything_comes_right_by_itself(tmp_path: Path, seed: int) -> None:
    """The background runs as in production; customers order, ask, cancel and refill meanwhile."""
    chance = random.Random(seed)
    panels = sandbox.create(speed=600)
    async with (
        served(panels) as address,
        faultproxy.before(address) as proxy,
        opened(tmp_path, placed_at(STORM, proxy.port, address[1]), now) as (gateway, client),
    ):
        one = Trade(gateway, client, Clock(), panels, proxy)
        one.key = await one.customer_with("100")
        for provider in ("p", "q"):
            await gateway.sync.fetch(provider)
        gateway.background.start()
        proxy.plan = storm(chance)
        answers: dict[str, Any] = {}
        await asyncio.gather(*(customer(one, chance, answers, n) for n in range(8)))
        proxy.plan = faultproxy.calm
        async with asyncio.timeout(45):
            await settled(one)
        await gateway.background.stop()
        await proxy.quiet()
        orders = [await one.order(number) for number in range(1, await last_order(one) + 1)]

        owed = Decimal(0)
        for order in orders:
            owed += compare(one, order)
        there = [its.target for stall in (one.p, one.q) for its in stall.panel.orders.values()]
        acknowledged = {link for link, answer in answers.items() if "order" in answer}
        kept = {order.params["link"] for order in orders if order.state is not State.FAILED}
        assert len(there) == len(set(there))
        assert set(there) <= acknowledged
        assert kept <= acknowledged
        assert Decimal(100) - owed == Decimal(await one.balance())
        assert [] == await one.audit()


def now() -> int:
    return int(time.time() * 1000)


def storm(chance: random.Random) -> faultproxy.Plan:
    """Let every third call meet a fault of any kind, except one that has a test of its own.

    An answer which comes once more while the next is waited for cannot be told from it.
    """
    greeting = [fault for fault in FAULTS.values() if fault.greets]
    others = [
        fault
        for name, fault in FAULTS.items()
        if not fault.greets and name != "answered again later"
    ]

    def plan(action: str) -> Fault | None:
        if chance.random() > (1 / 3 if action else 1 / 10):
            return None
        return chance.choice(others if action else greeting)

    return plan


async def customer(one: Trade, chance: random.Random, answers: dict[str, Any], n: int) -> None:
    """Order ten times, and worry about the orders."""
    for _ in range(10):
        link = f"https://example.com/{n}/{len(answers)}/{chance.choice(COURSES)}"
        answers[link] = {}
        answers[link] = await one.add(
            link=link, quantity=chance.randrange(50, 1000, 10), service=chance.choice([101, 102])
        )
        orders = ",".join(str(chance.randrange(1, 80)) for _ in range(20))
        action = chance.choice(["status", "cancel", "refill", "balance", "services"])
        await one.api(action, orders=orders)
        await asyncio.sleep(chance.random() / 10)


async def settled(one: Trade) -> None:
    """Wait until the background has nothing left to do but to wait for evidence."""
    while True:
        orders = [await one.order(number) for number in range(1, await last_order(one) + 1)]
        placed = [order for order in orders if order.state is State.PLACED and order.upstream_id]
        if not any(order.state in (State.QUEUED, State.SENDING) for order in orders) and all(
            order.settled_at and order.status is truth(one, order)[0] for order in placed
        ):
            return
        await asyncio.sleep(0.05)


async def last_order(one: Trade) -> int:
    return max(await one.gateway.store.orders(range(1, 100)), default=0)


def truth(one: Trade, order: Order) -> tuple[Status, int]:
    """Return how the order stands at its panel: its status, and how much is delivered."""
    stall = one.p if order.provider == "p" else one.q
    state = stall.panel.order(order.upstream_id).state(stall.clock())
    return Status(state.word.capitalize()), state.done


def compare(one: Trade, order: Order) -> Decimal:
    """Compare an order with its panel; returns what its customer should be charged for it."""
    link = order.params["link"]
    there = [
        its for stall in (one.p, one.q) for its in stall.panel.orders.values() if its.target == link
    ]
    if order.state is State.PLACED and order.upstream_id:
        (its,) = there
        status, done = truth(one, order)
        assert (str(its.id), status) == (order.upstream_id, order.status)
        return RATE * (0 if status is Status.CANCELED else done)
    if order.state is State.FAILED:
        assert [] == there
        return Decimal(0)
    assert len(there) == 1 or order.state is State.UNKNOWN
    return RATE * order.size


RATE = Decimal("0.0009")
