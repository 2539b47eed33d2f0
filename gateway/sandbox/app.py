"""The practice panels over HTTP, and what may be asked behind their counters."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import asdict, fields, replace
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import uvicorn

from gateway.sandbox.catalog import CATALOGS, CURRENCIES, NEEDS, Row
from gateway.sandbox.dialects import DIALECTS, encode
from gateway.sandbox.faults import FAULTS, Served, Switch, Switches
from gateway.sandbox.panel import Order, Panel, plain

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DEPOSIT = Decimal(1000)
"""What the account of each panel begins with."""
LONGEST = 3600.0
"""Seconds that a hanging answer hangs at most."""


def key(panel: str) -> str:
    """Return the key that a panel accepts."""
    return f"sandbox-{panel}"


class Clock:
    """Seconds that pass ``speed`` times as fast as real ones, and can be put forward."""

    def __init__(self, speed: float, real: Callable[[], float]) -> None:
        self._real, self._speed = real, speed
        self._began = real()
        self.ahead = 0.0

    def __call__(self) -> float:
        """Return the seconds since the sandbox was opened."""
        return (self._real() - self._began) * self._speed + self.ahead


class Stall:
    """One panel with its dialect and its switches."""

    def __init__(self, name: str, clock: Clock, seed: int) -> None:
        self.clock = clock
        self._key = key(name)
        self._catalog = {row.id: row for row in CATALOGS[name]}
        dialect = DIALECTS[name]
        chance = random.Random(f"{seed}/{name}")  # noqa: S311  # start counts, no secrets
        self.panel = Panel(dict(self._catalog), DEPOSIT, clock, chance, dialect.delays)
        self.dialect = dialect(self.panel, CURRENCIES[name])
        self.switches = Switches()
        self.behind: Mapping[str, Callable[[dict[str, Any]], object]] = {
            "orders": self._orders,
            "balance": self._balance,
            "clock": self._time,
            "services": self._services,
            "faults": self._faults,
        }

    def call(self, form: Mapping[str, str]) -> Served:
        """Answer a call of API v2."""
        if form.get("key") != self._key:
            return Served(encode({"error": "Invalid API key"}))
        switch = self.switches.meet(form)
        if switch is None:
            return Served(self.dialect.answer(form))
        fault = FAULTS[switch.fault]
        act = self.dialect.as_printed if switch.fault == "as-printed" else self.dialect.answer
        return fault.serve(act(form) if fault.acts else b"", switch.seconds)

    def ask(self, what: str, body: bytes) -> Served:
        """Answer what is asked behind the counter; 400 says what is wrong with the question."""
        try:
            return Served(encode(self.behind[what](_object(body))))
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            return Served(encode({"error": f"{type(error).__name__}: {error}"}), 400)

    def _orders(self, _: dict[str, Any]) -> object:
        return [self._order(one) for one in self.panel.orders.values()]

    def _order(self, order: Order) -> dict[str, object]:
        state = order.state(self.clock())
        return {
            **order.params,
            "order": order.id,
            "service": order.row.id,
            "size": order.size,
            "charge": plain(self.panel.charge(order)),
            "status": state.word,
            "done": state.done,
        }

    def _balance(self, asked: dict[str, Any]) -> object:
        if "set" in asked:
            self.panel.deposit += Decimal(str(asked["set"])) - self.panel.balance()
        return {"balance": plain(self.panel.balance())}

    def _time(self, asked: dict[str, Any]) -> object:
        self.clock.ahead += float(asked.get("forward", 0))
        return {"now": self.clock()}

    def _services(self, asked: dict[str, Any]) -> object:
        rows = self.panel.rows
        if "remove" in asked:
            del rows[int(asked["remove"])]
        if "restore" in asked:
            rows[int(asked["restore"])] = self._catalog[int(asked["restore"])]
        if "service" in asked:
            row = rows[int(asked["service"])]
            rows[row.id] = _changed(row, {**asked, "id": row.id})
        return self.dialect.services({})

    def _faults(self, asked: dict[str, Any]) -> object:
        if asked.get("fault") == "none":
            self.switches.on.clear()
        elif asked:
            switch = Switch(
                str(asked.get("action", "*")),
                str(asked["fault"]),
                int(asked.get("times", 1)),
                float(asked["seconds"]) if "seconds" in asked else None,
            )
            if switch.fault not in FAULTS:
                raise LookupError(f"{switch.fault}: one of none, {', '.join(FAULTS)}")
            self.switches.on.append(switch)
        return [asdict(one) for one in self.switches.on]


def _object(body: bytes) -> dict[str, Any]:
    asked = json.loads(body or b"{}")
    if not isinstance(asked, dict):
        raise TypeError("ask with a JSON object, or with nothing")
    return asked


def _changed(row: Row, asked: dict[str, Any]) -> Row:
    """Return a row with what is asked of it; what is no part of a row is passed over."""
    given = {one.name: asked[one.name] for one in fields(Row) if one.name in asked}
    if "rate" in given:
        given["rate"] = Decimal(str(given["rate"]))
    if given.get("type", row.type) not in NEEDS:
        raise LookupError(f"{given['type']}: one of {', '.join(NEEDS)}")
    return replace(row, **given)


class Sandbox:
    """The ASGI application."""

    def __init__(self, speed: float, seed: int, clock: Callable[[], float]) -> None:
        self.clock = Clock(speed, clock)
        self.stalls = {name: Stall(name, self.clock, seed) for name in CATALOGS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await _send(self._answer(scope["path"], body), receive, send)

    def _answer(self, path: str, body: bytes) -> Served:
        match path.strip("/").split("/"):
            case [name, "api", "v2"] if name in self.stalls:
                # As PHP's $_POST reads it: what stands in the query or in JSON is not seen.
                form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
                return self.stalls[name].call(form)
            case [name, "sandbox", what] if name in self.stalls:
                if what in self.stalls[name].behind:
                    return self.stalls[name].ask(what, body)
        paths = [
            f"/{name}/{path}"
            for name, stall in self.stalls.items()
            for path in ("api/v2", *(f"sandbox/{what}" for what in stall.behind))
        ]
        return Served(encode({"paths": paths}), 404)


def create(
    *, speed: float = 1.0, seed: int = 0, clock: Callable[[], float] = time.monotonic
) -> Sandbox:
    """Return the five panels; at ``speed`` 1 an order takes ten minutes."""
    return Sandbox(speed, seed, clock)


def serve(listening: socket.socket, *, speed: float = 1.0, seed: int = 0) -> None:
    """Serve the panels on a bound socket until the process is told to stop."""
    config = uvicorn.Config(
        create(speed=speed, seed=seed),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,  # an answer that hangs must not keep the process
    )
    uvicorn.Server(config).run(sockets=[listening])


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _send(answer: Served, receive: Receive, send: Send) -> None:
    if answer.wait:
        await _patience(answer.wait, receive)
    if answer.body is None:
        await _hang_up(receive, send)
        return
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if not answer.half:
        await send({"type": "http.response.body", "body": answer.body})
        return
    first = answer.body[: len(answer.body) // 2]
    await send({"type": "http.response.body", "body": first, "more_body": True})
    await _hang_up(receive, send)


async def _patience(seconds: float, receive: Receive) -> None:
    """Wait, but not for a caller who has gone."""
    gone = asyncio.ensure_future(receive())
    await asyncio.wait({gone}, timeout=min(seconds, LONGEST))
    gone.cancel()


async def _hang_up(receive: Receive, send: Send) -> None:
    """Close the connection, after what was written, without another word.

    ASGI has no word for that, so the server's own transport is closed; where there is none (an
    application called in process), the caller sees a ``ConnectionResetError``.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
