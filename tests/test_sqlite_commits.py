"""What is worked out from memory on SQLite is written only if it is so."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import msgspec
import pytest

import build
from build import AT, advance, customer, order, placement
from gateway import ledger, transitions
from gateway.errors import ErrorText, StoreUnavailable
from gateway.model import Order
from gateway.store import Change, Step, Store
from gateway.store.page import Entry
from gateway.store.sqlite import SqliteStore

MILLION = 1_000_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Open a store; at the end its books are right."""
    one = await SqliteStore.open(tmp_path / "gateway.db")
    yield one
    audit = await one.inspect(ledger.audit)
    await one.close()

    assert [] == audit.problems


@pytest.fixture
async def other(tmp_path: Path, store: Store) -> AsyncIterator[Store]:
    """Open another one on the same file."""
    assert isinstance(store, SqliteStore)
    one = await SqliteStore.open(tmp_path / "gateway.db")
    yield one
    await one.close()


async def _is(store: Store, one: Order) -> Order:
    return (await store.orders([one.id]))[one.id]


def _more(one: Order) -> Change:
    runs = (one.runs or 0) + 1
    return Change(msgspec.structs.replace(one, version=one.version + 1, runs=runs), ())


async def test_a_step_from_memory_is_not_taken_when_somebody_else_was_there(
    store: Store, other: Store
) -> None:
    ann = await customer(store, credit=10 * MILLION)
    placed = await order(store, placement(ann.id))
    after = await advance(other, placed.id, build.accepted("9"))

    assert [after] == await store.advance([Step(placed.id, transitions.unknown("gone", 1, AT))])
    assert after == await _is(store, placed)


async def test_no_step_is_lost_of_those_that_two_take_in_turn(store: Store, other: Store) -> None:
    """Also where nothing but the order itself would tell of them."""
    ann = await customer(store, credit=10 * MILLION)
    placed = await order(store, placement(ann.id))
    for each in (store, other, store, other):
        await each.advance([Step(placed.id, _more)])

    assert (4, 5) == ((await _is(store, placed)).runs, (await _is(store, placed)).version)


async def test_when_somebody_else_put_an_order_off_whoever_remembers_it_learns_of_it(
    store: Store, other: Store
) -> None:
    ann = await customer(store, credit=10 * MILLION)
    placed = await order(store, placement(ann.id))
    await advance(store, placed.id, build.accepted("9"))
    await build.put_off(other, "alpha", AT + 10**6, AT + 10**7)

    (after,) = await store.advance([Step(placed.id, _more)])

    assert isinstance(after, Order)
    assert AT + 10**7 == after.poll_at
    assert after == await _is(store, placed)


async def test_money_that_somebody_else_has_spent_is_not_there(store: Store, other: Store) -> None:
    """Also for whoever has just placed an order, and knows of no other."""
    ann = await customer(store, credit=2 * MILLION)
    await order(store, placement(ann.id))
    await order(other, placement(ann.id))

    assert [ErrorText.NOT_ENOUGH_FUNDS] == await store.place([placement(ann.id)])


async def test_what_was_taken_back_is_not_remembered(tmp_path: Path) -> None:
    """Even where somebody else has made another change of as many since."""

    def busy(_: apsw.Connection) -> None:
        raise apsw.BusyError("the disk is busy")

    def posts(one: Order) -> Change:
        return Change(msgspec.structs.replace(one, version=one.version + 1, posts=7), ())

    store = SqliteStore.rehearse(tmp_path / "gateway.db")
    other = await SqliteStore.open(tmp_path / "gateway.db")
    ann = await customer(store, credit=10 * MILLION)
    placed = await order(store, placement(ann.id))
    step: asyncio.Future[object] = store._writer.do(Entry(steps=[Step(placed.id, _more)]))
    lost = await asyncio.gather(step, store._writer.do(busy), return_exceptions=True)
    await other.advance([Step(placed.id, posts)])
    await store.advance([Step(placed.id, _more)])
    after = await _is(other, placed)
    await other.close()
    await store.close()

    assert all(isinstance(one, StoreUnavailable) for one in lost)
    assert (1, 7, 3) == (after.runs, after.posts, after.version)


async def test_who_only_opens_a_file_waits_for_nobody_who_writes(
    store: Store, tmp_path: Path
) -> None:
    """A command that looks something up would fail while a gateway is busy."""
    await customer(store, credit=MILLION)
    db = apsw.Connection(str(tmp_path / "gateway.db"))
    db.execute("BEGIN IMMEDIATE")
    one = await SqliteStore.open(tmp_path / "gateway.db", patience=1)
    found = await one.customers()
    await one.close()
    db.execute("ROLLBACK")
    db.close()

    assert 1 == len(found)
