"""Old settled orders, moved out of the way without becoming invisible."""

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from build import AT, FOLLOWING, claim, customer, order, placement, put_off, report
from databases import database
from gateway import ledger, moving, reporting, transitions
from gateway.app import open_store
from gateway.errors import ErrorText, StoreUnavailable
from gateway.model import Order, Refill, State
from gateway.store import Step, Store
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite_archive import _copy, beside
from world import Panel, World, world

MILLION = 1_000_000
LATER = AT + 10**9


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'gateway.db'}"
        return
    async with database(request.getfixturevalue("postgres_url")) as lent:
        yield lent
        await _drop_archive(lent)


async def _drop_archive(url: str) -> None:
    """Leave a lent database as it was."""
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415

    db = await asyncpg.connect(url)
    for table in ("orders", "events", "transfers"):
        await db.execute(f"TRUNCATE archive.{table}")
    await db.close()


async def settled(store: Store, ann: int, number: int) -> Order:
    """Place an order and follow it to its end."""
    placed = await order(store, placement(ann, claim=claim(f"key/{number}")))
    for change in (
        transitions.accepted(f"u{placed.id}", 1, AT, FOLLOWING),
        reporting.reported(report(remains=0, charge=400_000), AT + 1, FOLLOWING),
    ):
        await store.advance([Step(placed.id, change)])
    return placed


async def filled(store: Store) -> list[int]:
    """Place orders of every kind; returns the ids of those that are old and settled."""
    ann = (await customer(store, credit=50 * MILLION)).id
    old = [(await settled(store, ann, number)).id for number in range(7)]
    refilled = await settled(store, ann, 8)
    await put_off(store, "alpha", LATER)
    await store.add_refills(
        [Refill(id=0, order=refilled.id, customer=ann, provider="alpha", created_at=AT)], since=AT
    )
    await settled(store, ann, 9)  # somebody still asks for it
    await order(store, placement(ann))  # under way
    failed = await order(store, placement(ann))
    refusal = transitions.refused("refused", "no", 1, AT, then=ErrorText.UNAVAILABLE)
    await store.advance([Step(failed.id, refusal)])
    await order(store, placement(ann, at=LATER))
    return [*old, failed.id]


async def archive(store: Store, before: int = LATER, limit: int = 3) -> int:
    """Archive everything that is old; returns how many orders."""
    moved = last = 0
    while True:
        count, last = await store.archive(before, last, limit)
        moved += count
        if not last:
            return moved


async def test_what_is_old_and_settled_is_moved_and_still_found(url: str) -> None:
    """With its history and its money; the audit counts it as before."""
    store = await open_store(url)
    old = await filled(store)
    ids = list(range(1, max(old) + 2))
    before = {one: await store.history(one) for one in ids}
    orders = await store.orders(ids)
    audit = await store.inspect(ledger.audit)
    assert [] == audit.problems

    assert len(old) == await archive(store)
    assert 0 == await archive(store)
    assert sorted(set(ids) - set(old)) == sorted(await store.orders(ids))
    assert old == sorted(await store.archived(ids))
    assert orders == {**await store.orders(ids), **await store.archived(ids)}
    assert before == {one: await store.history(one) for one in ids}
    assert audit == await store.inspect(ledger.audit)
    assert await order(store, placement(1)) not in orders.values()
    await store.close()


async def test_what_is_younger_stays(url: str) -> None:
    store = await open_store(url)
    await filled(store)

    assert 0 == await archive(store, before=AT)
    await store.close()


async def test_no_more_is_looked_at_than_a_moment_allows(url: str) -> None:
    """Whether it can leave or not; and the first who are all too young are the last."""
    store = await open_store(url)
    (*_, last, failed) = await filled(store)
    assert last + 4 == failed, "three are between them that stay"

    assert (0, failed - 1) == await store.archive(LATER, last, 3)
    assert (1, failed) == await store.archive(LATER, failed - 1, 1)
    assert (0, 0) == await store.archive(AT, 0, 3)
    assert (0, 0) == await store.archive(LATER, failed, 3)
    await store.close()


