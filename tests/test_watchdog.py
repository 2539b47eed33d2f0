"""The event loop is watched: how late it comes, what holds it, and that nothing of ours does."""

import asyncio
import gc
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from gateway import logs
from gateway.offload import HUMBLE, apart, soon
from gateway.watchdog import BUSY, LONG, OFTEN, SELDOM, STAYS_BUSY, watching
from test_serve import PATIENCE, Served, _free_port

HELD = 4 * LONG
"""Seconds; long enough to be seen whenever it begins."""
LAG = "gateway_event_loop_lag_seconds"
ROWS, SOLD = 10_000, 2500


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Write lines as JSON, and leave the process's loggers as they were found."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    logs.configure("json", "info")
    yield
    root.setLevel(before[0])
    for handler in set(root.handlers) - set(before[1]):
        root.removeHandler(handler)
    structlog.reset_defaults()


def hold_the_loop(secret: str) -> None:
    """Block, as nothing in a loop may."""
    assert secret
    time.sleep(HELD)


def paused(log: str) -> list[dict[str, Any]]:
    """Return the pauses that a log tells of."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "the event loop was held"]


def counted(**bucket: str) -> float:
    """Return how many beats the metric has seen; ``le``: that came as early as that."""
    return REGISTRY.get_sample_value(f"{LAG}_{'bucket' if bucket else 'count'}", bucket) or 0.0


async def test_whoever_blocks_the_loop_is_named_and_nothing_that_he_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with watching():
        hold_the_loop(secret="the-upstream-key")
        await asyncio.sleep(0)
        await asyncio.sleep(LONG)
    said = capsys.readouterr().err

    (pause,) = paused(said)
    assert "warning" == pause["level"]
    assert pause["where"].startswith("test_watchdog.hold_the_loop:")
    assert "test_whoever_blocks" in pause["where"]
    assert pause["ms"] >= LONG * 1000
    assert "the-upstream-key" not in said


async def test_what_works_in_another_thread_meanwhile_is_named_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It may be what keeps the loop from its turn; a thread that has nothing to do is not."""
    ours, theirs = os.pipe()
    ended = threading.Event()

    def compute_beside() -> None:
        os.read(ours, 1)

    def have_nothing_to_do() -> None:
        ended.wait()

    threads = [threading.Thread(target=one) for one in (compute_beside, have_nothing_to_do)]
    for one in threads:
        one.start()
    with watching():
        hold_the_loop("any")
        await asyncio.sleep(LONG)
    os.write(theirs, b"x")
    ended.set()
    for one in threads:
        one.join()
    for end in (ours, theirs):
        os.close(end)

    (pause,) = paused(capsys.readouterr().err)
    assert "compute_beside" in pause["beside"]
    assert "have_nothing_to_do" not in pause["beside"]


async def test_what_the_garbage_collector_took_is_told_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It runs inside of any function, which had only the bad luck to be there."""
    many: list[list[object]] = [[] for _ in range(300_000)]
    with watching():
        hold_the_loop("any")
        gc.collect()
        await asyncio.sleep(LONG)

    (pause,) = paused(capsys.readouterr().err)
    assert pause["gc_ms"] > 0, len(many)


async def test_pauses_in_quick_succession_are_one_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with watching():
        for _ in range(3):
            hold_the_loop("any")
            await asyncio.sleep(LONG)

    assert 1 == len(paused(capsys.readouterr().err))


@pytest.mark.parametrize("elsewhere", [apart, soon])
async def test_what_is_worked_out_apart_leaves_the_processor_to_the_loop_first(
    elsewhere: Callable[[Callable[[], int]], Awaitable[int]],
) -> None:
    """On one core it would else get as much of it as those who serve."""

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    serving = niceness()

    assert min(serving + HUMBLE, 19) == await elsewhere(niceness)


async def test_every_pause_is_in_the_metric_as_long_as_the_loop_is_watched() -> None:
    with watching():
        late = counted() - counted(le=str(LONG))
        hold_the_loop("any")
        await asyncio.sleep(LONG)

        assert counted() - counted(le=str(LONG)) >= late + 1

    before = counted()
    await asyncio.sleep(HELD)

    assert before == counted()


# --- the whole gateway ------------------------------------------------------------------------


class Panel:
    """A fast panel with a long list, in a process; how it is asked what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, change: str = "") -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", f"/set?{change}")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def listed(self) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", "/", "action=services")
            return connection.getresponse().read()
        finally:
            connection.close()


