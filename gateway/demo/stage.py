"""The processes of the demonstration, and how they are asked: as a customer and an owner would."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from importlib import resources
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from gateway import sandbox
from gateway.settings import Settings

PATIENCE = 30.0
"""Seconds for a process to get ready."""
SPEED = 300.0
"""How much faster than real the practice panels live: an order takes two seconds."""
LAST_LINES = 20


class StageFailed(Exception):  # noqa: N818  # what happened, for the person who watches
    """A process did not come up, or gave up."""


class Stage:
    """Five panels and a gateway, each a process of its own, in a folder that goes away."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-demo-"))
        self.port = _free_port()
        self.sandbox_port = _free_port()
        self.key = ""
        self.settings = Settings(database_url=f"sqlite:///{self.folder / 'gateway.db'}")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        config = resources.files("gateway.demo").joinpath("providers.yaml").read_text()
        (self.folder / "providers.yaml").write_text(config)
        # Whatever the owner has set for his own gateway must not reach this one.
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")
        }
        self._environment |= {
            "SANDBOX": f"http://127.0.0.1:{self.sandbox_port}",
            **{f"{_upper(name)}_KEY": sandbox.key(name) for name in sandbox.PANELS},
            "GATEWAY_CONFIG": str(self.folder / "providers.yaml"),
            "GATEWAY_DATABASE_URL": self.settings.database_url,
            "GATEWAY_LOG_FORMAT": "console",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the panels, the gateway and a customer with 100 dollars."""
        self._start("sandbox", "sandbox", "--port", str(self.sandbox_port), "--speed", str(SPEED))
        self._wait("sandbox", self.sandbox_port, "/")
        self._start("gateway", "serve", "--port", str(self.port))
        # The customer is added while the gateway starts; the two share the file.
        self.key = self.owner("customer", "add", "demo", "--credit", "100")["key"]
        self._wait("gateway", self.port, "/readyz", whole=True)

    def ask(self, action: str, **params: str) -> Any:  # noqa: ANN401  # JSON
        """Ask the endpoint as the customer; returns the JSON."""
        form = urlencode({"key": self.key, "action": action, **params})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return _http(self.port, "POST", "/api/v2", form, headers)

    def behind(self, panel: str, what: str) -> Any:  # noqa: ANN401  # JSON
        """Look behind a panel's counter."""
        return _http(self.sandbox_port, "GET", f"/{panel}/sandbox/{what}")

    def owner(self, *words: str) -> Any:  # noqa: ANN401  # JSON
        """Run a command as the owner; returns its JSON."""
        run = subprocess.run(  # noqa: S603  # our own program
            [sys.executable, "-m", "gateway", *words, "--json"],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            check=False,
        )
        if not run.stdout:
            raise StageFailed(run.stderr.decode())
        return json.loads(run.stdout)

    def log(self, name: str = "gateway") -> str:
        """Return the last lines that a process has written."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def ended(self) -> str | None:
        """Return the name of a process that has ended, if one has."""
        return next((one for one, run in self._processes.items() if run.poll() is not None), None)

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603  # our own program
                [sys.executable, "-m", "gateway", *words],
                env=self._environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end them in order
            )

    def _wait(self, name: str, port: int, path: str, *, whole: bool = False) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self._processes[name].poll() is not None:
                break
            try:
                answer = _http(port, "GET", path)
            except (OSError, HTTPException, ValueError):
                time.sleep(0.05)
                continue
            if not whole or (answer.get("ready") and not answer.get("problems")):
                return
            time.sleep(0.05)
        raise StageFailed(f"the {name} did not get ready:\n{self.log(name)}")


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
