"""The panels of a simulation: the practice panels, behind a wire on which anything may go wrong.

Chance decides for each call what goes wrong with it. What really happened is kept apart from what
was answered: which order was written to whom, and which was taken, by its link.
"""

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import httpx

from gateway import sandbox, upstream
from gateway.sandbox.app import Stall
from gateway.sandbox.faults import FAULTS, Served, Switch
from gateway.sandbox.panel import Order as Theirs
from gateway.simulation.bounds import Calls
from gateway.simulation.loop import Clock, Loop

SPEED = 20.0
"""How much faster than real the panels live: an order takes thirty seconds."""
LATEST = 8.0
"""Seconds after which a panel has acted on whatever has reached it."""
LAG = 8.0
"""Seconds by which a balance may be older than it looks."""

WIRE = ("refused", "no connection", "lost on the way", "acts late", "answers twice")
"""What goes wrong between us and a panel; the rest is the practice panels' own table."""
READING = ("leaves out", "denies", "lies")
"""What a panel may do to the answers that only read."""
UNLIKELY = frozenset({"wrong-types", "as-printed", "bom", "notice", "short-list", "slow"})


@dataclass(eq=False)
class Call:
    """One call of the gateway to a panel.

    Attributes:
        trouble: what goes wrong with it; empty: nothing.
        under_way: it was written, and the panel has not acted on it yet.
        refused: whoever wrote it has read that it was refused.

    """

    provider: str
    form: Mapping[str, str]
    process: int
    trouble: str
    under_way: bool = False
    refused: bool = False
    answer: "asyncio.Future[Served] | None" = None

    @property
    def target(self) -> str:
        """What an order is for, which tells it from all others."""
        return target(self.form)


@dataclass
class Taken:
    """An order that a panel has taken for us."""

    provider: str
    order: Theirs


@dataclass
class Weather:
    """How much goes wrong.

    Attributes:
        trouble: the part of all calls that something goes wrong with.
        lies: the part of all statuses that are not true.
        lag: seconds for which a panel shows the same balance.

    """

    trouble: float = 0.0
    lies: float = 0.0
    lag: float = 0.0
    down_until: dict[str, float] = field(default_factory=dict)


def target(form: Mapping[str, str]) -> str:
    """Return what an order is for, under whatever name a panel knows it."""
    return form.get("link") or form.get("url") or form.get("username", "")