@pytest.fixture
def panel() -> Iterator[Panel]:
    one = Panel(_free_port())
    run = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.panel", str(one.port), str(ROWS)],
        cwd=Path(__file__).parent.parent,
    )
    eventually(lambda: answers(one.ask))
    yield one
    run.terminate()
    run.wait(PATIENCE)


def answers(ask: Callable[[], object]) -> bool:
    with suppress(OSError):
        ask()
        return True
    return False


def eventually(seen: Callable[[], bool]) -> None:
    """Wait until something can be seen."""
    until = time.monotonic() + PATIENCE
    while not (found := seen()) and time.monotonic() < until:
        time.sleep(0.05)
    assert found


def yaml(port: int, markup: int) -> str:
    """Return an owner's file that sells a part of what the panel has."""
    head = f"""
currency: USD
markup: {markup}%
every: {{catalog: 1s, status: 200ms}}
providers:
  panel: {{adapter: api_v2, url: "http://127.0.0.1:{port}/api/v2", key: "${{PRACTICE_KEY}}"}}
services:
"""
    return head + "".join(f"  {n}: {{routes: [panel/{n}]}}\n" for n in range(1, SOLD + 1))


@contextmanager
def asked(one: Served) -> Iterator[None]:
    """Have orders placed and looked at all the time."""
    ended = threading.Event()
    numbers = itertools.count(1)

    def program() -> None:
        while not ended.is_set():
            link = f"https://x.com/{next(numbers)}"
            order = one.ask("add", service=1, link=link, quantity=100)["order"]
            for _ in range(5):
                assert "status" in one.ask("status", order=order)

    threads = [threading.Thread(target=program) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def cpu_ms(work: Callable[[], object]) -> float:
    """Return the milliseconds of CPU that something takes."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


async def test_a_loop_that_does_next_to_nothing_is_not_kept_awake() -> None:
    """A beat that takes long, because all had gone to sleep, is no work."""

    async def now_and_then() -> None:
        until = time.perf_counter() + 1.5 * STAYS_BUSY
        while time.perf_counter() < until:
            began = time.thread_time()
            while time.thread_time() - began < 2 * BUSY * OFTEN:
                pass
            await asyncio.sleep(2 * SELDOM)

    with watching():
        await now_and_then()
        before = counted()
        await now_and_then()

    # Were it looked at as often as one with work, it would be ten times as often as seldom.
    assert counted() - before < 2 * 1.5 * STAYS_BUSY / SELDOM


async def test_a_loop_that_has_work_is_looked_at_often() -> None:
    with watching():
        until = time.perf_counter() + 2 * STAYS_BUSY
        before = counted()
        while time.perf_counter() < until:
            began = time.thread_time()
            while time.thread_time() - began < OFTEN / 2:
                pass
            await asyncio.sleep(OFTEN / 2)

    assert counted() - before > 3 * 2 * STAYS_BUSY / SELDOM


def test_nothing_that_is_taken_up_holds_up_those_who_ask(tmp_path: Path, panel: Panel) -> None:
    """Neither a long list with all rates new, nor statuses, nor a changed file.

    The loop computes less in one go than it takes to read that list and the one before it: whoever
    did any of this in the loop would hold it for longer. It is CPU that is compared, since the
    machine may have no time for us at any moment.
    """
    one = Served(tmp_path, panel.port, GATEWAY_LOG_LEVEL="debug")
    file = tmp_path / "providers.yaml"
    file.write_text(yaml(panel.port, 25))
    one.key = one.command("customer", "add", "alice", "--credit", "1000")["key"]
    one.start()
    old, before = panel.listed(), panel.ask()["calls"]
    file.write_text(yaml(panel.port, 26))
    with asked(one):
        panel.ask("news=1")
        fetched = before["services"] + 2
        eventually(lambda: bool(panel.ask()["calls"]["services"] >= fetched))
        eventually(lambda: "a changed file is in force" in one.log())
        eventually(lambda: bool(panel.ask()["calls"].get("status", 0) >= 5))
    assert 0 == one.stop()
    lists = [panel.listed(), old]
    reading = min(cpu_ms(lambda: [json.loads(one) for one in lists]) for _ in range(3))

    longest = max((pause["cpu_ms"] for pause in paused(one.log())), default=0)

    assert longest < reading
