"""Everything taken to another database, of whichever kind, and proven there."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path

import apsw
import asyncpg  # type: ignore[import-untyped]
import pytest

import build
from build import AT, claim, customer, order, placement
from databases import bare_database
from gateway import moving, reporting, transitions
from gateway.app import open_store
from gateway.errors import ConfigError, StoreUnavailable
from gateway.imports import Wanted
from gateway.model import Customer, Held, Offer, Refill, Report, State, Status
from gateway.store import Reading, Sighting, Snapshot, Step, Store
from gateway.store.tables import LEFT, TABLES
from gateway.transitions import Following

MILLION = 1_000_000
FOLLOWING = Following(every=1000, follow_for=1_000_000)
SYSTEM = {"schema_versions", "sqlite_sequence"}


class Stopped(Exception):
    """A copy was broken off."""


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """From where."""
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgres"])
def other(request: pytest.FixtureRequest) -> str:
    """To where."""
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """A real PostgreSQL."""
    return str(request.getfixturevalue("postgres_url"))


@asynccontextmanager
async def empty(kind: str, server: str, folder: Path, name: str) -> AsyncIterator[str]:
    """Lend the URL of a database without anything in it."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/{name}.db"
    else:
        async with bare_database(server) as url:
            yield url


async def fill(url: str) -> None:
    """Write something into every table."""
    store = await open_store(url, first_id=1000)
    ann = await customer(store, credit=50 * MILLION)
    capped = Customer(id=0, name="bob \N{PARTY POPPER}", created_at=AT, daily_cap=MILLION)
    assert await store.add_customer(capped, b"bob")
    first = await order(store, placement(ann.id, claim=claim()))
    await order(store, placement(ann.id))
    steps = [transitions.accepted("77", first.attempt, AT, FOLLOWING)]
    done = Report(Status.PARTIAL, "Partial", charge=400_000, remains=60, orders=("5", "6"))
    steps.append(reporting.reported(done, AT + 1, FOLLOWING))
    for step in steps:
        await store.advance([Step(first.id, step)])
    refill = Refill(id=0, order=first.id, customer=ann.id, provider="alpha", created_at=AT)
    await store.add_refills([refill], since=AT)
    offer = Offer("1", "Likes", "Default", "Some", rate=Decimal("0.9"), min=1, max=9)
    await build.listed(store, "alpha", [offer], AT)
    await store.sight([Sighting("alpha", balance=5, currency="USD", balance_at=AT)])
    await store.add_reading(Reading("alpha", AT, AT + 1, 5, "USD", checked=True))
    await store.keep_configuration("currency: USD\n", AT)
    await store.keep_exchange_rates({"INR": Decimal("0.0119")}, AT, 0)
    await store.hold_back(Held("alpha", "1", "dearer", at=AT))
    await store.give([Wanted("alpha", "1", "Likes", 10_000, 20_000)], [101])
    await store.close()


async def everything(store: Store) -> dict[str, list[tuple[tuple[str, str], ...]]]:
    """Return all rows of all tables, by their columns' names."""

    def look(books: Snapshot) -> dict[str, list[tuple[tuple[str, str], ...]]]:
        found = {}
        for table, key in TABLES.items():
            names, rows = books.rows(table, key)
            found[table] = sorted(
                tuple(sorted((name, _plain(one)) for name, one in zip(names, row, strict=True)))
                for row in rows
            )
        return found

    return await store.inspect(look)


def _plain(value: object) -> str:
    return repr(int(value) if isinstance(value, bool) else value)


async def moved(source: str, target: str) -> None:
    """Move from one URL to another, and expect both to be proven."""
    before, after = await open_store(source), await open_store(target)
    try:
        *audits, doubted = await moving.move(before, after, lambda *_: None)

        assert ([[], []], 0) == ([one.problems for one in audits], doubted)
        assert await everything(before) == await everything(after)
    finally:
        await before.close()
        await after.close()


