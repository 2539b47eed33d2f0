"""What the demonstration runs on, and how it is asked: as a customer and an owner would.

The gateway is a process of its own, as it would be served; the panels share this one, to spare
the second that another interpreter takes to start.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException
from importlib import resources
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from gateway import auth, ledger, sandbox
from gateway.app import open_store
from gateway.model import Customer
from gateway.money import Money
from gateway.store import Store

PATIENCE = 30.0
"""Seconds for the gateway to get ready."""
SPEED = 400.0
"""How much faster than real the practice panels live: an order takes a second and a half."""
OPENING = "100"
"""What the customer begins with."""
LAST_LINES = 20


class StageFailed(Exception):  # what happened, for the person who watches
    """A process did not come up, or gave up."""


class Stage:
    """Five panels, a gateway and a customer with money, in a folder that goes away."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-demo-"))
        self.port = _free_port()
        self._panels = socket.create_server(("127.0.0.1", 0))
        self._sandbox_port = int(self._panels.getsockname()[1])
        self.key = ""
        self._database = f"sqlite:///{self.folder / 'gateway.db'}"
        self._gateway: subprocess.Popen[bytes] | None = None
        config = resources.files("gateway.demo").joinpath("providers.yaml").read_text()
        (self.folder / "providers.yaml").write_text(config)
        # Whatever the owner has set for his own gateway must not reach this one.
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")
        }
        self._environment |= {
            "SANDBOX": f"http://127.0.0.1:{self._sandbox_port}",
            **{f"{_upper(name)}_KEY": sandbox.key(name) for name in sandbox.PANELS},
            "GATEWAY_CONFIG": str(self.folder / "providers.yaml"),
            "GATEWAY_DATABASE_URL": self._database,
            "GATEWAY_LOG_FORMAT": "console",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gateway is not None:
            self._gateway.send_signal(signal.SIGTERM)
            try:
                self._gateway.wait(10)
            except subprocess.TimeoutExpired:
                self._gateway.kill()
                self._gateway.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the panels and the gateway, and add a customer with money while they start."""
        threading.Thread(
            target=sandbox.serve, args=(self._panels,), kwargs={"speed": SPEED}, daemon=True
        ).start()
        with (self.folder / "gateway.log").open("wb") as log:
            self._gateway = subprocess.Popen(  # noqa: S603  # our own program
                [sys.executable, "-m", "gateway", "serve", "--port", str(self.port)],
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end it in order
            )
        self.key = asyncio.run(self._customer())
        self._wait()

    async def _customer(self) -> str:
        async with self.store() as store:
            key = auth.new_key()
            draft = Customer(id=0, name="demo", created_at=_now())
            customer = await store.add_customer(draft, auth.digest(await store.pepper(), key))
            if customer is None:
                raise StageFailed("the demonstration's customer is there already")
            await store.post(
                [ledger.top_up(customer.id, Money.of(OPENING, "USD"), "opening", _now())]
            )
        return key

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """Open the gateway's own file, as its other commands do."""
        store = await open_store(self._database)
        try:
            yield store
        finally:
            await store.close()

    def ask(self, action: str, **params: str) -> Any:  # noqa: ANN401  # JSON
        """Ask the endpoint as the customer; returns the JSON."""
        form = urlencode({"key": self.key, "action": action, **params})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return _http(self.port, "POST", "/api/v2", form, headers)

    def behind(self, panel: str, what: str, **asked: object) -> Any:  # noqa: ANN401  # JSON
        """Look behind a panel's counter, or change what is there."""
        body = json.dumps(asked) if asked else ""
        return _http(self._sandbox_port, "POST", f"/{panel}/sandbox/{what}", body)

    def owner(self, *words: str, fine: bool = True) -> Any:  # noqa: ANN401  # JSON
        """Run one of the owner's commands; returns its JSON. Not ``fine``: it finds a fault."""
        run = subprocess.run(  # noqa: S603  # our own program
            [sys.executable, "-m", "gateway", *words, "--json"],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            check=fine,
        )
        return json.loads(run.stdout)

    def check(self) -> None:
        """Raise ``StageFailed``, with its last words, when the gateway has stopped."""
        if self._gateway is None or self._gateway.poll() is not None:
            raise StageFailed(f"the gateway stopped:\n{self._log()}")

    def _log(self) -> str:
        text = (self.folder / "gateway.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def _wait(self) -> None:
        """Wait until the gateway is ready, with every service for sale."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.check()
            with contextlib.suppress(OSError, HTTPException, ValueError):
                answer = _http(self.port, "GET", "/readyz")
                if answer.get("ready") and not answer.get("problems"):
                    return
            time.sleep(0.05)
        raise StageFailed(f"the gateway did not get ready:\n{self._log()}")


def _http(
    port: int, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None
) -> Any:  # noqa: ANN401  # JSON
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, dict(headers or {}))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _upper(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def _now() -> int:
    return int(time.time() * 1000)
