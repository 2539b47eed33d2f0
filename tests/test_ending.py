"""Whoever is told to stop ends, whatever hangs: a task, a thread, a database, a Redis."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from structlog.testing import capture_logs

import redistmp
from databases import bare_database
from gateway.background import SERVING
from gateway.commands.serve import STOPPED, Served
from gateway.ending import end
from gateway.message import Message
from gateway.settings import Settings
from gateway.store import PRESENT
from pgtmp import Server, server
from test_routes import yaml

PATIENCE = 50.0
"""Seconds for all that is awaited here."""
PROGRAM = [sys.executable, "-m", "gateway"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


async def deaf(to: int) -> None:
    """Go on although told to end, so many times."""
    for _ in range(to):
        with contextlib.suppress(asyncio.CancelledError):
            await hang()
    await hang()


async def test_a_task_that_took_a_cancel_for_something_else_is_told_again() -> None:
    task = asyncio.create_task(deaf(to=1))
    await asyncio.sleep(0)
    await end([task])

    assert task.cancelled()


async def test_a_task_that_goes_on_is_left_to_itself_and_named_with_where_it_is() -> None:
    going_on = asyncio.create_task(deaf(to=1), name="catalog of p")
    ending = asyncio.create_task(hang())
    await asyncio.sleep(0)
    with capture_logs() as lines:
        await end([going_on, ending], within=0.01)

    assert (False, True) == (going_on.done(), ending.cancelled())
    [line] = lines
    assert "catalog of p" == line["task"]
    assert ["hang", "deaf"] == [one.partition(":")[0] for one in line["where"].split(" < ")]
    await end([going_on])


# --- processes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server for this module, since what is done to it would disturb other tests."""
    with server() as one:
        yield one


async def _until_at_work(url: str, many: int) -> None:
    """Wait until so many processes hold the lease that is only their own."""
    db = await asyncpg.connect(url)
    alone = "SELECT count(*) FROM leases WHERE starts_with(name, $1) OR starts_with(name, $2)"
    try:
        while not await db.fetchval("SELECT to_regclass('leases')"):
            await asyncio.sleep(0.05)
        while await db.fetchval(alone, SERVING, PRESENT) < many:
            await asyncio.sleep(0.05)
    finally:
        await db.close()


async def test_whoever_serves_or_works_ends_though_its_servers_answer_nothing_any_more(
    own: Server, tmp_path: Path
) -> None:
    (tmp_path / "providers.yaml").write_text(yaml(first="[p/1]"))
    commands = (
        ("serve", "--port", "0", "--no-background"),
        ("serve", "--port", "0", "--workers", "2"),
        ("background",),
    )
    with redistmp.server() as (redis, pid):
        async with bare_database(own.url) as url, asyncio.timeout(PATIENCE):
            environment = {"GATEWAY_DATABASE_URL": url, "GATEWAY_REDIS_URL": redis, "KEY": "a key"}
            runs = [
                await asyncio.create_subprocess_exec(
                    *PROGRAM,
                    *words,
                    cwd=tmp_path,
                    env=os.environ | environment,
                    stderr=asyncio.subprocess.PIPE,
                )
                for words in commands
            ]
            await _until_at_work(url, many=4)
            os.kill(pid, signal.SIGSTOP)
            with own.held_up():
                for run in runs:
                    run.send_signal(signal.SIGTERM)
                said = await asyncio.gather(*(run.communicate() for run in runs))

    assert [0] * len(runs) == [run.returncode for run in runs], said


HANGS = """
import signal, sys, threading
from gateway.background import SERVING
from gateway.commands.serve import stop_in_time

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
stop_in_time(0.2)
threading.Thread(target=threading.Event().wait).start()
print(flush=True)
signal.pause()
"""


def test_a_process_ends_though_one_of_its_threads_does_not() -> None:
    """The interpreter itself would wait for that without end."""
    words = [sys.executable, "-c", HANGS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout
        run.stdout.readline()
        run.terminate()
        _, said = run.communicate(timeout=PATIENCE)

    assert 1 == run.returncode
    assert b"in wait" in said


@pytest.fixture
def signals() -> Iterator[None]:
    """Leave what happens at a signal as it was."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
async def test_whoever_serves_ends_for_certain_once_he_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(yaml(first="[p/1]"))
    (tmp_path / ".env").write_text("KEY=a-key\n")
    url = f"sqlite:///{tmp_path}/gateway.db"
    application = Served(Settings(config=tmp_path / "providers.yaml", database_url=url))
    told = asyncio.Queue[Message]()
    said = asyncio.Queue[Message]()
    told.put_nowait({"type": "lifespan.startup"})
    life = asyncio.create_task(application({"type": "lifespan"}, told.get, said.put))
    begun = await said.get()
    handlers = [signal.getsignal(number) for number in SIGNALS]
    told.put_nowait({"type": "lifespan.shutdown"})
    await life

    assert "lifespan.startup.complete" == begun["type"]
    assert [STOPPED] * 2 == [one.args[1] for one in handlers if isinstance(one, partial)]