async def test_everything_is_there_afterwards(
    kind: str, other: str, server: str, tmp_path: Path
) -> None:
    """Every row, the customers' keys, and ids that go on where they were."""
    async with (
        empty(kind, server, tmp_path, "from") as source,
        empty(other, server, tmp_path, "to") as target,
    ):
        await fill(source)
        await moved(source, target)

        before, after = await open_store(source), await open_store(target)
        rows = await everything(after)
        assert {} == {table: 0 for table in TABLES if not rows[table] and table != "spending"}
        assert await before.pepper() == await after.pepper()
        assert await before.edition() == await after.edition()
        (ann, *_) = await after.customers()
        placed = [await order(store, placement(ann.id)) for store in (before, after)]
        assert placed[0] == placed[1]
        new = Customer(id=0, name="eve", created_at=AT)
        assert await before.add_customer(new, b"eve") == await after.add_customer(new, b"eve")
        await before.close()
        await after.close()


async def test_a_database_with_something_in_it_is_left_alone(
    kind: str, server: str, tmp_path: Path
) -> None:
    async with (
        empty(kind, server, tmp_path, "from") as source,
        empty(kind, server, tmp_path, "to") as target,
    ):
        await fill(source)
        await fill(target)
        store = await open_store(target)
        before = await everything(store)
        with pytest.raises(ConfigError, match="something in this database already"):
            await moved(source, target)

        assert before == await everything(store)
        assert await store.pepper()
        await store.close()


async def test_a_copy_that_was_broken_off_is_of_no_use_until_it_is_repeated(
    kind: str, other: str, server: str, tmp_path: Path
) -> None:
    """Meanwhile old orders of the source went on and new ones came: all of it is there, once."""
    async with (
        empty(kind, server, tmp_path, "from") as source,
        empty(other, server, tmp_path, "to") as target,
        empty("sqlite", server, tmp_path, "third") as third,
    ):
        await fill(source)
        before, after = await open_store(source), await open_store(target)
        await before.advance([Step(1001, transitions.told(AT))])

        def break_off(table: str, _: int) -> None:
            if table == "transfers":
                raise Stopped

        with pytest.raises(Stopped):
            await moving.move(before, after, break_off)
        with pytest.raises(ConfigError, match="was not finished"):
            await after.pepper()
        (ann, *_) = await before.customers()
        await order(before, placement(ann.id))
        late = reporting.reported(Report(Status.COMPLETED, "Completed"), AT + 2, FOLLOWING)
        await before.advance([Step(1000, late)])
        await before.close()
        await after.close()
        await fill(third)
        with pytest.raises(ConfigError, match="another database was begun"):
            await moved(third, target)

        await moved(source, target)


async def test_nothing_is_sent_by_itself_that_a_backup_has_on_its_way(
    other: str, server: str, tmp_path: Path
) -> None:
    """It may have been sent since: its money stays held, and the owner decides."""
    async with empty(other, server, tmp_path, "to") as target:
        source = f"sqlite:///{tmp_path}/from.db"
        await fill(source)
        before, after = await open_store(source), await open_store(target)
        (ann, *_) = await before.customers()
        queued = await order(before, placement(ann.id, route=None))
        (balance,) = (await before.balances([ann.id]))[ann.id]

        *_, doubted = await moving.move(before, after, lambda *_: None, AT + 9)
        assert 2 == doubted
        assert [] == await after.undecided(State.QUEUED, 9) + await after.undecided(
            State.SENDING, 9
        )
        assert [1001, queued.id] == [one.id for one in await after.undecided(State.UNKNOWN, 9)]
        for one in (1001, queued.id):
            ((*_, event), _) = await after.history(one)
            assert "restored from a backup" in str(event.detail["words"])
        assert [balance] == (await after.balances([ann.id]))[ann.id]
        assert [] == await after.readings("alpha", 0)
        assert [[], [AT + 9]] == [await one.restores() for one in (before, after)]

        # No provider is known to be asked for it, so it can only be given up.
        steps = [transitions.settled(said, AT, FOLLOWING) for said in ("5", "", None)]
        states = [(await build.advance(after, queued.id, one)).state for one in steps]
        assert [State.UNKNOWN, State.UNKNOWN, State.FAILED] == states
        await before.close()
        await after.close()

        await moved(target, f"sqlite:///{tmp_path}/again.db")
        again = await open_store(f"sqlite:///{tmp_path}/again.db")
        assert [AT + 9] == await again.restores()
        await again.close()