class Panels:
    """All panels, and the truth about them."""

    def __init__(
        self, clock: Clock, outside: Loop, chance: random.Random, weather: Weather
    ) -> None:
        self.weather = weather
        self.stalls: Mapping[str, Stall] = sandbox.create(
            speed=SPEED, seed=chance.randrange(1 << 30), clock=clock
        ).stalls
        self.written: dict[str, list[Call]] = {}
        self.taken: dict[str, list[Taken]] = {}
        self.calls: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.trace: list[str] = []
        self.wrong: list[str] = []
        self.just_sent: list[Call] = []
        self._clock = clock
        self._outside = outside
        self._chance = chance
        self._shown: dict[str, tuple[float, Served]] = {}

    # --- on the wire ------------------------------------------------------------------------

    def begin(self, provider: str, form: Mapping[str, str], process: int) -> Call:
        """Decide what goes wrong with a call that is about to be made."""
        action = form.get("action", "")
        trouble = ""
        if self._clock() < self.weather.down_until.get(provider, 0.0):
            trouble = self._chance.choice(WIRE[:3])
        elif self._chance.random() < self.weather.trouble:
            trouble = self._trouble(action)
        elif action == "status" and self._chance.random() < self.weather.lies:
            trouble = "lies"
        self.calls[action] += 1
        if trouble:
            self.troubles[trouble] += 1
        self.trace.append(f"{process} calls {provider} {action} {target(form)}: {trouble}")
        return Call(provider, form, process, trouble)

    def _trouble(self, action: str) -> str:
        kinds = [
            *WIRE,
            *(one for one in FAULTS if one not in UNLIKELY),
            self._chance.choice(sorted(UNLIKELY)),
        ]
        if action == "status":
            kinds += READING[:2]
        return self._chance.choice(kinds)

    def write(self, call: Call) -> None:
        """Take a request that is being written; what its process does later can't change that."""
        if call.form.get("action") == "add":
            earlier = self.written.setdefault(call.target, [])
            if any(not one.refused for one in earlier):
                self.wrong.append(
                    f"{call.target} was sent to {call.provider} though nothing proves that "
                    f"{earlier[-1].provider} did not take it"
                )
            earlier.append(call)
            self.just_sent.append(call)
        if call.trouble == "lost on the way":
            return
        call.under_way = True
        late = self._chance.uniform(0.2, 1.0) * LATEST if call.trouble == "acts late" else 0.0
        self._outside.call_later(late + self._chance.uniform(0.001, 0.3), self._arrive, call)

    def _arrive(self, call: Call) -> None:
        """Let the panel act, and send its answer."""
        call.under_way = False
        served = self._served(call)
        self.trace.append(f"{call.provider} answers {call.target}: {served.body!r:.60}")
        if call.trouble == "answers twice" and served.body:
            served = replace(served, body=served.body * 2)
        if not math.isinf(served.wait):
            back = served.wait + self._chance.uniform(0.001, 0.3)
            self._outside.call_later(back, self._heard, call, served)

    def _heard(self, call: Call, served: Served) -> None:
        if call.answer is None or call.answer.done():
            return
        said = served.body or b""
        refused = b'"error"' in said and b'"order"' not in said
        call.refused = refused and served.status == 200 and not served.half  # noqa: PLR2004
        call.answer.set_result(served)

    # --- at the panel -----------------------------------------------------------------------

    def _served(self, call: Call) -> Served:
        stall = self.stalls[call.provider]
        action = call.form.get("action", "")
        if action == "balance" and call.trouble not in FAULTS:
            return self._balance(call)
        if call.trouble in FAULTS:
            stall.switches.on.append(Switch(action, call.trouble))
        orders = stall.panel.orders
        count = len(orders)
        hidden = self._hidden(call, orders) if call.trouble == "denies" else None
        served = stall.call(call.form)
        if hidden:
            orders[str(hidden.id)] = hidden
        stall.switches.on.clear()
        if action == "add" and len(orders) > count:
            order = list(orders.values())[-1]
            self.taken.setdefault(order.target, []).append(Taken(call.provider, order))
        if call.trouble in READING:
            return self._tampered(call, served)
        return served

    def _balance(self, call: Call) -> Served:
        """Answer with a balance that may be some seconds old."""
        at, shown = self._shown.get(call.provider, (-math.inf, Served(None)))
        if self._clock() - at >= self.weather.lag:
            shown = self.stalls[call.provider].call(call.form)
            self._shown[call.provider] = self._clock(), shown
        return shown

    def _hidden(self, call: Call, orders: dict[str, Theirs]) -> Theirs | None:
        """Take out an order that is asked for, for the time of a call."""
        ids = [one for one in _ids(call.form) if one in orders]
        return orders.pop(self._chance.choice(ids)) if ids else None

    def _tampered(self, call: Call, served: Served) -> Served:
        """Return a status answer without one of its rows, or with a row that is not true."""
        try:
            answer: dict[str, Any] = json.loads(served.body or b"")
        except ValueError:
            return served
        names = [name for name in _ids(call.form) if isinstance(answer.get(name), dict)]
        if call.trouble == "leaves out":
            if names:
                del answer[self._chance.choice(names)]
        elif call.trouble == "lies":
            row = answer[self._chance.choice(names)] if names else answer
            if "remains" in row:
                self._lie(self.stalls[call.provider], row)
        return Served(json.dumps(answer).encode())

    def _lie(self, stall: Stall, row: dict[str, Any]) -> None:
        words = list(stall.dialect.words.values())
        row["status"] = self._chance.choice(words)
        row["remains"] = str(self._chance.randint(-20, 150))
        row["start_count"] = str(self._chance.randint(0, 200))

    # --- behind the counter -----------------------------------------------------------------

    def move(self, provider: str, amount: Decimal) -> None:
        """Let money that nobody told us of come to our account there, or leave it."""
        self.stalls[provider].panel.deposit += amount

    def spend(self, provider: str, service: str, quantity: int) -> None:
        """Let somebody else order something on our account."""
        name = self.stalls[provider].dialect.link
        form = {"key": sandbox.key(provider), "action": "add", "service": service}
        form |= {name: "https://example.com/foreign", "quantity": str(quantity)}
        self.stalls[provider].call(form)

    def reprice(self, provider: str, service: int, factor: Decimal) -> None:
        """Let a price jump."""
        panel = self.stalls[provider].panel
        row = panel.rows[service]
        panel.rows[service] = replace(row, rate=(row.rate * factor).quantize(Decimal("0.0001")))


def _ids(form: Mapping[str, str]) -> list[str]:
    return form.get("orders", form.get("order", "")).split(",")


class Wire(httpx.AsyncBaseTransport):
    """What one process writes to the panels with."""

    def __init__(self, panels: Panels, process: int, calls: Calls, chance: random.Random) -> None:
        self._panels = panels
        self._process = process
        self._calls = calls
        self._chance = chance

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request, or don't."""
        form = dict(parse_qsl((await request.aread()).decode(), keep_blank_values=True))
        call = self._panels.begin(request.url.path.strip("/"), form, self._process)
        if wrong := self._calls.begin(call.provider):
            self._panels.wrong.append(wrong)
        try:
            return await self._carry(request, call)
        finally:
            self._calls.end(call.provider)

    async def _carry(self, request: httpx.Request, call: Call) -> httpx.Response:
        request.extensions[upstream.UNWRITTEN] = True
        if call.trouble == "refused":
            await asyncio.sleep(0.01)
            raise httpx.ConnectError("connection refused")
        if call.trouble == "no connection":
            await asyncio.get_running_loop().create_future()
        if self._chance.random() < 0.5:  # noqa: PLR2004  # else there is one that was kept
            await asyncio.sleep(self._chance.uniform(0.001, 0.2))
        upstream.in_time(request)
        request.extensions[upstream.UNWRITTEN] = False
        call.answer = asyncio.get_running_loop().create_future()
        self._panels.write(call)
        served = await call.answer
        if served.body is None:
            raise httpx.RemoteProtocolError("closed without a word")
        if served.half:
            raise httpx.ReadError("closed in the middle")
        return httpx.Response(served.status, content=served.body)
