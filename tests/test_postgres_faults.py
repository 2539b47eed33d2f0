"""PostgreSQL restarted, held up, out of connections, failed over, and cut off in a commit.

What cannot be made durable is answered with 503 and sent to nobody; when the database is back,
everything goes on in the same process.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path
from signal import SIGQUIT
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest
from structlog.testing import capture_logs

from databases import bare_database
from gateway import ledger
from gateway.errors import ConfigError
from gateway.model import State
from gateway.store.postgres import PostgresStore
from gateway.store.postgres_hosts import each
from pgtmp import Server, server
from test_routes import QUEUE, yaml
from world import Panel, World, world

GONE = 503
WRITES = "target_session_attrs=read-write"
WAITED = "limits: {concurrency: 1}"


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server for this module, since what is done to it would disturb other tests."""
    with server(max_connections="20") as one:
        yield one


@asynccontextmanager
async def gateway_on(folder: Path, url: str, p: Panel, file: str = "") -> AsyncIterator[World]:
    """Open a gateway on a database of PostgreSQL; its books are right at the end."""
    async with world(folder, file or yaml(first="[p/1]"), database_url=url, p=p, q=Panel()) as one:
        yield one
        await one.gateway.orders.drain(5)
        assert [] == await one.audit()


async def add(one: World, number: int) -> httpx.Response:
    """Order once, and return the whole answer."""
    form = {"key": one.key, "action": "add", "service": 101, "quantity": 100}
    link = f"https://example.com/{number}"
    return await one.client.post("/api/v2", data={**form, "link": link}, timeout=30)


async def goes_on(one: World, p: Panel, asked: int) -> None:
    """Say that nothing was sent meanwhile, and that the next order is taken at once."""
    assert asked == len(p.asked("add"))
    assert 200 == (await add(one, 99)).status_code
    assert asked + 1 == len(p.asked("add"))


@pytest.mark.parametrize("crash", [False, True], ids=["in good order", "as if the power had gone"])
async def test_a_restart_is_outlived(own: Server, tmp_path: Path, *, crash: bool) -> None:
    p = Panel()
    async with bare_database(own.url) as url, gateway_on(tmp_path, url, p) as one:
        assert 200 == (await add(one, 1)).status_code

        own.stop(*([SIGQUIT] if crash else []))
        answers = await asyncio.gather(*(add(one, number) for number in range(2, 12)))
        status = await one.client.post("/api/v2", data={"key": one.key, "action": "balance"})
        own.start()

        assert {GONE} == {one.status_code for one in (*answers, status)}
        await goes_on(one, p, 1)


async def test_an_outage_is_logged_once_and_its_end(own: Server, tmp_path: Path) -> None:
    """However many pieces of the background work find out, and however often."""
    async with bare_database(own.url) as url, gateway_on(tmp_path, url, Panel()) as one:
        work = one.gateway.background
        with capture_logs() as said:
            for _ in range(2):
                own.stop()
                for name, piece in (("news", work._news), ("leases", partial(work._hold, []))):
                    await work._once(name, piece())
                    await work._once(name, piece())
                own.start()
                await work._once("news", work._news())
                await work._once("news", work._news())

    assert 2 * ["the database is not available", "the database is available again"] == [
        line["event"] for line in said
    ]


async def test_a_server_that_is_held_up_is_not_waited_for_without_end(
    own: Server, tmp_path: Path
) -> None:
    """An order whose commit nobody heard of is not sent, whatever has become of the commit."""
    p = Panel()
    async with bare_database(own.url) as url, gateway_on(tmp_path, url, p) as one:
        assert 200 == (await add(one, 1)).status_code

        with own.held_up():
            answers = await asyncio.gather(*(add(one, number) for number in range(2, 6)))

        assert {GONE} == {one.status_code for one in answers}
        await goes_on(one, p, 1)
        await one.gateway.background._news()
        held = (await one.gateway.store.balances([one.customer.id]))[one.customer.id]
        assert [0] == [account.held for account in held]


async def test_a_server_that_its_owner_has_frozen_is_not_written_to(
    own: Server, tmp_path: Path
) -> None:
    """Before he moves to another one, say; what was open already does not write either."""
    p = Panel()
    async with bare_database(own.url) as url, gateway_on(tmp_path, url, p) as one:
        assert 200 == (await add(one, 1)).status_code
        async with _frozen(own):
            answers = [await add(one, number) for number in range(2, 5)]

        assert {GONE} == {one.status_code for one in answers}
        await goes_on(one, p, 1)