async def test_the_transfers_of_a_copy_stand_like_any(
    other: str, server: str, tmp_path: Path
) -> None:
    """Though the copy may be emptied before it is finished."""
    async with (
        empty("sqlite", server, tmp_path, "from") as source,
        empty(other, server, tmp_path, "to") as target,
    ):
        await fill(source)
        await moved(source, target)

        if other == "sqlite":
            file = apsw.Connection(str(tmp_path / "to.db"))
            with pytest.raises(apsw.ConstraintError, match="never deleted"):
                file.execute("DELETE FROM transfers")
            file.close()
        else:
            there = await asyncpg.connect(target)
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
                await there.execute("TRUNCATE transfers")
            await there.close()


async def test_a_copy_that_lacks_a_row_is_of_no_use(tmp_path: Path) -> None:
    """Not of those tables either that no audit reads."""
    source, target = (f"sqlite:///{tmp_path}/{name}.db" for name in ("from", "to"))
    await fill(source)
    before, after = await open_store(source), await open_store(target)

    def lose(table: str, _: int) -> None:
        if table == "events":
            with closing(apsw.Connection(str(tmp_path / "to.db"))) as db:
                db.execute("DELETE FROM events WHERE version = 3")

    with pytest.raises(StoreUnavailable, match="rows of the original: events"):
        await moving.move(before, after, lose)
    with pytest.raises(ConfigError, match="was not finished"):
        await after.pepper()
    await before.close()
    await after.close()


async def test_every_table_is_copied_or_named_as_left(
    kind: str, server: str, tmp_path: Path
) -> None:
    """Whoever adds a table has to say which."""
    async with empty(kind, server, tmp_path, "one") as url:
        await (await open_store(url)).close()
        if kind == "sqlite":
            db = apsw.Connection(url.removeprefix("sqlite:///"))
            rows = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            db.close()
        else:
            there = await asyncpg.connect(url)
            rows = await there.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            await there.close()

        names = {name for (name,) in rows} - SYSTEM
        assert names - LEFT == TABLES.keys()


# --- the commands -------------------------------------------------------------------------


def gateway(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a database, as an owner does."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "--database-url", url, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(url.removeprefix("sqlite:///")).parent,
        env={**os.environ, "GATEWAY_REDIS_URL": "", "KEY": "k"},
    )


@pytest.fixture
def house(tmp_path: Path) -> str:
    """A database with something in it, and the owner's file beside it."""
    url = f"sqlite:///{tmp_path}/gateway.db"
    asyncio.run(fill(url))
    (tmp_path / "providers.yaml").write_text("currency: USD\n")
    return url


def modes(folder: Path) -> dict[str, int]:
    """Return who may do what with each file of a database."""
    return {one.name: one.stat().st_mode & 0o777 for one in folder.glob("*.db*")}


async def test_a_new_database_is_readable_to_its_owner_alone(tmp_path: Path) -> None:
    """So is what SQLite puts beside it: customers and digests of their keys stand there."""
    url = f"sqlite:///{tmp_path}/gateway.db"
    await fill(url)
    store = await open_store(url)
    found = modes(tmp_path)
    await store.close()

    assert dict.fromkeys(("gateway.db", "gateway.db-shm", "gateway.db-wal"), 0o600) == found


def test_a_backup_needs_a_folder_that_is_there(house: str, tmp_path: Path) -> None:
    refused = gateway(house, "store", "backup", "nowhere/saved.backup")

    assert (2, True) == (refused.returncode, "there is no folder nowhere" in refused.stderr)