async def test_an_order_that_has_just_been_archived_gets_no_refill(url: str) -> None:
    """Who had read it before asks again, and then hears what is said of an archived order."""
    store = await open_store(url)
    (first, *_) = await filled(store)
    await archive(store)
    late = Refill(id=0, order=first, customer=1, provider="alpha", created_at=AT)

    with pytest.raises(StoreUnavailable):
        await store.add_refills([late], since=AT)
    assert [] == await store.refills_of(first)
    await store.close()


async def test_an_archive_is_copied_like_the_rest(url: str, tmp_path: Path) -> None:
    """What a copy or a backup holds is whole, and nothing of it archived."""
    store = await open_store(url)
    old = await filled(store)
    await archive(store)
    copied = await open_store(f"sqlite:///{tmp_path / 'copy.db'}")
    audits = await moving.move(store, copied, lambda *_: None)

    assert audits[0] == audits[1]
    assert await store.archived(old) == await copied.orders(old)
    await store.close()
    await copied.close()


async def test_a_transfer_leaves_for_the_archive_only(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    store = await SqliteStore.open(path)
    await filled(store)
    await store.close()
    db = apsw.Connection(str(path))
    with pytest.raises(apsw.ConstraintError, match="never deleted"):
        db.execute("DELETE FROM transfers")
    db.close()


async def test_a_stop_between_both_files_leaves_every_order_counted_once(tmp_path: Path) -> None:
    """It stands in both; what is in the first counts, and leaves with the next attempt."""
    path = tmp_path / "gateway.db"
    store = await SqliteStore.open(path)
    old = await filled(store)
    audit = await store.inspect(ledger.audit)
    assert len(old) == len(_copy(path, LATER, 0, 100)[0])

    assert audit == await store.inspect(ledger.audit)
    changed = old[0]
    found = (await store.orders([changed]))[changed]
    late = reporting.reported(report(charge=300_000), AT + 5, FOLLOWING, AT + 5)
    await store.advance([Step(found.id, late)])
    audit = await store.inspect(ledger.audit)
    assert [] == audit.problems
    assert len(old) == await archive(store)
    assert audit == await store.inspect(ledger.audit)
    assert 300_000 == (await store.archived([changed]))[changed].billed
    await store.close()


async def test_an_archive_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    store = await SqliteStore.open(path)
    await filled(store)
    await archive(store)
    beside(path).write_bytes(b"not a database" * 100)

    with pytest.raises(StoreUnavailable):
        await store.inspect(ledger.audit)
    await store.close()


async def test_a_customer_still_reads_the_status_of_an_archived_order(
    url: str, tmp_path: Path
) -> None:
    """There is nothing more to be done for it, and nobody else sees it."""
    row = {"charge": "0.09", "start_count": "5", "status": "Completed", "remains": "0"}
    panel = Panel(status=row)
    async with world(tmp_path, database_url=url, p=panel) as one:
        await _finished(one)
        shown = await one.api("status", order=1)
        store = one.gateway.store
        assert 1 == await archive(store, before=one.clock() + 1)
        await one.gateway.cache.drop([f"status/{one.customer.id}/1"])

        assert "Completed" == shown["status"]
        assert shown == await one.api("status", order=1)
        assert {"error": "Refill is not available"} == await one.api("refill", order=1)
        assert [{"order": 1, "cancel": {"error": "Cancel is not available"}}] == (
            await one.api("cancel", orders="1")
        )
        one.key = await one.customer_with("1", "bob")
        assert {"error": "Incorrect order ID"} == await one.api("status", order=1)
        assert {"error": "Incorrect order ID"} == await one.api("refill", order=1)
        assert [] == await one.audit()


async def _finished(one: World) -> None:
    await one.add()
    await one.look()
    assert State.PLACED is (await one.order(1)).state
    await put_off(one.gateway.store, "p", one.clock() + 10**12)