@asynccontextmanager
async def _frozen(server: Server) -> AsyncIterator[None]:
    """Let the server take no writes for as long as the context lasts."""
    await _set_read_only(server, "on")
    try:
        yield
    finally:
        await _set_read_only(server, "off")


async def _set_read_only(server: Server, value: str) -> None:
    db = await asyncpg.connect(server.url)
    try:
        await db.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await db.execute("SELECT pg_reload_conf()")
        while value != await db.fetchval("SHOW default_transaction_read_only"):
            await asyncio.sleep(0.01)
    finally:
        await db.close()


async def test_a_server_without_a_connection_to_spare_is_waited_for(
    own: Server, tmp_path: Path
) -> None:
    p = Panel()
    async with bare_database(own.url) as url, gateway_on(tmp_path, url, p) as one:
        admin = await asyncpg.connect(own.url)
        hogs = []
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                hogs.append(await asyncpg.connect(own.url))
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            urlsplit(url).path[1:],
        )
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                hogs.append(await asyncpg.connect(own.url))

        assert GONE == (await add(one, 1)).status_code
        await asyncio.gather(*(hog.close() for hog in (admin, *hogs)))

        await goes_on(one, p, 0)


async def test_a_standby_that_takes_over_is_found(tmp_path: Path) -> None:
    """Both are named in the URL, and whichever takes writes is used."""
    p = Panel()
    with server(wal_level="replica") as primary, server(made=False, hot_standby="on") as standby:
        standby.follow(primary)
        standby.start()
        url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        async with gateway_on(tmp_path, url, p) as one:
            assert 200 == (await add(one, 1)).status_code
            await _caught_up(primary)

            primary.stop()
            assert GONE == (await add(one, 2)).status_code
            standby.promote()

            await goes_on(one, p, 1)
            assert State.PLACED is (await one.order(1)).state


async def _caught_up(primary: Server) -> None:
    """Wait until the standby has everything that was written."""
    db = await asyncpg.connect(primary.url)
    try:
        late = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn < pg_current_wal_lsn()"
        while await db.fetchval(late):
            await asyncio.sleep(0.02)
    finally:
        await db.close()


@pytest.mark.parametrize(
    "several",
    ["postgresql://postgres@{0},{1}/{2}", "postgresql://postgres@/{2}?host={0},{1}"],
    ids=["as hosts", "as options"],
)
async def test_a_server_that_never_answers_is_passed_by(own: Server, several: str) -> None:
    """It has its share of the time, and later connections begin with the one that was reached."""
    tried = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        while await _some(reader):
            pass
        writer.close()

    async with (
        await asyncio.start_server(say_nothing, "127.0.0.1", 0) as hole,
        bare_database(own.url) as url,
    ):
        port = hole.sockets[0].getsockname()[1]
        good = urlsplit(url)
        hosts = (f"127.0.0.1:{port}", f"127.0.0.1:{good.port}")
        store = await PostgresStore.open(several.format(*hosts, good.path[1:]), patience=3000)
        audit = await store.inspect(ledger.audit)
        await store.close()

    assert (1, []) == (tried, audit.problems)


@pytest.mark.parametrize(
    ("url", "each_one"),
    [
        ("postgresql://h/db", ["postgresql://h/db"]),
        ("postgresql:///db?host=h", ["postgresql:///db?host=h"]),
        (
            "postgresql:///db?host=a,b&port=6",
            [f"postgresql:/db?host={one}&port=6&{WRITES}" for one in "ab"],
        ),
        (
            "postgresql:///db?host=a,b&port=6,7",
            [f"postgresql:/db?host={one}&port={port}&{WRITES}" for one, port in ("a6", "b7")],
        ),
        (
            "postgresql://me:1@a:6,b/db?sslmode=require&target_session_attrs=primary",
            [
                f"postgresql://me:1@{one}/db?sslmode=require&target_session_attrs=primary"
                for one in ("a:6", "b")
            ],
        ),
    ],
)
def test_several_servers_have_a_url_each(url: str, each_one: list[str]) -> None:
    assert each_one == each(url)