@pytest.mark.timeout(180)  # ten commands, each a process of its own
def test_a_backup_is_one_file_that_can_be_restored(house: str, tmp_path: Path) -> None:
    saved = gateway(house, "store", "backup", "saved.backup")
    assert (0, "") == (saved.returncode, saved.stderr)
    assert "saved.backup" in saved.stdout.split()
    assert {"gateway.db", "providers.yaml", "saved.backup"} == {
        one.name for one in tmp_path.iterdir()
    }
    assert 0o600 == (tmp_path / "saved.backup").stat().st_mode & 0o777
    again = gateway(house, "store", "backup", "saved.backup")
    assert (2, True) == (again.returncode, "exists already" in again.stderr)

    new = f"sqlite:///{tmp_path}/new.db"
    restored = gateway(new, "store", "restore", "saved.backup", "--json")
    assert (0, 1) == (restored.returncode, json.loads(restored.stdout)["unknown"])
    assert "written after the backup is missing" in restored.stderr
    assert 0 == gateway(new, "audit").returncode
    listed = [json.loads(gateway(url, "order", "list", "--json").stdout) for url in (house, new)]
    words = [{one["id"]: one["status"] for one in orders} for orders in listed]
    assert [{1000: "Partial", 1001: "Pending"}, {1000: "Partial", 1001: "unknown"}] == words
    full = gateway(new, "store", "restore", "saved.backup")
    assert (1, True) == (full.returncode, "something in this database already" in full.stderr)
    absent = gateway(new, "store", "restore", "absent.backup")
    assert (2, True) == (absent.returncode, "there is no file absent.backup" in absent.stderr)


def test_a_backup_of_books_that_are_wrong_is_refused(house: str, tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "gateway.db"))
    db.execute("UPDATE accounts SET balance = balance + 1 WHERE kind = 'available'")
    db.close()
    refused = gateway(house, "store", "backup", "saved.backup")

    assert (1, True) == (refused.returncode, "do NOT add up" in refused.stderr)
    assert not (tmp_path / "saved.backup").exists()


@pytest.fixture(params=["background", "serve --no-background --port 0"])
def at_work(request: pytest.FixtureRequest, house: str, tmp_path: Path) -> Iterator[str]:
    """The same, with a gateway on it, which may do no more than answer customers."""
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "--database-url", house, *request.param.split()],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "GATEWAY_REDIS_URL": ""},
    ) as process:
        db = apsw.Connection(str(tmp_path / "gateway.db"))
        present = "SELECT count(*) FROM leases"
        until = time.monotonic() + 20
        try:
            while not db.execute(present).get:
                assert process.poll() is None
                assert time.monotonic() < until, "it does not say that it is there"
                time.sleep(0.05)
            yield house
        finally:
            db.close()
            process.send_signal(signal.SIGTERM)


def test_a_gateway_at_work_is_backed_up_but_not_moved(at_work: str, tmp_path: Path) -> None:
    """What it writes meanwhile would stay behind."""
    target = f"sqlite:///{tmp_path}/new.db"
    refused = gateway(at_work, "store", "copy", at_work, target)
    assert (1, True) == (refused.returncode, "a gateway is at work on" in refused.stderr)
    assert 0 == gateway(at_work, "store", "backup", "saved.backup").returncode
    onto = gateway(at_work, "store", "restore", "saved.backup")
    assert (1, True) == (onto.returncode, "a gateway is at work on" in onto.stderr)
    assert 0 == gateway(target, "store", "restore", "saved.backup").returncode


def test_a_password_is_not_repeated(house: str) -> None:
    urls = (house, "postgresql://ann:s3cr3t@127.0.0.1:1/books")
    refused = gateway(house, "store", "copy", *urls)

    assert 1 == refused.returncode
    assert "s3cr3t" not in refused.stderr + refused.stdout


def test_old_orders_are_archived_by_a_command(house: str, tmp_path: Path) -> None:
    """They are shown as before, and the books add up."""
    db = apsw.Connection(str(tmp_path / "gateway.db"))
    db.execute("UPDATE orders SET poll_at = NULL")
    db.execute("DELETE FROM refills")
    db.close()
    shown = gateway(house, "order", "show", "1000", "--json").stdout
    young = gateway(house, "store", "archive", "--before", "29d")
    assert (2, True) == (young.returncode, "30 days at least" in young.stderr)

    moved = gateway(house, "store", "archive", "--before", "31d", "--json")
    assert {"archived": 1} == json.loads(moved.stdout)
    assert (tmp_path / "gateway.db.archive").exists()
    assert 0o600 == modes(tmp_path)["gateway.db.archive"]
    again = json.loads(gateway(house, "order", "show", "1000", "--json").stdout)
    assert json.loads(shown) == again
    assert 0 == gateway(house, "audit").returncode
