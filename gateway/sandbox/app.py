"""The practice panels over HTTP."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from decimal import Decimal
from email.message import Message as Headers
from typing import Any
from urllib.parse import parse_qsl

import uvicorn

from gateway.sandbox.catalog import CATALOGS
from gateway.sandbox.dialects import DIALECTS, Dialect, Number, plain
from gateway.sandbox.faults import ACTS_NOT, KINDS, WORDS, Faults, Served, Switch
from gateway.sandbox.faults import serve as served
from gateway.sandbox.panel import Order, Panel

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DEPOSIT = Decimal(1000)
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
        return (self._real() - self._began) * self._speed + self.ahead


class Stall:
    """One panel with its dialect, its faults and its clock."""

    def __init__(self, name: str, clock: Clock, seed: int) -> None:
        rows = {row.id: row for row in CATALOGS[name]}
        self.name = name
        self.clock = clock
        self.faults = Faults()
        chance = random.Random(f"{seed}/{name}")  # noqa: S311  # start counts, no secrets
        self.panel = Panel(rows, DEPOSIT, clock, chance)
        self.dialect: Dialect = DIALECTS[name](self.panel)

    def call(self, form: dict[str, str]) -> Served:
        """Answer a call of API v2."""
        if form.get("key") != key(self.name):
            return Served(_json({"error": "Invalid API key"}))
        switch = self.faults.on(form)
        if switch is None:
            return Served(_json(self.dialect.answer(form)))
        if switch.fault in WORDS:
            return Served(_json({"error": WORDS[switch.fault]}))
        if switch.fault in ACTS_NOT:
            return served(switch, b"")
        answer = self.dialect.answer(form)
        if switch.fault == "short-list" and isinstance(answer, list):
            answer = answer[: len(answer) // 4 or 1]
        if switch.fault == "wrong-types":
            answer = _other_types(answer)
        text = _json(answer)
        if switch.fault == "as-printed":
            text = self.dialect.as_printed(form, text.decode()).encode()
        return served(switch, text)

    def behind(self, what: str, asked: dict[str, Any]) -> object:
        """Answer what is asked behind the counter; ``LookupError`` when there is no such thing."""
        match what:
            case "orders":
                return [self._order(one) for one in self.panel.orders.values()]
            case "balance":
                if "set" in asked:
                    self.panel.deposit += Decimal(str(asked["set"])) - self.panel.balance()
                return {"balance": plain(self.panel.balance())}
            case "clock":
                self.clock.ahead += float(asked.get("forward", 0))
                return {"now": self.clock()}
            case "services":
                self._change(asked)
                return self.dialect.services({})
            case "faults":
                if asked:
                    self._switch(asked)
                return [vars(one) for one in self.faults.switches if one.times]
        raise LookupError(what)

    def _order(self, order: Order) -> dict[str, object]:
        state = order.state(self.clock())
        return {
            "order": order.id,
            "service": order.row.id,
            **order.params,
            "size": order.size,
            "charge": plain(self.panel.charge(order)),
            "status": state.word,
            "done": state.done,
        }

    def _change(self, asked: dict[str, Any]) -> None:
        if asked.get("remove"):
            self.panel.rows.pop(int(asked["remove"]), None)
        if asked.get("service"):
            number = int(asked["service"])
            named = {name: asked[name] for name in ("name", "type", "min", "max") if name in asked}
            if "rate" in asked:
                named["rate"] = Decimal(str(asked["rate"]))
            self.panel.rows[number] = replace(self.panel.rows[number], **named)

    def _switch(self, asked: dict[str, Any]) -> None:
        fault = str(asked.get("fault", ""))
        if fault == "none":
            self.faults.switches.clear()
            return
        if fault not in KINDS:
            raise LookupError(f"{fault}: one of none, {', '.join(sorted(KINDS))}")
        self.faults.switches.append(
            Switch(
                str(asked.get("action", "*")),
                fault,
                int(asked.get("times", 1)),
                float(asked.get("seconds", 6)),
            )
        )


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
        _, name, *rest = scope["path"].rstrip("/").split("/") + [""]
        stall = self.stalls.get(name)
        if stall and rest[:2] == ["api", "v2"]:
            served_ = stall.call(_form(scope, body))
        elif stall and rest[:1] == ["sandbox"]:
            served_ = _behind(stall, rest[1] if len(rest) > 1 else "", body)
        else:
            served_ = Served(_json({"panels": [f"/{one}/api/v2" for one in self.stalls]}), 404)
        await _send(served_, receive, send)


def create(
    *, speed: float = 1.0, seed: int = 0, clock: Callable[[], float] = time.time
) -> Sandbox:
    """Return the five panels; at ``speed`` 1 an order takes ten minutes."""
    return Sandbox(speed, seed, clock)


def serve(listening: socket.socket, *, speed: float = 1.0, seed: int = 0) -> None:
    """Serve the panels on a bound socket until the process is told to stop."""
    config = uvicorn.Config(
        create(speed=speed, seed=seed), log_config=None, access_log=False, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listening])


def _behind(stall: Stall, what: str, body: bytes) -> Served:
    try:
        return Served(_json(stall.behind(what, json.loads(body) if body else {})))
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        return Served(_json({"error": f"{type(error).__name__}: {error}"}), 400)


def _form(scope: Scope, body: bytes) -> dict[str, str]:
    """Read what PHP would see in ``$_REQUEST``: query, form or multipart, and no JSON."""
    form = dict(parse_qsl(scope.get("query_string", b"").decode(), keep_blank_values=True))
    kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    if kind.startswith("multipart/form-data"):
        return form | _multipart(kind, body)
    return form | dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _multipart(kind: str, body: bytes) -> dict[str, str]:
    head = Headers()
    head["content-type"] = kind
    boundary = f"--{head.get_param('boundary')}".encode()
    form = {}
    for part in body.split(boundary)[1:-1]:
        headers, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        head = Headers()
        head["content-disposition"] = headers.decode().partition("isposition: ")[2].split("\r")[0]
        form[str(head.get_param("name", header="content-disposition"))] = value.decode()
    return form


def _json(value: object) -> bytes:
    """Write JSON with ``Number`` as a bare number, to its last digit."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, dict):
        for one in value.values():
            if isinstance(one, Number):
                text = text.replace(f'"{one}"', one, 1)
    return text.encode()


def _other_types(value: Any) -> Any:  # noqa: ANN401  # whatever JSON holds
    """Return the same answer with numbers as strings, strings as numbers, and some nulls."""
    if isinstance(value, dict):
        return {
            name: None if name == "start_count" else _other_types(one)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_other_types(one) for one in value]
    if isinstance(value, bool) or value is None:
        return int(value or 0)
    if isinstance(value, int):
        return str(value)
    try:
        return float(value)
    except ValueError:
        return value


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
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(answer.body)).encode()),
            ],
        }
    )
    if answer.cut is not None:
        await send(
            {"type": "http.response.body", "body": answer.body[: answer.cut], "more_body": True}
        )
        await asyncio.sleep(0.05)  # let it go out before the line is cut
        await _hang_up(receive, send)
        return
    await send({"type": "http.response.body", "body": answer.body})


async def _patience(seconds: float, receive: Receive) -> None:
    """Wait, but not for a caller who has gone."""
    gone = asyncio.ensure_future(receive())
    await asyncio.wait({gone}, timeout=min(seconds, LONGEST))
    gone.cancel()


async def _hang_up(receive: Receive, send: Send) -> None:
    """Close the connection without another word.

    ASGI has no word for that, so the server's own transport is closed; where there is none (an
    application called in process), the caller sees a ``ConnectionResetError``.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