def test_hosts_and_ports_that_do_not_match_are_said() -> None:
    with pytest.raises(ConfigError, match="3 hosts have 2 ports"):
        each("postgresql:///db?host=a,b,c&port=6,7")


ENDS = (b"S\0\0\0\4", b"BEGIN ISOLATION", b"COMMIT\0", b"ROLLBACK\0")
"""What is in whatever makes a server answer: the mark after a statement with values, and these."""


class Cut:
    """Stands before a server, and can lose the answer to a commit.

    Attributes:
        lose: the answer to what has this in it is to be lost, once.
        waited: how often somebody began to wait for an answer.
        most: how many more connections it carries.

    """

    def __init__(self, port: int, most: float = inf) -> None:
        self.lose = b""
        self.waited = 0
        self.most = most
        self._port = port
        self._carried: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Carry connections for as long as the context lasts; yields the port."""
        async with await asyncio.start_server(self._begin, "127.0.0.1", 0) as proxy:
            yield int(proxy.sockets[0].getsockname()[1])
        await asyncio.gather(*self._carried)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.most -= 1
        if self.most < 0:
            writer.transport.abort()
            return
        self._carried.add(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._there(reader, ours, writer), self._back(theirs, writer))
        for one in (ours, writer):
            with contextlib.suppress(ConnectionError):
                await one.wait_closed()

    async def _there(
        self,
        reader: asyncio.StreamReader,
        onward: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        while part := await _some(reader):
            self.waited += sum(part.count(one) for one in ENDS)
            if self.lose and self.lose in part:
                self.lose = b""
                back.transport.abort()
            onward.write(part)
        onward.close()

    async def _back(self, theirs: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await _some(theirs):
            writer.write(part)
        writer.close()


async def test_a_server_that_goes_away_while_the_gateway_starts_ends_it_with_a_sentence(
    own: Server, tmp_path: Path
) -> None:
    """It is there when everything is checked, and gone when the gateway opens it for good."""
    cut = Cut(own.port, most=1)
    (tmp_path / "providers.yaml").write_text(yaml(first="[p/1]"))
    async with cut.listening() as port, bare_database(own.url) as url:
        database = url.replace(f":{own.port}", f":{port}")
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--port", "0"),
            cwd=tmp_path,
            env={**os.environ, "KEY": "a key", "GATEWAY_DATABASE_URL": database},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await run.communicate()

    assert (1, False) == (run.returncode, b"Traceback" in said)
    assert b"PostgreSQL: " in said


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 16)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("at_once", [False, True], ids=["under locks", "at once"])
@pytest.mark.parametrize("route", ["taken at once", "waited for", "not there"])
async def test_an_order_whose_commit_was_not_answered_is_taken_back(
    own: Server, tmp_path: Path, route: str, *, at_once: bool
) -> None:
    """Its customer was told that it was not placed, and orders again: it must not be sent too.

    A customer's first order is written under locks, since it opens his accounts.
    """
    p = Panel()
    cut = Cut(own.port)
    file = yaml(p=WAITED, first="[p/1]", orders=QUEUE)
    async with (
        cut.listening() as port,
        bare_database(own.url) as direct,
        gateway_on(tmp_path, direct.replace(f":{own.port}", f":{port}"), p, file) as one,
    ):
        if at_once:
            assert 200 == (await add(one, 0)).status_code
        asked, balance = len(p.asked("add")), await one.balance()
        line = one.gateway.router.lines["p"]
        place = line.place_now() if route == "waited for" else None
        line.health.failures = 100 if route == "not there" else 0
        cut.lose = b"https://example.com/1" if at_once else b"COMMIT\0"
        assert GONE == (await add(one, 1)).status_code
        wanted = State.SENDING if route == "taken at once" else State.QUEUED
        while not (found := await one.gateway.store.undecided(wanted, 10)):
            await asyncio.sleep(0.01)  # the server may do it a moment after nobody hears of it
        (written,) = found
        if place:
            place.leave()
        line.health.failures = 0

        after_a_change = await one.gateway.changed(one.gateway.config)
        assert 1 == await after_a_change.orders.take_back()
        assert 0 == await one.gateway.orders.take_back()
        await one.gateway.orders.dispatch()
        order = await one.order(written.id)
        assert (State.FAILED, balance) == (order.state, await one.balance())
        await goes_on(one, p, asked)
