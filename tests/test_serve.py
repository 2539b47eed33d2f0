"""The installed program, as processes on real sockets."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway import sandbox
from redistmp import redis

PROGRAM = [sys.executable, "-m", "gateway"]
YAML = """
currency: USD
markup: 25%
every: {status: 200ms}
providers:
  practice: {adapter: smm1st, url: "http://127.0.0.1:PORT/smm1st/api/v2", key: "${PRACTICE_KEY}"}
services:
  101: {routes: [practice/1]}
"""
PATIENCE = 30


@pytest.fixture(scope="module")
def panels() -> Iterator[int]:
    """Five practice panels in a process of their own; their port."""
    run = subprocess.Popen(
        [*PROGRAM, "sandbox", "--port", "0", "--speed", "600", "--json"], stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    said = b""
    while not said.endswith(b"\n}\n"):
        said += run.stdout.readline()
    yield int(json.loads(said)["smm1st"]["url"].split(":")[2].split("/")[0])
    run.terminate()
    run.wait(PATIENCE)
    run.stdout.close()


class Served:
    """A gateway process in a folder, and how it is asked."""

    def __init__(self, folder: Path, panels: int, **environment: str) -> None:
        self.folder = folder
        self.port = _free_port()
        (folder / "providers.yaml").write_text(YAML.replace("PORT", str(panels)))
        (folder / ".env").write_text("PRACTICE_KEY=sandbox-smm1st\n")
        kept = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
        self._environment = kept | environment
        self.run: subprocess.Popen[bytes] | None = None
        self.key = ""

    def command(self, *words: str) -> Any:
        run = subprocess.run(
            [*PROGRAM, *words, "--json"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            check=True,
        )
        return json.loads(run.stdout)

    def start(self, *flags: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.run = subprocess.Popen(
                [*PROGRAM, "serve", "--port", str(self.port), *flags],
                cwd=self.folder,
                env=self._environment,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not self.ready():
            assert self.run.poll() is None, self.log()
            time.sleep(0.05)

    def stop(self, with_: signal.Signals = signal.SIGTERM) -> int:
        assert self.run is not None
        self.run.send_signal(with_)
        return self.run.wait(PATIENCE)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("/healthz"))
        return False

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("/readyz")["problems"] == [])
        return False

    def get(self, path: str) -> Any:
        return self._http("GET", path, "")

    def ask(self, action: str, **params: object) -> Any:
        form = urlencode({"key": self.key, "action": action, **params})
        return self._http("POST", "/api/v2", form)

    def _http(self, method: str, path: str, body: str) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def until(self, order: int, status: str) -> Any:
        """Wait until an order has a status; returns what the customer then reads."""
        until = time.monotonic() + PATIENCE
        row = self.ask("status", order=order)
        while row["status"] != status and time.monotonic() < until:
            time.sleep(0.05)
            row = self.ask("status", order=order)
        assert status == row["status"], self.log()
        return row

    def log(self) -> str:
        return (self.folder / "log").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path, panels: int) -> Iterator[Served]:
    one = Served(tmp_path, panels)
    one.key = one.command("customer", "add", "alice", "--credit", "10")["key"]
    one.start()
    yield one
    if one.run and one.run.poll() is None:
        one.stop()


def test_an_order_survives_a_kill_and_is_followed_after_it(served: Served) -> None:
    assert {"order": 1} == served.ask("add", service=101, link="https://x.com/a", quantity=1000)
    served.stop(signal.SIGKILL)
    served.start()

    row = served.until(1, "Completed")
    assert ("1.125", "0") == (row["charge"], row["remains"])
    assert served.command("audit")["ok"]


def test_a_graceful_stop_lets_an_order_under_way_get_its_answer(served: Served) -> None:
    link = "https://x.com/?fault=slow"
    assert {"order": 1} == served.ask("add", service=101, link=link, quantity=100)
    assert 0 == served.stop()

    [order] = served.command("order", "list")
    assert "Pending" == order["status"]
    assert order["upstream_id"]
    assert served.command("audit")["ok"]


def test_without_background_work_it_takes_up_what_others_have_done(
    tmp_path: Path, panels: int
) -> None:
    one = Served(tmp_path, panels)
    one.key = one.command("customer", "add", "alice", "--credit", "10")["key"]
    starting = threading.Thread(target=one.start, args=("--no-background",))
    starting.start()
    try:
        while not one.answers():
            time.sleep(0.05)
        assert not one.ready(), "nobody has fetched the catalog yet"
        one.command("sync")
        starting.join(PATIENCE)
        assert one.ready(), one.log()
        assert [101] == [row["service"] for row in one.ask("services")]
    finally:
        one.stop()


def test_a_key_changed_by_a_command_counts_within_five_seconds(served: Served) -> None:
    assert "balance" in served.ask("balance")
    new = served.command("customer", "key", "alice")["key"]
    until = time.monotonic() + PATIENCE
    while "balance" in served.ask("balance") and time.monotonic() < until:
        time.sleep(0.1)

    assert {"error": "Invalid API key"} == served.ask("balance")
    served.key = new
    assert "balance" in served.ask("balance")


def test_no_key_reaches_the_log(served: Served) -> None:
    served.ask("add", service=101, link="https://x.com/?fault=html", quantity=100)
    served.ask("add", service=101, link="https://x.com/?fault=refuse", quantity=100)
    served.get(f"/api/v2?key={served.key}&action=teleport")
    served.stop()

    log = served.log()
    assert "outcome not known" in log
    for secret in (served.key, "sandbox-smm1st"):
        assert secret not in log


def test_redis_going_away_makes_it_slower_and_never_wrong(tmp_path: Path, panels: int) -> None:
    with redis() as url:
        one = Served(tmp_path, panels, GATEWAY_REDIS_URL=url)
        one.key = one.command("customer", "add", "alice", "--credit", "10")["key"]
        one.start()
        listed = one.ask("services")
        one.ask("add", service=101, link="https://x.com/a", quantity=1000)
        one.ask("status", order=1)
    try:
        assert listed == one.ask("services")
        assert "Completed" == one.until(1, "Completed")["status"]
        assert {"order": 2} == one.ask("add", service=101, link="https://x.com/b", quantity=100)
    finally:
        one.stop()
    assert one.command("audit")["ok"]


def test_a_port_that_is_taken_is_said(served: Served) -> None:
    run = subprocess.run(
        [*PROGRAM, "serve", "--port", str(served.port)],
        cwd=served.folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == run.returncode
    assert "Address already in use; choose another with --port" in run.stderr


@pytest.mark.timeout(180)  # it takes its time, of which others may need most
def test_the_demonstration_comes_out_right_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = subprocess.run(
        [*PROGRAM, "demo", "--once"],
        env=os.environ | {"TMPDIR": str(tmp_path), "GATEWAY_PORT": "1", "GATEWAY_REDIS_URL": "no"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == run.returncode, run.stdout + run.stderr
    assert "the books add up" in run.stdout
    for panel in sandbox.PANELS:
        assert panel in run.stdout
    assert [] == list(tmp_path.iterdir())


def eventually(look: Any, wanted: object) -> None:
    """Wait until a look gives what is wanted."""
    until = time.monotonic() + PATIENCE
    while (seen := look()) != wanted and time.monotonic() < until:
        time.sleep(0.1)

    assert wanted == seen


def listed(one: Served) -> list[int]:
    return [row["service"] for row in one.ask("services")]


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one process", "two"])
def test_a_changed_file_is_taken_up_while_serving(
    tmp_path: Path, panels: int, flags: tuple[str, ...]
) -> None:
    """Nobody who asks meanwhile is turned away, and every process answers by the new file."""
    one = Served(tmp_path, panels)
    one.key = one.command("customer", "add", "alice", "--credit", "10")["key"]
    one.start(*flags)
    file = one.folder / "providers.yaml"
    answers: list[Any] = []
    going = threading.Event()

    def poll() -> None:
        while not going.is_set():
            answers.append(one.ask("balance"))

    thread = threading.Thread(target=poll)
    thread.start()
    file.write_text(file.read_text() + "  102: {routes: [practice/2]}\n")
    eventually(lambda: [listed(one) for _ in range(6)], [[101, 102]] * 6)
    going.set()
    thread.join()

    assert [{"balance": "10.00", "currency": "USD"}] * len(answers) == answers
    assert 0 == one.stop()


def test_a_mistake_in_the_file_leaves_the_last_good_one_in_force(served: Served) -> None:
    """It is shown, and a restart does not make it worse."""
    file = served.folder / "providers.yaml"
    good = file.read_text()
    file.write_text(good.replace("services:", "servces:"))
    told = ["providers.yaml:7:1: there is no key `servces` here; did you mean `services`?"]
    eventually(lambda: served.get("/readyz")["problems"][:1], told)
    assert [101] == listed(served)
    served.stop()
    served.run = None
    thread = threading.Thread(target=served.start)
    thread.start()
    eventually(served.answers, wanted=True)
    eventually(lambda: served.get("/readyz")["problems"][:1], told)

    assert [101] == listed(served)

    file.write_text(good)
    thread.join()
    assert [] == served.get("/readyz")["problems"]
