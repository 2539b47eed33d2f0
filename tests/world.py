"""A whole gateway for one test: all of it real, and the panels passed in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
from starlette.applications import Starlette

from gateway import auth, config, ledger
from gateway.adapters import ADAPTERS
from gateway.app import Gateway, open_gateway
from gateway.endpoint import Endpoint
from gateway.model import Customer, Order
from gateway.money import Money
from gateway.settings import Settings
from gateway.store import Step, Transition
from gateway.upstream import Upstream

Form = dict[str, str]

ROWS = [
    {
        "service": 1,
        "name": "Followers",
        "type": "Default",
        "category": "First Category",
        "rate": "0.90",
        "min": "50",
        "max": "10000",
        "refill": True,
        "cancel": True,
        "dripfeed": True,
    }
]


class Panel:
    """A panel that answers as it is told, and remembers what it was asked.

    ``answers`` has an answer for each action: JSON, an ``httpx.Response``, an exception to raise,
    or a function of the form that returns one of these (or a coroutine of it).
    """

    def __init__(self, **answers: Any) -> None:
        self.calls: list[Form] = []
        self.answers: dict[str, Any] = {
            "services": ROWS,
            "add": self._add,
            "balance": {"balance": "100.00", "currency": "USD"},
            **answers,
        }
        self._last = 23500

    def _add(self, _: Form) -> dict[str, int]:
        self._last += 1
        return {"order": self._last}

    def asked(self, action: str) -> list[Form]:
        """Return the calls of one action."""
        return [call for call in self.calls if call["action"] == action]

    async def __call__(self, form: Form) -> httpx.Response:
        self.calls.append(form)
        answer = self.answers.get(form["action"], {"error": "Incorrect request"})
        if callable(answer):
            answer = answer(form)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, content=msgspec.json.encode(answer))


class World:
    """One gateway, its panels, and a customer with money."""

    def __init__(
        self,
        gateway: Gateway,
        panels: dict[str, Panel],
        client: httpx.AsyncClient,
        clock: "Clock",
    ) -> None:
        self.gateway = gateway
        self.panels = panels
        self.client = client
        self.clock = clock
        self.customer: Customer
        self.key = ""

    async def customer_with(self, amount: str, name: str = "alice", tier: str = "") -> str:
        """Add a customer with money; returns the key."""
        store = self.gateway.store
        key = auth.new_key()
        draft = Customer(id=0, name=name, tier=tier, created_at=1)
        customer = await store.add_customer(draft, auth.digest(await store.pepper(), key))
        assert customer is not None
        self.customer = customer
        if amount != "0":
            money = Money.of(amount, self.gateway.config.currency)
            await store.post([ledger.top_up(customer.id, money, "opening", 1)])
        return key

    async def api(self, action: str, **params: object) -> Any:
        """Ask the endpoint as the customer does; returns the JSON."""
        form = {"key": self.key, "action": action, **params}
        answer = await self.client.post("/api/v2", data=form)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def add(self, **params: object) -> Any:
        """Order 100 followers, or what else is said."""
        usual = {"service": 101, "link": "https://example.com/a", "quantity": 100}
        return await self.api("add", **(usual | params))

    async def order(self, order_id: int) -> Order:
        return (await self.gateway.store.orders([order_id]))[order_id]

    async def step(self, order_id: int, change: Transition) -> None:
        """Take an order further by hand."""
        await self.gateway.store.advance([Step(order_id, change)])

    async def balance(self) -> str:
        return str((await self.api("balance"))["balance"])

    async def audit(self) -> list[str]:
        """Return what is wrong with the books."""
        return (await self.gateway.store.inspect(ledger.audit)).problems

    async def look(self, provider: str = "p") -> int:
        """Follow the provider's orders once, however young they are."""
        self.clock.forward(10**8)
        return await self.gateway.follow.look(provider, 1000)

    async def look_refills(self, provider: str = "p") -> int:
        """Follow the provider's refills once."""
        self.clock.forward(10**8)
        return await self.gateway.follow.look_refills(provider, 1000)


class Clock:
    """Milliseconds that pass when they are told to."""

    def __init__(self) -> None:
        self.at = 1_800_000_000_000

    def __call__(self) -> int:
        return self.at

    def forward(self, milliseconds: int) -> None:
        self.at += milliseconds


YAML = """
currency: USD
providers:
  p: {adapter: api_v2, url: "http://panel/p", key: "${KEY}"}
services:
  101: {routes: [p/1]}
"""


@asynccontextmanager
async def world(
    folder: Path,
    yaml: str = YAML,
    *,
    money: str = "100",
    name: str = "alice",
    sync: bool = True,
    database_url: str = "",
    **panels: Panel,
) -> AsyncIterator[World]:
    """Open a gateway over these panels, each at ``http://panel/<name>``."""
    panels = panels or {"p": Panel()}

    async def carry(request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl((await request.aread()).decode(), keep_blank_values=True))
        assert form.pop("key") == "upstream-secret"
        return await panels[request.url.path.strip("/")](form)

    environment = {"KEY": "upstream-secret"}
    adapters = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    owner = config.parse(yaml, "providers.yaml", environment, adapters)
    settings = Settings(database_url=database_url or f"sqlite:///{folder / 'gateway.db'}")
    upstream = Upstream(httpx.MockTransport(carry))
    clock = Clock()
    async with open_gateway(owner, settings, upstream=upstream, now=clock) as gateway:
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
            one = World(gateway, panels, client, clock)
            if sync:
                for provider in panels:
                    await gateway.sync.fetch(provider)
            one.key = await one.customer_with(money, name)
            yield one
            await gateway.orders.drain(5)
            await gateway.aftersales.drain(5)
