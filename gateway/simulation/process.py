"""One run of the gateway in a simulation: a process, with a loop and a wire of its own."""

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette

from gateway.app import Gateway, wind_down
from gateway.auth import Auth
from gateway.cache import MemoryCache
from gateway.config import Config
from gateway.endpoint import Endpoint
from gateway.limits import Limits
from gateway.message import Message
from gateway.simulation.bounds import Calls
from gateway.simulation.loop import Clock, Loop
from gateway.simulation.panels import Panels, Wire
from gateway.store.sqlite import SqliteStore
from gateway.upstream import Upstream

Answer = tuple[int, Any] | None
"""The HTTP status and the JSON; ``None``: the line broke."""


class Process:
    """A gateway that serves, until it is killed or stopped.

    Attributes:
        doom: at which of its steps something happens to it; ``None``: at none.
        ready: whether it takes requests.
        alive: whether it will ever do anything again.
        calls: those that it makes, and when it was stopped.

    """

    def __init__(
        self,
        number: int,
        path: Path,
        config: Config,
        clock: Clock,
        panels: Panels,
        chance: random.Random,
        *,
        work: bool = True,
    ) -> None:
        self.number = number
        self.loop = Loop(clock)
        self.doom: int | None = None
        self.ready = False
        self.alive = True
        self.gateway: Gateway
        self._endpoint: Endpoint
        self._config = config
        self._clock = clock
        self.calls = Calls(config.providers, clock)
        self._wire = Wire(panels, number, self.calls, chance)
        self._changing = asyncio.Lock()
        self._waiting: dict[asyncio.Future[Answer], None] = {}  # in order, as no set is
        self.loop.create_task(self._start(path, work=work))

    async def _start(self, path: Path, *, work: bool) -> None:
        store = SqliteStore.rehearse(path)
        auth = Auth(store, await store.pepper(), self._clock)
        cache = MemoryCache(clock=self._clock)
        gateway = Gateway(self._config, store, cache, Upstream(self._wire), auth, self._clock.now)
        await gateway.shop.refresh()
        self._serve_by(gateway)
        if work:
            gateway.background.start()
        self.ready = True

    def _serve_by(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._endpoint = Endpoint(
            gateway.auth,
            gateway.shop,
            gateway.listing,
            gateway.orders,
            gateway.aftersales,
            gateway.store,
            Starlette(),
            limits=Limits(gateway.config.limits, self._clock),
        )

    def take_up(self, config: Config) -> None:
        """Let it take up a changed file, as soon as it has taken up the one before."""
        self.loop.create_task(self._take_up(config))

    async def _take_up(self, config: Config) -> None:
        async with self._changing:
            before = self.gateway
            if not self.ready or config is before.config:
                return
            self._serve_by(await before.changed(config))
            await before.background.stop()
            self.gateway.background.start()
            await wind_down(before)

    def take(self, form: Mapping[str, str], answer: "asyncio.Future[Answer]") -> None:
        """Take a customer's request; the answer is his, and of his own loop."""
        self._waiting[answer] = None
        answer.add_done_callback(self._waiting.pop)
        self.loop.create_task(self._serve(urlencode(form).encode(), answer))

    async def _serve(self, body: bytes, answer: "asyncio.Future[Answer]") -> None:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v2",
            "query_string": b"",
            "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
            "client": ("127.0.0.1", 1),
        }
        await self._endpoint(scope, receive, send)
        if not answer.done():
            answer.set_result((sent[0]["status"], json.loads(sent[1]["body"])))

    def pause(self) -> None:
        """Stop it as SIGSTOP does."""
        self.loop.stopped = True
        self.calls.stop()

    def go_on(self) -> None:
        """Let it go on as SIGCONT does."""
        self.loop.stopped = False
        self.calls.go_on()

    def kill(self) -> None:
        """End it as kill -9 does: nothing of it ever runs again, and its customers' lines break."""
        self.alive = self.ready = False
        self.loop.stopped = True
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_result(None)

    def stop(self) -> "asyncio.Task[None]":
        """Let it end as SIGTERM does."""
        self.ready = False
        return self.loop.create_task(self._stop())

    async def _stop(self) -> None:
        async with self._changing:
            await wind_down(self.gateway)
        await self.gateway.store.close()
        self.kill()
